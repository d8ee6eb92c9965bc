"""Prints messages as text, in the schema's order, the way people write prototxt."""

from __future__ import annotations

from typing import Any

from google.protobuf.message import Message

from deeprebirth_caffe.formats.prototxt.fields import Field, table_of
from deeprebirth_caffe.formats.prototxt.scalars import format_scalar

_ON_ONE_LINE = {"BlobShape"}
"""Types whose fields share a line: a shape reads better as ``shape { dim: 1 dim: 3 }``."""


def present(message: Message) -> list[tuple[Field, list[Any]]]:
    """The fields that are set, in the schema's order, with their values (a singular field has one)."""
    by_name = table_of(message.DESCRIPTOR).by_name
    pairs = [(by_name[descriptor.name], value) for descriptor, value in message.ListFields()]
    pairs.sort(key=lambda pair: pair[0].order)
    return [(field, list(value) if field.repeated else [value]) for field, value in pairs]


def message_lines(message: Message, indent: str, unit: str) -> list[str]:
    """The fields of a message, each on a line, blocks over several lines."""
    lines: list[str] = []
    for field, values in present(message):
        for value in values:
            lines.extend(field_lines(field, value, indent, unit))
    return lines


def field_lines(field: Field, value: Any, indent: str, unit: str) -> list[str]:
    """One value of a field over as many lines as it needs."""
    if field.message_type is None or field.message_type.name in _ON_ONE_LINE:
        return [indent + field_inline(field, value)]
    return [f"{indent}{field.name} {{", *message_lines(value, indent + unit, unit), indent + "}"]


def field_inline(field: Field, value: Any) -> str:
    """One value of a field on one line."""
    if field.message_type is None:
        return f"{field.name}: {format_scalar(field.descriptor, value)}"
    return f"{field.name} {block_inline(value)}"


def block_inline(message: Message) -> str:
    """The braces of a message and all between them on one line."""
    inner = " ".join(field_inline(field, value) for field, values in present(message) for value in values)
    return f"{{ {inner} }}" if inner else "{ }"


def format_message(message: Message, indent: str = "  ") -> str:
    """The text of a message's fields, in the schema's order.

    Floats are as short as possible (0.1, not 0.10000000149), enums are names, strings have
    protobuf's escapes. An empty message gives an empty text, any other ends with a newline.
    """
    lines = message_lines(message, "", indent)
    return "\n".join(lines) + "\n" if lines else ""
