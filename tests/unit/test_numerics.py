"""The algebra of folding and inheriting, against loops that nobody could get wrong."""

from __future__ import annotations

from itertools import product
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from deeprebirth_caffe.numerics import affine
from deeprebirth_caffe.numerics.fillers import msra, xavier
from deeprebirth_caffe.numerics.inherit import centred, dense, embed, strongest, through

Array = npt.NDArray[Any]


@pytest.fixture
def rng() -> np.random.Generator:
    return np.random.default_rng(7)


def convolve(image: Array, weight: Array, bias: Array, group: int) -> Array:
    """(C, H, W) by (out, C / group, k, k), stride 1, no pad."""
    out, per, high, wide = weight.shape
    rows, columns = image.shape[1] - high + 1, image.shape[2] - wide + 1
    result = np.empty((out, rows, columns))
    for channel, row, column in product(range(out), range(rows), range(columns)):
        first = channel // (out // group) * per
        window = image[first : first + per, row : row + high, column : column + wide]
        result[channel, row, column] = (window * weight[channel]).sum() + bias[channel]
    return result


def deconvolve(image: Array, weight: Array, bias: Array, group: int) -> Array:
    """(C, H, W) by (C, out / group, k, k), stride 1, no pad."""
    channels, per, high, wide = weight.shape
    result = np.zeros((per * group, image.shape[1] + high - 1, image.shape[2] + wide - 1))
    for channel, row, column in product(range(channels), range(image.shape[1]), range(image.shape[2])):
        first = channel // (channels // group) * per
        result[first : first + per, row : row + high, column : column + wide] += (
            weight[channel] * image[channel, row, column]
        )
    return result + bias[:, None, None]


def normalise(x: Array, mean: Array, variance: Array, factor: float, eps: float) -> Array:
    """Caffe's BatchNorm with global statistics."""
    weight = 0.0 if factor == 0 else 1 / factor
    result = np.empty_like(x)
    for channel in range(len(x)):
        result[channel] = (x[channel] - mean[channel] * weight) / np.sqrt(variance[channel] * weight + eps)
    return result


@pytest.mark.parametrize("factor", [0.0, 1.0, 37.5])
@pytest.mark.parametrize("eps", [1e-5, 0.1])
@pytest.mark.parametrize("group", [1, 2])
@pytest.mark.parametrize("bias", [True, False])
def test_fold_of_a_convolution(rng: np.random.Generator, bias: bool, group: int, eps: float, factor: float) -> None:
    image = rng.normal(size=(4, 5, 6))
    weight, offset = rng.normal(size=(6, 4 // group, 3, 3)), rng.normal(size=6)
    mean, variance = rng.normal(size=6), rng.uniform(0.5, 2, 6)
    gamma, beta = rng.normal(size=6), rng.normal(size=6)
    used = offset if bias else np.zeros(6)
    wanted = normalise(convolve(image, weight, used, group), mean, variance, factor, eps)
    wanted = wanted * gamma[:, None, None] + beta[:, None, None]

    both = affine.batch_norm(mean, variance, np.array([factor]), eps).then(affine.scale(gamma, beta))
    new, shift = affine.fold(weight, offset if bias else None, both)
    assert new.dtype == np.float64
    np.testing.assert_allclose(convolve(image, new, shift, group), wanted, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("group", [1, 2, 3])
def test_fold_of_a_deconvolution(rng: np.random.Generator, group: int) -> None:
    image = rng.normal(size=(6, 3, 4))
    weight, bias = rng.normal(size=(6, 12 // group, 2, 2)), rng.normal(size=12)
    gamma, beta = rng.normal(size=12), rng.normal(size=12)
    wanted = deconvolve(image, weight, bias, group) * gamma[:, None, None] + beta[:, None, None]
    new, shift = affine.fold(weight, bias, affine.scale(gamma, beta), group=group)
    np.testing.assert_allclose(deconvolve(image, new, shift, group), wanted, rtol=1e-9, atol=1e-9)


def test_fold_of_an_inner_product(rng: np.random.Generator) -> None:
    x, weight, bias, gamma = rng.normal(size=7), rng.normal(size=(5, 7)), rng.normal(size=5), rng.normal(size=5)
    new, shift = affine.fold(weight, bias, affine.scale(gamma))
    np.testing.assert_allclose(new @ x + shift, gamma * (weight @ x + bias))


def test_then_is_in_order() -> None:
    first, second = affine.Affine(np.array([2.0]), np.array([1.0])), affine.Affine(np.array([10.0]), np.array([3.0]))
    assert first.then(second) == affine.Affine(np.array([20.0]), np.array([13.0]))
    assert second.then(first) == affine.Affine(np.array([20.0]), np.array([7.0]))


def test_blobs_of_any_shape_are_vectors() -> None:
    """Old files store (1, 1, 1, C)."""
    shape = (1, 1, 1, 3)
    found = affine.batch_norm(np.ones(shape), np.ones(shape), np.full((1, 1, 1, 1), 2.0), 0.5)
    np.testing.assert_allclose(found.scale, np.ones(3))
    np.testing.assert_allclose(found.shift, np.full(3, -0.5))


@pytest.mark.parametrize(
    ("kernel", "offset", "expected"),
    [
        ((5,), (1,), [0, 1, 2, 3, 0]),
        ((5,), (2,), [0, 0, 1, 2, 3]),
        ((5,), (4,), [0, 0, 0, 0, 1]),
        ((5,), (9,), [0, 0, 0, 0, 0]),
        ((2,), (0,), [1, 2]),
        ((2,), (-1,), [2, 3]),
        ((2,), (-5,), [0, 0]),
        ((3,), (0,), [1, 2, 3]),
    ],
)
def test_embed_one_axis(kernel: tuple[int, ...], offset: tuple[int, ...], expected: list[float]) -> None:
    weight = np.array([[[1.0, 2.0, 3.0]]])
    np.testing.assert_array_equal(embed(weight, kernel, offset)[0, 0], expected)


def test_embed_keeps_axes_and_channels_apart(rng: np.random.Generator) -> None:
    weight = rng.normal(size=(2, 3, 2, 3))
    new = embed(weight, (4, 3), (1, -1))
    assert new.shape == (2, 3, 4, 3)
    np.testing.assert_array_equal(new[:, :, 1:3, :2], weight[:, :, :, 1:])
    assert not new[:, :, [0, 3]].any() and not new[..., 2].any()


def test_centred(rng: np.random.Generator) -> None:
    weight = rng.normal(size=(2, 3, 1, 1))
    new = centred(weight, (3, 5))
    np.testing.assert_array_equal(new[:, :, 1, 2], weight[:, :, 0, 0])
    assert np.count_nonzero(new) == 6
    np.testing.assert_array_equal(centred(new, (1, 1)), weight)


def test_centred_in_a_window_without_a_middle_takes_the_tap_before_it(rng: np.random.Generator) -> None:
    """That is where pad = kernel // 2 - 1 looks at the pixel itself; a window of 4 has no exact middle."""
    new = centred(rng.normal(size=(1, 1, 1, 1)), (4, 2))
    assert np.argwhere(new).tolist() == [[0, 0, 1, 0]]


def test_centred_does_what_the_small_kernel_did(rng: np.random.Generator) -> None:
    """A 1x1 branch in a 3x3 window with pad 1 computes the same."""
    image, weight = rng.normal(size=(3, 4, 4)), rng.normal(size=(2, 3, 1, 1))
    padded = np.pad(image, ((0, 0), (1, 1), (1, 1)))
    bias = np.zeros(2)
    np.testing.assert_allclose(
        convolve(padded, centred(weight, (3, 3)), bias, 1), convolve(image, weight, bias, 1), atol=1e-12
    )


def test_strongest_takes_the_largest_products() -> None:
    makes = np.array([[1.0], [-8.0], [2.0], [3.0]])
    reads = np.array([[[1.0], [1.0], [-5.0], [0.0]], [[1.0], [0.0], [0.0], [0.0]]])
    # products: 1 * 2, 8 * 1, 2 * 5, 3 * 0
    assert strongest(makes, reads, 2).tolist() == [1, 2]
    assert strongest(makes, reads, 3).tolist() == [0, 1, 2]
    assert strongest(makes, reads, 4).tolist() == [0, 1, 2, 3]


def test_strongest_keeps_the_first_of_equals() -> None:
    assert strongest(np.ones((4, 2, 1, 1)), np.ones((3, 4, 3, 3)), 2).tolist() == [0, 1]


def test_through_is_exact_where_it_can_be(rng: np.random.Generator) -> None:
    reducer, inner = rng.normal(size=(6, 9)), rng.normal(size=(4, 6))
    np.testing.assert_allclose(through(inner @ reducer, reducer), inner, atol=1e-9)


def test_through_is_the_least_squares_solution(rng: np.random.Generator) -> None:
    reducer, branch = rng.normal(size=(3, 8)), rng.normal(size=(4, 8))
    found = through(branch, reducer)
    assert found.shape == (4, 3)
    best = np.linalg.norm(found @ reducer - branch)
    for _ in range(50):
        other = found + rng.normal(scale=0.1, size=found.shape)
        assert np.linalg.norm(other @ reducer - branch) > best


def test_through_survives_a_reducer_without_rank() -> None:
    found = through(np.ones((2, 4)), np.zeros((3, 4)))
    np.testing.assert_array_equal(found, np.zeros((2, 3)))


@pytest.mark.parametrize("group", [1, 2, 3])
def test_dense_computes_the_same(rng: np.random.Generator, group: int) -> None:
    image, weight, bias = rng.normal(size=(6, 4, 4)), rng.normal(size=(6, 6 // group, 3, 3)), np.zeros(6)
    full = dense(weight, group)
    assert full.shape == (6, 6, 3, 3)
    np.testing.assert_allclose(convolve(image, full, bias, 1), convolve(image, weight, bias, group), atol=1e-12)


def test_fillers_have_caffes_scale(rng: np.random.Generator) -> None:
    shape = (64, 16, 5, 5)
    uniform, normal = xavier(shape, rng), msra(shape, rng)
    assert uniform.dtype == normal.dtype == np.float32
    bound = np.sqrt(3 / (16 * 5 * 5))
    assert 0.99 * bound < np.abs(uniform).max() <= bound
    assert abs(float(uniform.mean())) < 0.01 * bound
    assert abs(float(normal.std()) / np.sqrt(2 / (16 * 5 * 5)) - 1) < 0.02
