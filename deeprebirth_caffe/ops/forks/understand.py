"""What a layer is, its fork's fields counted in: its facts, and what about it nobody here knows."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from ...formats.prototxt.extra import Extra
from ..base import Datum, Op, Shape
from ..base import unknown as unknown_shape
from ..registry import op
from .plain import leaves, scales, translate
from .table import Effect, ForkField, ForkType, field_entry, forks_with_field, own_entry, type_entry
from .values import Values

if TYPE_CHECKING:
    from ...proto import caffe_pb2 as pb


@dataclass(frozen=True)
class Understood:
    """A layer's facts.

    Attributes:
        op: of its type with its fields, or None for a type that nobody here knows.
        unknown: the outermost fields that nobody here knows.
        fixed: fields whose shapes and costs are known, and that keep passes from rewriting the layer.
        fork: whether there is anything in it that plain Caffe does not have.
        loud: whether that changes what is computed, so that plain Caffe's arithmetic would be wrong.
    """

    op: Op | None
    unknown: tuple[str, ...] = ()
    fixed: tuple[str, ...] = ()
    fork: bool = False
    loud: bool = False


def understand(type_name: str, unknown: Sequence[str] = (), extra: Extra | None = None) -> Understood:
    """The facts of a layer.

    Args:
        type_name: its type.
        unknown: its outermost fields that the schema does not have.
        extra: what they say; see `formats.prototxt.extra`.
    """
    kind = type_entry(type_name)
    if kind is None and not unknown:
        return Understood(op(type_name))
    extra = extra or {}
    strange, fixed = [], []
    loud = kind is not None
    ends = leaves(extra)
    for outer in unknown:
        found = {path: field_entry(path, type_name) for path in ends if path == outer or path.startswith(f"{outer}.")}
        loud |= any(entry is None or entry.effect is not Effect.QUIET for entry in found.values())
        if any(entry is None and (extra[path] or not _holds(path, type_name)) for path, entry in found.items()):
            strange.append(outer)
        elif any(_fixes(path, type_name, entry) for path, entry in found.items()):
            fixed.append(outer)
    return Understood(_bound(type_name, kind, extra), tuple(strange), tuple(fixed), True, loud)


def _fixes(path: str, type_name: str, entry: ForkField | None) -> bool:
    """Whether passes must leave a layer alone because of a field; a fork's own type they know or not by itself."""
    if entry is None or own_entry(path, type_name) is not None:
        return False
    return entry.effect is Effect.SHAPES or not entry.merges


def _holds(block: str, type_name: str) -> bool:
    """Whether an empty block is one that a fork puts something known into."""
    return bool(forks_with_field(block, type_name))


def _bound(type_name: str, kind: ForkType | None, extra: Extra) -> Op | None:
    """The facts of a type with a fork's fields bound to them."""
    like = op(type_name if kind is None else kind.like)
    if like is None and (kind is None or kind.make is None):
        return None

    def facts(layer: pb.LayerParameter) -> Op:
        if like is not None:
            return like
        assert kind is not None and kind.make is not None
        return kind.make(Values(layer, extra))

    def said(layer: pb.LayerParameter, bottoms: Sequence[Shape]) -> pb.LayerParameter:
        """The layer as the facts of a plain type understand it: grouped, dilated, rounded as the fork's fields say."""
        if like is None:
            return layer
        plain = translate(layer, extra, bottoms)
        if isinstance(plain, str):
            unknown_shape(layer, plain)
        return plain.param

    def shapes(layer: pb.LayerParameter, bottoms: Sequence[Shape], datum: Datum | None) -> list[Shape]:
        return facts(layer).shapes_fn(said(layer, bottoms), bottoms, datum)

    def params(layer: pb.LayerParameter, bottoms: Sequence[Shape]) -> list[Shape]:
        found = facts(layer).params_fn(said(layer, bottoms), bottoms)
        if layer.type == "BatchNorm" and scales(Values(layer, extra)):
            found += [found[0], found[0]]
        return found

    def macs(layer: pb.LayerParameter, bottoms: Sequence[Shape], tops: Sequence[Shape]) -> int:
        return facts(layer).macs_fn(said(layer, bottoms), bottoms, tops)

    def cost(layer: pb.LayerParameter, bottoms: Sequence[Shape], tops: Sequence[Shape]) -> float:
        return facts(layer).cost_fn(said(layer, bottoms), bottoms, tops)

    traits = facts(_any_layer(type_name))
    learns = params if traits.learned else traits.params_fn
    return replace(traits, type=type_name, shapes_fn=shapes, params_fn=learns, macs_fn=macs, cost_fn=cost)


def _any_layer(type_name: str) -> pb.LayerParameter:
    from ...proto import caffe_pb2

    return caffe_pb2.LayerParameter(type=type_name)
