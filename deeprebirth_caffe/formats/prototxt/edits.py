"""Cuts and insertions in a text: where lines begin and end, and what else is on them."""

from __future__ import annotations

from deeprebirth_caffe.formats.prototxt.tree import Node

_BLANK = " \t\r\v\f"
_SPACE = " \t\r\n\v\f"


class Edits:
    """Replacements of parts of one text, collected first and applied at once.

    Attributes:
        text: the text they refer to.
        newline: how its lines end.
        unit: a level of its indentation.
    """

    __slots__ = ("_list", "newline", "text", "unit")

    def __init__(self, text: str, newline: str, unit: str) -> None:
        self.text = text
        self.newline = newline
        self.unit = unit
        self._list: list[tuple[int, int, str]] = []

    def __bool__(self) -> bool:
        return bool(self._list)

    def replace(self, start: int, end: int, text: str) -> None:
        """Replaces ``[start, end)`` by `text`."""
        self._list.append((start, end, text))

    def apply(self, start: int, end: int) -> str:
        """The edited text of ``[start, end)``; edits at its very ends belong to it."""
        parts: list[str] = []
        at = start
        # A stable sort: insertions at the same place keep their order.
        for first, last, new in sorted(self._list, key=lambda edit: edit[:2]):
            if first < start or last > end:
                continue
            if not new:  # two removed fields may both claim the spaces between them
                first, last = max(first, at), max(last, at)
            assert first >= at, "edits overlap"
            parts.append(self.text[at:first])
            parts.append(new)
            at = last
        parts.append(self.text[at:end])
        return "".join(parts)

    def remove(self, node: Node) -> None:
        """Cuts a field, with its line if only a comment is left on it."""
        text = self.text
        line = line_start(text, node.start)
        if line is not None:
            rest = line_end(text, node.stop)
            if rest is not None:
                self.replace(line, past_newline(text, rest), "")
                return
            stop = node.stop
            while stop < len(text) and text[stop] in _BLANK:
                stop += 1
            self.replace(node.start, stop, "")
            return
        start = node.start
        following = text[node.stop : node.stop + 1]
        if not following or following in _SPACE or following in "}>]":
            while start > 0 and text[start - 1] in _BLANK:
                start -= 1
        self.replace(start, node.stop, "")

    def insert_after(self, anchor: Node, block: Node | None, lines: list[str], inline: str) -> None:
        """Adds a field behind another: as lines (still to be indented) if the other ends its line."""
        rest = line_end(self.text, anchor.stop)
        if rest is None:
            self._insert_inline(anchor.stop, inline)
            return
        line = line_start(self.text, anchor.start)
        if line is not None:
            indent = self.text[line : anchor.start]
        else:
            indent = self._indent_within(block) if block is not None else ""
        self.replace(rest, rest, "".join(f"{self.newline}{indent}{line}" for line in lines))

    def insert_first(self, block: Node, lines: list[str], inline: str) -> None:
        """Adds a field in front of all others of a block."""
        text = self.text
        inside = block.vstart + 1
        rest = line_end(text, inside)
        if rest is None:
            self._insert_inline(inside, inline)
            return
        indent = self._indent_within(block)
        self.replace(rest, rest, "".join(f"{self.newline}{indent}{line}" for line in lines))

    def _insert_inline(self, at: int, inline: str) -> None:
        following = self.text[at : at + 1]
        touching = following not in _SPACE and not (following in "}>" and at and self.text[at - 1] not in "{<")
        self.replace(at, at, f" {inline} " if touching else f" {inline}")

    def _indent_within(self, block: Node) -> str:
        """The indentation of a block's fields: that of its fields, else one level more than the block's line."""
        for kid in block.kids:
            line = line_start(self.text, kid.start)
            if line is not None:
                return self.text[line : kid.start]
        begin = self.text.rfind("\n", 0, block.start) + 1
        stop = begin
        while stop < block.start and self.text[stop] in " \t":
            stop += 1
        return self.text[begin:stop] + self.unit


def line_start(text: str, at: int) -> int | None:
    """Where the line of `at` begins, if only spaces stand in front of it, else None."""
    while at > 0 and text[at - 1] in _BLANK:
        at -= 1
    return at if at == 0 or text[at - 1] == "\n" else None


def line_end(text: str, at: int) -> int | None:
    """Where the line of `at` ends, in front of its line break; None if more than a comment follows."""
    size = len(text)
    while at < size and text[at] in " \t\v\f":
        at += 1
    if at < size and text[at] == "#":
        stop = text.find("\n", at)
        at = size if stop < 0 else stop
        return at - 1 if at and text[at - 1] == "\r" else at
    if at == size or text[at] == "\n" or text.startswith("\r\n", at):
        return at
    return None


def past_newline(text: str, at: int) -> int:
    """The offset behind the line break at `at`, if there is one."""
    if text.startswith("\r\n", at):
        return at + 2
    return at + 1 if text.startswith("\n", at) else at
