"""Rows on the disk, and the least-squares fit of a layer on them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from deeprebirth_caffe.errors import RebirthError
from deeprebirth_caffe.numerics import refit
from deeprebirth_caffe.numerics.refit import Fit, FitOptions, fit, rescale
from deeprebirth_caffe.numerics.rows import RowFile, at_places, patches, sample_places

Array = np.ndarray[Any, np.dtype[Any]]
Rows = Callable[[Array], RowFile]


@pytest.fixture
def rows(tmp_path: Path) -> Iterator[Rows]:
    """Puts an array into a file."""
    with ExitStack() as files:
        made: list[RowFile] = []

        def put(array: Array) -> RowFile:
            file = files.enter_context(RowFile(tmp_path / f"rows{len(made)}", array.shape[1]))
            made.append(file)
            file.append(array)
            return file

        yield put


def draw(*shape: int, seed: int = 0) -> Array:
    return np.random.default_rng(seed).normal(size=shape)


def error(fitted: Fit, data: Array, wanted: Array, relu: bool) -> float:
    """The relative error, worked out in another way."""
    given = data @ fitted.weight.T + (0 if fitted.bias is None else fitted.bias)
    given = np.maximum(given, 0) if relu else given
    return float(np.linalg.norm(given - wanted) / np.linalg.norm(wanted))


# Rows.


def test_rows_come_back_in_chunks_and_the_file_goes(tmp_path: Path) -> None:
    data = draw(10, 3).astype(np.float32)
    with RowFile(tmp_path / "rows", 3) as file:
        file.append(data[:4])
        file.append(data[4:])
        for _ in range(2):
            chunks = list(file.chunks(4))
            assert [len(chunk) for chunk in chunks] == [4, 4, 2]
            np.testing.assert_array_equal(np.concatenate(chunks), data)
    assert not list(tmp_path.iterdir())


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="there is no full disk to try")
def test_a_full_disk_is_said(tmp_path: Path) -> None:
    (tmp_path / "rows").symlink_to("/dev/full")
    with (
        RowFile(tmp_path / "rows", 3) as file,
        pytest.raises(RebirthError, match=r"no room for temporary files .*TMPDIR"),
    ):
        file.append(draw(10, 3))


def test_places_do_not_depend_on_batches() -> None:
    whole = sample_places(3, "conv", range(8), 100, 16)
    parts = [sample_places(3, "conv", images, 100, 16) for images in (range(5), range(5, 8))]
    np.testing.assert_array_equal(whole, np.concatenate(parts))
    assert all(len(set(row)) == 16 and list(row) == sorted(row) for row in whole.tolist())
    assert whole.min() >= 0 and whole.max() < 100
    assert not np.array_equal(whole, sample_places(4, "conv", range(8), 100, 16))
    assert not np.array_equal(whole, sample_places(3, "other", range(8), 100, 16))
    np.testing.assert_array_equal(sample_places(3, "conv", range(2), 5, 16), [range(5)] * 2)


@pytest.mark.parametrize(
    ("kernel", "stride", "pad", "dilation"),
    [
        ((3, 3), (1, 1), (1, 1), (1, 1)),
        ((1, 1), (2, 2), (0, 0), (1, 1)),
        ((3, 2), (2, 1), (0, 2), (2, 1)),
        ((5, 5), (4, 4), (3, 3), (1, 1)),
    ],
)
def test_patches_give_a_convolution(
    kernel: tuple[int, int], stride: tuple[int, int], pad: tuple[int, int], dilation: tuple[int, int]
) -> None:
    image, weight = draw(2, 3, 9, 8), draw(4, 3, *kernel, seed=1)
    padded = np.pad(image, ((0, 0), (0, 0), (pad[0],) * 2, (pad[1],) * 2))
    size = [(padded.shape[2 + a] - dilation[a] * (kernel[a] - 1) - 1) // stride[a] + 1 for a in (0, 1)]
    wanted = np.zeros((2, 4, *size))
    for y in range(size[0]):
        for x in range(size[1]):
            for i in range(kernel[0]):
                for j in range(kernel[1]):
                    tap = padded[:, :, y * stride[0] + i * dilation[0], x * stride[1] + j * dilation[1]]
                    wanted[:, :, y, x] += tap @ weight[:, :, i, j].T
    places = sample_places(0, "conv", range(2), size[0] * size[1], 7)
    found = patches(image, places, size[1], kernel, stride, pad, dilation) @ weight.reshape(4, -1).T
    np.testing.assert_allclose(found, at_places(wanted, places), rtol=1e-10)


# The fit.


@pytest.mark.parametrize("relu", [False, True])
@pytest.mark.parametrize("bias", [False, True])
def test_it_finds_the_weights_that_made_the_goal(rows: Rows, relu: bool, bias: bool) -> None:
    data, true = draw(600, 5) + 0.5, draw(4, 5, seed=1)
    offset = draw(4, seed=2) if bias else np.zeros(4)
    raw = data @ true.T + offset
    start = np.zeros((4, 5))
    options = FitOptions(ridge=1e-8, rounds=200)
    made = fit(rows(data), rows(raw), start, np.zeros(4) if bias else None, 1, relu, options)
    np.testing.assert_allclose(made.weight, true, atol=1e-3)
    if bias:
        assert made.bias is not None
        np.testing.assert_allclose(made.bias, offset, atol=1e-3)
    assert made.after is not None and made.after < 1e-3 and made.note == "" and made.before == pytest.approx(1)


def test_no_round_raises_the_bound_of_the_error(rows: Rows) -> None:
    """Where the layer sees too little to hit every value, what counts below 0 is only that it stays there."""
    data = draw(2000, 12)
    raw = data @ draw(6, 12, seed=1).T + np.sin(data @ draw(6, 12, seed=2).T) * 2
    seen, start = data[:, :8], 0.1 * draw(6, 8, seed=3)
    wanted = np.maximum(raw, 0)
    bounds = []
    for count in (0, 1, 5, 20, 40):
        made = fit(rows(seen), rows(raw), start, np.zeros(6), 1, True, FitOptions(ridge=1e-6, rounds=count))
        assert made.after == pytest.approx(error(made, seen, wanted, True), rel=1e-4)
        assert made.before == pytest.approx(error(Fit(start, np.zeros(6), None, None), seen, wanted, True), rel=1e-4)
        values = seen @ made.weight.T + made.bias
        bounds.append(float(np.where(raw > 0, values - raw, np.maximum(values, 0)).__pow__(2).mean()))
    assert all(earlier > later for earlier, later in pairwise(bounds))
    assert bounds[-1] < 0.9 * bounds[0] and bounds[-2] - bounds[-1] < 0.01 * bounds[0]


def test_chunks_do_not_matter(rows: Rows, monkeypatch: pytest.MonkeyPatch) -> None:
    data, raw, start = draw(1000, 6) + 3, draw(1000, 4, seed=1), draw(4, 6, seed=2)
    whole = fit(rows(data), rows(raw), start, np.zeros(4), 1, True, FitOptions())
    monkeypatch.setattr(refit, "_CHUNK", 1)
    parts = fit(rows(data), rows(raw), start, np.zeros(4), 1, True, FitOptions())
    np.testing.assert_allclose(whole.weight, parts.weight, atol=1e-5)
    assert whole.after == pytest.approx(parts.after, rel=1e-5)


def test_groups_are_layers_of_their_own(rows: Rows) -> None:
    data, raw, start, bias = draw(400, 6) + 1, draw(400, 4, seed=1), draw(4, 3, seed=2), draw(4, seed=3)
    together = fit(rows(data), rows(raw), start, bias, 2, True, FitOptions())
    for group in range(2):
        out = slice(2 * group, 2 * group + 2)
        alone = fit(
            rows(data[:, 3 * group : 3 * group + 3]), rows(raw[:, out]), start[out], bias[out], 1, True, FitOptions()
        )
        np.testing.assert_allclose(together.weight[out], alone.weight, atol=1e-5)
        assert together.bias is not None and alone.bias is not None
        np.testing.assert_allclose(together.bias[out], alone.bias, atol=1e-5)


def test_what_the_rows_say_nothing_about_stays_as_it_was(rows: Rows) -> None:
    """Rank-deficient inputs: two are the same, one is always 0."""
    data = draw(300, 4)
    data[:, 1] = data[:, 0]
    data[:, 3] = 0
    start = draw(2, 4, seed=1)
    made = fit(rows(data), rows(data @ draw(2, 4, seed=2).T), start, np.zeros(2), 1, False, FitOptions(ridge=1e-6))
    np.testing.assert_allclose(made.weight[:, 3], start[:, 3], atol=1e-6)
    difference = (made.weight - start)[:, 0] - (made.weight - start)[:, 1]
    np.testing.assert_allclose(difference, 0, atol=1e-6)
    assert made.after is not None and made.after < 1e-4
    zero = fit(rows(data), rows(data @ start.T), start, np.zeros(2), 1, False, FitOptions(ridge=1e-6, prior="zero"))
    np.testing.assert_array_equal(zero.weight, start)  # nothing is better than a start without error
    assert zero.note


def test_the_zero_prior_pulls_to_zero(rows: Rows) -> None:
    data, start = draw(300, 3), np.full((1, 3), 5.0)
    goal = rows(data @ np.ones((3, 1)))
    held = [
        fit(rows(data), goal, start, np.zeros(1), 1, False, FitOptions(ridge=1.0, prior=prior)).weight.mean()
        for prior in ("zero", "start")
    ]
    assert held[0] == pytest.approx(0.5, abs=0.1) and held[1] == pytest.approx(3, abs=0.2)


@pytest.mark.parametrize("value", [0.0, 7.5])
def test_constant_inputs_move_the_bias_alone(rows: Rows, value: float) -> None:
    data, start = np.full((50, 3), value), draw(2, 3, seed=1)
    made = fit(rows(data), rows(np.tile([1.0, 2.0], (50, 1))), start, np.zeros(2), 1, True, FitOptions())
    np.testing.assert_array_equal(made.weight, start)
    assert made.bias is not None
    np.testing.assert_allclose(start @ data[0] + made.bias, [1, 2], atol=1e-4)
    assert "constant" in made.note
    without = fit(rows(0 * data), rows(np.ones((50, 2))), start, None, 1, True, FitOptions())
    assert "nothing to fit" in without.note and np.array_equal(without.weight, start)


@pytest.mark.parametrize("bad", [np.nan, np.inf])
@pytest.mark.parametrize("where", ["rows", "goals"])
def test_numbers_that_are_none_leave_it_as_it_was(rows: Rows, bad: float, where: str) -> None:
    data, goal, start = draw(50, 3), draw(50, 2, seed=1), draw(2, 3, seed=2)
    (data if where == "rows" else goal)[7, 1] = bad
    made = fit(rows(data), rows(goal), start, np.zeros(2), 1, True, FitOptions())
    np.testing.assert_array_equal(made.weight, start)
    assert "not finite" in made.note and made.before is None and made.after is None


@pytest.mark.parametrize("count", [1, 2, 5])
@pytest.mark.parametrize("ridge", [1e-2, 1e-15])
def test_few_rows_give_finite_weights(rows: Rows, count: int, ridge: float) -> None:
    data, start = draw(count, 40), 0.1 * draw(3, 40, seed=1)
    made = fit(rows(data), rows(draw(count, 3, seed=2)), start, np.zeros(3), 1, True, FitOptions(ridge=ridge))
    assert np.isfinite(made.weight).all() and made.bias is not None and np.isfinite(made.bias).all()
    assert made.before is not None and made.after is not None and made.after <= made.before


def test_a_goal_of_zeros_has_no_relative_error(rows: Rows) -> None:
    made = fit(rows(draw(50, 3)), rows(np.zeros((50, 2))), draw(2, 3, seed=1), np.zeros(2), 1, True, FitOptions())
    assert made.before is None and made.after is None and np.isfinite(made.weight).all()


def test_a_small_variance_about_a_large_mean_is_seen(rows: Rows) -> None:
    data = 1000 + 0.01 * draw(500, 3)
    goal = (data - 1000) @ np.array([[1.0], [2.0], [3.0]])
    made = fit(rows(data), rows(goal), np.zeros((1, 3)), np.zeros(1), 1, False, FitOptions(ridge=1e-6))
    np.testing.assert_allclose(made.weight, [[1, 2, 3]], atol=0.05)


# The first layer.


@pytest.mark.parametrize("relu", [True, False])
@pytest.mark.parametrize("group", [1, 2])
def test_outputs_get_the_size_that_they_are_to_have(rows: Rows, relu: bool, group: int) -> None:
    data, weight, bias = draw(300, 6), draw(4, 6 // group, seed=1), 0.1 * draw(4, seed=2)
    goals = 3 * draw(300, 4, seed=3) + 1
    found = rescale(rows(data), rows(goals), weight, bias, group, relu)
    assert found.bias is not None
    each = [
        data[:, 6 // group * i :][:, : 6 // group] @ found.weight[4 // group * i :][: 4 // group].T
        for i in range(group)
    ]
    given, wanted = np.concatenate(each, axis=1) + found.bias, goals
    if relu:
        given, wanted = np.maximum(given, 0), np.maximum(wanted, 0)
    else:
        np.testing.assert_allclose(given.mean(axis=0), wanted.mean(axis=0), rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose((given**2).mean(axis=0), (wanted**2).mean(axis=0), rtol=1e-4)
    # Each kernel keeps its shape.
    gain = found.weight / weight
    np.testing.assert_allclose(gain, np.broadcast_to(gain[:, :1], gain.shape), rtol=1e-9)
    assert (gain > 0).all() and not found.note


def test_an_output_that_never_answers_is_left_as_it_was(rows: Rows) -> None:
    data, weight, bias = draw(50, 3), np.zeros((2, 3)), np.array([-1.0, 1.0])
    found = rescale(rows(data), rows(np.full((50, 2), 4.0)), weight, bias, 1, True)
    assert found.bias is not None and "1 of its outputs" in found.note
    np.testing.assert_allclose(found.bias, [-1, 4])


def test_size_of_numbers_that_are_none(rows: Rows) -> None:
    data = draw(20, 3)
    data[3, 1] = np.nan
    found = rescale(rows(data), rows(draw(20, 2)), np.ones((2, 3)), None, 1, True)
    assert "not finite" in found.note and (found.weight == 1).all()
