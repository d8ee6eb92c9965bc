"""The layers of a file that are alive in a NetState (Caffe's include and exclude rules).

A train_val file describes several nets: one for each phase and, in all-in-one files, for each stage and level.
`states_of` finds the states that a file tells apart, so that a rewrite holds in all of them.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from itertools import chain, combinations

from deeprebirth_caffe.ir.errors import NetError
from deeprebirth_caffe.proto import caffe_pb2 as pb

PHASES = ("TRAIN", "TEST")


@dataclass(frozen=True)
class NetState:
    """Caffe's NetState: a phase, a level and a set of stages."""

    phase: str = "TEST"
    level: int = 0
    stages: frozenset[str] = field(default_factory=frozenset)

    def __str__(self) -> str:
        words = [self.phase]
        if self.level:
            words.append(f"level {self.level}")
        words += sorted(self.stages)
        return " ".join(words)


def meets(state: NetState, rule: pb.NetStateRule) -> bool:
    """Caffe's Net::StateMeetsRule."""
    if rule.HasField("min_level") and state.level < rule.min_level:
        return False
    if rule.HasField("max_level") and state.level > rule.max_level:
        return False
    return _meets_but_for_level(state, rule)


def _meets_but_for_level(state: NetState, rule: pb.NetStateRule) -> bool:
    if rule.HasField("phase") and pb.Phase.Name(rule.phase) != state.phase:
        return False
    return state.stages.issuperset(rule.stage) and not state.stages.intersection(rule.not_stage)


def included(state: NetState, layer: pb.LayerParameter) -> bool:
    """Whether Caffe's Net::FilterNet keeps the layer in this state."""
    if layer.include:
        return any(meets(state, rule) for rule in layer.include)
    return not any(meets(state, rule) for rule in layer.exclude)


MAX_STAGES = 4
"""With more stages, not all combinations are states of their own."""

MAX_LEVEL = 2**31 - 1

MAX_STATES = 1000
"""A file with more states is refused: each has a view, built again after each rewrite."""


def states_of(
    layers: Sequence[pb.LayerParameter], phases: Iterable[str] = PHASES, given: pb.NetState | None = None
) -> list[NetState]:
    """The states of a file: each phase without stages, with each stage and with each rule's stages, at each level.

    Combinations of stages come last: a file's data layer may need one stage and its head another. States that keep the
    same layers as an earlier state of the same phase are left out.

    Args:
        layers: of the file.
        phases: the phases to consider.
        given: the net's `state`; Caffe adds its stages to those it is started with.

    Raises:
        NetError: the file has more than MAX_STATES.
    """
    base = frozenset(given.stage) if given is not None else frozenset()
    rules = [rule for layer in layers for rule in (*layer.include, *layer.exclude)]
    if not rules:
        return [NetState(phase, stages=base) for phase in phases]
    stage_sets: dict[frozenset[str], None] = {base: None}
    names: dict[str, None] = {}
    levels: dict[int, None] = {0: None}
    if given is not None:
        levels.setdefault(given.level)
    for rule in rules:
        stage_sets.setdefault(base | frozenset(rule.stage))
        names.update(dict.fromkeys((*rule.stage, *rule.not_stage)))
        for stage in (*rule.stage, *rule.not_stage):
            stage_sets.setdefault(base | {stage})
    if len(names) <= MAX_STAGES:
        for size in range(2, len(names) + 1):
            stage_sets.update((base | frozenset(some), None) for some in combinations(names, size))
    states: dict[tuple[str, int], NetState] = {}
    # Only layers with rules can differ between states.
    ruled = [(tuple(layer.include or layer.exclude), bool(layer.include)) for layer in layers]
    ruled = [entry for entry in ruled if entry[0]]
    for phase in phases:
        for stages in stage_sets:
            state = NetState(phase, stages=stages)
            # Other rules hold at no level.
            live = [[rule for rule in own_rules if _meets_but_for_level(state, rule)] for own_rules, _ in ruled]
            for level in _levels(levels, chain.from_iterable(live)):
                state = NetState(phase, level, stages)
                alive = 0
                for (_, includes), own_rules in zip(ruled, live, strict=True):
                    alive = alive << 1 | (any(meets(state, rule) for rule in own_rules) == includes)
                states.setdefault((phase, alive), state)
                if len(states) > MAX_STATES:
                    raise NetError(
                        f"this net's include and exclude rules tell more than {MAX_STATES:,} nets apart; "
                        "leave out the layers of stages and levels that you do not need"
                    )
    return list(states.values())


def _levels(always: Iterable[int], rules: Iterable[pb.NetStateRule]) -> list[int]:
    """The levels to consider: on each side of a limit the file may be another net."""
    levels = dict.fromkeys(always)
    for rule in rules:
        if rule.HasField("min_level"):
            levels.update(dict.fromkeys((rule.min_level, max(0, rule.min_level - 1))))
        if rule.HasField("max_level"):
            levels.update(dict.fromkeys((rule.max_level, min(MAX_LEVEL, max(0, rule.max_level + 1)))))
    return list(levels)
