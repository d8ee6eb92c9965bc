"""What a net costs: parameters, multiply-adds and memory of one view, layer by layer and in all."""

from __future__ import annotations

from dataclasses import dataclass

from deeprebirth_caffe.ir.graph import Layer, View
from deeprebirth_caffe.ops import FLOAT_BYTES, Shape, ShapeError, count


@dataclass(frozen=True)
class LayerCost:
    """One layer's shapes and costs; None where a shape is not known.

    Attributes:
        top_shapes: of each top, batch included.
        param_shapes: of each learned blob.
        params: how many numbers those hold.
        macs: multiply-adds for the whole batch.
        cost: predicted time in MAC-equivalents (`ops.cost`).
    """

    layer: Layer
    top_shapes: tuple[Shape | None, ...]
    param_shapes: tuple[Shape, ...] | None
    params: int | None
    macs: int | None
    cost: float | None


@dataclass(frozen=True)
class NetCost:
    """A view's costs in all: the sums of what is known; None where nothing is.

    Attributes:
        uncounted: the layers that are missing from a sum, since a shape is not known.
        params: learned numbers, shared ones once.
        macs: multiply-adds of a forward pass of the whole batch.
        blob_bytes: of all blobs as pycaffe lists them: one that is overwritten in place counts once, and each top of
            the Split layers that Caffe inserts counts too.
        memory_required_for_data: as Caffe logs it: each top of each layer, those that overwrite their bottom and
            those of the Split layers that Caffe inserts included.
    """

    layers: tuple[LayerCost, ...]
    params: int | None
    macs: int | None
    blob_bytes: int | None
    memory_required_for_data: int | None
    uncounted: tuple[Layer, ...] = ()


def summarize(view: View) -> NetCost:
    """The costs of a view."""
    rows = tuple(_layer_cost(view, layer) for layer in view.layers)
    return NetCost(
        rows,
        _params(rows),
        _total([row.macs for row in rows if not row.layer.fed]),
        _blob_bytes(view),
        _memory(view),
        tuple(row.layer for row in rows if None in (*row.top_shapes, row.params, row.macs)),
    )


def param_shapes(view: View, layer: Layer) -> tuple[Shape, ...] | None:
    """The shapes of a layer's learned blobs in Caffe's order, as far as its type and bottoms are known; else None."""
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
        return LayerCost(layer, tops, None, None, None, None)
    params = sum(map(count, blobs))
    if None in tops:
        return LayerCost(layer, tops, blobs, params, None, None)
    bottoms = [value.shape for value in view.ins[layer] if value.shape is not None]
    shapes = [shape for shape in tops if shape is not None]
    return LayerCost(
        layer,
        tops,
        blobs,
        params,
        kind.macs(layer.param, bottoms, shapes),
        kind.cost(layer.param, bottoms, shapes),
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


def _blob_bytes(view: View) -> int | None:
    return _bytes(
        [
            None if value.shape is None else count(value.shape) * ((view.blobs[value.name] is value) + value.copies)
            for value in view.values
        ]
    )


def _memory(view: View) -> int | None:
    tops = [None if value.shape is None else count(value.shape) * (1 + value.copies) for value in view.values]
    total = _bytes(tops)
    losses = sum(layer.op.auto_tops(layer.param) for layer in view.layers if layer.op is not None)
    return None if total is None else total + FLOAT_BYTES * losses


def _bytes(parts: list[int | None]) -> int | None:
    total = _total(parts)
    return None if total is None else FLOAT_BYTES * total
