"""Fields of a binary layer that the schema does not know: an upgrade cannot carry them, so they are listed."""

from __future__ import annotations

from typing import Any

from google.protobuf.message import Message
from google.protobuf.unknown_fields import UnknownFieldSet

from deeprebirth_caffe.formats.upgrade.notes import Note, Upgrade
from deeprebirth_caffe.proto import caffe_pb2 as pb


def note_unknown(net: pb.NetParameter, report: Upgrade) -> None:
    """Notes the numbers of unknown fields of old layers.

    The numbers of V1 mean other fields in today's layer, so that bytes kept under them could change its meaning.
    Unknown fields inside a layer's parameter messages stay: those messages have not changed.
    """
    for index, layer in enumerate(net.layers):
        numbers = _numbers(layer)
        if layer.HasField("layer"):
            numbers += _numbers(layer.layer)
        if numbers:
            fields = ", ".join(map(str, dict.fromkeys(numbers)))
            name = layer.layer.name if layer.HasField("layer") else layer.name
            report.notes.append(Note(f"binary fields that Caffe 1.0 does not have ({fields}); left out", index, name))


def _numbers(message: Message) -> list[int]:
    unknown: Any = UnknownFieldSet(message)  # type stubs do not know that it can be iterated
    return [field.field_number for field in unknown]
