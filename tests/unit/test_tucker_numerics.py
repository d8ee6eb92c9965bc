"""Decomposing, telling signal from noise, and spending a budget: NumPy alone (and tensorly)."""

from __future__ import annotations

import builtins
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from deeprebirth_caffe.errors import RebirthError
from deeprebirth_caffe.numerics.moments import MAX_WHOLE, SecondMoment
from deeprebirth_caffe.numerics.ranks import Menu, allocate
from deeprebirth_caffe.numerics.tucker import (
    MAX_EXACT,
    Metric,
    energies,
    low_rank,
    make_metric,
    matrix_errors,
    product,
    relative_error,
    tucker2,
    tucker_errors,
)
from deeprebirth_caffe.numerics.vbmf import signal_rank


def normal(*shape: int, seed: int = 0) -> Any:
    return np.random.default_rng(seed).standard_normal(shape)


def moment(size: int, seed: int = 1) -> Any:
    """One of inputs whose directions count very differently."""
    turn = np.linalg.qr(normal(size, size, seed=seed))[0]
    return (turn * np.logspace(0, -4, size)) @ turn.T


def planted(out: int, inputs: int, taps: int, less: int, more: int) -> Any:
    """A kernel of exactly these ranks."""
    core = normal(more, less, taps, seed=2)
    return product(normal(less, inputs, seed=3), core, normal(out, more, seed=4))


# Variational Bayes.


@pytest.mark.parametrize(("rows", "columns"), [(60, 60), (60, 300), (300, 60), (128, 1152)])
@pytest.mark.parametrize("rank", [0, 1, 7, 14])
@pytest.mark.parametrize("noise", [0.01, 0.3, 1.0])
def test_variational_bayes_finds_the_rank_in_noise(rows: int, columns: int, rank: int, noise: float) -> None:
    strength = 4 * noise * (np.sqrt(rows) + np.sqrt(columns))
    left, right = (np.linalg.qr(normal(size, rank, seed=size))[0] for size in (rows, columns))
    matrix = strength * left @ right.T + noise * normal(rows, columns, seed=7)
    found = signal_rank(np.linalg.svd(matrix, compute_uv=False) ** 2, rows, columns)
    assert found.rank == rank
    # What the free energy's minimum is for strong signals; the noise itself only where they are few.
    bias = 1 + rank**2 / (rows * columns - rank * (rows + columns))
    assert found.noise == pytest.approx(bias * noise**2, rel=0.1)


def test_variational_bayes_counts_every_component_where_there_is_no_noise() -> None:
    matrix = (normal(100, 12) @ normal(12, 120)).astype(np.float32)
    squares = np.linalg.svd(matrix.astype(np.float64), compute_uv=False) ** 2
    assert signal_rank(squares, 100, 120).rank == 12


def test_variational_bayes_loses_what_drowns_in_noise() -> None:
    strong, weak = normal(80, 3) @ normal(3, 200), 0.05 * normal(80, 3, seed=8) @ normal(3, 200, seed=9)
    squares = np.linalg.svd(strong + weak + normal(80, 200, seed=10), compute_uv=False) ** 2
    assert signal_rank(squares, 80, 200).rank == 3


@pytest.mark.parametrize("squares", [np.zeros(5), np.array([]), np.array([np.nan])])
def test_variational_bayes_of_nothing(squares: Any) -> None:
    assert signal_rank(squares, 5, 9) == (0, 0.0)


@pytest.mark.parametrize("scale", [1e-6, 1.0, 1e6])
def test_variational_bayes_does_not_mind_scale(scale: float) -> None:
    matrix = scale * (normal(50, 4) @ normal(4, 90) + 0.2 * normal(50, 90, seed=3))
    assert signal_rank(np.linalg.svd(matrix, compute_uv=False) ** 2, 50, 90).rank == 4


# Factors.


@pytest.mark.parametrize("metric", [Metric(), make_metric(moment(12)), make_metric(np.logspace(0, -3, 12))])
def test_full_rank_loses_nothing(metric: Metric) -> None:
    kernel = normal(10, 12, 9)
    for ranks in [(12, 10), (12, 9), (11, 10)]:
        first, _, last = tucker2(kernel, ranks, metric)
        assert (first is None) == (ranks[0] == 12) and (last is None) == (ranks[1] == 10)
    assert np.allclose(product(*tucker2(kernel, (12, 10), metric)), kernel)
    first, last = low_rank(kernel[:, :, :1], 10, metric)
    assert np.allclose(product(None, first, last), kernel[:, :, :1])


@pytest.mark.parametrize("metric", [Metric(), make_metric(moment(12)), make_metric(np.logspace(0, -3, 12))])
@pytest.mark.parametrize("ranks", [(4, 5), (12, 5), (4, 10)])
def test_planted_ranks_lose_nothing(metric: Metric, ranks: tuple[int, int]) -> None:
    kernel = planted(10, 12, 9, *ranks)
    assert np.allclose(product(*tucker2(kernel, ranks, metric)), kernel)


def test_the_matrix_is_the_best_one_for_its_input() -> None:
    weight, second = normal(20, 15), moment(15)
    inputs = np.linalg.cholesky(second) @ normal(15, 4000, seed=11)
    metric = make_metric(inputs @ inputs.T / 4000)

    def off(found: tuple[Any, Any]) -> float:
        return float(
            np.linalg.norm((weight - product(None, *found)[:, :, 0]) @ inputs) / np.linalg.norm(weight @ inputs)
        )

    plain, weighed = (off(low_rank(weight[:, :, None], 4, one)) for one in (Metric(), metric))
    values = np.linalg.svd(weight @ inputs, compute_uv=False)
    best = float(np.sqrt((values[4:] ** 2).sum() / (values**2).sum()))
    assert weighed == pytest.approx(best, rel=0.02) and weighed < 0.5 * plain


def test_the_input_counts_in_a_kernel_too() -> None:
    kernel, metric = normal(16, 12, 9), make_metric(moment(12))
    plain, weighed = (
        relative_error(kernel, product(*tucker2(kernel, (5, 9), one)), metric) for one in (Metric(), metric)
    )
    assert weighed < 0.7 * plain


def test_errors_are_known_beforehand() -> None:
    kernel = normal(8, 6, 9)
    table = tucker_errors(kernel)
    assert table.shape == (6, 8) and table[-1, -1] == pytest.approx(0, abs=1e-12)
    assert (np.diff(table, axis=0) <= 1e-12).all() and (np.diff(table, axis=1) <= 1e-12).all()
    for less, more in [(1, 1), (3, 5), (6, 4), (2, 8)]:
        real = relative_error(kernel, product(*tucker2(kernel, (less, more), Metric())), Metric()) ** 2
        # What is foretold is where the iteration starts from.
        assert 0.8 * table[less - 1, more - 1] <= real <= table[less - 1, more - 1] + 1e-9
    matrix = normal(9, 5, 1)
    values = np.linalg.svd(matrix[:, :, 0], compute_uv=False) ** 2
    assert matrix_errors(matrix) == pytest.approx(1 - np.cumsum(values) / values.sum(), abs=1e-12)
    assert energies(matrix, 1) == pytest.approx(values)


@pytest.mark.parametrize(
    "second",
    [
        None,
        np.zeros((6, 6)),
        np.full((6, 6), np.nan),
        np.zeros(6),
        np.ones((6, 6)),
        np.eye(6)[0],
        np.diag(np.eye(6)[0]),
    ],
)
def test_whatever_the_data_was_factors_are_finite(second: Any) -> None:
    metric, kernel = make_metric(second), normal(8, 6, 9)
    for found in (product(*tucker2(kernel, (3, 4), metric)), product(None, *low_rank(kernel, 3, metric))):
        assert np.isfinite(found).all() and relative_error(kernel, found, Metric()) < 1.5


def test_a_weight_of_zeros() -> None:
    kernel = np.zeros((8, 6, 9))
    assert np.isfinite(product(*tucker2(kernel, (3, 4), Metric()))).all()
    assert not tucker_errors(kernel).any() and not matrix_errors(kernel[:, :, :1]).any()
    assert relative_error(kernel, kernel, Metric()) == 0


def test_large_matrices_go_another_way() -> None:
    size, rank = MAX_EXACT + 8, 3
    weight = (normal(size, rank) @ normal(rank, size)).astype(np.float32)[:, :, None]
    assert relative_error(weight, product(None, *low_rank(weight, rank, Metric())), Metric()) < 1e-5


def test_without_tensorly(monkeypatch: pytest.MonkeyPatch) -> None:
    real = builtins.__import__

    def missing(name: str, *rest: Any, **more: Any) -> Any:
        if name.startswith("tensorly"):
            raise ImportError(name)
        return real(name, *rest, **more)

    monkeypatch.setattr(builtins, "__import__", missing)
    with pytest.raises(RebirthError, match="decomposing needs tensorly: pip install 'tensorly"):
        low_rank(normal(4, 4, 1), 2, Metric())


# Moments.


def test_moments_add_up() -> None:
    vectors, seen = normal(7, 5, 11).astype(np.float32), SecondMoment(5)
    for start in range(0, 7, 3):
        seen.add(vectors[start : start + 3])
    flat = vectors.transpose(1, 0, 2).reshape(5, -1).astype(np.float64)
    assert seen.count == 77 and np.allclose(seen.value, flat @ flat.T / 77)


def test_of_many_inputs_only_the_diagonal_is_kept() -> None:
    vectors, seen = normal(3, MAX_WHOLE + 1, 1), SecondMoment(MAX_WHOLE + 1)
    seen.add(vectors)
    assert seen.value.shape == (MAX_WHOLE + 1,) and np.allclose(seen.value, (vectors[:, :, 0] ** 2).mean(axis=0))


# The budget.

MENUS = st.dictionaries(
    st.sampled_from("abcde"),
    st.lists(st.tuples(st.integers(1, 60), st.floats(0, 10)), min_size=1, max_size=12),
    min_size=1,
)


def spent(menus: dict[str, Menu], picked: dict[str, int]) -> tuple[int, float]:
    weights = sum(int(menus[name].weights[index]) for name, index in picked.items())
    return weights, sum(float(menus[name].errors[index]) for name, index in picked.items())


@given(MENUS)
@settings(max_examples=200, deadline=None)
def test_budgets_are_kept_and_more_is_never_worse(given: dict[str, list[tuple[int, float]]]) -> None:
    menus = {name: Menu(*map(np.array, zip(*choices))) for name, choices in given.items()}
    smallest = sum(int(menu.weights.min()) for menu in menus.values())
    before = np.inf
    for budget in range(0, 60 * len(menus) + 2, 3):
        picked = allocate(menus, budget)
        assert set(picked) == set(menus)
        weights, error = spent(menus, picked)
        assert weights <= max(budget, smallest)
        assert error <= before + 1e-9
        before = error
    assert before == pytest.approx(sum(float(menu.errors.min()) for menu in menus.values()))


def test_the_budget_goes_where_it_saves_most() -> None:
    cheap = Menu(np.array([1, 2, 3, 4]), np.array([9.0, 1.0, 0.5, 0.0]))
    dear = Menu(np.array([1, 5, 10]), np.array([1.0, 0.9, 0.0]))
    assert allocate({"cheap": cheap, "dear": dear}, 3) == {"cheap": 1, "dear": 0}
    assert allocate({"cheap": cheap, "dear": dear}, 5) == {"cheap": 3, "dear": 0}
    assert allocate({"cheap": cheap, "dear": dear}, 14) == {"cheap": 3, "dear": 2}
    # A choice off the hull is taken with what is left.
    assert allocate({"cheap": cheap, "dear": dear}, 9) == {"cheap": 3, "dear": 1}


def test_a_budget_beats_a_uniform_fraction() -> None:
    """Layers of different spectra: equal parts waste weights on the flat one."""
    ranks = np.arange(1, 65)
    menus = {
        str(decay): Menu(ranks * 128, 1 - np.cumsum(weights := np.exp(-decay * ranks)) / weights.sum())
        for decay in (0.001, 0.05, 0.3)
    }
    half = 3 * 32 * 128
    _, best = spent(menus, allocate(menus, half))
    _, uniform = spent(menus, dict.fromkeys(menus, 31))
    assert best < 0.8 * uniform
