"""`rebirth inspect`: what is in a net, what it costs, and what could merge."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from deeprebirth_caffe.commands.convert import passes_of
from deeprebirth_caffe.errors import UsageError
from deeprebirth_caffe.ir import Net, NetCost, summarize
from deeprebirth_caffe.nets.load import load_net, upgrade_notes
from deeprebirth_caffe.nets.manifest import Merge, Uncounted, merges, uncounted
from deeprebirth_caffe.ops import Shape
from deeprebirth_caffe.options.convert import ConvertOptions
from deeprebirth_caffe.results import Result
from deeprebirth_caffe.rewrite import Rewriter
from deeprebirth_caffe.rewrite.pipeline import Refused, run


@dataclass(frozen=True, kw_only=True)
class State:
    """What a description is of.

    Attributes:
        phase: `"TRAIN"` or `"TEST"`.
        level: NetState's level.
        stages: NetState's stages.
    """

    phase: str
    level: int
    stages: Sequence[str]


@dataclass(frozen=True, kw_only=True)
class LayerRow:
    """A layer.

    Attributes:
        type: Caffe's.
        stage: as in the paper's tables; for `--only` and `--skip`.
        bottoms: blobs it reads.
        tops: blobs it writes.
        top_shapes: of each top, batch included; null where it is not known.
        param_shapes: of each learned blob, in Caffe's order; null (for the whole list) where they are not known.
        params: learned numbers.
        macs: multiply-adds of an image.
    """

    name: str
    type: str
    stage: str
    bottoms: Sequence[str]
    tops: Sequence[str]
    top_shapes: Sequence[Shape | None]
    param_shapes: Sequence[Shape] | None
    params: int | None
    macs: int | None


@dataclass(frozen=True, kw_only=True)
class Inspection(Result):
    """What `rebirth inspect` tells of a net.

    Attributes:
        net: path.
        name: the net's own name; empty where it has none.
        state: what the rest describes.
        states: all states that the file tells apart: phase, then level and stages where they matter.
        layers: those alive in that state, in order.
        batch: images of a pass.
        params: learned numbers.
        macs: multiply-adds of an image.
        memory_bytes: what Caffe needs for an image.
        memory_required_for_data: what Caffe logs under this name.
        uncounted: the layers that these sums do without, since a shape is not known; null stands where nothing is
            known.
        unknown: for people: why shapes are not known.
        merges: what `rebirth convert` would do.
        refusals: what it would not do.
        notes: for people: what the upgrade of an old file changed or left out.
    """

    net: Path
    name: str
    state: State
    states: Sequence[str]
    layers: Sequence[LayerRow]
    batch: int
    params: int | None
    macs: int | None
    memory_bytes: int | None
    memory_required_for_data: int | None
    uncounted: Sequence[Uncounted]
    unknown: Sequence[str]
    merges: Sequence[Merge]
    refusals: Sequence[Refused]
    notes: Sequence[str]


def inspect(
    path: Path,
    weights: Path | None = None,
    *,
    phase: str | None = None,
    stages: Sequence[str] = (),
    shapes: Mapping[str, Shape] | None = None,
) -> Inspection:
    """Describes one view of a net.

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
    outcome = run(Rewriter(net.copy()), passes_of(ConvertOptions(path)))
    return Inspection(
        net=path,
        name=net.header.name,
        state=State(phase=view.state.phase, level=view.state.level, stages=sorted(view.state.stages)),
        states=[str(one.state) for one in net.views],
        layers=layer_rows(cost),
        batch=cost.batch,
        params=cost.params,
        macs=cost.macs,
        memory_bytes=cost.memory_bytes,
        memory_required_for_data=cost.memory_required_for_data,
        uncounted=uncounted(cost),
        unknown=sorted({value.unknown for value in view.values if value.shape is None}),
        merges=merges(outcome),
        refusals=outcome.refusals,
        notes=upgrade_notes(net),
    )


def _check_stages(net: Net, stages: Sequence[str]) -> None:
    known: dict[str, None] = {}
    for layer in net.layers:
        for rule in (*layer.param.include, *layer.param.exclude):
            known.update(dict.fromkeys((*rule.stage, *rule.not_stage)))
    for stage in stages:
        if stage not in known:
            there = f"they name {', '.join(known)}" if known else "they name none"
            raise UsageError(f'--stage: no rule of this net names the stage "{stage}"; {there}')


def layer_rows(cost: NetCost) -> list[LayerRow]:
    """One row a layer."""
    return [
        LayerRow(
            name=row.layer.name,
            type=row.layer.type,
            stage=row.layer.stage,
            bottoms=list(row.layer.bottoms),
            tops=list(row.layer.tops),
            top_shapes=row.top_shapes,
            param_shapes=row.param_shapes,
            params=row.params,
            macs=row.macs,
        )
        for row in cost.layers
    ]
