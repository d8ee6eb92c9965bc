"""Descriptors, looked up once: the facts of each message type that texts need."""

from __future__ import annotations

from typing import Any

from google.protobuf.descriptor import FieldDescriptor

from deeprebirth_caffe.formats.prototxt.scalars import Convert, ForkValue, converter


class Field:
    """One field of a message type.

    Attributes:
        descriptor: protobuf's own description.
        name: its name.
        order: its place in the schema, which is the order of printing.
        repeated: whether it may occur more than once.
        convert: for a scalar, turns its spelling into a value.
        message_type: for a message, its type, else None.
    """

    __slots__ = ("_table", "convert", "descriptor", "message_type", "name", "order", "repeated")

    def __init__(self, descriptor: FieldDescriptor, order: int) -> None:
        self.descriptor = descriptor
        self.name = descriptor.name
        self.order = order
        self.repeated = is_repeated(descriptor)
        self.message_type: Any = descriptor.message_type
        self.convert: Convert | None = None if self.message_type is not None else converter(descriptor)
        self._table: Table | None = None

    def is_fork_value(self, spelling: str, kind: int) -> bool:
        """Whether a value is a fork's own: the schema lacks it, and it is no misspelling."""
        if self.convert is None or self.descriptor.enum_type is None:
            return False
        try:
            self.convert(spelling, kind)
        except ForkValue:
            return True
        except ValueError:
            return False
        return False

    @property
    def table(self) -> Table:
        """The table of the message this field holds."""
        if self._table is None:
            assert self.message_type is not None
            self._table = table_of(self.message_type)
        return self._table


class Table:
    """The fields of one message type, by name and in the schema's order."""

    __slots__ = ("by_name", "fields", "name", "required")

    def __init__(self, descriptor: Any) -> None:
        self.name = descriptor.name
        self.fields = [Field(field, order) for order, field in enumerate(descriptor.fields)]
        self.by_name = {field.name: field for field in self.fields}
        self.required = [field.name for field in self.fields if _is_required(field.descriptor)]


_TABLES: dict[str, Table] = {}


def table_of(descriptor: Any) -> Table:
    """The table of a message type, made on first use."""
    key = descriptor.full_name
    table = _TABLES.get(key)
    if table is None:
        table = _TABLES[key] = Table(descriptor)
    return table


def is_repeated(field: Any) -> bool:
    """Whether a field is repeated; `label` is gone from newer protobuf, `is_repeated` missing in older."""
    answer: Any = getattr(field, "is_repeated", None)
    return bool(field.label == field.LABEL_REPEATED if answer is None else answer)


def _is_required(field: Any) -> bool:
    answer: Any = getattr(field, "is_required", None)
    return bool(field.label == field.LABEL_REQUIRED if answer is None else answer)
