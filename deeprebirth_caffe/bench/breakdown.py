"""Splits the time: layers by name, type or stage, tensor layers against the others."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from deeprebirth_caffe.ir import View

BY = ("layer", "type", "stage")
KNOWN = 0.95
"""If known layers take less of the time than this, their share says nothing about the net."""
LAYOUT = re.compile(r"Reorder(Input|Output)(_token_\d+)?|trlayout\.\d+")
"""Rows that ONNX Runtime and OpenCV add where they reorder the numbers of a blob."""

CHANGED = re.compile(r"^fused |(_nchwc)?(_token_\d+)?$")
"""The additions of ONNX Runtime to the names of layers that it changes."""

Known = tuple[str, str, bool | None]
"""Type, stage, and whether it is a tensor layer."""


@dataclass(frozen=True)
class LayerTime:
    """One row.

    Attributes:
        name: as the engine calls it; of a fused one, one of the layers in it.
        type: Caffe's; `Split` for those that Caffe inserts, `(layout)` where an engine reorders a blob, empty where the
            name is not the net's.
        stage: as in the paper's tables; likewise.
        tensor: whether it has weights that meet the input in a matrix product; null where the name is not known.
        forward_ms: the median over the runs of its mean.
    """

    name: str
    type: str
    stage: str
    tensor: bool | None
    forward_ms: float


def layer_times(rows: Iterable[tuple[str, float]], view: View, stages: Mapping[str, str]) -> tuple[LayerTime, ...]:
    """Puts types and stages beside an engine's rows.

    Args:
        rows: name and milliseconds.
        view: what was run.
        stages: by layer name.
    """
    known: dict[str, Known] = {}
    for layer in view.layers:
        stage = stages.get(layer.name, layer.stage)
        known[layer.name] = layer.type, stage, layer.op.tensor if layer.op is not None else None
    for layer in view.layers:
        for value in view.outs[layer]:
            if value.copies:
                # Caffe's name of the layer that copies a blob for its readers.
                name = f"{value.name}_{layer.name}_{value.index}_split"
                known.setdefault(name, ("Split", known[layer.name][1], False))
    return tuple(LayerTime(name, *_layer_of(name, known), ms) for name, ms in rows)


def _layer_of(name: str, known: Mapping[str, Known]) -> Known:
    """The layer that an engine's row belongs to."""
    if name in known:
        return known[name]
    if LAYOUT.fullmatch(name):
        return "(layout)", "(layout)", False
    bare = CHANGED.sub("", name)
    # Our ONNX export names the nodes of a layer `layer/node`.
    return known.get(bare) or known.get(bare.rpartition("/")[0]) or ("", "", None)


def tensor_share(layers: Sequence[LayerTime]) -> float | None:
    """The share of tensor layers in the layers' time; None if too much of that has no known layer."""
    total = sum(layer.forward_ms for layer in layers)
    known = sum(layer.forward_ms for layer in layers if layer.tensor is not None)
    if not total or known < KNOWN * total:
        return None
    return sum(layer.forward_ms for layer in layers if layer.tensor) / known


@dataclass
class Group:
    """Layers in the same row of a table."""

    tensor_ms: float = 0.0
    other_ms: float = 0.0

    @property
    def ms(self) -> float:
        """Milliseconds of all layers of the group."""
        return self.tensor_ms + self.other_ms


def grouped(layers: Iterable[LayerTime], by: str) -> dict[str, Group]:
    """Adds up layers, in the order in which their groups first appear.

    Args:
        layers: with their times.
        by: one of BY.
    """
    key = "name" if by == "layer" else by
    groups: dict[str, Group] = {}
    for layer in layers:
        group = groups.setdefault(getattr(layer, key) or "?", Group())
        if layer.tensor:
            group.tensor_ms += layer.forward_ms
        else:
            group.other_ms += layer.forward_ms
    return groups
