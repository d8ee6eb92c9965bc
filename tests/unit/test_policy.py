"""Learning rate policies."""

from __future__ import annotations

import math

import numpy as np
import pytest

from deeprebirth_caffe.engines.policy import POLICIES, learning_rate
from deeprebirth_caffe.errors import RebirthError
from deeprebirth_caffe.formats.solver import parse_solver
from deeprebirth_caffe.proto import caffe_pb2 as pb


def _solver(text: str) -> pb.SolverParameter:
    return parse_solver(f"base_lr: 0.1 max_iter: 100 {text}").message


def _rate(text: str, iteration: int, step: int = 0) -> float:
    return learning_rate(_solver(text), iteration, step)[0]


def _trace(text: str, iterations: int) -> list[float]:
    param, step, rates = _solver(text), 0, []
    for iteration in range(iterations):
        rate, step = learning_rate(param, iteration, step)
        rates.append(rate)
    return rates


def test_fixed_stays() -> None:
    assert set(_trace('lr_policy: "fixed"', 5)) == {float(np.float32(0.1))}


def test_step_falls_every_stepsize() -> None:
    rates = _trace('lr_policy: "step" gamma: 0.5 stepsize: 3', 7)
    assert rates == pytest.approx([0.1] * 3 + [0.05] * 3 + [0.025])


def test_step_tells_where_it_is() -> None:
    assert learning_rate(_solver('lr_policy: "step" gamma: 0.5 stepsize: 3'), 8, 0)[1] == 2


def test_multistep_goes_one_step_a_call_at_most() -> None:
    text = 'lr_policy: "multistep" gamma: 0.5 stepvalue: 2 stepvalue: 3'
    assert _trace(text, 5) == pytest.approx([0.1, 0.1, 0.05, 0.025, 0.025])
    # Behind both values, but with a state that says none was passed.
    assert learning_rate(_solver(text), 50, 0) == (pytest.approx(0.05), 1)


@pytest.mark.parametrize(
    ("text", "iteration", "wanted"),
    [
        ('lr_policy: "exp" gamma: 0.9', 7, 0.1 * 0.9**7),
        ('lr_policy: "inv" gamma: 0.01 power: 0.75', 50, 0.1 * 1.5**-0.75),
        ('lr_policy: "poly" power: 2', 30, 0.1 * 0.7**2),
        ('lr_policy: "poly" power: 2', 100, 0.0),
        ('lr_policy: "sigmoid" gamma: 0.1 stepsize: 10', 10, 0.05),
        ('lr_policy: "sigmoid" gamma: 0.1 stepsize: 10', 30, 0.1 / (1 + math.exp(-2))),
        ('lr_policy: "sigmoid" gamma: 1000 stepsize: 10', 0, 0.0),
        ('lr_policy: "exp" gamma: 1e30', 20, math.inf),
    ],
)
def test_formulas(text: str, iteration: int, wanted: float) -> None:
    assert _rate(text, iteration) == pytest.approx(wanted, rel=1e-6)


def test_poly_past_its_end_is_not_a_number() -> None:
    assert math.isnan(_rate('lr_policy: "poly" power: 0.5', 101))


@pytest.mark.parametrize("policy", POLICIES)
def test_rates_are_single_precision(policy: str) -> None:
    text = f'lr_policy: "{policy}" gamma: 0.3 power: 0.7 stepsize: 3 stepvalue: 2'
    for rate in _trace(text, 9):
        assert rate == float(np.float32(rate))


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ('lr_policy: "cosine"', 'unknown lr_policy "cosine"; there is fixed'),
        ("", "the solver has no lr_policy"),
        ('lr_policy: "step" gamma: 0.5', "needs a stepsize above 0"),
        ('lr_policy: "sigmoid" gamma: 0.5', "needs a stepsize above 0"),
        ('lr_policy: "inv" gamma: -0.5', "needs a gamma of at least 0; the solver has -0.5"),
    ],
)
def test_what_caffe_refuses_is_refused(text: str, words: str) -> None:
    with pytest.raises(RebirthError, match=words):
        _rate(text, 0)
