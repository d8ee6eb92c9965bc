"""What a net needs in memory, by its shapes, before anything is allocated: too much is refused with the figure.

These are lower bounds: what an engine takes besides is its own. Refusing by more would refuse nets that run.
"""

from __future__ import annotations

from math import prod

from deeprebirth_caffe.engines.base import EngineError
from deeprebirth_caffe.formats import memory
from deeprebirth_caffe.formats.caffemodel import MAX_FILE
from deeprebirth_caffe.ir import Net, Value, View, summarize
from deeprebirth_caffe.ops import FLOAT_BYTES


def kept_bytes(view: View) -> int:
    """All blobs together, which Caffe keeps; those of unknown shape count nothing."""
    return _bytes(view.values)


def largest_bytes(view: View) -> int:
    """What the largest layer reads and writes, which every engine has at one time."""
    return max((_bytes([*view.ins[layer], *view.outs[layer]]) for layer in view.layers), default=0)


def check_pass(view: View, what: str, *, keeps: bool, scale: float = 1.0) -> None:
    """Refuses a net whose forward pass would not fit into memory.

    Args:
        view: of the net, with shapes.
        what: what the error calls it.
        keeps: whether all blobs are kept.
        scale: by how much the batch is larger than the view's.

    Raises:
        RebirthError: it says what is needed and what is free.
    """
    size = (kept_bytes(view) if keeps else largest_bytes(view)) + _drawn_bytes(view)
    memory.need(round(size * scale), f"{what}: a forward pass, at this batch and these sizes,")


def _drawn_bytes(view: View) -> int:
    """Random input while it is drawn, in double precision and for a moment in single precision besides."""
    fed = [value for layer in view.layers if layer.fed for value in view.outs[layer]]
    return 3 * max((_bytes([value]) for value in (*view.inputs, *fed)), default=0)


def check_weights(net: Net, what: str) -> None:
    """Refuses a net whose weights are not even worth drawing: no file of Caffe's could hold them.

    Raises:
        EngineError: it says how large they are.
    """
    sizes: dict[str, int] = {}
    for view in net.views:
        for row in summarize(view).layers:
            sizes[row.layer.name] = sum(map(prod, row.param_shapes or ()))
    size = FLOAT_BYTES * sum(sizes.values())
    if size > MAX_FILE:
        raise EngineError(
            f"{what}: its weights take {memory.gib(size)}, and Caffe reads none above 2 GiB; make its layers smaller"
        )
    # They are drawn in double precision.
    memory.need(2 * size, f"{what}: drawing random weights")


def _bytes(values: list[Value] | tuple[Value, ...]) -> int:
    """Of blobs by their names: what is overwritten in place counts once."""
    sizes: dict[str, int] = {}
    for value in values:
        if value.shape is not None:
            sizes[value.name] = max(sizes.get(value.name, 0), FLOAT_BYTES * prod(value.shape))
    return sum(sizes.values())
