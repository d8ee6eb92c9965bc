"""Protobuf's text format as a concrete syntax tree.

The tree holds only offsets into the text, so writing it back prints the text: comments,
blank lines, order and spelling need no storage. Each field has a node; tokens have none.

The grammar is the one Caffe's own parser (protobuf's C++ TextFormat) accepts: ``#`` comments, an optional
``:`` before a message, ``{ }`` or ``< >``, one ``,`` or ``;`` after a field, adjacent strings joined, short
lists ``[a, b]``, names of extensions in brackets.
"""

from __future__ import annotations

import re

from deeprebirth_caffe.formats.prototxt.document import Document

MAX_DEPTH = 100
"""Deeper nested blocks are refused: real nets need six levels."""

STRING, NUMBER, WORD, BLOCK, LIST = range(5)
"""The kinds of a field's value."""

# The spaces and comments in front of a token belong to its match. One of the last two alternatives always
# matches, so the loops in front never backtrack: scanning is linear on any input.
_TOKEN = re.compile(
    r"""[ \t\r\n\v\f]*(?:\#[^\n]*(?:\n[ \t\r\n\v\f]*)?)*
    (?:([A-Za-z_][A-Za-z0-9_]*)
    |(\.?[0-9](?:[eE][+-]|[0-9A-Za-z_.])*)
    |("[^"\\\n]*(?:\\[^\n][^"\\\n]*)*"|'[^'\\\n]*(?:\\[^\n][^'\\\n]*)*')
    |([{}<>\[\]:;,\-./])
    |(.)
    |\Z)""",
    re.VERBOSE | re.DOTALL,
)
_WORD, _NUMBER, _STRING, _PUNCTUATION, _BAD = range(1, 6)
_CLOSING = {"{": "}", "<": ">"}


class Node:
    """One field, or one item of a short list.

    Attributes:
        name: the field's name as written (``[a.b]`` for an extension); empty for an item of a list.
        kind: STRING, NUMBER, WORD, BLOCK or LIST.
        start: offset of the name (of the value, for an item).
        vstart: offset of the value, its sign or its opening bracket.
        end: offset behind the value.
        stop: offset behind the separator that follows, else `end`.
        kids: fields of a BLOCK, items of a LIST, else empty.
        colon: whether there is a ``:`` between name and value.
    """

    __slots__ = ("colon", "end", "kids", "kind", "name", "start", "stop", "vstart")

    def __init__(self, name: str, start: int) -> None:
        self.name = name
        self.start = start
        self.vstart = self.end = self.stop = start
        self.kind = WORD
        self.kids: list[Node] = []
        self.colon = False


class _Parser:
    __slots__ = ("at", "depth", "doc", "text", "tokens")

    def __init__(self, doc: Document) -> None:
        self.doc = doc
        text = self.text = doc.text
        tokens = [(m.lastindex or 0, m.start(m.lastindex or 0), m.end()) for m in _TOKEN.finditer(text)]
        # The end of the text is behind its last token; trailing comments are skipped.
        tokens.append((0, len(text), len(text)))
        self.tokens = tokens
        self.at = 0
        self.depth = 0

    def fields(self, closing: str, opened: int) -> list[Node]:
        """Fields up to `closing` (not consumed) or, where that is empty, to the end of the text."""
        text, tokens = self.text, self.tokens
        nodes: list[Node] = []
        while True:
            kind, start, end = tokens[self.at]
            if kind == _WORD:
                self.at += 1
                node = Node(text[start:end], start)
            elif kind == _PUNCTUATION and text[start] == closing:
                return nodes
            elif kind == _PUNCTUATION and text[start] == "[":
                node = self.extension()
            elif kind == 0:
                if closing:
                    raise self.unclosed(opened, closing, nodes)
                return nodes
            else:
                raise self.unexpected(f"a field's name or '{closing}'" if closing else "a field's name")
            self.value(node)
            kind, start, end = tokens[self.at]
            if kind == _PUNCTUATION and text[start] in ",;":
                self.at += 1
                node.stop = end
            nodes.append(node)

    def extension(self) -> Node:
        """``[package.name]`` or ``[host/package.name]`` instead of a field's name."""
        opened = self.tokens[self.at][1]
        self.at += 1
        while True:
            kind, start, end = self.tokens[self.at]
            if kind == _PUNCTUATION and self.text[start] == "]":
                self.at += 1
                return Node("".join(self.text[opened:end].split()), opened)
            if not (kind in (_WORD, _NUMBER) or (kind == _PUNCTUATION and self.text[start] in "./-")):
                raise self.unexpected("the name of an extension and ']'")
            self.at += 1

    def value(self, node: Node) -> None:
        kind, start, _ = self.tokens[self.at]
        mark = self.text[start] if kind == _PUNCTUATION else ""
        if mark == ":":
            node.colon = True
            self.at += 1
            kind, start, _ = self.tokens[self.at]
            mark = self.text[start] if kind == _PUNCTUATION else ""
        elif mark not in ("{", "<", "["):
            raise self.unexpected(f"':' or '{{' after '{node.name}'")
        if mark == "[":
            self.items(node, start)
        else:
            self.item(node)

    def items(self, node: Node, start: int) -> None:
        node.kind = LIST
        node.vstart = start
        self.at += 1
        text, tokens = self.text, self.tokens
        while True:
            kind, start, end = tokens[self.at]
            mark = text[start] if kind == _PUNCTUATION else ""
            if mark == "]" and not node.kids:
                break
            item = Node("", start)
            self.item(item)
            node.kids.append(item)
            kind, start, end = tokens[self.at]
            mark = text[start] if kind == _PUNCTUATION else ""
            if mark == "]":
                break
            if mark != ",":
                if kind == 0:
                    raise self.doc.error(node.vstart, "'[' is never closed; add the missing ']'")
                raise self.unexpected("',' or ']'")
            self.at += 1
        self.at += 1
        node.end = node.stop = end

    def item(self, node: Node) -> None:
        """One scalar or one block."""
        text, tokens = self.text, self.tokens
        kind, start, end = tokens[self.at]
        node.vstart = start
        if kind == _PUNCTUATION:
            mark = text[start]
            closing = _CLOSING.get(mark)
            if closing:
                self.at += 1
                node.kind = BLOCK
                self.depth += 1
                if self.depth > MAX_DEPTH:
                    raise self.doc.error(start, f"blocks nested more than {MAX_DEPTH} deep; no net needs that")
                node.kids = self.fields(closing, start)
                self.depth -= 1
                end = tokens[self.at][2]
            elif mark == "-":
                self.at += 1
                kind, _, end = tokens[self.at]
                if kind not in (_NUMBER, _WORD):
                    raise self.unexpected("a number after '-'")
                node.kind = NUMBER
            else:
                raise self.unexpected("a value")
        elif kind == _STRING:
            node.kind = STRING
            while tokens[self.at + 1][0] == _STRING:
                self.at += 1
            end = tokens[self.at][2]
        elif kind == _NUMBER:
            node.kind = NUMBER
        elif kind != _WORD:
            raise self.unexpected("a value")
        self.at += 1
        node.end = node.stop = end

    def unclosed(self, opened: int, closing: str, nodes: list[Node]) -> Exception:
        hint = ""
        for node in nodes:
            if node.name in ("layer", "layers"):  # no layer holds layers: a brace is missing in front of this one
                hint = f" in front of the next layer at {self.doc.where(node.start).removeprefix(self.doc.name + ':')}"
                break
        return self.doc.error(opened, f"'{self.text[opened]}' is never closed; add the missing '{closing}'{hint}")

    def unexpected(self, wanted: str) -> Exception:
        kind, start, end = self.tokens[self.at]
        text = self.text
        if kind == 0:
            return self.doc.error(len(text.rstrip()), f"the text ends where {wanted} should be; is it cut off?")
        token = text[start:end]
        if kind == _BAD and token in "\"'":
            return self.doc.error(start, f"a string that starts here is not closed on its line; add {token}")
        if len(token) > 40:
            token = token[:37] + "..."
        return self.doc.error(start, f"unexpected {token!a}, expected {wanted}; correct the text here")


def parse_tree(doc: Document) -> list[Node]:
    """The top-level fields of a text.

    Raises:
        PrototxtError: at the first place that is not text format.
    """
    return _Parser(doc).fields("", 0)


def occurrences(node: Node) -> list[Node]:
    """The values of a field node: its items if it is a short list, else itself."""
    return node.kids if node.kind == LIST else [node]
