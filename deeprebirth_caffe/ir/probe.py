"""A view as a net of its own that real Caffe loads anywhere: Input layers where data would come from."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import BinaryIO

from deeprebirth_caffe.errors import RebirthError
from deeprebirth_caffe.formats.caffemodel import stream_caffemodel, write_caffemodel
from deeprebirth_caffe.formats.prototxt import format_message
from deeprebirth_caffe.ir import Layer, Net, Value, View, Weights
from deeprebirth_caffe.ir.graph import unknown_shape
from deeprebirth_caffe.ops import Shape
from deeprebirth_caffe.proto import caffe_pb2 as pb


def is_fed(layer: Layer) -> bool:
    """Whether a layer gives what a probe is given from outside: any data layer, whatever it would read or make up."""
    return layer.fed


def probe_message(
    net: Net,
    view: View,
    batch: int | None = None,
    *,
    fed: Callable[[Layer], bool] = is_fed,
    shapes: Mapping[str, Shape] | None = None,
) -> pb.NetParameter:
    """The view's layers without phase rules, each data layer replaced by an Input layer of the same tops.

    Args:
        net: whose header counts.
        view: one of its views.
        batch: the first dimension of every input; None keeps the file's.
        fed: which layers are replaced.
        shapes: of inputs, by blob, where the net is not to say them.

    Raises:
        RebirthError: the shape of an input is not known.
    """
    known = shapes or {}
    message = pb.NetParameter()
    message.CopyFrom(net.header)
    for field in ("input", "input_shape", "input_dim", "state"):
        message.ClearField(field)
    for value in view.inputs:
        _add_input(message, value.name, [value], batch, known)
    for layer in view.layers:
        if fed(layer):
            _add_input(message, layer.name, view.outs[layer], batch, known)
        else:
            copy = message.layer.add()
            copy.CopyFrom(layer.param)
            copy.ClearField("include")
            copy.ClearField("exclude")
    return message


def _add_input(
    message: pb.NetParameter, name: str, values: Sequence[Value], batch: int | None, known: Mapping[str, Shape]
) -> None:
    made = message.layer.add(name=name, type="Input", top=[value.name for value in values])
    for value in values:
        shape = known.get(value.name, value.shape)
        if shape is None:
            raise RebirthError(unknown_shape(value))
        if batch is not None and shape:
            shape = (batch, *shape[1:])
        made.input_param.shape.add().dim.extend(shape)


def write_probe(folder: Path, name: str, net: Net, view: View, batch: int | None = None) -> tuple[Path, Path | None]:
    """Writes a probe and the net's weights into a folder.

    Returns:
        The prototxt and the caffemodel (None where the net has no weights).
    """
    path = folder / f"{name}.prototxt"
    path.write_text(format_message(probe_message(net, view, batch)), encoding="utf-8")
    if net.weights is None:
        return path, None
    weights = folder / f"{name}.caffemodel"
    save_weights(weights, net, net.weights)
    return path, weights


def save_weights(target: Path | BinaryIO, net: Net, weights: Weights) -> None:
    """Writes weights in the order of the net's layers; those of layers that the net does not have are left out.

    Args:
        target: a path, or a file that is already open.
        net: which layers, and in what order.
        weights: their arrays; what no pass touched is written as it was read.
    """
    types = {layer.name: layer.type for layer in net.layers}
    entries = [(name, kind, weights.entry(name)) for name, kind in types.items() if name in weights]
    if isinstance(target, Path):
        write_caffemodel(target, net.header.name, entries)
    else:
        stream_caffemodel(target, net.header.name, entries)
