"""`rebirth diff`: two nets by layer name."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from deeprebirth_caffe.commands.inspect import layer_rows
from deeprebirth_caffe.errors import UsageError
from deeprebirth_caffe.formats.files import read_regular_text
from deeprebirth_caffe.ir import NetCost, summarize
from deeprebirth_caffe.nets.load import load_net
from deeprebirth_caffe.nets.manifest import totals
from deeprebirth_caffe.ops import Shape


def diff(
    first: Path, second: Path, *, phase: str = "TEST", shapes: Mapping[str, Shape] | None = None
) -> dict[str, Any]:
    """Compares one phase of two nets; `docs/json.md` describes the result.

    A layer is changed when its message (bottoms and tops included) or its shapes differ.
    """
    known = [_those_known(path, shapes or {}) for path in (first, second)]
    for name in shapes or {}:
        if not any(name in one for one in known):
            raise UsageError(f'--input-shape names blob "{name}", which neither net has')
    nets = [load_net(path, None, one) for path, one in zip((first, second), known, strict=True)]
    views = [net.view(phase) for net in nets]
    costs = [summarize(view) for view in views]
    rows = [_by_name(cost) for cost in costs]
    messages = [
        {layer.name: layer.param.SerializeToString(deterministic=True) for layer in view.layers} for view in views
    ]
    old, new = rows
    return {
        "version": 1,
        "a": str(first),
        "b": str(second),
        "phase": phase,
        "removed": [row for name, row in old.items() if name not in new],
        "new": [row for name, row in new.items() if name not in old],
        "changed": [
            {"name": name, "a": old[name], "b": new[name]}
            for name in old
            if name in new and (messages[0][name] != messages[1][name] or old[name] != new[name])
        ],
        "same": sum(
            1 for name in old if name in new and messages[0][name] == messages[1][name] and old[name] == new[name]
        ),
        "totals": {"a": totals(nets[0]), "b": totals(nets[1])},
    }


def _by_name(cost: NetCost) -> dict[str, dict[str, Any]]:
    return {row["name"]: row for row in layer_rows(cost)}


def _those_known(path: Path, shapes: Mapping[str, Shape]) -> Mapping[str, Shape]:
    """The shapes whose blob is in the file: the two nets may call their data differently."""
    if not shapes:
        return {}
    text = read_regular_text(path, "replace")
    return {name: shape for name, shape in shapes.items() if f'"{name}"' in text or f"'{name}'" in text}
