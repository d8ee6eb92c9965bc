"""The gate in front of Python layers: real Caffe runs the code of such a layer, out of the folder of its net."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

from deeprebirth_caffe.errors import RebirthError, RefusedError
from deeprebirth_caffe.formats.files import read_regular
from deeprebirth_caffe.formats.solver import read_solver
from deeprebirth_caffe.ir import Net
from deeprebirth_caffe.options.shared import PYTHON_LAYERS
from deeprebirth_caffe.proto import caffe_pb2 as pb

TYPE = "Python"


def allowed() -> bool:
    """Whether the user said that the code of Python layers may run: `--python-layers`, or the variable."""
    return os.environ.get(PYTHON_LAYERS) == "1"


def modules(layers: Iterable[pb.LayerParameter]) -> dict[str, str]:
    """The module of each Python layer, by the layer's name."""
    return {layer.name: layer.python_param.module for layer in layers if layer.type == TYPE}


def check(layers: Iterable[pb.LayerParameter], where: str | os.PathLike[str]) -> None:
    """Refuses Python layers unless the user allows them.

    Args:
        layers: of a net that real Caffe is about to load.
        where: what the error calls the net.

    Raises:
        RefusedError: there is one; the message names it and says what to type.
    """
    found = {} if allowed() else modules(layers)
    for name, module in found.items():
        more = f" and {len(found) - 1} more" if len(found) > 1 else ""
        raise RefusedError(
            f'{os.fspath(where)}: layer "{name}"{more} of type Python runs code in real Caffe (module {module!r}, from '
            f"the folder where the net's paths start); read it, then add --python-layers, or set {PYTHON_LAYERS}=1"
        )


def check_call(values: Mapping[str, object], entered: str) -> None:
    """Likewise for what the worker is asked to load.

    Args:
        values: the arguments of an operation of the worker; "net" and "solver" are paths of files.
        entered: the directory that the worker is in.
    """
    if allowed():
        return
    if isinstance(net := values.get("net"), str):
        path = Path(net)
        check(_layers_of(path), path)
    if "solver" in values:
        base = Path(entered, str(values.get("cwd") or ""))
        for layers, where in _solver_nets(Path(str(values["solver"])), base):
            check(layers, where)


def _solver_nets(solver: Path, base: Path) -> Iterator[tuple[Iterable[pb.LayerParameter], Path]]:
    """The layers of every net of a solver, those inside it and those in files."""
    param = read_solver(solver).message
    inside = [param.net_param, param.train_net_param, *param.test_net_param]
    for net in inside:
        yield net.layer, solver
    for name in [param.net, param.train_net, *param.test_net]:
        if name:
            path = base / name
            yield _layers_of(path), path


_SUSPICIOUS = re.compile(rb"python|\\|[\"']\s*(?:#[^\n]*\n\s*)*[\"']", re.IGNORECASE)
"""The type's name, or ways to write it otherwise: escapes, and strings in parts."""


def _layers_of(path: Path) -> list[pb.LayerParameter]:
    """The layers of a file; none where it cannot be read as a net, for Caffe says best what it has against it.

    Raises:
        RebirthError: it cannot be read, and Caffe may find Python layers in it all the same.
    """
    try:
        return [layer.param for layer in Net.read(path).layers]
    except RebirthError:
        try:
            if _SUSPICIOUS.search(read_regular(path)):
                raise
        except OSError:
            pass  # not there, or no file
        return []
