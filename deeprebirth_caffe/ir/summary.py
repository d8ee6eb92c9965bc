"""The costs of a view: parameters, multiply-adds and memory, by layer and in all."""

from __future__ import annotations

from dataclasses import dataclass

from deeprebirth_caffe.ir.graph import Layer, View
from deeprebirth_caffe.ops import FLOAT_BYTES, Shape, ShapeError, count


@dataclass(frozen=True)
class LayerCost:
    """The shapes and costs of a layer; None if a shape is unknown.

    Attributes:
        top_shapes: of each top, batch included.
        param_shapes: of each learned blob.
        params: the learned numbers.
        macs: multiply-adds of one image.
        cost: predicted time of the whole batch in MAC-equivalents (`ops.cost`).
        buffers: numbers that Caffe keeps beside the tops, for the whole batch (`Op.buffers`).
        workspace: numbers that do not grow with the batch (`Op.workspace`).
    """

    layer: Layer
    top_shapes: tuple[Shape | None, ...]
    param_shapes: tuple[Shape, ...] | None = None
    params: int | None = None
    macs: int | None = None
    cost: float | None = None
    buffers: int | None = None
    workspace: int | None = None


@dataclass(frozen=True)
class NetCost:
    """The total costs of a view: sums of the known costs; None if none is known.

    Attributes:
        uncounted: the layers that a sum lacks because a shape is unknown.
        batch: the images of a forward pass (`View.batch`).
        params: learned numbers, shared ones once.
        macs: multiply-adds of one image, forward.
        memory_bytes: Caffe's memory for one image in a forward pass: each blob once, even if its memory has several
            names (in place, Split, Flatten, Reshape), and the buffers of layers (`Op.buffers`).
        workspace_bytes: further memory, independent of the batch.
        memory_required_for_data: Caffe's log has this figure for the whole batch: each top of each layer, even if it
            shares memory, without the buffers of layers.
    """

    layers: tuple[LayerCost, ...]
    batch: int
    params: int | None
    macs: int | None
    memory_bytes: int | None
    workspace_bytes: int | None
    memory_required_for_data: int | None
    uncounted: tuple[Layer, ...] = ()


def summarize(view: View) -> NetCost:
    """The costs of a view."""
    rows = tuple(_layer_cost(view, layer) for layer in view.layers)
    return NetCost(
        rows,
        view.batch,
        _params(rows),
        _total([row.macs for row in rows if not row.layer.fed]),
        _memory(view, rows),
        _bytes([row.workspace for row in rows]),
        _logged(view),
        tuple(row.layer for row in rows if None in (*row.top_shapes, row.params, row.macs)),
    )


def param_shapes(view: View, layer: Layer) -> tuple[Shape, ...] | None:
    """The shapes of a layer's learned blobs in Caffe's order; None if its type or bottoms are unknown."""
    bottoms = [value.shape for value in view.ins[layer] if value.shape is not None]
    if layer.op is None or len(bottoms) != len(layer.bottoms):
        return None
    try:
        return tuple(tuple(shape) for shape in layer.op.params(layer.param, bottoms))
    except ShapeError:
        return None


def _layer_cost(view: View, layer: Layer) -> LayerCost:
    tops = tuple(value.shape for value in view.outs[layer])
    kind = layer.op
    blobs = param_shapes(view, layer)
    if kind is None or blobs is None or layer.unknown:
        return LayerCost(layer, tops)
    params = sum(map(count, blobs))
    if None in tops:
        return LayerCost(layer, tops, blobs, params)
    bottoms = [value.shape for value in view.ins[layer] if value.shape is not None]
    shapes = [shape for shape in tops if shape is not None]
    return LayerCost(
        layer,
        tops,
        blobs,
        params,
        kind.macs(layer.param, bottoms, shapes) // view.batch,
        kind.cost(layer.param, bottoms, shapes),
        kind.buffers(layer.param, bottoms, shapes, train=view.state.phase == "TRAIN"),
        kind.workspace(layer.param, bottoms, shapes),
    )


def _total(parts: list[int | None]) -> int | None:
    known = [part for part in parts if part is not None]
    return sum(known) if known or not parts else None


def _params(rows: tuple[LayerCost, ...]) -> int | None:
    shared: set[str] = set()
    known = [row for row in rows if row.param_shapes is not None]
    if all(row.layer.fed for row in known) and not all(row.layer.fed for row in rows):
        return None
    total = 0
    for row in known:
        for index, shape in enumerate(row.param_shapes or ()):
            specs = row.layer.param.param
            name = specs[index].name if index < len(specs) else ""
            if name and name in shared:
                continue
            shared.add(name)
            total += count(shape)
    return total


def _memory(view: View, rows: tuple[LayerCost, ...]) -> int | None:
    """The memory of one image; a loss always has its gradient, in which Caffe keeps the loss weight."""
    blobs = [
        None if value.shape is None else count(value.shape) * (value.weighted + (not value.shared))
        for value in view.values
    ]
    total = _bytes(blobs)
    buffers = sum(row.buffers for row in rows if row.buffers is not None)
    return None if total is None else (total + FLOAT_BYTES * buffers) // view.batch


def _logged(view: View) -> int | None:
    tops = [None if value.shape is None else count(value.shape) * (1 + value.copies) for value in view.values]
    total = _bytes(tops)
    losses = sum(layer.op.auto_tops(layer.param) for layer in view.layers if layer.op is not None)
    return None if total is None else total + FLOAT_BYTES * losses


def _bytes(parts: list[int | None]) -> int | None:
    total = _total(parts)
    return None if total is None else FLOAT_BYTES * total
