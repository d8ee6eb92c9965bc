"""The memory that a net needs if buffers are reused as soon as possible, and the largest batch."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from deeprebirth_caffe.ir import Layer, Value, View, summarize
from deeprebirth_caffe.ops import FLOAT_BYTES, count


def reused_bytes(view: View) -> int | None:
    """The most bytes of blobs in use at the same time, if layers run in the order of the file.

    A blob is in use from the layer that writes it to the last layer that reads it; while a layer runs, its bottoms and
    tops are in use. Inputs count from the start, outputs to the end, blobs overwritten in place once. No scheme with
    this order needs less; Caffe keeps every blob.

    Returns:
        Bytes; None if a shape is unknown.
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
            see(value, 0 if layer.fed else step)
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
    return ins[0] if layer.traits.shares(layer.param) and ins else None


PROCESS_BYTES = 128 << 20
"""The memory of a process with pycaffe and no net (Debian's Caffe 1.0, one thread)."""


@dataclass(frozen=True)
class Fit:
    """How the memory of a forward pass in Caffe grows with the batch.

    Attributes:
        process_bytes: of a process with pycaffe and without a net.
        param_bytes: of the learned numbers.
        workspace_bytes: of buffers that do not grow with the batch, such as the image that a convolution unrolls; each
            layer has its own.
        image_bytes: of one more image.
        constant_bytes: of blobs that do not grow with the batch.
    """

    process_bytes: int
    param_bytes: int
    workspace_bytes: int
    image_bytes: int
    constant_bytes: int

    def bytes(self, batch: int) -> int:
        """The memory that a batch needs."""
        fixed = self.process_bytes + self.param_bytes + self.workspace_bytes + self.constant_bytes
        return fixed + batch * self.image_bytes

    def largest(self, size: int) -> int:
        """The largest batch that needs at most `size` bytes; 0 if not even one image fits."""
        return max(0, (size - self.bytes(0)) // self.image_bytes)


def fit(single_view: View, double_view: View) -> Fit | None:
    """The model of a net from its views at batch 1 and 2; None if shapes are unknown or no blob grows."""
    single, double = summarize(single_view), summarize(double_view)
    if single.uncounted or single.params is None or single.memory_bytes is None or double.memory_bytes is None:
        return None
    first = single.batch * single.memory_bytes
    each = double.batch * double.memory_bytes - first
    if each <= 0 or single.workspace_bytes is None:
        return None
    return Fit(PROCESS_BYTES, FLOAT_BYTES * single.params, single.workspace_bytes, each, first - each)
