"""A net's learnable blobs: made, filled, shared as Caffe shares them, loaded and given back."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import prod
from typing import Any

import numpy as np
import torch

from deeprebirth_caffe.engines.base import EngineError
from deeprebirth_caffe.engines.torch.fillers import filled
from deeprebirth_caffe.formats.caffemodel import matches_shape
from deeprebirth_caffe.ir import Layer, Weights
from deeprebirth_caffe.ops import Shape
from deeprebirth_caffe.proto import caffe_pb2 as pb

_ONE = pb.FillerParameter(value=1)
_PRELU = pb.FillerParameter(value=0.25)


@dataclass
class Learnable:
    """One tensor that the solver may move.

    Attributes:
        tensor: its numbers; `.grad` is None where nothing reached it.
        lr_mult: its learning rate's factor, as Caffe settles it where layers share the tensor.
        decay_mult: its weight decay's factor.
        layer: the first layer that has it.
        index: which blob of that layer.
    """

    tensor: torch.Tensor
    lr_mult: float
    decay_mult: float
    layer: str
    index: int


@dataclass
class _Owner:
    learnable: Learnable
    shape: Shape
    says_lr: bool
    says_decay: bool


class Parameters:
    """The blobs of all layers of a net.

    Attributes:
        tensors: for each layer, its blobs in Caffe's order; a shared one is the same object wherever it is.
        shapes: for each layer, its blobs' shapes; with permissive sharing not those of its tensors.
        learnable: every tensor once, as Caffe's `learnable_params`.
    """

    def __init__(self) -> None:
        self.tensors: dict[Layer, list[torch.Tensor]] = {}
        self.shapes: dict[Layer, list[Shape]] = {}
        self.learnable: list[Learnable] = []
        self._named: dict[str, _Owner] = {}

    def add(self, layer: Layer, shapes: Sequence[Shape], made: Sequence[torch.Tensor]) -> None:
        """Takes a layer's blobs in, sharing those that have a name another layer gave already.

        Raises:
            EngineError: two layers share a blob that does not fit both, or disagree about its rates.
        """
        kept: list[torch.Tensor] = []
        for index, (shape, tensor) in enumerate(zip(shapes, made, strict=True)):
            spec = _spec(layer, index)
            owner = self._named.get(spec.name) if spec.name else None
            if owner is None:
                learnable = Learnable(tensor, spec.lr_mult, spec.decay_mult, layer.name, index)
                self.learnable.append(learnable)
                if spec.name:
                    says = spec.HasField("lr_mult"), spec.HasField("decay_mult")
                    self._named[spec.name] = _Owner(learnable, tuple(shape), *says)
            else:
                _share(owner, spec, tuple(shape), layer)
                tensor = owner.learnable.tensor
            kept.append(tensor)
        self.tensors[layer] = kept
        self.shapes[layer] = [tuple(shape) for shape in shapes]

    def load(self, weights: Weights) -> None:
        """Copies weights by layer name; layers the file does not have stay as they are.

        Raises:
            EngineError: a layer's blobs are others in number or shape.
        """
        found = [layer for layer in self.tensors if layer.name in weights]
        for layer in found:
            arrays, legacy = weights[layer.name], weights.legacy(layer.name)
            shapes = self.shapes[layer]
            if len(arrays) != len(shapes):
                raise EngineError(
                    f'layer "{layer.name}" has {len(shapes)} blobs, {weights.path or "the weights"} has {len(arrays)}; '
                    "these weights are another net's: rename the layer to start it anew"
                )
            for index, (array, old, shape) in enumerate(zip(arrays, legacy, shapes, strict=True)):
                if not matches_shape(array.shape, shape, old):
                    raise EngineError(
                        f'blob {index} of layer "{layer.name}" is {_by(shape)}, {weights.path or "the weights"} has '
                        f"{_by(array.shape)}; these weights are another net's: rename the layer to start it anew"
                    )
        with torch.no_grad():
            for layer in found:
                for tensor, array in zip(self.tensors[layer], weights[layer.name], strict=True):
                    values = torch.from_numpy(np.array(array, dtype=np.float32))
                    tensor.copy_(values.reshape(tensor.shape))

    def arrays(self, layer: Layer) -> list[np.ndarray[Any, np.dtype[np.float32]]]:
        """A layer's blobs as arrays of their own."""
        return [
            np.ascontiguousarray(tensor.detach().cpu().numpy()).reshape(shape).copy()
            for tensor, shape in zip(self.tensors[layer], self.shapes[layer], strict=True)
        ]


def new_blobs(layer: Layer, shapes: Sequence[Shape], generator: torch.Generator) -> list[torch.Tensor]:
    """Blobs for a layer, as its fillers say; zero where its type has none."""
    fillers = _fillers(layer.param, len(shapes))
    return [
        filled(filler, shape, generator, f'layer "{layer.name}"')
        if filler is not None
        else torch.zeros(tuple(shape), device=generator.device)
        for shape, filler in zip(shapes, fillers, strict=True)
    ]


def _fillers(param: pb.LayerParameter, count: int) -> list[pb.FillerParameter | None]:
    given: Mapping[str, Sequence[pb.FillerParameter]] = {
        "Convolution": (param.convolution_param.weight_filler, param.convolution_param.bias_filler),
        "Deconvolution": (param.convolution_param.weight_filler, param.convolution_param.bias_filler),
        "InnerProduct": (param.inner_product_param.weight_filler, param.inner_product_param.bias_filler),
        "Embed": (param.embed_param.weight_filler, param.embed_param.bias_filler),
        "Bias": (param.bias_param.filler,),
        "PReLU": (param.prelu_param.filler if param.prelu_param.HasField("filler") else _PRELU,),
        "Scale": (
            param.scale_param.filler if param.scale_param.HasField("filler") else _ONE,
            param.scale_param.bias_filler,
        ),
    }
    fillers = list(given.get(param.type, ()))
    if param.type == "Scale" and len(param.bottom) > 1:
        fillers = fillers[1:]  # the factor is an input: only the bias is learnt
    return [fillers[index] if index < len(fillers) else None for index in range(count)]


def _spec(layer: Layer, index: int) -> pb.ParamSpec:
    specs = layer.param.param
    if layer.type == "BatchNorm":
        # Caffe drops a full set of three (files of 2016 have them) and learns statistics in no other case.
        given = specs[index] if index < len(specs) < 3 else pb.ParamSpec()
        spec = pb.ParamSpec()
        spec.CopyFrom(given)
        spec.lr_mult = 0
        return spec
    return specs[index] if index < len(specs) else pb.ParamSpec()


def _share(owner: _Owner, spec: pb.ParamSpec, shape: Shape, layer: Layer) -> None:
    first = owner.learnable
    what = f'layer "{layer.name}" shares "{spec.name}" with layer "{first.layer}"'
    if spec.share_mode == pb.ParamSpec.PERMISSIVE:
        if prod(shape) != prod(owner.shape):
            raise EngineError(f"{what}, which has {prod(owner.shape)} numbers, not {prod(shape)}")
    elif shape != owner.shape:
        raise EngineError(f"{what}, which is {_by(owner.shape)}, not {_by(shape)}")
    for says, field in ((owner.says_lr, "lr_mult"), (owner.says_decay, "decay_mult")):
        if not spec.HasField(field):
            continue
        value = getattr(spec, field)
        if says and value != getattr(first, field):
            raise EngineError(f"{what}, but gives it another {field}: {value:g} instead of {getattr(first, field):g}")
        setattr(first, field, value)
    owner.says_lr |= spec.HasField("lr_mult")
    owner.says_decay |= spec.HasField("decay_mult")


def _by(shape: Sequence[int]) -> str:
    return "x".join(map(str, shape)) or "a scalar"
