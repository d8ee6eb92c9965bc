"""The places of layers in a file: which comments belong to them, and how changed layers are put back."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import dataclass

from deeprebirth_caffe.formats.prototxt.edits import Edits, line_end, line_start, past_newline
from deeprebirth_caffe.formats.prototxt.tree import Node


@dataclass(frozen=True)
class Slot:
    """The part of a file that belongs to a layer, in offsets.

    Attributes:
        start: where the comment directly above it begins, else where its line does, else the layer itself.
        begin: where the layer itself begins.
        stop: where the layer itself ends.
        end: behind its line, comment and line break included, unless other fields share the line.
    """

    start: int
    begin: int
    stop: int
    end: int


def slots_of(text: str, top: Sequence[Node], layers: Sequence[Node]) -> list[Slot]:
    """The slots of the layers among a file's top-level nodes.

    A comment at the start of the file belongs to the file, even with a layer directly below it.
    """
    before: dict[int, int] = {}
    last = 0
    for node in top:
        before[id(node)] = last
        last = node.stop
    slots: list[Slot] = []
    for node in layers:
        floor = before[id(node)]
        start = end = -1
        line = line_start(text, node.start)
        if line is not None and line >= floor:
            start = _comment_above(text, line, floor)
            rest = line_end(text, node.stop)
            if rest is not None:
                end = past_newline(text, rest)
        slots.append(Slot(start if start >= 0 else node.start, node.start, node.stop, end if end >= 0 else node.stop))
    return slots


def _comment_above(text: str, line: int, floor: int) -> int:
    """The start of the unbroken comment lines above a line; the line itself where there are none."""
    start = line
    while start > floor:
        above = text.rfind("\n", 0, start - 1) + 1
        if above < floor or not text[above : start - 1].lstrip(" \t\v\f").startswith("#"):
            return start
        start = above
    return line if start == 0 else start


def home_of_each(wanted: Sequence[int | None], exact: Sequence[bool]) -> list[bool]:
    """Which of the wanted layers take the place of their source; the others are written as new layers.

    Args:
        wanted: for each layer of the result the number of its source in the file, if any.
        exact: whether it says the same as its source.

    Returns:
        True for as many as can keep the file's order, at most one for each source, exact ones first.
    """
    chosen: dict[int, int] = {}
    for at, number in enumerate(wanted):
        if number is not None and (number not in chosen or (exact[at] and not exact[chosen[number]])):
            chosen[number] = at
    # Longest increasing run of positions, over sources in the file's order.
    tops: list[int] = []
    ends: list[int] = []
    back: dict[int, int] = {}
    for _, at in sorted(chosen.items()):
        spot = bisect_left(tops, at)
        if spot == len(tops):
            tops.append(at)
            ends.append(at)
        else:
            tops[spot] = ends[spot] = at
        if spot:
            back[at] = ends[spot - 1]
    homes = [False] * len(wanted)
    step = ends[-1] if ends else None
    while step is not None:
        homes[step] = True
        step = back.get(step)
    return homes


class _Writer:
    """The growing text, and the state of its end."""

    def __init__(self, newline: str) -> None:
        self._parts: list[str] = []
        self._tail = ""
        self._newline = newline
        self._broke = False  # we added the last line break, in the middle of a line of the file

    def add(self, text: str) -> None:
        if self._broke and text:
            text = text.removeprefix(self._newline)
            self._broke = False
        if text:
            self._parts.append(text)
            self._tail = (self._tail + text[-256:])[-256:]

    def add_lines(self, text: str, spaced: bool) -> None:
        """Adds new lines, behind a blank line if `spaced`."""
        middle = bool(self._tail) and self._tail[-1] != "\n"
        if middle:
            self.add(self._newline)
        if spaced:
            self.blank_line()
        self.add(text + self._newline)
        self._broke = middle

    def blank_line(self) -> None:
        """Ends the text with a blank line, unless it has one or is empty."""
        if not self.ends_blank():
            self.add(self._newline)

    def ends_blank(self) -> bool:
        body = self._tail.rstrip(" \t\r\n")
        return not body or self._tail.count("\n", len(body)) > 1

    def text(self) -> str:
        return "".join(self._parts)


def weave(edits: Edits, slots: Sequence[Slot], pieces: Sequence[tuple[int | None, str]]) -> str:
    """Puts layers into a file.

    Args:
        edits: the file's text with the changes of its header.
        slots: where the file's own layers stand.
        pieces: the layers to write, in order: the number of each layer's slot, rising, or None for a layer
            between slots, and its text.

    Returns:
        The new text. Unused slots are cut, with one of two blank lines that meet; text between the slots stays.
    """
    text = edits.text
    out = _Writer(edits.newline)
    kept = {number for number, _ in pieces if number is not None}
    ends = [0, *(slot.end for slot in slots)]
    starts = [*(slot.start for slot in slots), len(text)]
    blanks = sum(_has_blank(text[ends[i] : starts[i]]) for i in range(1, len(slots)))
    spaced = 2 * blanks >= len(slots) - 1 > 0

    def write_gap(number: int) -> None:
        gap = edits.apply(ends[number], starts[number])
        if number and number - 1 not in kept and out.ends_blank():
            gap = _without_blank_start(gap)
        out.add(gap)

    written = 0
    after_new = False
    for number, piece in pieces:
        if number is None:
            if not written:
                write_gap(0)
                written = 1
            out.add_lines(piece, spaced)
            after_new = True
            continue
        if written > number and after_new and spaced:
            out.blank_line()
        for gap in range(written, number + 1):
            write_gap(gap)
        written = number + 1
        after_new = False
        slot = slots[number]
        out.add(text[slot.start : slot.begin])
        out.add(piece)
        out.add(text[slot.stop : slot.end])
    for gap in range(written, len(slots) + 1):
        write_gap(gap)
    result = out.text()
    if slots and len(slots) - 1 not in kept and not text[ends[-1] :].strip():
        result = _without_blank_end(result)
    return result


def _has_blank(gap: str) -> bool:
    return any(not line.strip() for line in gap.splitlines())


def _without_blank_start(gap: str) -> str:
    lead = gap[: len(gap) - len(gap.lstrip(" \t\r\n"))]
    return gap[lead.rfind("\n") + 1 :]


def _without_blank_end(text: str) -> str:
    body = text.rstrip(" \t\r\n")
    first = text.find("\n", len(body))
    return text if first < 0 else text[: first + 1]
