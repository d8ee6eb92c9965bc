"""Memory that a net needs: with every blob's buffer used again as soon as nobody reads it, and the largest batch."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from deeprebirth_caffe.ir import Layer, Value, View, summarize
from deeprebirth_caffe.ops import FLOAT_BYTES, ShapeError, count

SHARES = ("Flatten", "Reshape", "Split")
"""Types whose tops are their bottom's memory."""


def reused_bytes(view: View) -> int | None:
    """The most bytes that blobs in use take at one time, layers running in the order of the file.

    A blob is in use from the layer that writes it to the last that reads it; while a layer runs, what it reads and what
    it writes are. Inputs count from the start, outputs to the end, what is overwritten in place once. No scheme that
    keeps this order gets below it; Caffe keeps every blob.

    Returns:
        Bytes; None where a shape is not known.
    """
    if any(value.shape is None for value in view.values):
        return None
    home: dict[int, int] = {}
    size: dict[int, int] = {}
    first: dict[int, int] = {}
    last: dict[int, int] = {}
    end = len(view.layers)

    def see(value: Value, step: int) -> None:
        assert value.shape is not None
        place = home.setdefault(id(value), id(value))
        first.setdefault(place, step)
        last[place] = max(last.get(place, step), step if value.uses else end)
        size[place] = max(size.get(place, 0), FLOAT_BYTES * count(value.shape))

    for value in view.inputs:
        see(value, 0)
    for step, layer in enumerate(view.layers):
        ins, outs = view.ins[layer], view.outs[layer]
        for index, value in enumerate(outs):
            source = _source(layer, index, ins)
            if source is not None:
                home[id(value)] = home[id(source)]
        for value in ins:
            see(value, step)
        for value in outs:
            see(value, 0 if layer.op is not None and layer.op.data else step)
    change = [0] * (end + 2)
    for place, bytes_ in size.items():
        change[first[place]] += bytes_
        change[last[place] + 1] -= bytes_
    most = now = 0
    for step in change:
        now += step
        most = max(most, now)
    return most


def _source(layer: Layer, index: int, ins: Sequence[Value]) -> Value | None:
    """The value whose memory a top takes over."""
    if layer.in_place(index):
        return ins[index]
    return ins[0] if layer.type in SHARES and ins else None


@dataclass(frozen=True)
class Fit:
    """How memory grows with the batch: fixed + batch * each.

    Attributes:
        param_bytes: of the learned numbers.
        column_bytes: of the buffers in which convolutions unroll one image; each layer keeps its own.
        image_bytes: of all blobs, for one image more.
        constant_bytes: of what does not grow with the batch.
    """

    param_bytes: int
    column_bytes: int
    image_bytes: int
    constant_bytes: int

    def bytes(self, batch: int) -> int:
        """What a batch needs."""
        return self.param_bytes + self.column_bytes + self.constant_bytes + batch * self.image_bytes

    def largest(self, size: int) -> int:
        """The largest batch whose need is at most `size` bytes; 0 where not even one image fits."""
        return max(0, (size - self.bytes(0)) // self.image_bytes)


def fit(one: View, two: View) -> Fit | None:
    """The model of a net from its views at batch 1 and 2; None where shapes are not known or no blob grows.

    Blobs are counted as pycaffe lists them, each top of an inserted Split included.
    """
    single, double = summarize(one), summarize(two)
    columns = [_column_bytes(one, layer) for layer in one.layers]
    if (
        single.uncounted
        or single.params is None
        or single.blob_bytes is None
        or double.blob_bytes is None
        or None in columns
    ):
        return None
    each = double.blob_bytes - single.blob_bytes
    if each <= 0:
        return None
    buffers = sum(size for size in columns if size is not None)
    return Fit(FLOAT_BYTES * single.params, buffers, each, single.blob_bytes - each)


def _column_bytes(view: View, layer: Layer) -> int | None:
    """Of the buffer of one convolution: its window's taps for every place of one image; none for 1x1."""
    if layer.type not in ("Convolution", "Deconvolution"):
        return 0
    from deeprebirth_caffe.ops.geometry import conv_split

    image = view.ins[layer][0].shape
    out = view.outs[layer][0].shape
    if image is None or out is None:
        return None
    try:
        axis, window = conv_split(layer.param, image)
    except ShapeError:
        return None
    if window.pointwise:
        return 0
    if layer.type == "Deconvolution":
        image, out = out, image
    return FLOAT_BYTES * image[axis] * count(window.kernel) * count(out, axis + 1)
