"""Running passes over a net, one after another and round by round, until none finds anything more."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from deeprebirth_caffe.ir import Layer, Net
from deeprebirth_caffe.rewrite.base import AnyPass, Applied, Kind, Refusal
from deeprebirth_caffe.rewrite.rewriter import RewriteError, Rewriter

Selected = Callable[[str], bool]
"""Whether a stage, by its name, is to be rewritten."""


@dataclass(frozen=True)
class Rewrite:
    """One rewrite that was made: `Applied`, and by whom and where."""

    pass_name: str
    kind: Kind
    stage: str
    applied: Applied


@dataclass(frozen=True)
class Refused:
    """One place that stayed as it was, and why.

    Attributes:
        pass_: by which pass.
        layer: at which layer.
        stage: where.
        reason: for people.
    """

    pass_: str
    layer: str
    stage: str
    reason: str


@dataclass(frozen=True)
class ExactRun:
    """The net before and after a maximal run of EXACT passes: what a check compares."""

    passes: tuple[str, ...]
    before: Net
    after: Net


@dataclass
class Outcome:
    """What a pipeline did.

    Attributes:
        rewrites: in the order they were made.
        refusals: what still stands refused at the end.
        exact_runs: only filled when they are asked for, since each keeps two copies of the net.
    """

    rewrites: list[Rewrite] = field(default_factory=list)
    refusals: list[Refused] = field(default_factory=list)
    exact_runs: list[ExactRun] = field(default_factory=list)

    def then(self, later: Outcome) -> Outcome:
        """What this pipeline and a later one did together."""
        return Outcome(
            self.rewrites + later.rewrites, self.refusals + later.refusals, self.exact_runs + later.exact_runs
        )


def run(
    rewriter: Rewriter, passes: Sequence[AnyPass], selected: Selected = lambda stage: True, *, keep_exact: bool = False
) -> Outcome:
    """Runs passes in order over the rewriter's net; the net is verified after each sweep.

    A pass may make room for one before it (a pool folded away leaves a BatchNorm right behind its convolution), so
    rounds are made until one changes nothing: converting the result again finds nothing to do.

    Args:
        rewriter: of the conversion.
        passes: in the order they run.
        selected: which stages may change; places in others are neither rewritten nor reported.
        keep_exact: whether to keep the net before and after each run of EXACT passes.
    """
    outcome = Outcome()
    # Each round takes at least one layer away or in.
    for _ in range(len(rewriter.net.layers) + 2):
        outcome.refusals.clear()
        if not _round(rewriter, passes, selected, keep_exact, outcome):
            return outcome
    raise RewriteError(f"the passes {', '.join(one.name for one in passes)} do not come to an end together")


def _round(
    rewriter: Rewriter, passes: Sequence[AnyPass], selected: Selected, keep_exact: bool, outcome: Outcome
) -> bool:
    """Runs each pass once until it finds nothing more; returns whether one changed the net."""
    changed = False
    before: Net | None = None
    names: list[str] = []
    for position, one in enumerate(passes):
        if one.kind is Kind.EXACT and keep_exact and before is None:
            before = rewriter.net.copy()
        done = _exhaust(rewriter, one, selected, outcome)
        changed |= done
        if one.kind is Kind.EXACT and done:
            names.append(one.name)
        following = passes[position + 1] if position + 1 < len(passes) else None
        if before is not None and (following is None or following.kind is not Kind.EXACT):
            if names:
                outcome.exact_runs.append(ExactRun(tuple(names), before, rewriter.net.copy()))
            before, names = None, []
    return changed


def _exhaust(rewriter: Rewriter, one: AnyPass, selected: Selected, outcome: Outcome) -> bool:
    """Sweeps with one pass until nothing matches; returns whether it changed the net."""
    changed = False
    # Each sweep takes at least one layer away or in; a pass that goes on for longer does not converge.
    for _ in range(len(rewriter.net.layers) + 2):
        refusals: list[Refusal] = []
        touched: set[Layer] = set()
        for found in list(one.match(rewriter.net)):
            if not selected(found.layer.stage):
                continue
            if isinstance(found, Refusal):
                refusals.append(found)
            elif touched.isdisjoint(found.touches):
                touched |= found.touches
                outcome.rewrites.append(Rewrite(one.name, one.kind, found.stage, one.apply(found, rewriter)))
        if not touched:
            outcome.refusals += [
                Refused(one.name, refusal.layer.name, refusal.layer.stage, refusal.reason.text) for refusal in refusals
            ]
            return changed
        rewriter.commit()
        changed = True
    raise RewriteError(f"pass {one.name} does not come to an end")
