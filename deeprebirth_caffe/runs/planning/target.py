"""The merges that a target needs, by what was measured: time of each stage, refit error of each candidate.

Error is that of the net's output when one candidate alone is merged and refitted, before any relearning. Where accuracy
is a target, each such net is tested as well, and of the points that it lost a part is expected to come back when it
relearns (`recovery`). That part is an assumption; `rebirth run` measures what really comes back and keeps the target by
its budget.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from math import inf, sqrt
from time import monotonic
from typing import TYPE_CHECKING, Protocol

from deeprebirth_caffe.errors import RefusedError
from deeprebirth_caffe.results import Figures
from deeprebirth_caffe.runs.planning.choosing import Offer, choose, frontier, points, predicted
from deeprebirth_caffe.runs.planning.trials import Candidate, Choice, Made, Savings, Trials
from deeprebirth_caffe.runs.schedule.accuracy import points as points_lost
from deeprebirth_caffe.runs.schedule.accuracy import values_of
from deeprebirth_caffe.runs.schedule.shapes import numbers
from deeprebirth_caffe.wording import about, ms

if TYPE_CHECKING:
    from deeprebirth_caffe.options.plan import PlanOptions

Say = Callable[[str], None]

SCARCELY = 1e-4
"""By what part more speed-up is asked for, at least, where what was chosen is not fast enough."""
CLOSELY = 1e-3
"""By what part a foreseen speed-up that is enough and one that is not differ when there is nothing in between."""


@dataclass(frozen=True)
class Reached:
    """What was found.

    Attributes:
        chosen: by stage.
        offers: all that were measured.
        times: likewise.
        speedup: of the net with what was chosen, measured.
        base: the metric of the net as it is, in percent; None where it was not measured.
        doubts: what makes the times worth less.
    """

    chosen: Mapping[str, Offer]
    offers: Sequence[Offer]
    times: Savings
    speedup: float
    base: float | None
    doubts: Sequence[str] = ()

    @property
    def foreseen(self) -> float:
        """The speed-up of what was chosen, by the times of its stages."""
        return predicted(self.chosen, self.times.total_ms)

    @property
    def doubt(self) -> str:
        """A sentence about the times; empty where there is nothing to say."""
        return f"The times may be off: {'; '.join(self.doubts)}." if self.doubts else ""


class TargetError(RefusedError):
    """A target that cannot be met.

    Attributes:
        nearest: what comes nearest to it.
    """

    def __init__(self, message: str, nearest: Reached) -> None:
        super().__init__(message)
        self.nearest = nearest


class _Short(Exception):
    """What was chosen does not meet the target."""

    def __init__(self, chosen: Mapping[str, Offer], why: str) -> None:
        super().__init__(why)
        self.chosen = chosen


def worth_of(offer: Offer, now: float | None = None) -> str:
    """What an offer saves and costs, in words.

    Args:
        offer: it.
        now: milliseconds that its stage takes as it is; None where that is not known.
    """
    before = "" if now is None else f" of {ms(now)}"
    lost = "" if offer.points is None else f", {offer.points:.2f} points expected to be lost"
    return f"saves {ms(offer.saved_ms)}{before} ms, scores off by {offer.error:.3g}{lost}"


class Judge(Protocol):
    """Refits candidates and tells how far they are off (`planning.errors`)."""

    def begin(self) -> None:
        """Runs the net as it is, so that images that cannot be read show at once."""
        ...

    def refitted(self, candidate: Candidate) -> AbstractContextManager[Made]:
        """The net with one candidate merged and refitted; its files go away with the block."""
        ...

    def error(self, made: Made) -> float:
        """The relative error of its scores."""
        ...


class Search:
    """On the way to a target.

    Attributes:
        trials: of the net.
        judge: tells how far they are off.
        target: what is wanted.
        options: of the plan.
        metric: what accuracy goes by; only asked for where it is a target.
        say: is told what people should know.
    """

    def __init__(self, trials: Trials, judge: Judge, options: PlanOptions, metric: str, say: Say) -> None:
        assert options.target is not None
        self.trials = trials
        self.judge = judge
        self.target = options.target
        self.options = options
        self.metric = metric
        self.say = say
        self._measured: dict[frozenset[Candidate], float] = {}

    def run(self, choices: Sequence[Choice]) -> Reached:
        """Finds the merges that pay.

        Args:
            choices: what passes would merge, all of them and some of them.

        Raises:
            RefusedError: the target cannot be reached; a `TargetError` where it is known what comes nearest.
            EngineError: something cannot be timed or run.
        """
        # Both before minutes of timing, for a path may be wrong.
        self.judge.begin()
        base = self._tested(Made(*self.trials.start)) if self.target.accuracy is not None else None
        self.say("timing the net, and what could be merged in it")
        times = self.trials.times(choices)
        worth = {one: saved for one, saved in times.saved_ms.items() if saved > 0}
        if not worth:
            raise RefusedError(f"--target {self.target} cannot be reached: no merge saves time {self._where}")
        if self.target.speedup is not None and not self.options.nearest:
            self._check_speedup(worth, self.target.speedup)
        offers: list[Offer] = []
        for number, (candidate, saved) in enumerate(worth.items()):
            self.trials.show("refitting: candidates", number, len(worth))
            began = monotonic()
            offers.append(self._offer(candidate, saved, base))
            self.say(f"{offers[-1]}: {worth_of(offers[-1])}")
            if not number and len(worth) > 1:
                rest = about((monotonic() - began) * (len(worth) - 1))
                self.say(f"{len(worth)} candidates in all: {rest} for the others")
        before = None if base is None else 100 * numbers(base)[self.metric]
        doubts = tuple(self.trials.doubts.values())
        try:
            chosen, speedup = self._choose(offers, times.total_ms)
        except _Short as short:
            self._show_frontier(offers, times.total_ms)
            nearest = Reached(short.chosen, offers, times, self._speedup(short.chosen), before, doubts)
            raise TargetError(str(short), nearest) from None
        return Reached(chosen, offers, times, speedup, before, doubts)

    def _show_frontier(self, offers: Sequence[Offer], total: float) -> None:
        """Says what can be had, by the times of stages."""
        accuracy = self.target.accuracy is not None
        self.say("what can be had, from the merges that cost least on, by the times of their stages:")
        for chosen in frontier(offers, total):
            lost = f", {points(chosen):.2f} points expected to be lost" if accuracy else ""
            off = sum(offer.error for offer in chosen.values())
            self.say(
                f"  {predicted(chosen, total):.2f} times as fast{lost}, scores off by {off:.3g}: {', '.join(chosen)}"
            )

    def _check_speedup(self, worth: Mapping[Candidate, float], wanted: float) -> None:
        """Raises RefusedError where all merges together are not enough, before hours are spent on refits."""
        most = {stage: passes for (stage, passes), _ in sorted(worth.items(), key=lambda one: one[1])}
        speedup = self._measure(most)
        if speedup < wanted:
            raise RefusedError(self._too_much(f"all merges together make the net {speedup:.2f} times as fast"))

    def _choose(self, offers: Sequence[Offer], total: float) -> tuple[dict[str, Offer], float]:
        """What to merge, and how fast the net is then, measured: stages do not quite add up to a net."""
        wanted = self.target.speedup
        if wanted is None:
            chosen = self._chosen(offers, total, None)
            return chosen, self._speedup(chosen)
        # Foreseen speed-ups: what was asked for up to `low` is too slow, from `high` on it is enough.
        low, high, needed = 1.0, inf, wanted
        found: tuple[dict[str, Offer], float] | None = None
        while True:
            chosen = self._chosen(offers, total, needed)
            foreseen, speedup = predicted(chosen, total), self._speedup(chosen)
            if speedup >= wanted:
                found, high = (chosen, speedup), min(needed, foreseen)
            elif found is None and foreseen < needed:
                within = (
                    "" if self.target.accuracy is None else f", at {points(chosen):.2f} points expected to be lost,"
                )
                raise _Short(chosen, self._too_much(f"what pays{within} makes it {speedup:.2f} times as fast"))
            else:
                low = max(needed, foreseen)
            if found is None:
                needed = max(needed * wanted / speedup, foreseen * (1 + SCARCELY))
                continue
            # As much as this choice was off, a smaller one may be; where that says nothing new, the middle.
            guess = wanted * foreseen / speedup
            if (guess >= high and chosen is found[0]) or high <= low * (1 + CLOSELY):
                return found
            needed = guess if low < guess < high else sqrt(low * high)

    def _chosen(self, offers: Sequence[Offer], total: float, speedup: float | None) -> dict[str, Offer]:
        chosen = choose(offers, total, speedup=speedup, accuracy=self.target.accuracy)
        if not chosen:
            least = min(offers, key=lambda offer: offer.points or 0.0)
            lost = f"the cheapest is {least} with {least.points or 0.0:.2f} points"
            why = f"no merge is expected to cost so little; {lost}{self._hint}"
            raise _Short({least.stage: least}, f"--target {self.target} cannot be reached: {why}")
        return chosen

    def _speedup(self, chosen: Mapping[str, Offer]) -> float:
        return self._measure({stage: offer.passes for stage, offer in chosen.items()})

    def _measure(self, choice: Choice) -> float:
        """How many times as fast the net is with a choice; each is timed once."""
        key = frozenset(choice.items())
        if key not in self._measured:
            self._measured[key] = self.trials.speedup(choice)
        return self._measured[key]

    def _offer(self, candidate: Candidate, saved: float, base: Figures | None) -> Offer:
        """Refits one candidate, and tests it where accuracy counts."""
        stage, passes = candidate
        with self.judge.refitted(candidate) as made:
            error, lost = self.judge.error(made), None
            if base is not None:
                first = points_lost(base, self._tested(made), [self.metric])[self.metric]
                # One that gains by chance does not pay for another.
                lost = max(0.0, first) * (1 - self.options.recovery)
        return Offer(stage, passes, saved, error, lost)

    def _tested(self, made: Made) -> Figures:
        from deeprebirth_caffe.commands.test import test
        from deeprebirth_caffe.options.test import TestOptions

        how = TestOptions(made.net, made.weights, self.options.test_iterations, self.options.engine)
        return values_of(test(how, lambda text: None, lambda what, done, total: None))

    def _too_much(self, what: str) -> str:
        doubts = "; ".join(self.trials.doubts.values())
        return (
            f"--target {self.target} cannot be reached: {what} {self._where}; ask for less, or plan for that and add "
            f"Tucker to the schedule, which is not in this figure{self._hint}"
            f"{f'; or try again on a quiet machine, for the times may be off: {doubts}' if doubts else ''}"
        )

    @property
    def _hint(self) -> str:
        """What else a user can do."""
        more = "" if self.options.nearest else "; --nearest writes the plan that comes nearest"
        if self.target.accuracy is None:
            return more
        return (
            f"; points are those of single stages (--recovery {self.options.recovery:g}), and the joint relearning at "
            f"the end of a run often brings back more, which a plan without accuracy= leaves to the run{more}"
        )

    @property
    def _where(self) -> str:
        return f"({self.trials.timing.engine}, {self.trials.timing.on})"
