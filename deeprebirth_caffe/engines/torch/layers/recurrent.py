"""LSTM, RNN and LSTMUnit."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch.nn import functional

from deeprebirth_caffe.engines.torch.fillers import filled
from deeprebirth_caffe.engines.torch.layers.base import Lowered, Spec, lowers

if TYPE_CHECKING:
    from torch import Tensor


class _Gate(torch.autograd.Function):
    """cont * sigmoid(x), with a gradient that takes this for the sigmoid: right where cont is 0 or 1."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, cont: Tensor) -> Tensor:
        gate = torch.sigmoid(x) * cont
        ctx.save_for_backward(gate)
        return gate

    @staticmethod
    def backward(ctx: Any, *grads: Any) -> Any:
        (gate,) = ctx.saved_tensors
        return grads[0] * gate * (1 - gate), None


def _unit(cell: Tensor, gates: Tensor, cont: Tensor) -> tuple[Tensor, Tensor]:
    """One step: the new cell and the new hidden state. `cont` is 0 where a sequence starts, with an axis to spread."""
    into, forget, out, new = gates.chunk(4, -1)
    cell = _Gate.apply(forget, cont) * cell + torch.sigmoid(into) * torch.tanh(new)  # type: ignore[no-untyped-call]
    return cell, torch.sigmoid(out) * torch.tanh(cell)


@lowers("LSTMUnit")
class LSTMUnit(Lowered):
    """One step of an LSTM: cell, gates and continuation in; cell and hidden state out."""

    def forward(self, bottoms: Sequence[Tensor], blobs: Sequence[Tensor]) -> Sequence[Tensor]:
        """Gives cell and hidden state."""
        cell, gates, cont = bottoms
        return _unit(cell, gates, cont.detach()[..., None])


class Recurrent(Lowered):
    """What LSTM and RNN share: inputs, and states that go on from batch to batch.

    Gradients do not: neither into the states of the batch before, nor through states that other layers give or take
    (`expose_hidden`), as in Caffe.

    Attributes:
        states: how many states a step hands to the next; `carried` has them after a batch.
    """

    states = 1

    def __init__(self, spec: Spec) -> None:
        super().__init__(spec)
        self.size = spec.param.recurrent_param.num_output
        self.exposed = spec.param.recurrent_param.expose_hidden

    def start(self, blobs: Sequence[Tensor]) -> bool:
        """Fills the weights with one filler and the biases with another."""
        p = self.spec.param.recurrent_param
        where = f'layer "{self.spec.param.name}"'
        for blob in blobs:
            filler = p.bias_filler if blob.dim() == 1 else p.weight_filler
            blob.copy_(filled(filler, blob.shape, self.spec.generator, where))
        return True

    def forward(self, bottoms: Sequence[Tensor], blobs: Sequence[Tensor]) -> Sequence[Tensor]:
        """Gives the outputs of all steps, and the last states where they are exposed."""
        x, cont = bottoms[0].flatten(2), bottoms[1].detach()[..., None]
        given = [bottom.detach()[0] for bottom in bottoms[len(bottoms) - self.states :]] if self.exposed else []
        static = bottoms[2].flatten(1) if len(bottoms) > 2 + len(given) else None
        start = given or self.carried
        shape = (x.shape[1], self.size)
        if not start or start[0].shape != shape:
            start = [x.new_zeros(shape)] * self.states
        weights = list(blobs)
        inner = functional.linear(x, weights.pop(0), weights.pop(0))
        if static is not None:
            inner = inner + static @ weights.pop(0).t()
        outputs, last = self.unroll(inner, cont, start, weights)
        last = [state.detach() for state in last]
        if self.exposed:
            return [outputs, *[state[None] for state in last]]
        self.carried = last
        return [outputs]

    def unroll(
        self, inner: Tensor, cont: Tensor, states: Sequence[Tensor], weights: Sequence[Tensor]
    ) -> tuple[Tensor, list[Tensor]]:
        """Goes through the steps; gives the outputs and the last states.

        Args:
            inner: what the inputs, static ones too, add at each step.
            cont: 0 where a sequence starts.
            states: those before the first step.
            weights: the blobs that are left.
        """
        raise NotImplementedError


@lowers("LSTM")
class LSTM(Recurrent):
    """Long short-term memory; its states are the hidden one and the cell."""

    states = 2

    def unroll(
        self, inner: Tensor, cont: Tensor, states: Sequence[Tensor], weights: Sequence[Tensor]
    ) -> tuple[Tensor, list[Tensor]]:
        """Goes through the steps."""
        hidden, cell = states
        outputs = []
        for add, go in zip(inner, cont, strict=True):
            cell, hidden = _unit(cell, add + (go * hidden) @ weights[0].t(), go)
            outputs.append(hidden)
        return torch.stack(outputs), [hidden, cell]


@lowers("RNN")
class RNN(Recurrent):
    """A hidden layer that reads itself, and an output layer, both with tanh."""

    def unroll(
        self, inner: Tensor, cont: Tensor, states: Sequence[Tensor], weights: Sequence[Tensor]
    ) -> tuple[Tensor, list[Tensor]]:
        """Goes through the steps."""
        (hidden,) = states
        again, out, bias = weights
        outputs = []
        for add, go in zip(inner, cont, strict=True):
            hidden = torch.tanh(add + (go * hidden) @ again.t())
            outputs.append(hidden)
        return torch.tanh(torch.stack(outputs) @ out.t() + bias), [hidden]
