"""What a layer is to the embedded engine, and the table of those there are."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from deeprebirth_caffe.engines.base import EngineError
from deeprebirth_caffe.ops import Shape
from deeprebirth_caffe.proto import caffe_pb2 as pb

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True)
class Spec:
    """What a layer is made from.

    Attributes:
        param: its message.
        train: whether the net is in phase TRAIN.
        bottoms: shapes of its inputs when the net was loaded; later passes may bring others.
        blobs: shapes of its learnable blobs, in Caffe's order.
        generator: the net's random numbers (Dropout, stochastic pooling), on its device; part of its state.
        root: where relative paths in it start.
    """

    param: pb.LayerParameter
    train: bool
    bottoms: Sequence[Shape]
    blobs: Sequence[Shape]
    generator: torch.Generator
    root: Path = Path()


class Lowered:
    """One layer, ready to run. Subclasses say what `forward` does; autograd does the rest.

    A layer is called with tensors of whatever memory format and must not change its inputs, except its own blobs where
    Caffe does that too (BatchNorm's statistics), under `no_grad`. Shapes are taken from the tensors, not from `spec`.

    Attributes:
        spec: what it was made from.
        half: whether it takes bfloat16 as it comes (`--precision bf16`); the others get, and give, float32.
        fresh: whether its tops are new memory that its backward pass does not need, so that the layer behind may
            write on them.
        overwrite: set by the net for one run: its first input may be written on. Few layers make use of it.
        carried: what it takes from one batch to the next (recurrent states); part of the net's state.
    """

    half: bool = False
    fresh: bool = False
    overwrite: bool = False

    def __init__(self, spec: Spec) -> None:
        self.spec = spec
        self.carried: list[torch.Tensor] = []

    def forward(self, bottoms: Sequence[torch.Tensor], blobs: Sequence[torch.Tensor]) -> Sequence[torch.Tensor]:
        """Gives the tops, as many as the layer has (nameless loss tops included).

        Args:
            bottoms: its inputs, float32 (labels too, as in Caffe).
            blobs: its learnable blobs.
        """
        raise NotImplementedError

    def start(self, blobs: Sequence[torch.Tensor]) -> bool:
        """Fills fresh blobs where that is not a matter of fillers; False leaves them to the fillers or zero."""
        return False


Maker = TypeVar("Maker", bound=Callable[[Spec], Lowered])

_MAKERS: dict[str, Callable[[Spec], Lowered]] = {}


def lowers(*types: str) -> Callable[[Maker], Maker]:
    """Registers what makes the layers of these types."""

    def register(maker: Maker) -> Maker:
        for kind in types:
            _MAKERS[kind] = maker
        return maker

    return register


def make(spec: Spec) -> Lowered:
    """Makes a layer ready to run.

    Raises:
        EngineError: the embedded engine does not run this type; it says why.
    """
    from deeprebirth_caffe.engines.torch.layers import load_all

    load_all()
    maker = _MAKERS.get(spec.param.type)
    if maker is None:
        raise EngineError(
            f'layer "{spec.param.name}": the embedded engine does not run type {spec.param.type}; use --engine caffe'
        )
    return maker(spec)


def made_types() -> frozenset[str]:
    """The types there are."""
    from deeprebirth_caffe.engines.torch.layers import load_all

    load_all()
    return frozenset(_MAKERS)
