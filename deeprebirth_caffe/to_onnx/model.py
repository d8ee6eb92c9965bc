"""A net and its weights as an ONNX model."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from onnx import ModelProto, TensorProto, ValueInfoProto, helper

from deeprebirth_caffe import __version__
from deeprebirth_caffe.errors import RebirthError, RefusedError
from deeprebirth_caffe.ir import Layer, Net, NetError, Value, View, Weights, param_shapes, unknown_shape
from deeprebirth_caffe.ops import Shape
from deeprebirth_caffe.to_onnx.graph import Array, BatchVariesError, Graph, Site, Tensor
from deeprebirth_caffe.to_onnx.table import TRANSLATORS, why_not

OPSET = 13
"""The oldest operators that express all layers; ONNX Runtime, OpenCV, MNN and pnnx all read them."""

BATCH = "N"
"""The name of the batch dimension."""

MAX_BYTES = 2**31 - 2**20
"""The largest constants of an ONNX file, a protobuf message of 2 GiB: less some room for the nodes."""


@dataclass(frozen=True)
class Exported:
    """A model and its facts.

    Attributes:
        model: not yet checked.
        opset: the version of ONNX's operators.
        batch: its fixed batch; None if it takes any.
        inputs: shape of each input at the net's own batch.
        outputs: for each output of the net, its name in the model, usually the blob's.
        notes: for people.
    """

    model: ModelProto
    opset: int
    batch: int | None
    inputs: dict[str, Shape]
    outputs: dict[str, str]
    notes: tuple[str, ...]


def to_onnx(net: Net, *, opset: int = OPSET, dynamic: bool = True, rounding: bool = False) -> Exported:
    """Translates a net in phase TEST.

    The inputs and outputs, and every blob between them, keep their names. Where layers overwrite a blob in place, its
    last contents have the name; earlier ones are called blob/layer.

    Args:
        net: with weights; its data must come from Input layers.
        opset: at least OPSET.
        dynamic: whether to leave the batch open where the net allows that.
        rounding: whether pooling may use `ceil_mode`, where it means the same, instead of more padding at the end.

    Raises:
        RefusedError: ONNX cannot express a layer, or the model would not fit into a file.
        RebirthError: a shape is unknown, or a layer has no weights.
    """
    if net.weights is None:
        raise RebirthError("an exported net needs weights: give them with -w")
    view = net.view("TEST")
    _check(view)
    weights = _Arrays(view, net.weights)
    batch, why = batch_of(net), ""
    if dynamic and batch is not None:
        try:
            twin = at_batch(net, 2 * batch + 1).view("TEST")
            return _build(net, view, twin, weights, Graph(opset, rounding), None, ())
        except (BatchVariesError, NetError) as error:
            why = str(error)
    notes = (f"the batch stays {batch}: {why}",) if why else ()
    return _build(net, view, view, weights, Graph(opset, rounding), batch, notes)


def _check(view: View) -> None:
    for layer in view.layers:
        if layer.type not in TRANSLATORS and layer.type != "Input":
            kind = layer.op
            why = why_not(layer.type, kind is not None and (kind.loss or kind.metric))
            raise RefusedError(f'{layer.where}: layer "{layer.name}" ({layer.type}) has no ONNX form: {why}')
    for value in view.values:
        if value.shape is None:
            raise RebirthError(unknown_shape(value))
    if not view.results:
        raise RefusedError("this net computes nothing: a model of it would have no outputs")


class _Arrays:
    """Learned arrays by layer; arrays shared by `param { name: … }` come from the layer whose values Caffe keeps."""

    def __init__(self, view: View, weights: Weights) -> None:
        self._weights = weights
        self._shared: dict[str, tuple[str, int]] = {}
        for layer in view.layers:
            if layer.name in weights:
                for index, spec in enumerate(layer.param.param):
                    if spec.name and index < len(weights[layer.name]):
                        self._shared[spec.name] = layer.name, index

    def of(self, layer: Layer, shapes: tuple[Shape, ...]) -> Iterator[tuple[Array, tuple[str, int]]]:
        """Each array, in the shape that the layer needs, and its owner."""
        for index, shape in enumerate(shapes):
            specs = layer.param.param
            shared = self._shared.get(specs[index].name) if index < len(specs) else None
            name, place = shared or (layer.name, index)
            if name not in self._weights or place >= len(self._weights[name]):
                raise RebirthError(f'the weights hold nothing for layer "{layer.name}"; are they those of this net?')
            yield np.asarray(self._weights[name][place], np.float32).reshape(shape), (name, place)


def _inputs(view: View) -> list[Value]:
    """The inputs: blobs of Input layers and of the header."""
    fed = list(view.inputs)
    for layer in view.layers:
        if layer.type == "Input":
            fed += view.outs[layer]
    return fed


def batch_of(net: Net) -> int | None:
    """The first dimension of the first input that any layer reads; None if there is none."""
    return next((value.shape[0] for value in _inputs(net.view("TEST")) if value.shape and value.read), None)


def at_batch(net: Net, new: int) -> Net:
    """The same net with another batch, in every input that has the batch of the first one.

    Raises:
        NetError: the net has a fixed batch.
    """
    old = batch_of(net)
    twin = net.copy()
    twin.weights = net.weights  # a copy drops inputs without dimensions
    for shape in [
        *twin.header.input_shape,
        *(shape for layer in twin.layers if layer.type == "Input" for shape in layer.param.input_param.shape),
    ]:
        if shape.dim and shape.dim[0] == old:
            shape.dim[0] = new
    for first in range(0, len(twin.header.input_dim), 4):
        if twin.header.input_dim[first] == old:
            twin.header.input_dim[first] = new
    twin.changed()
    _ = twin.views
    return twin


def _build(
    net: Net, view: View, twin: View, arrays: _Arrays, graph: Graph, batch: int | None, notes: tuple[str, ...]
) -> Exported:
    tensors: dict[Value, Tensor] = {}
    twin_of = dict(zip(view.values, twin.values, strict=True))
    fed = [value for value in _inputs(view) if value.read]
    outputs = view.results
    # Inputs first, then last contents, then overwritten values: in this order blobs get their names.
    names = {value: graph.fresh(value.name) for value in fed}
    for value in view.blobs.values():
        if value not in names and value.name not in graph.taken:
            names[value] = graph.fresh(value.name)
    for value in view.values:
        if value not in names:
            names[value] = graph.fresh(f"{value.name}/{value.producer.name if value.producer else 'input'}")
        tensors[value] = Tensor(names[value], _shape(value), _shape(twin_of[value]))
    twins = dict(zip(view.layers, twin.layers, strict=True))
    for layer in view.layers:
        if layer.type == "Input":
            continue
        shapes = param_shapes(view, layer) or ()
        if shapes != (param_shapes(twin, twins[layer]) or ()):
            raise BatchVariesError(f'the weights of layer "{layer.name}" ({layer.type}) depend on it')
        learned = list(arrays.of(layer, shapes))
        outs = view.outs[layer]
        site = Site(
            graph,
            layer,
            [tensors[value] for value in view.ins[layer]],
            [(_shape(value), _shape(twin_of[value])) for value in outs],
            [array for array, _ in learned],
            [owner for _, owner in learned],
        )
        begin = len(graph.nodes)
        names_made = TRANSLATORS[layer.type](site)
        if graph.constant_bytes > MAX_BYTES:
            raise RefusedError("this net has more than 2 GiB of weights, which one ONNX file cannot hold")
        for value, name in zip(outs, names_made, strict=True):
            if not _lend(site, begin, name, names[value]):
                if value in outputs:
                    label = graph.label(f"{layer.name}/Identity")
                    graph.nodes.append(helper.make_node("Identity", [name], [names[value]], name=label))
                else:
                    tensors[value] = Tensor(name, _shape(value), _shape(twin_of[value]))
        if len(graph.nodes) > begin:
            graph.nodes[-1].name = graph.label(layer.name)
    model = _model(net, graph, [tensors[value] for value in fed], [tensors[value] for value in outputs])
    return Exported(
        model,
        graph.opset,
        batch,
        {value.name: _shape(value) for value in fed},
        {value.name: names[value] for value in outputs},
        notes,
    )


def _shape(value: Value) -> Shape:
    assert value.shape is not None
    return value.shape


def _lend(site: Site, begin: int, old: str, new: str) -> bool:
    """Gives a tensor of the layer's nodes the name of its top; returns whether these nodes make it."""
    nodes = site.graph.nodes[begin:]
    if not any(old in node.output for node in nodes):
        return False
    for node in nodes:
        for names in (node.input, node.output):
            for index, name in enumerate(names):
                if name == old:
                    names[index] = new
    return True


def _model(net: Net, graph: Graph, inputs: list[Tensor], outputs: list[Tensor]) -> ModelProto:
    model_graph = helper.make_graph(
        graph.nodes,
        net.header.name or "net",
        [_info(tensor) for tensor in inputs],
        [_info(tensor) for tensor in outputs],
        graph.constants,
    )
    opsets = [helper.make_opsetid("", graph.opset)]
    return helper.make_model(
        model_graph,
        opset_imports=opsets,
        ir_version=helper.find_min_ir_version_for(opsets),
        producer_name="deeprebirth-caffe",
        producer_version=__version__,
    )


def _info(tensor: Tensor) -> ValueInfoProto:
    """An input or output; only the batch, of all varying dimensions, has a name."""
    dims: list[int | str | None] = [
        (BATCH if not axis else None) if tensor.varies(axis) else size for axis, size in enumerate(tensor.shape)
    ]
    return helper.make_tensor_value_info(tensor.name, TensorProto.FLOAT, dims)
