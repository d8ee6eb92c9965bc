"""What can be merged in a net, stage by stage from the bottom to the top, and what is learned together.

A merge is what `rebirth convert` would have to relearn in one stage. It comes in parts, one a pass: conv2 of GoogLeNet
can lose its LRN, its pool or both. Each choice of parts is a candidate, so that a plan can take half of a stage.

Two kinds of neighbours share a step, as in the paper:

- modules in the middle of a resolution (GoogLeNet's 4b to 4d: 4a is the first with images of 14 x 14, 4e the last);
- the layers of one branch of a residual block (res2a_branch2a to 2c).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from glob import escape
from itertools import combinations, groupby
from os.path import commonprefix

from deeprebirth_caffe.ir import Net, Value, View, summarize
from deeprebirth_caffe.ir.stages import MADE_SUFFIX
from deeprebirth_caffe.nets.selection import names_stage
from deeprebirth_caffe.passes.relearn.merge_branches import MergeBranches
from deeprebirth_caffe.rewrite import AnyPass, Kind, Rewriter
from deeprebirth_caffe.rewrite.pipeline import Outcome, Selected, run

Macs = dict[str, int | None]
"""By stage; None where they are not known."""

ALONE = 1
"""How many modules at either end of a resolution are learned alone."""


@dataclass(frozen=True)
class Merge:
    """What passes make of one stage.

    Attributes:
        stage: its name.
        passes: those that found something there, in the order they run.
        removed: layers that go; those that come back as rebirth layers do not count.
        rebirth: layers that are learned again.
        macs_before: multiply-adds of an image in the whole stage, in TEST; null where they are not known.
        macs_after: likewise.
    """

    stage: str
    passes: tuple[str, ...]
    removed: tuple[str, ...]
    rebirth: tuple[str, ...]
    macs_before: int | None
    macs_after: int | None


@dataclass(frozen=True)
class Found:
    """What the passes say of a net.

    Attributes:
        merges: from the bottom to the top, one a stage.
        exact: the passes that change something without relearning, in their order.
        left: why places stay as they are, by layer.
    """

    merges: tuple[Merge, ...]
    exact: tuple[str, ...]
    left: tuple[tuple[str, str], ...]


def find_merges(net: Net, passes: Sequence[AnyPass], selected: Selected) -> Found:
    """Runs passes over a copy of a net and tells what they did.

    Args:
        net: left as it is.
        passes: as `ConvertOptions.passes` gives them.
        selected: which stages may change.
    """
    rewriter = Rewriter(net.copy())
    outcome = run(rewriter, passes, selected)
    before, after = _macs(net), _macs(rewriter.net)
    places: dict[str, int] = {}
    for place, layer in enumerate(net.layers):
        places.setdefault(layer.stage, place)
    order = {one.name: number for number, one in enumerate(passes)}
    stages = dict.fromkeys(one.stage for one in outcome.rewrites if one.kind is Kind.RELEARN)
    upwards = sorted(stages, key=lambda stage: places.get(stage, 0))
    merges = [_merge(stage, outcome, order, before, after) for stage in upwards]
    exact = dict.fromkeys(one.pass_name for one in outcome.rewrites if one.kind is Kind.EXACT)
    left = dict.fromkeys((one.layer, one.reason) for one in outcome.refusals if _relearns(one.pass_, passes))
    return Found(tuple(merges), tuple(sorted(exact, key=order.__getitem__)), tuple(left))


def find_variants(
    net: Net, passes: Sequence[AnyPass], selected: Selected, merges: Sequence[Merge]
) -> list[list[Merge]]:
    """What some of the relearning passes do, for every choice of them: all first, then ever fewer."""
    names = [one.name for one in passes if any(one.name in merge.passes for merge in merges)]
    found = [list(merges)]
    for size in range(len(names) - 1, 0, -1):
        for some in combinations(names, size):
            left = [one for one in passes if one.kind is Kind.EXACT or one.name in some]
            found.append(list(find_merges(net, left, selected).merges))
    return found


def exactly(stage: str, stages: Iterable[str]) -> str:
    """A pattern for `--only` that means one stage and no other: its name, or a glob where that would mean more."""
    name = escape(stage)
    if any(other != stage and names_stage(name, other) for other in stages):
        # A name also means the stages below it (conv1: conv1_1); a glob never does.
        return f"[{name[0]}]{name[1:]}"
    return name


def together(net: Net, merges: Sequence[Merge]) -> list[tuple[Merge, ...]]:
    """The steps in which merges are learned, as the paper groups them; see the module."""
    view = _test_view(net)
    names = {**_modules(view, merges), **_branches(view)}
    # What has no group of its own is alone in it.
    keyed = groupby(merges, key=lambda merge: names.get(merge.stage, merge.stage))
    return [tuple(group) for _, group in keyed]


def step_name(stages: Sequence[str], group: Sequence[str]) -> str:
    """What a step is called: its only stage, from which to which (`inception_4b-4d`), or which (`inception_4b+4d`).

    Args:
        stages: of the step.
        group: those that could have been in it, in order.
    """
    first = group.index(stages[0])
    if tuple(group[first : first + len(stages)]) == tuple(stages):
        return _joined([stages[0], stages[-1]], "-") if len(stages) > 1 else stages[0]
    return _joined(stages, "+")


def _joined(names: Sequence[str], between: str) -> str:
    """The first name, and of the others what is not the same."""
    same = len(commonprefix(list(names)))  # noqa: RUF071 - letter by letter is what we want
    # Whole words only: 4b and 4d share no word, though they share a letter.
    while same and names[0][same - 1] not in "_-./":
        same -= 1
    return between.join([names[0], *(name[same:] for name in names[1:])])


def _merge(stage: str, outcome: Outcome, order: dict[str, int], before: Macs, after: Macs) -> Merge:
    rewrites = [one for one in outcome.rewrites if one.stage == stage and one.kind is Kind.RELEARN]
    made = dict.fromkeys(name for one in rewrites for name in one.applied.rebirth)
    gone = dict.fromkeys(name for one in rewrites for name in one.applied.removed)
    olds = {MADE_SUFFIX.sub("", name) for name in made}
    return Merge(
        stage,
        tuple(sorted({one.pass_name for one in rewrites}, key=order.__getitem__)),
        tuple(name for name in gone if name not in made and name not in olds),
        # One that a later pass takes away again is no rebirth layer of the result.
        tuple(name for name in made if name not in gone),
        before.get(stage),
        after.get(stage),
    )


def _macs(net: Net) -> Macs:
    found: Macs = {}
    for row in summarize(_test_view(net)).layers:
        so_far = found.setdefault(row.layer.stage, 0)
        found[row.layer.stage] = None if row.macs is None or so_far is None else so_far + row.macs
    return found


def _test_view(net: Net) -> View:
    return next((view for view in net.views if view.state.phase == "TEST"), net.views[0])


def _relearns(name: str, passes: Sequence[AnyPass]) -> bool:
    return any(one.name == name and one.kind is Kind.RELEARN for one in passes)


def _modules(view: View, merges: Sequence[Merge]) -> dict[str, str]:
    """A name for each run of modules of one resolution, without those at its ends; by stage."""
    sizes = {layer.stage: view.outs[layer][0].shape for layer in view.layers if layer.type == "Concat"}

    def size(merge: Merge) -> tuple[int, ...]:
        shape = sizes.get(merge.stage) if MergeBranches.name in merge.passes else None
        return shape[2:] if shape is not None else ()

    found: dict[str, str] = {}
    for images, group in groupby(merges, key=size):
        middle = [merge.stage for merge in group][ALONE:-ALONE]
        if images:
            found.update(dict.fromkeys(middle, f"modules {images}"))
    return found


def _branches(view: View) -> dict[str, str]:
    """A name for each branch that an Eltwise joins, by stage."""
    found: dict[str, str] = {}
    for layer in view.layers:
        if layer.type == "Eltwise":
            for number, value in enumerate(view.ins[layer]):
                found.update(dict.fromkeys(_up(view, value), f"branch {layer.name} {number}"))
    return found


def _up(view: View, value: Value) -> Iterator[str]:
    """The stages of the layers with weights from a value up to the next fork or join."""
    while value.producer is not None and len(value.uses) == 1 and len(value.producer.bottoms) == 1:
        maker = value.producer
        if maker.traits.tensor:
            yield maker.stage
        value = view.ins[maker][0]
