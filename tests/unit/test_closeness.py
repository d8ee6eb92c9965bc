"""The limits that the other tests hold float32 results to."""

from __future__ import annotations

import numpy as np
import pytest
from closeness import EPS, Comparison, apart, assert_near, between, rounding


@pytest.fixture(autouse=True)
def unlisted(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is made to fail here is no margin."""
    monkeypatch.delenv("REBIRTH_TEST_MARGINS", raising=False)


@pytest.mark.parametrize("signs", [False, True])
@pytest.mark.parametrize("terms", [1, 10, 100, 1000, 30000])
def test_the_worst_order_of_adding_up_stays_within(terms: int, signs: bool) -> None:
    """One after the other in float32, for as many sums at once as a blob has values."""
    random = np.random.default_rng(terms)
    factors = random.uniform(0.5, 2, (2, terms, 2000)).astype(np.float32)
    if signs:
        factors *= random.choice(np.array([-1, 1], np.float32), factors.shape)
    found = np.zeros(2000, np.float32)
    for one, other in zip(*factors, strict=True):
        found += one * other
    true = (factors[0].astype(np.float64) * factors[1]).sum(axis=0)
    assert 0 < apart(true, found) <= rounding(terms) or terms == 1


def test_two_right_results_are_near_each_other() -> None:
    true = np.random.default_rng(0).standard_normal(1000)
    above, below = (true * (1 + sign * rounding(50)) for sign in (0.99, -0.99))
    assert_near({"blob": above}, {"blob": below}, terms=50)
    with pytest.raises(AssertionError, match="blob: off by"):
        assert_near({"blob": above}, {"blob": true * (1 - 3 * rounding(50))}, terms=50)


@pytest.mark.parametrize("terms", [1, 1000, 40_000])
def test_a_ten_thousandth_is_too_much(terms: int) -> None:
    values = np.random.default_rng(0).standard_normal(1000)
    with pytest.raises(AssertionError):
        assert_near({"blob": values}, {"blob": values * 1.0001}, terms)


def test_the_distance_of_caffe_is_a_measure() -> None:
    """Ours may be some times as far from the truth, not more; and Caffe may not be anywhere."""
    true = np.random.default_rng(0).standard_normal(1000)
    caffe = true * (1 + 5 * rounding(10))

    def wrong(theirs: np.ndarray, ours: np.ndarray) -> list[str]:
        comparison = Comparison()
        comparison.near("blob", theirs, ours, 10, true)
        return [text.split(":")[0] for text in comparison.wrong]

    assert wrong(caffe, true * (1 - 15 * rounding(10))) == []
    assert wrong(caffe, true * (1 - 25 * rounding(10))) == ["blob"]
    assert wrong(true, true * (1 + 2 * rounding(10))) == ["blob"]
    assert wrong(true * (1 + 20 * rounding(10)), true) == ["blob, Caffe from the truth"]


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf, -3.4e38])
def test_what_is_no_ordinary_number_has_to_be_the_same(value: float) -> None:
    real = np.array([1, value, 2], np.float32)
    assert apart(real, real.copy()) == 0
    assert apart(real, np.array([1, 3, 2], np.float32)) == np.inf
    assert apart(np.array([1, 3, 2], np.float32), real) > 1e30
    assert apart(real, real[:2]) == np.inf
    comparison = Comparison()
    comparison.near("blob", real, real.copy(), 1, np.array([1, 1e300, 2]))
    comparison.verify()


def test_where_all_is_zero_nothing_else_is_near() -> None:
    zeros = np.zeros(3)
    assert apart(zeros, zeros) == 0 and apart(zeros, zeros + 1e-30) == np.inf


def test_limits_follow_the_size() -> None:
    assert rounding(1) == 6 * EPS and between(100) == 2 * 24 * EPS
