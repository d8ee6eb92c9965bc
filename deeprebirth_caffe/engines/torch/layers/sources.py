"""DummyData and Parameter: tops that come from no other blob. (What is fed or read from files, the net sees to.)"""

from __future__ import annotations

from collections.abc import Sequence

import torch

from deeprebirth_caffe.engines.torch.fillers import filled
from deeprebirth_caffe.engines.torch.layers.base import Lowered, Spec, lowers
from deeprebirth_caffe.ops import op
from deeprebirth_caffe.proto import caffe_pb2 as pb


@lowers("DummyData")
class DummyData(Lowered):
    """Tops as their fillers say: constants once, anything else anew each time."""

    def __init__(self, spec: Spec) -> None:
        super().__init__(spec)
        p = spec.param.dummy_data_param
        kind = op("DummyData")
        assert kind is not None
        self._shapes = kind.shapes(spec.param, [])
        fillers = list(p.data_filler) or [pb.FillerParameter()]
        self._fillers = fillers if len(fillers) == len(self._shapes) else fillers * len(self._shapes)
        self._constants: dict[int, torch.Tensor] = {}

    def forward(self, bottoms: Sequence[torch.Tensor], blobs: Sequence[torch.Tensor]) -> Sequence[torch.Tensor]:
        return [self._top(index) for index in range(len(self._shapes))]

    def _top(self, index: int) -> torch.Tensor:
        found = self._constants.get(index)
        if found is None:
            filler = self._fillers[index]
            where = f'layer "{self.spec.param.name}"'
            found = filled(filler, self._shapes[index], self.spec.generator, where)
            if filler.type == "constant":
                self._constants[index] = found
        return found


@lowers("Parameter")
class Parameter(Lowered):
    """A learnable blob as a top."""

    def forward(self, bottoms: Sequence[torch.Tensor], blobs: Sequence[torch.Tensor]) -> Sequence[torch.Tensor]:
        return [blobs[0].view_as(blobs[0])]
