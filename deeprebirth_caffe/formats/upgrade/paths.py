"""Where the fields of an old layer are found in its new form."""

from __future__ import annotations

from deeprebirth_caffe.formats.upgrade import inputs, transform, v0, v1
from deeprebirth_caffe.formats.upgrade.comments import BESIDE, END, Path, Piece


def from_v0(piece: Piece, kind: str) -> Piece:
    """Moves a piece of a V0 layer of type `kind`; its path starts at ``layers``."""
    path = piece.path
    if not path or path[0][0] != "layer":
        return Piece(piece.text, from_v1(path), piece.mode)
    if len(path) == 1:  # of the inner braces, which are gone
        return Piece(piece.text, (), END if piece.mode == BESIDE else piece.mode)
    name, number = path[1]
    rest = path[2:]
    if name in v0.RULES:
        target, homes = v0.RULES[name]
        home = homes.get(kind, homes.get(""))
        if home is None:
            return Piece(piece.text, (("", 0),), piece.mode)
        prefix: Path = ((home, 0),) if home else ()
        return Piece(piece.text, (*prefix, (target, number), *rest), piece.mode)
    return Piece(piece.text, from_v1(path[1:]), piece.mode)


def from_v1(path: Path) -> Path:
    """The path in today's layer of a field of a V1 layer."""
    if not path:
        return path
    name, number = path[0]
    if name in v1.PARAM_FIELDS:
        return (("param", number), (v1.PARAM_FIELDS[name], 0))
    if name in transform.HOMES.values() and len(path) > 1 and path[1][0] in transform.FIELDS:
        return (("transform_param", 0), *path[1:])
    return path


def from_header(path: Path) -> Path:
    """The path in the Input layer of an input field of a net."""
    name, number = path[0]
    if name == "input":
        return (("top", number),)
    if name == "input_dim":
        number //= inputs.DIMS
    return (("input_param", 0), ("shape", number))
