"""Caffe's update rules: what becomes of the gradients, and of the history that a solverstate keeps."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Protocol

import torch

from deeprebirth_caffe.engines.policy import check_rule
from deeprebirth_caffe.proto import caffe_pb2 as pb

Tensors = list[torch.Tensor]


class Parameter(Protocol):
    """One learnable blob."""

    @property
    def tensor(self) -> torch.Tensor: ...
    @property
    def lr_mult(self) -> float: ...
    @property
    def decay_mult(self) -> float: ...


class Updater:
    """Applies the gradients of learnable blobs as a solver of Caffe does.

    Attributes:
        history: what the solver remembers, in the order of a solverstate: an array for each blob, then, for AdaDelta
            and Adam, another one for each.
    """

    def __init__(self, param: pb.SolverParameter, parameters: Sequence[Parameter]) -> None:
        check_rule(param)
        self._param = param
        self._rule, copies = _RULES[param.type]
        self._tensors = [one.tensor for one in parameters]
        self._count = len(self._tensors)
        self.history = [torch.zeros_like(tensor) for _ in range(copies) for tensor in self._tensors]
        self._by_rate = _groups([one.lr_mult for one in parameters])
        self._by_decay = _groups([_single(param.weight_decay * one.decay_mult) for one in parameters])

    def clear(self) -> None:
        """Forgets all gradients."""
        for tensor in self._tensors:
            tensor.grad = None

    @torch.no_grad()
    def apply(self, rate: float, iteration: int) -> None:
        """Changes the blobs by their gradients, which are used up; where there is none, it is zero.

        Args:
            rate: the solver's.
            iteration: which, counted from 0.
        """
        if not self._tensors:
            return
        grads = [torch.zeros_like(one) if one.grad is None else one.grad for one in self._tensors]
        self._clip(grads)
        if self._param.iter_size > 1:
            torch._foreach_mul_(grads, 1.0 / self._param.iter_size)
        self._regularize(grads)
        rates = [(_single(rate * multiplier), indices) for multiplier, indices in self._by_rate]
        first, second = self.history[: self._count], self.history[self._count :]
        self._rule(_Update(self._param, iteration, rates, self._tensors, grads, first, second))
        self.clear()

    def _clip(self, grads: Tensors) -> None:
        limit = self._param.clip_gradients
        if limit < 0:
            return
        norm = float(torch.stack([one.to(self._tensors[0].device) for one in torch._foreach_norm(grads)]).norm())
        if norm > limit:
            torch._foreach_mul_(grads, limit / norm)

    def _regularize(self, grads: Tensors) -> None:
        for decay, indices in self._by_decay:
            if decay:
                blobs = _pick(self._tensors, indices)
                if self._param.regularization_type == "L1":
                    blobs = list(torch._foreach_sign(blobs))
                torch._foreach_add_(_pick(grads, indices), blobs, alpha=decay)


class _Update:
    """All that a rule needs for one update; `steps` subtracts what it found."""

    def __init__(
        self,
        param: pb.SolverParameter,
        iteration: int,
        rates: Sequence[tuple[float, Sequence[int]]],
        tensors: Tensors,
        grads: Tensors,
        first: Tensors,
        second: Tensors,
    ) -> None:
        self.param = param
        self.iteration = iteration
        self.rates = rates
        self.tensors = tensors
        self.grads = grads
        self.first = first
        self.second = second

    def add_grads(self, target: Tensors) -> None:
        """Adds to each target its gradient times its rate."""
        for rate, indices in self.rates:
            torch._foreach_add_(_pick(target, indices), _pick(self.grads, indices), alpha=rate)

    def steps(self, directions: Tensors, factor: float = 1.0) -> None:
        """Moves each blob against its direction, by its rate times a factor."""
        for rate, indices in self.rates:
            # A rate of zero times infinity is NaN in Caffe too.
            torch._foreach_add_(_pick(self.tensors, indices), _pick(directions, indices), alpha=-_single(rate * factor))


def _sgd(update: _Update) -> None:
    torch._foreach_mul_(update.first, update.param.momentum)
    update.add_grads(update.first)
    torch._foreach_sub_(update.tensors, update.first)


def _nesterov(update: _Update) -> None:
    momentum = update.param.momentum
    before = list(torch._foreach_mul(update.first, momentum))
    torch._foreach_mul_(update.first, momentum)
    update.add_grads(update.first)
    torch._foreach_sub_(before, update.first, alpha=1 + momentum)
    torch._foreach_add_(update.tensors, before)


def _adagrad(update: _Update) -> None:
    torch._foreach_addcmul_(update.first, update.grads, update.grads)
    _divide_by_root(update)


def _rmsprop(update: _Update) -> None:
    decay = update.param.rms_decay
    torch._foreach_mul_(update.first, decay)
    torch._foreach_addcmul_(update.first, update.grads, update.grads, value=1 - decay)
    _divide_by_root(update)


def _divide_by_root(update: _Update) -> None:
    roots = list(torch._foreach_sqrt(update.first))
    torch._foreach_add_(roots, update.param.delta)
    torch._foreach_div_(update.grads, roots)
    update.steps(update.grads)


def _adadelta(update: _Update) -> None:
    momentum, delta = update.param.momentum, update.param.delta
    torch._foreach_mul_(update.first, momentum)
    torch._foreach_addcmul_(update.first, update.grads, update.grads, value=1 - momentum)
    ratios = list(torch._foreach_add(update.second, delta))
    torch._foreach_div_(ratios, list(torch._foreach_add(update.first, delta)))
    torch._foreach_sqrt_(ratios)
    torch._foreach_mul_(update.grads, ratios)
    torch._foreach_mul_(update.second, momentum)
    torch._foreach_addcmul_(update.second, update.grads, update.grads, value=1 - momentum)
    update.steps(update.grads)


def _adam(update: _Update) -> None:
    beta1, beta2 = update.param.momentum, update.param.momentum2
    torch._foreach_mul_(update.first, beta1)
    torch._foreach_add_(update.first, update.grads, alpha=1 - beta1)
    torch._foreach_mul_(update.second, beta2)
    torch._foreach_addcmul_(update.second, update.grads, update.grads, value=1 - beta2)
    roots = list(torch._foreach_sqrt(update.second))
    torch._foreach_add_(roots, update.param.delta)
    update.steps(list(torch._foreach_div(update.first, roots)), _adam_correction(beta1, beta2, update.iteration + 1))


def _adam_correction(beta1: float, beta2: float, done: int) -> float:
    """What makes up for moments that began at zero; as in C, dividing by zero gives infinity and roots of less NaN."""
    above, below = 1 - math.pow(beta2, done), 1 - math.pow(beta1, done)
    root = math.sqrt(above) if above >= 0 else math.nan
    return root / below if below else math.nan if not root else math.inf


_RULES = {
    "SGD": (_sgd, 1),
    "Nesterov": (_nesterov, 1),
    "AdaGrad": (_adagrad, 1),
    "RMSProp": (_rmsprop, 1),
    "AdaDelta": (_adadelta, 2),
    "Adam": (_adam, 2),
}


def _groups(keys: Sequence[float]) -> list[tuple[float, list[int]]]:
    """Which indices have which number."""
    found: dict[float, list[int]] = {}
    for index, key in enumerate(keys):
        found.setdefault(key, []).append(index)
    return list(found.items())


def _pick(tensors: Tensors, indices: Sequence[int]) -> Tensors:
    return tensors if len(indices) == len(tensors) else [tensors[index] for index in indices]


def _single(value: float) -> float:
    """The nearest number of single precision."""
    return float(torch.tensor(value, dtype=torch.float32))
