"""What Caffe asks of a solver's numbers: its learning rate policies and update rules."""

from __future__ import annotations

import math
from ctypes import c_float

from deeprebirth_caffe.errors import RebirthError
from deeprebirth_caffe.proto import caffe_pb2 as pb

POLICIES = ("fixed", "step", "exp", "inv", "multistep", "poly", "sigmoid")
TYPES = ("AdaDelta", "AdaGrad", "Adam", "Nesterov", "RMSProp", "SGD")


def learning_rate(param: pb.SolverParameter, iteration: int, current_step: int = 0) -> tuple[float, int]:
    """The rate of an iteration, in single precision as Caffe computes it.

    Args:
        param: the solver.
        iteration: which, counted from 0.
        current_step: what the last call gave; a solverstate keeps it. Only "multistep" looks at it, and goes on by at
            most one step a call.

    Returns:
        The rate, before any lr_mult, and the new step.

    Raises:
        RebirthError: there is no such policy, or Caffe would stop at its numbers.
    """
    check_policy(param)
    policy, base, gamma = param.lr_policy, param.base_lr, param.gamma
    if policy == "fixed":
        rate = base
    elif policy == "step":
        current_step = iteration // param.stepsize
        rate = base * _pow(gamma, current_step)
    elif policy == "exp":
        rate = base * _pow(gamma, iteration)
    elif policy == "inv":
        rate = base * _single(_pow(_single(1 + _single(gamma * _single(iteration))), -param.power))
    elif policy == "multistep":
        if current_step < len(param.stepvalue) and iteration >= param.stepvalue[current_step]:
            current_step += 1
        rate = base * _pow(gamma, current_step)
    elif policy == "poly":
        done = _single(_single(iteration) / _single(param.max_iter)) if param.max_iter else math.inf
        rate = base * _single(_pow(_single(1 - done), param.power))
    else:
        power = _single(-gamma * _single(_single(iteration) - _single(param.stepsize)))
        rate = base * _single(1 / (1 + _exp(power)))
    return _single(rate), current_step


def check_policy(param: pb.SolverParameter) -> None:
    """Refuses what `learning_rate` would refuse in any iteration.

    Raises:
        RebirthError: see `learning_rate`.
    """
    policy = param.lr_policy
    if policy not in POLICIES:
        what = f'unknown lr_policy "{policy}"' if policy else "the solver has no lr_policy"
        raise RebirthError(f"{what}; there is {', '.join(POLICIES)}")
    if policy in ("step", "sigmoid") and param.stepsize <= 0:
        raise RebirthError(f'lr_policy "{policy}" needs a stepsize above 0; the solver has {param.stepsize}')
    if policy not in ("fixed", "poly") and param.gamma < 0:
        raise RebirthError(f'lr_policy "{policy}" needs a gamma of at least 0; the solver has {param.gamma:g}')


def check_rule(param: pb.SolverParameter) -> None:
    """Refuses a solver whose type or numbers Caffe refuses too.

    Raises:
        RebirthError: which of them, and why.
    """
    if param.type not in TYPES:
        raise RebirthError(f'unknown solver type "{param.type}"; there is {", ".join(TYPES)}')
    if param.type in ("AdaGrad", "RMSProp") and param.momentum:
        raise RebirthError(f"solver type {param.type} takes no momentum; remove it (it is {param.momentum:g})")
    if param.type == "RMSProp" and not 0 <= param.rms_decay < 1:
        raise RebirthError(f"rms_decay must be at least 0 and below 1; it is {param.rms_decay:g}")
    if param.weight_decay and param.regularization_type not in ("L1", "L2"):
        raise RebirthError(f'unknown regularization_type "{param.regularization_type}"; there is L1 and L2')
    if param.iter_size < 1:
        raise RebirthError(f"iter_size must be at least 1; it is {param.iter_size}")


def _single(value: float) -> float:
    """The nearest number of single precision; infinity above the largest."""
    return c_float(value).value


def _pow(base: float, exponent: float) -> float:
    """C's pow, which gives NaN or infinity where Python raises."""
    try:
        return math.pow(base, exponent)
    except OverflowError:
        return math.inf
    except ValueError:
        return math.inf if base == 0 else math.nan


def _exp(value: float) -> float:
    try:
        return math.exp(value)
    except OverflowError:
        return math.inf
