"""What forks of Caffe added to it: the table, what of it is understood, and how plain Caffe says it."""

from __future__ import annotations

from .plain import Plain, to_plain
from .table import (
    DEPTHWISE,
    FORKS,
    Effect,
    Fork,
    ForkField,
    ForkType,
    field_entry,
    forks_with_field,
    forks_with_type,
    own_entry,
    type_entry,
)
from .understand import Understood, understand

__all__ = [
    "DEPTHWISE",
    "FORKS",
    "Effect",
    "Fork",
    "ForkField",
    "ForkType",
    "Plain",
    "Understood",
    "field_entry",
    "forks_with_field",
    "forks_with_type",
    "own_entry",
    "to_plain",
    "type_entry",
    "understand",
]
