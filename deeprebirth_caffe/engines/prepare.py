"""Any net as what every engine can take: today's form, plain Caffe, nothing for training, Input layers, weights.

What a file leaves open is filled: no weights means random ones, the same for every engine and every time.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from deeprebirth_caffe.engines.base import EngineError
from deeprebirth_caffe.engines.footprint import check_pass
from deeprebirth_caffe.engines.random_weights import random_weights
from deeprebirth_caffe.errors import RebirthError, RefusedError
from deeprebirth_caffe.formats.files import atomic_write
from deeprebirth_caffe.formats.prototxt import format_message
from deeprebirth_caffe.ir import Layer, Net, Value, View, Weights, param_shapes
from deeprebirth_caffe.ir.probe import probe, save_weights
from deeprebirth_caffe.ops import Shape, slice_sizes
from deeprebirth_caffe.passes.exact.portable import Portable
from deeprebirth_caffe.passes.exact.strip_training import StripTraining
from deeprebirth_caffe.proto import caffe_pb2 as pb
from deeprebirth_caffe.rewrite import AnyPass, Rewriter
from deeprebirth_caffe.rewrite.pipeline import run

if TYPE_CHECKING:
    from deeprebirth_caffe.engines.base import FloatArray


@dataclass(frozen=True)
class Ready:
    """A plain deploy net with weights.

    Attributes:
        net: each input from an Input layer, each layer one that Caffe 1.0 has.
    """

    net: Net

    @property
    def view(self) -> View:
        return self.net.view("TEST")

    @property
    def inputs(self) -> dict[str, Shape]:
        """The blobs that are fed."""
        return {value.name: _shape(value) for value in self.view.fed if value.read}

    @property
    def outputs(self) -> dict[str, Shape]:
        """The results of the net, by name: the last contents of each."""
        return {value.name: _shape(value) for value in self.view.results}

    @property
    def batch(self) -> int | None:
        """The first dimension of its inputs; None where they differ, or there is none."""
        sizes = {shape[0] if shape else None for shape in self.inputs.values()}
        return next(iter(sizes)) if len(sizes) == 1 else None

    def write(self, folder: Path) -> tuple[Path, Path]:
        """Writes net.prototxt and net.caffemodel."""
        path, weights = folder / "net.prototxt", folder / "net.caffemodel"
        atomic_write(path, format_message(self.net.message()))
        assert self.net.weights is not None
        save_weights(weights, self.net, self.net.weights)
        return path, weights

    @classmethod
    def read(cls, folder: Path) -> Ready:
        """Reads what `write` wrote."""
        net = Net.read(folder / "net.prototxt")
        net.weights = Weights.read(folder / "net.caffemodel") if _learns(net) else Weights()
        return cls(net)


def prepare(net: Path, weights: Path | None, *, batch: int | None = None, seed: int = 0) -> Ready:
    """Reads a net of whatever age and fork.

    Args:
        net: a prototxt; of one that trains, what TEST computes without its losses.
        weights: a caffemodel; None gives random weights.
        batch: of every input; None keeps the file's (1 for a net that trains).
        seed: of random weights.

    Raises:
        RebirthError: it cannot be read, or a shape is not known.
        RefusedError: plain Caffe cannot say it.
    """
    read = Net.read(net)
    read.weights = Weights.read(weights) if weights is not None and _learns(read) else random_weights(read, seed)
    ready = plain(read, batch=batch)
    check_pass(ready.view, read.header.name or net.name, keeps=False)
    return ready


def _learns(net: Net) -> bool:
    """Whether a net may have weights; a caffemodel without any is none to who reads files of users."""
    return any(param_shapes(view, layer) != () for view in net.views for layer in view.layers)


def plain(net: Net, *, batch: int | None = None) -> Ready:
    """Likewise of a net that was read already; it is left as it is, and needs weights."""
    view = net.view("TEST")
    # Not every engine knows a Silence, or gives a blob that a layer reads.
    if net.trains or (view.silenced and view.results == view.silenced):
        net, why = _run(net, StripTraining(batch=batch))
        if why:
            raise EngineError(f"no deploy net can be made: {why}")
    if any(layer.op is None or layer.understood.fork for layer in net.layers):
        net, why = _run(net, Portable())
        if why:
            raise RefusedError(f"other engines are given plain Caffe, which cannot say this net: {why}")
    return Ready(probe_net(net, net.view("TEST"), batch))


def probe_net(net: Net, view: View, batch: int | None = None) -> Net:
    """A view as a net of its own, with Input layers and the net's weights."""
    made = probe(net, view, batch)
    for layer in made.layers:
        _spell_out(layer.param)
    if net.weights is not None:
        made.weights = _shared(made.layers, net.weights)
    found = made.view("TEST")
    for layer in found.layers:
        p = layer.param.slice_param
        if layer.type == "Slice" and len(layer.tops) > 1 and not p.slice_point:
            # Equal parts; without numbers MNN and OpenCV 4 crash.
            sizes = slice_sizes(layer.param, _shape(found.ins[layer][0]))
            p.slice_point.extend(accumulate(sizes[:-1]))
    return made


def _spell_out(param: pb.LayerParameter) -> None:
    """Says a layer as every reader of Caffe files understands it."""
    if param.concat_param.HasField("concat_dim"):
        param.concat_param.axis = param.concat_param.concat_dim
        param.concat_param.ClearField("concat_dim")
    if param.slice_param.HasField("slice_dim"):
        param.slice_param.axis = param.slice_param.slice_dim
        param.slice_param.ClearField("slice_dim")
    if param.pooling_param.round_mode == param.pooling_param.CEIL:
        param.pooling_param.ClearField("round_mode")
    if param.type == "LRN":
        # OpenCV has defaults of its own.
        for field in ("local_size", "alpha", "beta", "k"):
            setattr(param.lrn_param, field, getattr(param.lrn_param, field))


def _shared(layers: Sequence[Layer], weights: Weights) -> Weights:
    """Weights in which layers that share an array by `param { name: … }` all hold it: Caffe ends with the last one."""
    places: dict[str, list[tuple[str, int]]] = {}
    for layer in layers:
        if layer.name in weights:
            for index, spec in enumerate(layer.param.param):
                if spec.name and index < len(weights[layer.name]):
                    places.setdefault(spec.name, []).append((layer.name, index))
    found = weights.copy()
    for same in places.values():
        last, index = same[-1]
        array = weights[last][index]
        for name, place in same[:-1]:
            arrays = list(found[name])
            arrays[place] = array.reshape(arrays[place].shape)
            found.set(name, arrays)
    return found


def _run(net: Net, one: AnyPass) -> tuple[Net, str]:
    """What a pass makes of a copy of the net, and the first place that it refused, in words."""
    rewriter = Rewriter(net.copy())
    rewriter.net.fixed_size = True  # it runs at the size that it has
    refused = run(rewriter, [one]).refusals
    return rewriter.net, refused[0].reason if refused else ""


def random_inputs(ready: Ready, seed: int = 0) -> dict[str, FloatArray]:
    """Something for every input, by blob name: normal noise, and indices or flags where a layer wants those."""
    found: dict[str, FloatArray] = {}
    for value in ready.view.fed:
        if value.read:
            rng = np.random.default_rng([seed, *value.name.encode(errors="surrogateescape")])
            found[value.name] = _fill(value, rng)
    return found


def _fill(value: Value, rng: np.random.Generator) -> FloatArray:
    shape = _shape(value)
    for layer, index in value.uses:
        if layer.type == "Embed":
            return rng.integers(0, layer.param.embed_param.input_dim, shape).astype(np.float32)
        if layer.type == "BatchReindex" and index == 1:
            return np.zeros(shape, np.float32)
        if layer.traits.indices and index == (2 if layer.type == "LSTMUnit" else 1):
            flags = rng.integers(0, 2, shape).astype(np.float32)
            flags[0] = 0  # Caffe goes on where its last pass ended, unless it is told to start anew
            return flags
    return rng.standard_normal(shape).astype(np.float32)


def _shape(value: Value) -> Shape:
    if value.shape is None:
        raise RebirthError(f'the shape of blob "{value.name}" is not known: {value.unknown}')
    return value.shape
