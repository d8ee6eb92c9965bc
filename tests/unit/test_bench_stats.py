"""Summaries and ratios of runs."""

from __future__ import annotations

import numpy as np
import pytest

from deeprebirth_caffe.bench.stats import ENOUGH_RUNS, Ratio, ratio, summarize


def noisy(base: float, runs: int, seed: int, drift: np.ndarray | None = None) -> list[list[float]]:
    rng = np.random.default_rng(seed)
    factor = drift if drift is not None else np.ones(runs)
    return [list(base * each * (1 + 0.02 * rng.random(20))) for each in factor]


def test_the_papers_figure_and_the_robust_ones() -> None:
    found = summarize([[10.0, 12.0], [8.0, 30.0], [9.0, 11.0]])
    assert found.runs == (11.0, 19.0, 10.0)
    assert found.best == 10.0  # the best run, not the best pass
    assert found.median == 10.5
    assert found.p10 == pytest.approx(8.5) and found.p90 == pytest.approx(21.0)
    assert found.spread == pytest.approx(12.5 / 10.5)


def test_one_pass() -> None:
    found = summarize([[3.0]])
    assert (found.best, found.median, found.p10, found.p90, found.spread) == (3, 3, 3, 3, 0)


def test_runs_of_which_only_the_mean_is_known() -> None:
    assert summarize([[3.0], [5.0], [4.0]]).median == 4.0


def test_a_difference_is_found() -> None:
    found = ratio(noisy(30, 10, 1), noisy(10, 10, 2))
    assert found.low is not None and found.high is not None
    assert 2.9 < found.low <= found.median <= found.high < 3.1
    assert found.verdict == "faster"
    assert ratio(noisy(10, 10, 2), noisy(30, 10, 1)).verdict == "slower"


def test_what_slows_both_down_drops_out() -> None:
    drift = np.linspace(1, 3, 10)
    found = ratio(noisy(20, 10, 1, drift), noisy(10, 10, 2, drift))
    assert found.low is not None and found.high is not None
    assert found.high - found.low < 0.05 and found.low < 2 < found.high + 0.02


@pytest.mark.parametrize("seed", range(5))
def test_noise_is_called_that(seed: int) -> None:
    rng = np.random.default_rng(seed)
    a = [list(10 * (1 + rng.exponential(0.1, 5))) for _ in range(10)]
    b = [list(10 * (1 + rng.exponential(0.1, 5))) for _ in range(10)]
    assert ratio(a, b).verdict == "no clear difference"


def test_a_difference_as_small_as_that_of_two_processes_of_one_net_is_none() -> None:
    assert ratio([[10.05]] * 10, [[10.0]] * 10).verdict == "no clear difference"
    assert ratio([[10.3]] * 10, [[10.0]] * 10).verdict == "faster"


def test_too_few_runs_for_an_interval() -> None:
    few = ratio([[30.0]] * (ENOUGH_RUNS - 1), [[10.0]] * (ENOUGH_RUNS - 1))
    assert (few.median, few.low, few.high) == (3.0, None, None)
    assert "too few runs" in few.verdict
    assert ratio([[30.0]] * ENOUGH_RUNS, [[10.0]] * ENOUGH_RUNS) == Ratio(3.0, 3.0, 3.0)


def test_the_interval_is_the_same_every_time() -> None:
    a, b = noisy(11, 10, 3), noisy(10, 10, 4)
    assert ratio(a, b) == ratio(a, b)
    assert ratio(a, b, seed=1).median == ratio(a, b).median


def test_the_interval_covers_the_truth() -> None:
    hits = 0
    for seed in range(200):
        rng = np.random.default_rng(seed)
        a = [[20 * each] for each in rng.lognormal(0, 0.05, 12)]
        b = [[10 * each] for each in rng.lognormal(0, 0.05, 12)]
        found = ratio(a, b)
        assert found.low is not None and found.high is not None
        hits += found.low <= 2 <= found.high
    assert hits >= 180
