"""Layers whose code is not Caffe's."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from .base import Datum, Op, Shape, unknown

if TYPE_CHECKING:
    from ..proto import caffe_pb2 as pb


def _python(layer: pb.LayerParameter, bottoms: Sequence[Shape], datum: Datum | None) -> list[Shape]:
    p = layer.python_param
    unknown(layer, f"its shapes are decided by Python code ({p.module}.{p.layer}), which is not run")


OPS = [Op("Python", _python, min_bottoms=0, max_bottoms=None, min_tops=0, max_tops=None, custom=True)]
