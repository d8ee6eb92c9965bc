"""A net at other sizes of its images: whether a layer fixes the size, and which layers see other sizes.

The size that a file gives its input is often nominal: a net without InnerProduct takes images of any size.
A property at the given size need not hold for such a net.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from deeprebirth_caffe.ir.errors import NetError
from deeprebirth_caffe.ir.graph import Layer, Value, View
from deeprebirth_caffe.ir.summary import param_shapes
from deeprebirth_caffe.ops import Shape
from deeprebirth_caffe.proto import caffe_pb2 as pb

SCALES = ((2, 2), (3, 2), (8, 8))
"""Factors of height and width; whole factors keep branches of different strides aligned."""


class OtherSizes:
    """A net at other sizes than its file's, in a state.

    Attributes:
        views: at the other heights and widths that the net takes with the same weights; empty if its size is
            fixed, as by an InnerProduct.
        batches: at another batch, if the net takes that.
    """

    def __init__(self, view: View, *, fixed: bool = False) -> None:
        """Tries a net at other sizes.

        Args:
            view: of the net.
            fixed: whether the images always have the size in the file.
        """
        self._view = view
        views = [] if fixed else [_scaled(view, scale) for scale in SCALES]
        self.views = [scaled for scaled in views if scaled is not None]
        twice = _resized(view, {value: (2 * value.shape[0], *value.shape[1:]) for value in view.fed if value.shape})
        self.batches = [] if twice is None else [twice]

    def reach(self, layer: Layer) -> bool:
        """Whether a layer reads images of another size at any of the other sizes."""
        return any(
            layer in view.ins and _sizes(view.ins[layer]) != _sizes(self._view.ins[layer]) for view in self.views
        )


def _scaled(view: View, scale: tuple[int, int]) -> View | None:
    """The net with all its images scaled, or else with those of one size; None if it takes neither."""
    images = [value for value in view.fed if value.shape is not None and len(value.shape) == 4]
    sizes = dict.fromkeys(_sizes(images))
    for wanted in [list(sizes), *([size] for size in sizes if len(sizes) > 1)]:
        shapes = {
            value: (*value.shape[:2], value.shape[2] * scale[0], value.shape[3] * scale[1])
            for value in images
            if value.shape is not None and value.shape[2:] in wanted
        }
        resized = _resized(view, shapes) if shapes else None
        if resized is not None and all(
            param_shapes(view, layer) == param_shapes(resized, layer) for layer in resized.layers if layer in view.ins
        ):
            return resized
    return None


def _resized(view: View, shapes: Mapping[Value, Shape]) -> View | None:
    """The view with other shapes of some inputs, without losses and metrics; None if it does not take them."""
    header = pb.NetParameter()
    layers: list[Layer] = []
    gone: set[str] = set()
    known = {value: shapes.get(value, value.shape) for value in view.fed}
    if None in known.values():
        return None
    for value in view.inputs:
        header.input.append(value.name)
        header.input_shape.add().dim.extend(known[value] or ())
    for layer in view.layers:
        if layer.fed:
            twin = pb.LayerParameter(name=layer.name, type="Input", top=layer.tops)
            for value in view.outs[layer]:
                twin.input_param.shape.add().dim.extend(known[value] or ())
            layers.append(Layer(twin))
        elif layer.loss or layer.traits.metric or not gone.isdisjoint(layer.bottoms):
            gone.update(layer.tops)
        else:
            layers.append(layer)
    try:
        return View(view.state, header, layers, {})
    except NetError:
        return None


def _sizes(values: Sequence[Value]) -> list[Shape | None]:
    return [value.shape[2:] if value.shape is not None and len(value.shape) == 4 else None for value in values]
