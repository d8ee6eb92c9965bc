"""The weights a training run begins with, and what becomes of each layer's."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from deeprebirth_caffe.engines.plan import weights_of
from deeprebirth_caffe.errors import RebirthError
from deeprebirth_caffe.formats.outputs import listed_files
from deeprebirth_caffe.ir import Weights, param_shapes
from deeprebirth_caffe.nets.load import check_weights
from deeprebirth_caffe.proto import caffe_pb2 as pb
from deeprebirth_caffe.training.solver_nets import SolverNet

INIT = "init.caffemodel"
"""What `rebirth convert` leaves beside the solver."""


@dataclass(frozen=True)
class StartLedger:
    """Names of layers, by what became of their weights.

    Attributes:
        loaded: found in the files.
        left: at what their fillers made.
        unused: in the files, and in the training net not at all or without weights.
    """

    loaded: tuple[str, ...]
    left: tuple[str, ...]
    unused: tuple[str, ...]


def start_files(given: Sequence[Path], solver: pb.SolverParameter, file: Path, root: Path) -> tuple[list[Path], str]:
    """The files to start from, and in words why these.

    Args:
        given: with `-w`.
        solver: what may name some itself.
        file: where it stands.
        root: where its paths start.

    Raises:
        RebirthError: the solver names a file that is not there.
    """
    if given:
        return list(given), "-w"
    named = weights_of(solver, root)
    for path in named:
        if not path.is_file():
            raise RebirthError(f"{file}: its weights {path} are not there; correct the path, or name others with -w")
    if named:
        return list(named), "the solver names them"
    beside = file.parent / INIT
    if not beside.is_file() or not _belongs(beside, file):
        return [], ""
    return [beside], "beside the solver"


def _belongs(weights: Path, solver: Path) -> bool:
    """Whether weights beside a solver are its own: not where a manifest lists the solver without them."""
    listed = listed_files(solver.parent)
    return solver.name not in listed or weights.name in listed


def check_start(train: SolverNet, files: Sequence[Path]) -> StartLedger:
    """Reads the files and matches them with the training net, layer by layer, as Caffe does.

    Raises:
        RebirthError: a file cannot be read, belongs to another net, or holds numbers that are none.
    """
    view = train.view
    wanted = [layer.name for layer in view.layers if param_shapes(view, layer) or layer.traits.tensor]
    found: dict[str, None] = {}
    for path in files:
        weights = Weights.read(path, [layer.param for layer in train.net.layers])
        check_weights(train.net, weights)
        found.update(dict.fromkeys(weights))
    return StartLedger(
        tuple(name for name in wanted if name in found),
        tuple(name for name in wanted if name not in found),
        tuple(name for name in found if name not in set(wanted)),
    )
