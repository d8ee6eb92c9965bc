"""Whole trainings in the embedded engine, and what rate and decay each blob really gets, read off one step."""

from __future__ import annotations

from pathlib import Path

import torch
from measured_caffe import TrainResult

from deeprebirth_caffe.engines.torch.engine import TorchEngine
from deeprebirth_caffe.engines.torch.net import TorchNet


def train(engine: TorchEngine, solver: Path, iterations: int, weights: Path | None = None) -> TrainResult:
    """Trains for some iterations; `rates` and `decays` are measured in the first."""
    steps = []
    with engine.trainer(solver, weights=() if weights is None else (weights,)) as trainer:
        measure = Measure(trainer.net)
        for _ in range(iterations):
            steps.append(trainer.step())
            if len(steps) == 1:
                measure.finish(steps[0].lr)
    return TrainResult(
        losses=tuple(step.loss for step in steps),
        outputs={name: tuple(step.outputs[name] for step in steps) for name in steps[0].outputs},
        learning_rate=steps[0].lr,
        rates=measure.rates,
        decays=measure.decays,
    )


class Measure:
    """Watches one step: made before it, asked after it.

    Right for plain SGD, with neither clip_gradients nor iter_size, as in real Caffe's worker.

    Attributes:
        rates: for each layer and blob, lr_mult; 0 where it did not move, None where it moved without a gradient.
        decays: likewise decay_mult times the weight decay; None where it cannot be told.
    """

    def __init__(self, net: TorchNet) -> None:
        self.rates: dict[str, tuple[float | None, ...]] = {}
        self.decays: dict[str, tuple[float | None, ...]] = {}
        self._net = net
        self._before = {id(each.tensor): each.tensor.detach().clone() for each in net.learnable}
        self._gradients: dict[int, torch.Tensor] = {}
        self._hooks = [
            each.tensor.register_post_accumulate_grad_hook(self._keep)  # type: ignore[no-untyped-call]
            for each in net.learnable
            if each.tensor.requires_grad
        ]
        self._statistics = {layer.name for layer in net.view.layers if layer.type == "BatchNorm"}

    def _keep(self, tensor: torch.Tensor) -> None:
        if tensor.grad is not None:
            self._gradients[id(tensor)] = tensor.grad.clone()

    def finish(self, rate: float) -> None:
        """Compares, after the step; `rate` is the solver's."""
        for hook in self._hooks:
            hook.remove()
        for name, tensors in self._net.blobs_of.items():
            if name in self._statistics:  # forward moves them; no solver does
                pairs: list[tuple[float | None, float | None]] = [(0.0, None)] * len(tensors)
            else:
                pairs = [_measured(self._before[id(t)], self._gradients.get(id(t)), t.detach(), rate) for t in tensors]
            self.rates[name] = tuple(pair[0] for pair in pairs)
            self.decays[name] = tuple(pair[1] for pair in pairs)
        self._before, self._gradients = {}, {}


def _measured(
    before: torch.Tensor, gradient: torch.Tensor | None, after: torch.Tensor, rate: float
) -> tuple[float | None, float | None]:
    """The least-squares a, b of step = rate * a * (gradient + b * weights)."""
    if rate == 0 or torch.equal(before, after):
        return 0.0, None
    if gradient is None or not bool(gradient.any()):
        return None, None
    step, g, w = _double(before - after) / rate, _double(gradient), _double(before)
    gg, gw, ww = float(g @ g), float(g @ w), float(w @ w)
    determinant = gg * ww - gw * gw
    if ww == 0 or determinant <= 1e-9 * gg * ww:
        return float(g @ step) / gg, None
    a = (ww * float(g @ step) - gw * float(w @ step)) / determinant
    c = (gg * float(w @ step) - gw * float(g @ step)) / determinant
    return a, (c / a if a else None)


def _double(tensor: torch.Tensor) -> torch.Tensor:
    # Reshaped first: no two of these may differ in the order of their numbers.
    return tensor.reshape(-1).cpu().double()
