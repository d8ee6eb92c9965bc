"""Reading a fork's fields, which have no schema: a value of the wrong kind means that the field is another fork's."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ...formats.prototxt.extra import Extra
from ..base import ShapeError, title

if TYPE_CHECKING:
    from ...proto import caffe_pb2 as pb


class Values:
    """The fork's fields of one layer.

    Attributes:
        layer: whose they are, for messages.
        extra: dotted path -> values.
    """

    __slots__ = ("extra", "layer")

    def __init__(self, layer: pb.LayerParameter, extra: Extra) -> None:
        self.layer = layer
        self.extra = extra

    def has(self, path: str) -> bool:
        """Whether the field is there."""
        return path in self.extra

    def integers(self, path: str) -> list[int]:
        """All values of a field."""
        return [self._integer(path, value) for value in self.extra.get(path, ())]

    def integer(self, path: str, default: int) -> int:
        """The value of a field that stands once (of several, the last counts, as in a merged message)."""
        found = self.integers(path)
        return found[-1] if found else default

    def floats(self, path: str) -> list[float]:
        """All values of a field."""
        found = []
        for value in self.extra.get(path, ()):
            if isinstance(value, bool) or not isinstance(value, (int, float)):
                raise self.wrong(path, value, "a number")
            found.append(float(value))
        return found

    def flag(self, path: str, default: bool) -> bool:
        """The value of a field that is true or false."""
        found = self.extra.get(path, ())
        if not found:
            return default
        value = {"t": True, "True": True, "f": False, "False": False}.get(str(found[-1]), found[-1])
        if value not in (True, False, 0, 1):
            raise self.wrong(path, value, "true or false")
        return bool(value)

    def word(self, path: str, default: str) -> str:
        """The value of a field that is a name."""
        found = self.extra.get(path, ())
        return str(found[-1]) if found else default

    def wrong(self, path: str, value: object, wanted: str) -> ShapeError:
        """The error for a value that the fork's schema would not take."""
        return ShapeError(f"{title(self.layer)} ({self.layer.type}): {path} is {value!r}, not {wanted}")

    def _integer(self, path: str, value: object) -> int:
        if isinstance(value, bool) or not isinstance(value, int) or abs(value) >= 2**31:
            raise self.wrong(path, value, "an integer of 32 bits")
        return value
