"""What programs may use: `import deeprebirth_caffe as rebirth`.

Each function does what the command of its name does, and returns that command's result, a frozen dataclass whose fields
`docs/json.md` lists. Options have their names of the command line, without the dashes and with underscores:
`rebirth.convert("net.prototxt", weights="net.caffemodel", only=["conv1"], max_iter=1000)`. `docs/api.md` lists them.
Paths are texts or `Path`s. Errors are `RebirthError`s: `UsageError` for options, `RefusedError` where a check fails.

What `__all__` names keeps its meaning until the first number of `API_VERSION` changes.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias, TypeVar

from deeprebirth_caffe.errors import RebirthError, RefusedError, UsageError
from deeprebirth_caffe.formats.solver import read_solver
from deeprebirth_caffe.ir import Layer, NetCost, summarize
from deeprebirth_caffe.ir import Net as _Net
from deeprebirth_caffe.nets.load import load_net
from deeprebirth_caffe.options.fields import tell
from deeprebirth_caffe.options.shared import python_layers_allowed

if TYPE_CHECKING:
    from deeprebirth_caffe.commands.diff import Difference
    from deeprebirth_caffe.commands.finetune import Finetuned
    from deeprebirth_caffe.commands.forward import Forwarded
    from deeprebirth_caffe.commands.inspect import Inspection
    from deeprebirth_caffe.commands.refit import Refit
    from deeprebirth_caffe.commands.test import Scored
    from deeprebirth_caffe.commands.time import Times
    from deeprebirth_caffe.nets.manifest import Manifest

__all__ = [
    "API_VERSION",
    "Net",
    "RebirthError",
    "RefusedError",
    "UsageError",
    "convert",
    "deploy",
    "diff",
    "export",
    "finetune",
    "forward",
    "inspect",
    "load",
    "read_solver",
    "refit",
    "test",
    "time",
    "tucker",
]

API_VERSION = "1.0"

_Result = TypeVar("_Result")
StrPath: TypeAlias = "str | os.PathLike[str]"


class Net:
    """A net that was read; see `load`.

    Attributes:
        path: of its prototxt.
    """

    def __init__(self, path: Path, net: _Net) -> None:
        self.path = path
        self._net = net

    @property
    def layers(self) -> tuple[Layer, ...]:
        """The layers in the order of the file, those of all phases: `name`, `type`, `bottoms`, `tops`, `param`."""
        return tuple(self._net.layers)

    def costs(self, phase: str = "TEST") -> NetCost:
        """What the net costs in a phase: multiply-adds, parameters and bytes, whole and by layer.

        Raises:
            RebirthError: the net is not sound in that phase, or does not have it.
        """
        return summarize(self._net.view(phase, stand_in=False))

    def draw(self, before: Net | None = None) -> str:
        """A page for a browser (HTML that needs nothing else) that draws the net, stage by stage.

        Args:
            before: a net to draw beside it; layers that are gone and new are marked.
        """
        from deeprebirth_caffe.pages.drawing import page

        return page(self._net, self.path.name, before._net if before is not None else None)

    def __str__(self) -> str:
        """The text of the prototxt."""
        return self._net.text()


def load(net: StrPath, weights: StrPath | None = None, **input_shapes: tuple[int, ...]) -> Net:
    """Reads a net, and checks its weights against it.

    Args:
        net: a prototxt; old forms and forks of Caffe are read too.
        weights: a caffemodel, or Caffe's HDF5.
        input_shapes: (C, H, W) by blob, where the file does not say it.

    Raises:
        RebirthError: a file cannot be read, with file, line and column; or the weights do not fit.
    """
    path = Path(net)
    return Net(path, load_net(path, None if weights is None else Path(weights), input_shapes))


def inspect(net: StrPath, **options: Any) -> Inspection:
    """Says what is in a net, what it costs, and what could merge and why not."""
    from deeprebirth_caffe.commands.inspect import inspect
    from deeprebirth_caffe.options.looking import InspectOptions

    told = tell(InspectOptions, {"net": net, **options})
    return inspect(told.net, told.weights, phase=told.phase, stages=told.stages, shapes=told.input_shapes)


def convert(net: StrPath, weights: StrPath | None = None, **options: Any) -> Manifest:
    """Merges pooling, LRN, BatchNorm and branches into convolutions; writes the net, its start and its solver."""
    from deeprebirth_caffe.commands.convert import convert
    from deeprebirth_caffe.options.convert import ConvertOptions

    return _do(convert, ConvertOptions, {"net": net, "weights": weights, **options}).manifest


def tucker(net: StrPath, weights: StrPath, **options: Any) -> Manifest:
    """Decomposes convolutions and InnerProducts into thin ones; writes the net, its start and its solver."""
    from deeprebirth_caffe.commands.tucker import tucker
    from deeprebirth_caffe.options.tucker import TuckerOptions

    return _do(tucker, TuckerOptions, {"net": net, "weights": weights, **options}).manifest


def deploy(net: StrPath, weights: StrPath, out: StrPath, **options: Any) -> Manifest:
    """Strips what only training needs and folds what can be folded: deploy.prototxt and deploy.caffemodel in `out`."""
    from deeprebirth_caffe.commands.deploy import deploy
    from deeprebirth_caffe.options.deploy import DeployOptions

    return _do(deploy, DeployOptions, {"net": net, "weights": weights, "out": out, **options})


def refit(directory: StrPath, **options: Any) -> Refit:
    """Fits the new layers of a converted net (in the directory that `convert` wrote) to what the old ones put out."""
    from deeprebirth_caffe.commands.refit import refit
    from deeprebirth_caffe.options.refit import RefitOptions

    return _do(refit, RefitOptions, {"directory": directory, **options})


def finetune(solver: StrPath, **options: Any) -> Finetuned:
    """Runs a solver: trains its net, tests and saves as it says, in real Caffe or in the embedded engine."""
    from deeprebirth_caffe.commands.finetune import finetune
    from deeprebirth_caffe.options.finetune import FinetuneOptions

    return _do(finetune, FinetuneOptions, {"solver": solver, **options})


def test(net: StrPath, weights: StrPath, **options: Any) -> Scored:
    """Runs a net over its test data and averages its outputs; top-1 and top-5 besides."""
    from deeprebirth_caffe.commands.test import test
    from deeprebirth_caffe.options.test import TestOptions

    return _do(test, TestOptions, {"net": net, "weights": weights, **options}, _quiet, _quiet)


test.__test__ = False  # type: ignore[attr-defined]  # no test of pytest's, whatever its name


def forward(net: StrPath, weights: StrPath, images: StrPath | list[StrPath], **options: Any) -> Forwarded:
    """Runs pictures through a net: labels, or blobs into an .npz file."""
    from deeprebirth_caffe.commands.forward import forward
    from deeprebirth_caffe.options.forward import ForwardOptions

    several = [*images] if isinstance(images, list) else [images]
    names = [os.fspath(image) for image in several]
    return _do(forward, ForwardOptions, {"net": net, "weights": weights, "images": names, **options}, _quiet, _quiet)


def time(net: StrPath, *others: StrPath, **options: Any) -> Times:
    """Times the forward passes of nets, which take turns.

    Args:
        net: the net that others are compared with.
        others: as `--vs`.
        options: `weights` of the first net, `vs_weights` of the others, and the rest of `rebirth time`.
    """
    from deeprebirth_caffe.commands.time import time_nets
    from deeprebirth_caffe.options.time import TimeOptions

    def run(told: TimeOptions) -> Times:
        return time_nets(told.nets, told.timing)

    return _do(run, TimeOptions, {"net": net, "vs": [*others], **options})


def export(net: StrPath, weights: StrPath, out: StrPath, **options: Any) -> Any:
    """Writes a net and its weights as an ONNX model."""
    from deeprebirth_caffe.commands.export import export
    from deeprebirth_caffe.options.export import ExportOptions

    return _do(export, ExportOptions, {"net": net, "weights": weights, "out": out, **options})


def diff(a: StrPath, b: StrPath, **options: Any) -> Difference:
    """Compares two nets by layer name."""
    from deeprebirth_caffe.commands.diff import diff
    from deeprebirth_caffe.options.looking import DiffOptions

    told = tell(DiffOptions, {"a": a, "b": b, **options})
    return diff(told.a, told.b, phase=told.phase, shapes=told.input_shapes)


def _do(
    function: Callable[..., _Result], model: type[Any], values: Mapping[str, Any], *more: Callable[..., None]
) -> _Result:
    """Calls a command with options made of what a program says."""
    allowed = python_layers_allowed() if values.get("python_layers") is True else nullcontext()
    with allowed:
        return function(tell(model, values), *more)


def _quiet(*_: object) -> None:
    """Takes progress, and shows none."""
