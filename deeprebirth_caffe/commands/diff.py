"""`rebirth diff`: two nets by layer name."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from deeprebirth_caffe.commands.inspect import LayerRow, layer_rows
from deeprebirth_caffe.errors import UsageError
from deeprebirth_caffe.formats.files import read_regular_text
from deeprebirth_caffe.ir import summarize
from deeprebirth_caffe.nets.load import load_net
from deeprebirth_caffe.nets.manifest import Totals, totals
from deeprebirth_caffe.ops import Shape
from deeprebirth_caffe.results import Result


@dataclass(frozen=True, kw_only=True)
class Change:
    """A layer that both nets have, and not the same.

    Attributes:
        a: as it is in A.
        b: as it is in B.
    """

    name: str
    a: LayerRow
    b: LayerRow


@dataclass(frozen=True, kw_only=True)
class BothTotals:
    """The figures of both nets.

    Attributes:
        a: of A, in TEST.
        b: of B, in TEST.
    """

    a: Totals
    b: Totals


@dataclass(frozen=True, kw_only=True)
class Difference(Result):
    """What `rebirth diff` tells of two nets.

    Attributes:
        a: path of the first net.
        b: path of the second net.
        phase: `"TRAIN"` or `"TEST"`: in which the layers are compared.
        removed: those that only A has.
        new: those that only B has.
        changed: those that both have, and not the same.
        same: how many both have, and the same.
    """

    a: Path
    b: Path
    phase: str
    removed: Sequence[LayerRow]
    new: Sequence[LayerRow]
    changed: Sequence[Change]
    same: int
    totals: BothTotals


def diff(first: Path, second: Path, *, phase: str = "TEST", shapes: Mapping[str, Shape] | None = None) -> Difference:
    """Compares one phase of two nets.

    A layer is changed when its message (bottoms and tops included) or its shapes differ.
    """
    known = [_those_known(path, shapes or {}) for path in (first, second)]
    for name in shapes or {}:
        if not any(name in one for one in known):
            raise UsageError(f'--input-shape names blob "{name}", which neither net has')
    nets = [load_net(path, None, one) for path, one in zip((first, second), known, strict=True)]
    views = [net.view(phase) for net in nets]
    old, new = ({row.name: row for row in layer_rows(summarize(view))} for view in views)
    messages = [
        {layer.name: layer.param.SerializeToString(deterministic=True) for layer in view.layers} for view in views
    ]
    both = [name for name in old if name in new]
    changed = [name for name in both if messages[0][name] != messages[1][name] or old[name] != new[name]]
    return Difference(
        a=first,
        b=second,
        phase=phase,
        removed=[row for name, row in old.items() if name not in new],
        new=[row for name, row in new.items() if name not in old],
        changed=[Change(name=name, a=old[name], b=new[name]) for name in changed],
        same=len(both) - len(changed),
        totals=BothTotals(a=totals(nets[0]), b=totals(nets[1])),
    )


def _those_known(path: Path, shapes: Mapping[str, Shape]) -> Mapping[str, Shape]:
    """The shapes whose blob is in the file: the two nets may call their data differently."""
    if not shapes:
        return {}
    text = read_regular_text(path, "replace")
    return {name: shape for name, shape in shapes.items() if f'"{name}"' in text or f"'{name}'" in text}
