"""A growing ONNX graph, and a translator's view of its layer."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt
from onnx import NodeProto, TensorProto, helper, numpy_helper

from deeprebirth_caffe.errors import RefusedError
from deeprebirth_caffe.ir import Layer
from deeprebirth_caffe.ops import Shape, axis_of
from deeprebirth_caffe.proto import caffe_pb2 as pb

Array = npt.NDArray[Any]


class BatchVariesError(Exception):
    """A dimension that changes with the batch was needed as a number; the text names the layer."""


@dataclass(frozen=True)
class Tensor:
    """A tensor and its shapes at two batch sizes; dimensions in which they differ are unknown before the net runs.

    Attributes:
        name: in the graph.
        shape: at the net's batch.
        other: at another batch; equal to `shape` if the batch is fixed.
        constant: whether it is an initializer.
    """

    name: str
    shape: Shape
    other: Shape
    constant: bool = False

    def varies(self, axis: int) -> bool:
        return self.shape[axis] != self.other[axis]

    @property
    def fixed(self) -> bool:
        return self.shape == self.other


@dataclass
class Graph:
    """Nodes and constants so far.

    Attributes:
        opset: the version of ONNX's operators that the nodes are written for.
        rounding: whether pooling may use `ceil_mode` where it means the same as in Caffe.
        taken: names of tensors in use.
        labels: names of nodes in use.
        constant_bytes: the size of the constants.
    """

    opset: int
    rounding: bool = False
    nodes: list[NodeProto] = field(default_factory=list)
    constants: list[TensorProto] = field(default_factory=list)
    taken: set[str] = field(default_factory=set)
    labels: set[str] = field(default_factory=set)
    constant_bytes: int = 0
    _known: dict[tuple[object, ...], str] = field(default_factory=dict)

    def fresh(self, name: str) -> str:
        """Takes a free name for a tensor: this name, or a similar one."""
        return _unused(name, self.taken)

    def label(self, name: str) -> str:
        """Takes a free name for a node."""
        return _unused(name, self.labels)

    def constant(self, name: str, array: Array, key: tuple[object, ...] | None = None) -> str:
        """An initializer; the same key gives the same initializer."""
        if key is not None and key in self._known:
            return self._known[key]
        fresh = self.fresh(name)
        self.constant_bytes += array.nbytes
        self.constants.append(numpy_helper.from_array(np.ascontiguousarray(array).reshape(array.shape), fresh))
        if key is not None:
            self._known[key] = fresh
        return fresh


def _unused(name: str, taken: set[str]) -> str:
    free, number = name, 2
    while free in taken or not free:
        free, number = f"{name}_{number}", number + 1
    taken.add(free)
    return free


class Site:
    """The layer being translated: its inputs, its learned arrays, and its nodes.

    Attributes:
        layer: the layer.
        ins: the layer's inputs.
        tops: shapes of the layer's outputs, at both batch sizes.
        blobs: the layer's learned arrays, in Caffe's shapes.
    """

    def __init__(
        self,
        graph: Graph,
        layer: Layer,
        ins: Sequence[Tensor],
        tops: Sequence[tuple[Shape, Shape]],
        blobs: Sequence[Array],
        owners: Sequence[tuple[str, int]],
    ) -> None:
        self.graph = graph
        self.layer = layer
        self.ins = list(ins)
        self.tops = list(tops)
        self.blobs = list(blobs)
        self._owners = list(owners)

    @property
    def param(self) -> pb.LayerParameter:
        return self.layer.param

    @property
    def x(self) -> Tensor:
        """The layer's first input."""
        return self.ins[0]

    def refuse(self, why: str) -> RefusedError:
        """The error for a layer that cannot be exported."""
        return RefusedError(
            f'{self.layer.where}: layer "{self.layer.name}" ({self.layer.type}) has no ONNX form: {why}'
        )

    def axis(self, axis: int, tensor: Tensor | None = None) -> int:
        """An axis counted from the front."""
        return axis_of(self.param, axis, (tensor or self.x).shape)

    def dim(self, axis: int, tensor: Tensor | None = None) -> int:
        """A dimension as a number.

        Raises:
            BatchVariesError: it is unknown before the net runs.
        """
        tensor = tensor or self.x
        if tensor.varies(axis):
            raise BatchVariesError(f'layer "{self.layer.name}" ({self.layer.type}) needs axis {axis} as a number')
        return tensor.shape[axis]

    def node(self, kind: str, inputs: Sequence[str], outputs: int = 1, **attributes: Any) -> list[str]:
        """Adds a node; its outputs have temporary names until they get those of the layer's tops."""
        name = self.graph.fresh(f"{self.layer.name}/{kind}")
        outs = [name] if outputs == 1 else [self.graph.fresh(f"{name}:{index}") for index in range(outputs)]
        label = self.graph.label(name)
        self.graph.nodes.append(helper.make_node(kind, list(inputs), outs, name=label, **attributes))
        return outs

    def op(self, kind: str, *inputs: str, **attributes: Any) -> str:
        """Adds a node with one output."""
        return self.node(kind, inputs, **attributes)[0]

    def weight(self, index: int, shape: Shape | None = None) -> str:
        """A learned array as a constant; layers that share the array share the constant."""
        array = self.blobs[index] if shape is None else self.blobs[index].reshape(shape)
        owner, place = self._owners[index]
        label = f"{owner}.{'weight' if place == 0 else 'bias' if place == 1 else f'blob{place}'}"
        return self.graph.constant(label, array.astype(np.float32, copy=False), (owner, place, array.shape))

    def number(self, value: float) -> str:
        """A number as a constant, in single precision, as in Caffe.

        Raises:
            RefusedError: single precision does not hold it.
        """
        with np.errstate(over="ignore"):
            value = float(np.float32(value))
        if not math.isfinite(value):
            raise self.refuse("a number of it is larger than single precision holds")
        return self.graph.constant(f"constant_{value:g}", np.array(value, np.float32), ("number", value))

    def integers(self, values: Sequence[int]) -> str:
        """A list of integers as a constant: shapes, axes, starts, …"""
        text = "_".join(map(str, values))
        return self.graph.constant(f"integers_{text}", np.array(values, np.int64), ("integers", *values))

    def array(self, label: str, values: Array) -> str:
        """A constant for this layer only."""
        return self.graph.constant(f"{self.layer.name}.{label}", values)

    def reshape(self, name: str, before: Tensor, shape: Shape, other: Shape) -> str:
        """Reshapes at any batch.

        Args:
            name: of the tensor to reshape.
            before: gives its present shapes.
            shape: the new shape at the net's batch.
            other: the new shape at the other batch.

        Raises:
            BatchVariesError: ONNX cannot express it without numbers.
        """
        if (shape, other) == (before.shape, before.other):
            return name
        if (
            before.shape
            and shape == (before.shape[0], int(np.prod(before.shape[1:])))
            and other == (before.other[0], shape[1])
        ):
            return self.op("Flatten", name, axis=1)
        dims: list[int] = []
        for index, (extent, twin) in enumerate(zip(shape, other, strict=True)):
            if extent == twin:
                dims.append(extent)
            elif index < len(before.shape) and (extent, twin) == (before.shape[index], before.other[index]):
                dims.append(0)
            else:
                dims.append(-1)
        if dims.count(-1) > 1:
            raise BatchVariesError(f'layer "{self.layer.name}" ({self.layer.type}) reshapes more than the batch')
        return self.op("Reshape", name, self.integers(dims))

    def reduce(self, kind: str, name: str, axes: Sequence[int], keep: bool = True) -> str:
        """A sum, mean, … over axes. ONNX takes axes as an attribute or an input, by operator and version."""
        if kind == "ReduceSum" or self.graph.opset >= 18:
            return self.op(kind, name, self.integers(axes), keepdims=int(keep))
        return self.op(kind, name, axes=list(axes), keepdims=int(keep))

    def column(self, name: str, tensor: Tensor, axis: int) -> str:
        """A tensor for the axes from `axis` on, with axes of 1 appended so that it matches this layer's input."""
        behind = len(self.x.shape) - axis - len(tensor.shape)
        if not behind or not tensor.shape:
            return name
        return self.op("Unsqueeze", name, self.integers(range(len(tensor.shape), len(tensor.shape) + behind)))
