"""`rebirth inspect`: what is in a net, what it costs, and what could merge."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from deeprebirth_caffe.commands.convert import ConvertOptions
from deeprebirth_caffe.errors import UsageError
from deeprebirth_caffe.ir import Net, NetCost, summarize
from deeprebirth_caffe.nets.load import load_net, upgrade_notes
from deeprebirth_caffe.nets.manifest import refusal_rows, uncounted
from deeprebirth_caffe.ops import Shape
from deeprebirth_caffe.rewrite import Rewriter
from deeprebirth_caffe.rewrite.pipeline import Outcome, run


def inspect(
    path: Path,
    weights: Path | None = None,
    *,
    phase: str | None = None,
    stages: Sequence[str] = (),
    shapes: Mapping[str, Shape] | None = None,
) -> dict[str, Any]:
    """Describes one view of a net as plain data; `docs/json.md` describes it.

    Args:
        path: of the net.
        weights: of its weights.
        phase: TRAIN or TEST; None: TEST, unless the file has TRAIN alone.
        stages: of the view.
        shapes: (C, H, W) by blob.

    Raises:
        RebirthError: the net cannot be read, or is not sound in that state.
        UsageError: no layer asks for a stage.
    """
    net = load_net(path, weights, shapes)
    _check_stages(net, stages)
    phase = phase or ("TRAIN" if "TEST" in net.absent else "TEST")
    view = net.view(phase, stages, stand_in=False)
    cost = summarize(view)
    outcome = run(Rewriter(net.copy()), ConvertOptions(path).passes())
    return {
        "version": 1,
        "net": str(path),
        "name": net.header.name,
        "state": {"phase": view.state.phase, "level": view.state.level, "stages": sorted(view.state.stages)},
        "states": [str(one.state) for one in net.views],
        "layers": layer_rows(cost),
        "batch": cost.batch,
        "params": cost.params,
        "macs": cost.macs,
        "memory_bytes": cost.memory_bytes,
        "memory_required_for_data": cost.memory_required_for_data,
        "uncounted": uncounted(cost),
        "unknown": sorted({value.unknown for value in view.values if value.shape is None}),
        "merges": merges(outcome),
        "refusals": refusal_rows(outcome),
        "notes": upgrade_notes(net),
    }


def _check_stages(net: Net, stages: Sequence[str]) -> None:
    known: dict[str, None] = {}
    for layer in net.layers:
        for rule in (*layer.param.include, *layer.param.exclude):
            known.update(dict.fromkeys((*rule.stage, *rule.not_stage)))
    for stage in stages:
        if stage not in known:
            there = f"they name {', '.join(known)}" if known else "they name none"
            raise UsageError(f'--stage: no rule of this net names the stage "{stage}"; {there}')


def layer_rows(cost: NetCost) -> list[dict[str, Any]]:
    """One object a layer."""
    return [
        {
            "name": row.layer.name,
            "type": row.layer.type,
            "stage": row.layer.stage,
            "bottoms": list(row.layer.bottoms),
            "tops": list(row.layer.tops),
            "top_shapes": [list(shape) if shape is not None else None for shape in row.top_shapes],
            "param_shapes": [list(shape) for shape in row.param_shapes] if row.param_shapes is not None else None,
            "params": row.params,
            "macs": row.macs,
        }
        for row in cost.layers
    ]


def merges(outcome: Outcome) -> list[dict[str, Any]]:
    """What convert would do."""
    return [
        {
            "pass": one.pass_name,
            "kind": one.kind.value,
            "stage": one.stage,
            "removed": one.applied.removed,
            "rebirth": one.applied.rebirth,
        }
        for one in outcome.rewrites
    ]
