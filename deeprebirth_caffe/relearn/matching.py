"""Which blobs of a student a teacher's blobs say something about: what rebirth layers put out.

A rebirth layer is one with weights whose name the teacher does not have, and that no exact rewrite made. What it gives
counts behind its activation and whatever else works on each position alone, and behind the Concat or Eltwise where it
meets the other branches; where a blob is read by such a join alone whose own output counts, the join's stands for it.
Student and teacher must call the blob alike: a rewrite keeps names as long as shapes, and so meanings, stay.

The one meaning that may change under a name is the order of a Concat's channels. A Concat counts only where each of its
parts can be found at the same channels of the teacher's Concat: a part called like one there begins and ends where
that one does, and a wider one (which took branches over) covers whole neighbours, the one it is named after among them.
"""

from __future__ import annotations

from collections.abc import Callable
from itertools import accumulate

from deeprebirth_caffe.ir import Layer, Value, View
from deeprebirth_caffe.ir.stages import MADE_SUFFIX


def _passed(layer: Layer) -> bool:
    """Whether a layer works on each number alone; a Dropout does not, for it is random while the student learns."""
    kind = layer.traits
    return (kind.pointwise and not kind.random(layer.param)) or kind.affine or layer.type == "Split"


def _absorbed(layer: Layer) -> bool:
    """Whether a teacher's block may have a layer behind its join."""
    return layer.traits.pointwise or layer.traits.per_position or layer.type == "Split" or layer.type == "Pooling"


def matching_blobs(student: View, teacher: View) -> list[tuple[Value, Value]]:
    """The student's blobs that are compared, each with the teacher's, in the order of the student's layers.

    Args:
        student: in TRAIN.
        teacher: in TEST. Shapes may still be unknown on either side: whoever knows them drops those that differ.
    """
    known = {layer.name for layer in teacher.layers}
    reborn = {
        layer for layer in student.layers if layer.traits.tensor and layer.name not in known and not _folded(layer.name)
    }
    candidates = _put_out(student, reborn)
    found: dict[Value, Value] = {}
    for name, value in student.blobs.items():
        other = teacher.blob(name)
        if other is not None and value in candidates and _same_order(student, value, teacher, other):
            found[value] = other
    return [(mine, its) for mine, its in found.items() if not _joined(student, mine, found)]


def _folded(name: str) -> bool:
    """Whether an exact rewrite gave the name."""
    found = MADE_SUFFIX.search(name)
    return found is not None and found[1] == "fold"


def _put_out(view: View, reborn: set[Layer]) -> set[Value]:
    """What rebirth layers put out, joins or per-position layers later too."""
    found: set[Value] = set()
    for layer in view.layers:
        if layer in reborn or ((_passed(layer) or layer.traits.joins) and not found.isdisjoint(view.ins[layer])):
            found.update(view.outs[layer])
    return found


def _joined(view: View, value: Value, found: dict[Value, Value]) -> bool:
    """Whether a join, and nobody else, reads a value, and what the join makes is compared."""
    readers = {reader for reader, _ in value.uses}
    return bool(readers) and all(
        reader.traits.joins and all(view.blob(out.name) in found for out in view.outs[reader]) for reader in readers
    )


def _same_order(student: View, mine: Value, teacher: View, its: Value) -> bool:
    """Whether the channels of two blobs mean the same, as far as names and widths tell."""
    own, other = _concat(student, mine, _passed), _concat(teacher, its, _absorbed)
    if own is None or other is None:
        return (own is None) == (other is None)
    parts, places = _parts(student, own), _parts(teacher, other)
    if parts is None or places is None:
        return False
    ends = list(accumulate(width for _, width in places))
    starts = [0, *ends[:-1]]
    begin = 0
    for name, width in parts:
        end = begin + width
        if begin not in starts or end not in ends:
            return False
        covered = [place for (place, _), start in zip(places, starts, strict=True) if begin <= start < end]
        if name not in covered:
            return False
        begin = end
    return begin == ends[-1]


def _concat(view: View, value: Value, passed: Callable[[Layer], bool]) -> Layer | None:
    """The Concat that makes a value, through layers of a kind; None where something else does."""
    maker = value.producer
    while maker is not None and passed(maker) and len(maker.bottoms) == 1:
        maker = view.ins[maker][0].producer
    return maker if maker is not None and maker.type == "Concat" else None


def _parts(view: View, concat: Layer) -> list[tuple[str, int]] | None:
    """What each bottom of a Concat is called, by its last layer with weights, and its channels; None: not known.

    A rebirth layer is called like the one it stands for.
    """
    found = []
    for value in view.ins[concat]:
        if value.shape is None or len(value.shape) < 2:
            return None
        maker = value.producer
        while maker is not None and not maker.traits.tensor:
            maker = view.ins[maker][0].producer if view.ins[maker] else None
        found.append((MADE_SUFFIX.sub("", maker.name) if maker is not None else value.name, value.shape[1]))
    return found
