"""manifest.json: what a conversion did, for people, for `--json`, and for the conversion that comes after it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from deeprebirth_caffe import __version__
from deeprebirth_caffe.errors import RebirthError
from deeprebirth_caffe.formats.files import read_regular
from deeprebirth_caffe.formats.jsonfile import ANYTHING, TEXT, Each, Number, Shape, parse_json, shaped
from deeprebirth_caffe.formats.outputs import MANIFEST
from deeprebirth_caffe.ir import Net, NetCost, summarize
from deeprebirth_caffe.nets.check import CheckResult
from deeprebirth_caffe.nets.ledger import Ledger
from deeprebirth_caffe.rewrite.learning import LARGEST, LrMults
from deeprebirth_caffe.rewrite.pipeline import Outcome

SCHEMA = 1
"""The version of the JSON; it goes up when a field changes its meaning or goes away."""


def totals(net: Net) -> dict[str, Any]:
    """The figures of a net in TEST, for before and after."""
    view = next((view for view in net.views if view.state.phase == "TEST"), net.views[0])
    cost = summarize(view)
    return {
        "layers": len(view.layers),
        "batch": cost.batch,
        "params": cost.params,
        "macs": cost.macs,
        "memory_bytes": cost.memory_bytes,
        "memory_required_for_data": cost.memory_required_for_data,
        "uncounted": uncounted(cost),
    }


def uncounted(cost: NetCost) -> list[dict[str, str]]:
    """The layers that the totals do without, since a shape is not known."""
    return [{"name": layer.name, "type": layer.type} for layer in cost.uncounted]


def make_manifest(
    *,
    source: Mapping[str, Any],
    outputs: Mapping[str, Any],
    options: Mapping[str, Any],
    outcome: Outcome,
    renamed: Sequence[tuple[str, str]],
    ledger: Ledger,
    lr_mult: LrMults,
    origins: Mapping[str, Sequence[str]],
    refit: Mapping[str, Any] | None,
    reparam: Mapping[str, Sequence[str]],
    before: Mapping[str, Any],
    after: Mapping[str, Any],
    checks: Sequence[CheckResult] | None,
    notes: Sequence[str],
) -> dict[str, Any]:
    """The manifest as plain data; `docs/json.md` describes it."""
    return {
        "version": SCHEMA,
        "rebirth": __version__,
        "source": dict(source),
        "options": dict(options),
        "outputs": dict(outputs),
        "rewrites": [
            {
                "pass": one.pass_name,
                "kind": one.kind.value,
                "stage": one.stage,
                "removed": one.applied.removed,
                "rebirth": one.applied.rebirth,
                "macs_before": one.applied.macs_before,
                "macs_after": one.applied.macs_after,
                "notes": one.applied.notes,
                **one.applied.figures,
            }
            for one in outcome.rewrites
        ],
        "refusals": refusal_rows(outcome),
        "renamed_blobs": dict(renamed),
        "ledger": ledger.json(),
        "lr_mult": lr_mult,
        "origins": {name: list(names) for name, names in origins.items()},
        "refit": None if refit is None else dict(refit),
        "reparam": {whole: list(names) for whole, names in reparam.items()},
        "before": dict(before),
        "after": dict(after),
        "check": None
        if checks is None
        else [
            {
                "passes": list(one.passes),
                "blobs": one.blobs,
                "worst": one.worst,
                "worst_blob": one.worst_blob,
            }
            for one in checks
        ],
        "notes": list(notes),
    }


def refusal_rows(outcome: Outcome) -> list[dict[str, Any]]:
    """What stays as it was, and why: one object a place."""
    return [
        {"pass": one.pass_name, "layer": one.layer, "stage": one.stage, "reason": one.reason}
        for one in outcome.refusals
    ]


@dataclass(frozen=True)
class Earlier:
    """What an earlier conversion left to the next one.

    Attributes:
        lr_mult: the original lr_mult of its rebirth layers.
        reparam: the layers that learned as one, by the name of that one.
    """

    lr_mult: LrMults = field(default_factory=dict)
    reparam: dict[str, list[str]] = field(default_factory=dict)


_EARLIER: Shape = {"lr_mult": Each([Number(least=-LARGEST, most=LARGEST)]), "reparam?": Each([TEXT])}


def read_earlier(net_path: Path) -> Earlier:
    """Reads the manifest beside a net that an earlier conversion made; nothing where there is none.

    Raises:
        RebirthError: there is a manifest, but it cannot be read.
    """
    path = net_path.parent / MANIFEST
    if not path.is_file():
        return Earlier()
    try:
        manifest = shaped(parse_json(read_regular(path)), {"outputs": Each(ANYTHING), "version": ANYTHING})
        if net_path.name not in manifest["outputs"].values():
            return Earlier()
        if manifest["version"] != SCHEMA:
            raise ValueError(f"version {manifest['version']!r:.40}, and this rebirth reads {SCHEMA}")
        manifest = shaped(manifest, _EARLIER)
        return Earlier(manifest["lr_mult"], manifest.get("reparam", {}))
    except (OSError, ValueError) as error:
        raise RebirthError(
            f"{path}: cannot be read as a manifest of rebirth ({error}), and it holds the original learning rates of "
            f"{net_path.name}; repair it or move it away"
        ) from error
