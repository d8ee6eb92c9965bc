"""The embedded engine as a measure: in float64, and step by step from the values of real Caffe."""

from __future__ import annotations

from collections.abc import Mapping
from math import prod
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from deeprebirth_caffe.engines.torch.build import Step
from deeprebirth_caffe.engines.torch.net import TorchNet
from deeprebirth_caffe.ir import Net, NetState

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray


def array(tensor: torch.Tensor) -> NDArray[Any]:
    """A tensor's values."""
    return np.array(tensor.detach().numpy(), order="C")


class ExactNet(TorchNet):
    """A net in float64 with the weights of another one: the truth that float32 is measured by."""

    def __init__(self, net: Net, state: NetState, like: TorchNet) -> None:
        super().__init__(net, state, seed=1, sources=False)
        for name, tensors in self.blobs_of.items():
            for tensor, other in zip(tensors, like.blobs_of[name], strict=True):
                tensor.data = other.detach().double()

    def feed(self, inputs: Mapping[str, NDArray[Any] | torch.Tensor]) -> None:
        """Leaves the inputs in float64."""
        self._fed.update((name, torch.as_tensor(values).double()) for name, values in inputs.items())


class FollowingNet(TorchNet):
    """A net whose layers each go on from what real Caffe has, where that is given.

    So each layer is held against Caffe's on its own, with its own rounding, and not with that of all layers before it.
    In a whole net that runs by itself a value within a rounding of 0 may open a ReLU, and two pixels that all but tie
    may be picked otherwise, in one engine alone; one such switch turns all gradients below it by up to 1 %. Here
    switches stand as Caffe's do, so gradients have to agree to their rounding.

    Attributes:
        real: Caffe's blobs, by name, as they are after its forward pass; empty: run as ever.
        mine: Each blob as the layer here computed it, before Caffe's took its place.
    """

    def __init__(self, net: Net, state: NetState, **options: Any) -> None:
        super().__init__(net, state, **options)
        self.real: Mapping[str, NDArray[Any]] = {}
        self.mine: dict[str, NDArray[Any]] = {}
        self._last_number = self._numbers(self.blobs)

    def follow(self, real: Mapping[str, NDArray[Any]], inputs: Mapping[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
        """Runs forward from Caffe's values, for `backward` and `blob_diff`; gives each blob as computed here."""
        self.real, self.mine = real, {}
        outs = self.forward(inputs, keep=self.blobs, retain=True)
        self.real = {}
        return {name: self.mine.get(name, array(tensor)) for name, tensor in outs.items()}

    def _run(self, step: Step, values: dict[int, torch.Tensor], retain: bool) -> Sequence[torch.Tensor]:
        tops = super()._run(step, values, retain)
        for number, top in zip(step.outs, tops, strict=False):
            name = self._names[number]
            # What a layer in place writes over is nowhere to be had.
            if name in self.real and self._last_number[name] == number:
                self.mine[name] = array(top)
                top.data.copy_(torch.from_numpy(np.array(self.real[name])).reshape(top.shape))
        return tops

    def terms(self) -> dict[str, int]:
        """How many numbers are added up for a value of each blob, by all layers that write on it."""
        counts: dict[str, int] = {}
        for step in self._steps:
            for name in step.layer.tops:
                counts[name] = counts.get(name, 0) + self._sums(step)[0]
        return counts

    def gradient_terms(self) -> int:
        """How many numbers are added up for a gradient by all layers from the losses down to the data."""
        return sum(self._sums(step)[1] for step in self._steps)

    def _sums(self, step: Step) -> tuple[int, int]:
        """How many numbers a layer adds up for one value, and for one gradient of its weights or its input."""
        bottom, top = (self._last[numbers[0]] if numbers else torch.zeros(1) for numbers in (step.ins, step.outs))
        channels = top.shape[1] if top.dim() > 1 else 1
        pixels = max(bottom.numel(), top.numel()) // max(channels, 1)
        if step.layer.type == "BatchNorm":
            return pixels, pixels
        matrix = step.shapes[0] if step.shapes and len(step.shapes[0]) > 1 else (1, 1)
        # A Softmax and an LRN add up channels.
        values = max(prod(matrix) // min(matrix[:2]), bottom.numel() // max(top.numel(), 1), channels, 1)
        return values, max(values, pixels) if step.shapes else values
