"""The stage of each layer: its row in the paper's tables (conv1, conv2, inception_3a, res2a_branch1).

Rules, in this order:

1. The stage of a layer with learned weights (a tensor layer) is the start of its name up to the first "/",
   or the whole name ("inception_3a/3x3" -> inception_3a; "res2a_branch1" -> res2a_branch1).
2. Branches that meet in a Concat are one stage, named by the words that their tensor layers' names share
   ("inception_a1_1x1", "inception_a1_3x3" -> inception_a1), unless rule 1 already gave them the same stage.
3. The stage of any other layer is the start of its name, if a tensor layer has that stage
   ("inception_3a/pool"), else the stage of the layer that writes its first bottom ("pool1/3x3_s2" -> conv1).

Stages are set when a file is read. New layers of a pass inherit theirs, so merging does not rename stages.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from deeprebirth_caffe.ir.graph import Layer

MADE_SUFFIX = re.compile(r"_(merge|fold)\d*(_(in|core|out)\d*|_(main|\d+x\d+)(_(bn|scale)\d*)?|_sum\d*)?$")
"""What `rewrite` appends to the names of layers it makes, and the part of several in a row (`tucker`) or side by side
(`reparametrize`) that one of them is."""
MAIN_SUFFIX = "_main"
_PART_SUFFIX = re.compile(rf"(?<=_merge)(\d*)({MAIN_SUFFIX}|_sum|_\d+x\d+)$")
"""The suffix of a part; the group keeps the name of the layer that the parts make together."""


def whole_name(part: str) -> str:
    """The name of the layer that a part belongs to; other names unchanged."""
    return _PART_SUFFIX.sub(r"\1", part)


def assign_stages(layers: Sequence[Layer]) -> None:
    """Sets `stage` on every layer of a file."""
    tensor_stages: dict[int, str] = {}
    for layer in layers:
        if _is_tensor(layer):
            tensor_stages[id(layer)] = _prefix(layer.name)
    _join_branches(layers, tensor_stages)
    known = set(tensor_stages.values())
    made_by: dict[str, str] = {}
    for layer in layers:
        stage = tensor_stages.get(id(layer))
        if stage is None:
            prefix = _prefix(layer.name)
            reads = next((made_by[bottom] for bottom in layer.bottoms if bottom in made_by), "")
            stage = prefix if prefix in known or not reads else reads
        layer.stage = stage
        for top in layer.tops:
            made_by[top] = stage


def _is_tensor(layer: Layer) -> bool:
    return layer.traits.tensor


def _prefix(name: str) -> str:
    return MADE_SUFFIX.sub("", name).split("/", 1)[0]


def _join_branches(layers: Sequence[Layer], stages: dict[int, str]) -> None:
    """Rule 2: follows each bottom of a Concat up to the first fork."""
    readers: dict[str, int] = {}
    for layer in layers:
        for bottom, top in zip(layer.bottoms, [*layer.tops, *[""] * len(layer.bottoms)]):
            readers[bottom] = readers.get(bottom, 0) + (bottom != top)
    producer: dict[str, list[Layer]] = {}
    for layer in layers:
        if layer.type == "Concat":
            branches = [_branch(bottom, producer, readers) for bottom in layer.bottoms]
            convs = [[member for member in branch if _is_tensor(member)] for branch in branches]
            members = [member for branch in convs for member in branch]
            if sum(bool(branch) for branch in convs) >= 2 and len({stages[id(m)] for m in members}) > 1:
                shared = _common_start([MADE_SUFFIX.sub("", member.name) for member in members])
                # Whole words only: conv1 and conv2 share no word.
                shared = re.sub(r"[^_\-./]*$", "", shared).rstrip("_-./")
                if shared:
                    for member in members:
                        stages[id(member)] = shared
        for top in layer.tops:
            producer.setdefault(top, []).append(layer)


def _common_start(names: Sequence[str]) -> str:
    """The letters with which all names start."""
    first, last = min(names), max(names)
    same = next((index for index, pair in enumerate(zip(first, last, strict=False)) if pair[0] != pair[1]), None)
    return first[:same] if same is not None else first


def _branch(blob: str, producer: dict[str, list[Layer]], readers: dict[str, int]) -> list[Layer]:
    members: list[Layer] = []
    passed: set[str] = set()
    # The file may not be sound yet: it may have cycles.
    while readers.get(blob, 0) == 1 and blob in producer and blob not in passed:
        passed.add(blob)
        makers = producer[blob]
        members += makers
        first = makers[0]
        if len(first.bottoms) != 1 or len(first.tops) != 1:
            break
        blob = first.bottoms[0]
    return members
