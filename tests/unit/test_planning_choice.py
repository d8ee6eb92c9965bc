"""Which merges a plan takes."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from itertools import product
from pathlib import Path
from typing import cast

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from deeprebirth_caffe.errors import RefusedError, UsageError
from deeprebirth_caffe.options.plan import PlanOptions, Target, parse_targets
from deeprebirth_caffe.options.time import TimingOptions
from deeprebirth_caffe.runs.planning.choosing import Offer, choose, points, predicted
from deeprebirth_caffe.runs.planning.target import Reached, Search
from deeprebirth_caffe.runs.planning.trials import Candidate, Made, Savings, Trials, cover

TOTAL = 100.0
QUICK = settings(
    max_examples=150, deadline=None, derandomize=True, database=None, suppress_health_check=list(HealthCheck)
)


def offer(stage: str, saved: float, error: float, lost: float | None = None, passes: str = "all") -> Offer:
    return Offer(stage, (passes,), saved, error, lost)


OFFERS = st.lists(
    st.builds(
        offer,
        st.sampled_from("abcd"),
        st.floats(-5, 22),
        st.floats(0, 1),
        st.floats(0, 2),
        st.sampled_from(["one", "two", "three"]),
    ),
    min_size=1,
    max_size=10,
    unique_by=lambda one: (one.stage, one.passes),
)


def test_the_cheapest_milliseconds_come_first() -> None:
    offers = [offer("dear", 30, 0.9), offer("cheap", 20, 0.1), offer("middle", 20, 0.2)]
    assert list(choose(offers, TOTAL, speedup=1.2)) == ["cheap"]
    assert list(choose(offers, TOTAL, speedup=1.5)) == ["cheap", "middle"]
    assert set(choose(offers, TOTAL, speedup=3)) == {"cheap", "middle", "dear"}


def test_what_is_not_needed_is_given_back() -> None:
    # The cheapest comes first, but with the one that the target needs anyway, the dearer of the others is too much.
    offers = [offer("small", 5, 0.01), offer("middle", 10, 0.05), offer("large", 50, 0.4)]
    assert list(choose(offers, TOTAL, speedup=2.2)) == ["small", "large"]
    assert list(choose(offers, TOTAL, speedup=2)) == ["large"]


def test_a_stage_takes_one_of_its_ways() -> None:
    offers = [offer("a", 10, 0.1, passes="half"), offer("a", 20, 0.5), offer("b", 10, 0.2)]
    assert {one.passes for one in choose(offers, TOTAL, speedup=1.1).values()} == {("half",)}
    most = choose(offers, TOTAL, speedup=1.4)
    assert (most["a"].passes, set(most)) == (("all",), {"a", "b"})


def test_a_better_way_that_saves_more_comes_at_once() -> None:
    offers = [offer("a", 10, 0.3, passes="half"), offer("a", 20, 0.1)]
    assert choose(offers, TOTAL, speedup=1.05)["a"].passes == ("all",)


def test_accuracy_passes_over_what_is_too_dear() -> None:
    offers = [offer("a", 30, 0.1, 0.5), offer("b", 10, 0.2, 0.2), offer("c", 5, 0.2, 0.1)]
    found = choose(offers, TOTAL, accuracy=0.4)
    assert set(found) == {"b", "c"} and points(found) == pytest.approx(0.3)
    assert choose(offers, TOTAL, accuracy=0) == {}


def test_noise_saves_nothing() -> None:
    assert choose([offer("a", -0.1, 0.0), offer("b", 0.0, 0.0)], TOTAL) == {}
    assert predicted({"a": offer("a", 120, 0)}, TOTAL) == 1000


@QUICK
@given(OFFERS, st.floats(1.01, 4))
def test_a_speedup_is_met_whenever_it_can_be_and_nothing_is_taken_in_vain(offers: list[Offer], speedup: float) -> None:
    found = choose(offers, TOTAL, speedup=speedup)
    ways = [[None, *(one for one in offers if one.stage == stage)] for stage in "abcd"]
    most = max(predicted({one.stage: one for one in some if one is not None}, TOTAL) for some in product(*ways))
    assert (predicted(found, TOTAL) >= speedup) == (most >= speedup)
    if most >= speedup:
        for stage in found:
            rest = {other: one for other, one in found.items() if other != stage}
            assert predicted(rest, TOTAL) < speedup


@QUICK
@given(OFFERS, st.floats(0, 4), st.one_of(st.none(), st.floats(1.01, 4)))
def test_accuracy_is_kept(offers: list[Offer], accuracy: float, speedup: float | None) -> None:
    found = choose(offers, TOTAL, accuracy=accuracy, speedup=speedup)
    assert points(found) <= accuracy
    assert all(one.saved_ms > 0 and stage == one.stage for stage, one in found.items())


class FakeTrials:
    """Nets that are a given part faster than their stages say, and other figures for some choices."""

    def __init__(self, saved: Mapping[str, float], luck: float, said: Mapping[frozenset[str], float]) -> None:
        self.saved = {(stage, ("all",)): ms for stage, ms in saved.items()}
        self.luck = luck
        self.said = said
        self.timed: list[frozenset[str]] = []
        self.start = (Path("net"), Path("weights"))
        self.doubts: dict[str, str] = {}
        self.timing = TimingOptions()

    def times(self, choices: object) -> Savings:
        return Savings(TOTAL, {}, self.saved)

    def speedup(self, choice: Mapping[str, tuple[str, ...]]) -> float:
        self.timed.append(frozenset(choice))
        true = self.luck * TOTAL / (TOTAL - sum(self.saved[one] for one in choice.items()))
        return self.said.get(frozenset(choice), true)

    def show(self, what: str, done: int, total: int) -> None:
        pass


class FakeJudge:
    def begin(self) -> None:
        pass

    @contextmanager
    def refitted(self, candidate: Candidate) -> Iterator[Made]:
        yield Made(Path(candidate[0]), Path("weights"))

    def error(self, made: Made) -> float:
        return {"a": 0.01, "b": 0.02, "c": 0.03, "d": 0.04, "e": 0.05}[made.net.name]


def search(
    luck: float, said: Mapping[frozenset[str], float] | None = None, doubts: Mapping[str, str] | None = None
) -> tuple[FakeTrials, Reached]:
    trials = FakeTrials(dict.fromkeys("abcde", 15.0), luck, said or {})
    trials.doubts.update(doubts or {})
    options = PlanOptions(Path("net"), Path("w"), Path("out"), target=Target(2.0))
    return trials, Search(cast("Trials", trials), FakeJudge(), options, "top1", lambda text: None).run([])


@pytest.mark.parametrize(
    ("luck", "stages"), [(1.0, "abcd"), (0.9, "abcd"), (0.7, "abcde"), (1.25, "abc"), (1.7, "a"), (5.0, "a")]
)
def test_as_few_merges_as_reach_it(luck: float, stages: str) -> None:
    trials, reached = search(luck)
    assert set(reached.chosen) == set(stages) and reached.speedup >= 2
    # Each choice is timed once, and not every one.
    assert len(trials.timed) == len(set(trials.timed)) <= 5


def test_one_wild_time_does_not_take_all_merges() -> None:
    # Four merges look five times as fast as they are: one would do then, and it does not.
    _, reached = search(1.25, {frozenset("abcd"): 10.0})
    assert set(reached.chosen) == set("abc") and reached.speedup == pytest.approx(1.25 * 100 / 55)
    assert reached.foreseen == pytest.approx(100 / 55)


def test_a_refusal_tells_of_doubtful_times() -> None:
    with pytest.raises(RefusedError, match=r"0\.40 times as fast .*; or try again .*: the machine was busy$"):
        search(0.1, doubts={"busy": "the machine was busy"})
    with pytest.raises(RefusedError, match=r"not in this figure; --nearest writes [a-z ]+$"):
        search(0.1)


def test_few_nets_tell_the_time_of_all_candidates() -> None:
    choices = [
        {"a": ("x", "y"), "b": ("x",)},
        {"a": ("x",), "b": ("x",)},
        {"a": ("y",)},
        {"b": ("x",)},
    ]
    assert cover(choices) == choices[:3]


@pytest.mark.parametrize(
    ("texts", "target"),
    [
        ((), None),
        (("speedup=3",), Target(3)),
        (("accuracy=0.4",), Target(accuracy=0.4)),
        (("accuracy=0", "speedup=1.5"), Target(1.5, 0)),
    ],
)
def test_targets(texts: tuple[str, ...], target: Target | None) -> None:
    assert parse_targets(texts) == target


@pytest.mark.parametrize(
    ("texts", "words"),
    [
        (("speedup",), "write speedup=3"),
        (("speedup=fast",), "write speedup=3"),
        (("speedup=nan",), "write speedup=3"),
        (("speedup=inf",), "write speedup=3"),
        (("accuracy=-1",), "write speedup=3"),
        (("energy=2",), "write speedup=3"),
        (("speedup=1",), "more than 1"),
        (("speedup=2", "speedup=3"), "twice"),
    ],
)
def test_what_is_no_target(texts: tuple[str, ...], words: str) -> None:
    with pytest.raises(UsageError, match=words):
        parse_targets(texts)
