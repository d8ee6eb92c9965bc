"""Texts that must hold a message and only fields of the schema."""

from __future__ import annotations

from typing import TypeVar

from google.protobuf.message import Message

from deeprebirth_caffe.formats.prototxt.document import Document
from deeprebirth_caffe.formats.prototxt.fill import fill_message
from deeprebirth_caffe.formats.prototxt.tree import parse_tree

M = TypeVar("M", bound=Message)


def parse_message(text: str, message_class: type[M], name: str = "<text>") -> M:
    """Reads a text as one message.

    Raises:
        PrototxtError: with file, line and column; an unknown field is an error too.
    """
    doc = Document(text, name)
    message = message_class()
    fill_message(doc, message, parse_tree(doc), 0, strict=True)
    return message
