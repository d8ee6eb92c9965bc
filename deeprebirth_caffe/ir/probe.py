"""A view as a net that real Caffe loads anywhere: Input layers take the place of data layers."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from operator import attrgetter
from pathlib import Path
from typing import BinaryIO

from deeprebirth_caffe.errors import RebirthError
from deeprebirth_caffe.formats.caffemodel import stream_caffemodel, write_caffemodel
from deeprebirth_caffe.ir import Layer, Net, Value, View, Weights
from deeprebirth_caffe.ir.graph import unknown_shape
from deeprebirth_caffe.ir.subnet import above, ruleless
from deeprebirth_caffe.ops import Shape
from deeprebirth_caffe.proto import caffe_pb2 as pb


def probe(
    net: Net,
    view: View,
    batch: int | None = None,
    *,
    fed: Callable[[Layer], bool] = attrgetter("fed"),
    shapes: Mapping[str, Shape] | None = None,
    up_to: Collection[Value] | None = None,
) -> Net:
    """The view's layers without phase rules, with an Input layer of the same tops for each data layer.

    Args:
        net: gives the header and the weights.
        view: of the net.
        batch: the first dimension of every input; None keeps the file's.
        fed: the layers to replace.
        shapes: of inputs, by blob, instead of the net's.
        up_to: the values to compute; layers that none of them depends on are left out. None: all layers.

    Raises:
        RebirthError: the shape of an input is unknown.
    """
    wanted = set(view.values) if up_to is None else above(view, up_to).keys()
    needed = set(view.layers) if up_to is None else {value.producer for value in wanted}
    header = pb.NetParameter()
    header.CopyFrom(net.header)
    for field in ("input", "input_shape", "input_dim", "state"):
        header.ClearField(field)
    inputs = [(value.name, [value]) for value in view.inputs if value in wanted]
    layers = [_input(name, values, batch, shapes or {}) for name, values in inputs]
    for layer in view.layers:
        if layer in needed and fed(layer):
            values = [value for value in view.outs[layer] if value in wanted]
            layers.append(_input(layer.name, values, batch, shapes or {}))
        elif layer in needed:
            layers.append(ruleless(layer))
    return Net(header, layers, weights=net.weights)


def _input(name: str, values: Sequence[Value], batch: int | None, known: Mapping[str, Shape]) -> Layer:
    param = pb.LayerParameter(name=name, type="Input", top=[value.name for value in values])
    for value in values:
        shape = known.get(value.name, value.shape)
        if shape is None:
            raise RebirthError(unknown_shape(value))
        if batch is not None and shape:
            shape = (batch, *shape[1:])
        param.input_param.shape.add().dim.extend(shape)
    return Layer(param)


def write_probe(folder: Path, name: str, net: Net, view: View, batch: int | None = None) -> tuple[Path, Path | None]:
    """Writes a probe and the net's weights into a folder.

    Returns:
        The prototxt and the caffemodel (None if the net has no weights).
    """
    path = folder / f"{name}.prototxt"
    path.write_text(probe(net, view, batch).text(), encoding="utf-8")
    if net.weights is None:
        return path, None
    weights = folder / f"{name}.caffemodel"
    save_weights(weights, net, net.weights)
    return path, weights


def save_weights(target: Path | BinaryIO, net: Net, weights: Weights) -> None:
    """Writes weights in the order of the net's layers, without those of other layers.

    Args:
        target: a path, or an open file.
        net: gives the layers and their order.
        weights: the arrays; unchanged arrays are written as they were read.
    """
    types = {layer.name: layer.type for layer in net.layers}
    entries = [(name, kind, weights.entry(name)) for name, kind in types.items() if name in weights]
    if isinstance(target, Path):
        write_caffemodel(target, net.header.name, entries)
    else:
        stream_caffemodel(target, net.header.name, entries)
