"""Every layer type that Caffe 1.0 registers, by name."""

from __future__ import annotations

from . import activation, conv, custom, data, inner, loss, norm, pooling, recurrent, shape_ops
from .base import Op

_FAMILIES = (activation, conv, custom, data, inner, loss, norm, pooling, recurrent, shape_ops)
_ENTRIES = sorted((entry for family in _FAMILIES for entry in family.OPS), key=lambda entry: entry.type)
_OPS: dict[str, Op] = {entry.type: entry for entry in _ENTRIES}


def op(type_name: str) -> Op | None:
    """The facts of a layer type, or None for one that Caffe 1.0 does not have."""
    return _OPS.get(type_name)


def all_ops() -> list[Op]:
    """Every known layer type, by name."""
    return list(_OPS.values())
