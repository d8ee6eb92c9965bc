"""Solver files, lossless."""

from __future__ import annotations

import os

from deeprebirth_caffe.formats.prototxt.document import Document
from deeprebirth_caffe.formats.prototxt.source import TextSource, read_text
from deeprebirth_caffe.proto import caffe_pb2 as pb

SolverSource = TextSource[pb.SolverParameter]
"""A solver's message with its text: `message`, `unknown`, `text()`, `render(message)`."""


def read_solver(path: str | os.PathLike[str]) -> SolverSource:
    """Reads a solver file.

    Raises:
        PrototxtError: with file, line and column.
    """
    return read_text(path, pb.SolverParameter())


def parse_solver(text: str, name: str = "<text>") -> SolverSource:
    """Reads a solver from its text; see `read_solver`."""
    return TextSource(Document(text, name), pb.SolverParameter())
