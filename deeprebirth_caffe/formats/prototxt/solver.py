"""Solver files, lossless. The old ``solver_type: ADAM`` is read as today's ``type: "Adam"``."""

from __future__ import annotations

import os

from deeprebirth_caffe.formats.prototxt.document import Document, read_document
from deeprebirth_caffe.formats.prototxt.scalars import format_string
from deeprebirth_caffe.formats.prototxt.source import TextSource
from deeprebirth_caffe.proto import caffe_pb2 as pb


class SolverSource(TextSource[pb.SolverParameter]):
    """A solver's message with its text: `message`, `unknown`, `text()`, `render(message)`.

    Attributes:
        forms: "solver_type" if the file has that old field; its text then has today's ``type``.
    """

    def __init__(self, doc: Document) -> None:
        super().__init__(doc, pb.SolverParameter())
        self.forms: tuple[str, ...] = ()
        self._read: TextSource[pb.SolverParameter] | None = None
        if not self.message.HasField("solver_type"):
            return
        # Imported here: few solvers need it.
        from deeprebirth_caffe.formats.upgrade import UpgradeError, upgrade_solver

        node = next(node for node in self._nodes if node.name == "solver_type")
        try:
            self.forms = tuple(upgrade_solver(self.message).forms)
        except UpgradeError as error:
            raise doc.error(node.start, str(error)) from error
        text = doc.text
        between = text[node.start + len(node.name) : node.vstart]
        new = f"{text[: node.start]}type{between}{format_string(self.message.type)}{text[node.end :]}"
        self._read = TextSource(doc, pb.SolverParameter())
        super().__init__(Document(new, doc.name), pb.SolverParameter())

    def where(self, path: str) -> str:
        """``file:line:column`` of a field given by its dotted name; of the file where it is not set."""
        if self._read is None:
            return super().where(path)
        return self._read.where("solver_type" if path == "type" else path)


def read_solver(path: str | os.PathLike[str]) -> SolverSource:
    """Reads a solver file.

    Raises:
        PrototxtError: with file, line and column.
    """
    return SolverSource(read_document(path))


def parse_solver(text: str, name: str = "<text>") -> SolverSource:
    """Reads a solver from its text; see `read_solver`."""
    return SolverSource(Document(text, name))
