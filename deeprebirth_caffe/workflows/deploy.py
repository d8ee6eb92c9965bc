"""`rebirth deploy`: learned weights to the phone. Training layers and auxiliary heads out, BatchNorm folded: exact."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from deeprebirth_caffe.engines.base import Engine
from deeprebirth_caffe.engines.probe import save_weights
from deeprebirth_caffe.errors import RebirthError, RefusedError
from deeprebirth_caffe.ir import Net
from deeprebirth_caffe.ops import Shape
from deeprebirth_caffe.passes.exact.strip_training import StripTraining
from deeprebirth_caffe.rewrite import Pass, Rewriter
from deeprebirth_caffe.rewrite.pipeline import Outcome, run
from deeprebirth_caffe.workflows.check import CheckResult, check_runs
from deeprebirth_caffe.workflows.exactness import all_exact
from deeprebirth_caffe.workflows.ledger import make_ledger
from deeprebirth_caffe.workflows.load import check_fit, layers_without_weights, load_net, upgrade_notes
from deeprebirth_caffe.workflows.manifest import make_manifest, totals
from deeprebirth_caffe.workflows.outputs import MANIFEST, Place
from deeprebirth_caffe.workflows.publish import json_bytes

DEPLOY = "deploy.prototxt"
DEPLOY_WEIGHTS = "deploy.caffemodel"


@dataclass(frozen=True)
class Stripped:
    """A deploy net and how it came about."""

    net: Net
    rewriter: Rewriter
    outcome: Outcome


def strip(
    net: Net,
    *,
    batch: int | None = None,
    fold: bool = True,
    skip_passes: Collection[str] = (),
    keep_exact: bool = False,
) -> Stripped:
    """A copy of the net with what only training needs taken out, and all other exact passes where there are weights.

    Args:
        net: left as it is.
        batch: see `StripTraining`.
        fold: whether the other exact passes run too.
        skip_passes: which of them do not.
        keep_exact: whether to keep the nets before and after, for a check.

    Raises:
        RebirthError: the shape of the input is not known, or the weights do not fit a net of that batch.
    """
    rewriter = Rewriter(net.copy())
    passes: list[Pass] = [StripTraining(batch=batch)]
    if fold and net.weights is not None:
        passes += all_exact(skip_passes)
    outcome = run(rewriter, passes, keep_exact=keep_exact)
    for refused in outcome.refusals:
        if refused.pass_name == StripTraining.name:
            raise RebirthError(f"no deploy net can be made: {refused.reason}")
    if rewriter.net.weights:
        check_fit(rewriter.net, rewriter.net.weights)  # they may be as many as the images of a batch
    return Stripped(rewriter.net, rewriter, outcome)


@dataclass(frozen=True)
class DeployOptions:
    """What `rebirth deploy` is told; see its help."""

    net: Path
    weights: Path
    out: Path
    input_shapes: Mapping[str, Shape] = field(default_factory=dict)
    batch: int | None = None
    skip_passes: tuple[str, ...] = ()
    fixed_size: bool = False
    force: bool = False
    shared: bool = False
    """Whether the output directory is meant to hold other files too, so that nothing is said of them."""


def deploy(options: DeployOptions, engine: Engine | None = None) -> dict[str, Any]:
    """Writes deploy.prototxt, deploy.caffemodel and manifest.json.

    Args:
        options: what to do.
        engine: real Caffe, to check the result with; None does not check.

    Returns:
        The manifest.

    Raises:
        RefusedError: the check does not hold; nothing is written.
    """
    files = (DEPLOY, DEPLOY_WEIGHTS, MANIFEST)
    place = Place(options.out, options.force, files)
    place.check((options.net, options.weights))
    net = load_net(options.net, options.weights, options.input_shapes)
    net.fixed_size = options.fixed_size
    original = net.copy()
    made = strip(net, batch=options.batch, skip_passes=options.skip_passes, keep_exact=engine is not None)
    if missing := layers_without_weights(made.net):
        raise RebirthError(
            f"{options.weights}: holds nothing for {', '.join(missing)}, which would run at random; "
            "are these the weights of this net?"
        )
    checks = check_runs(made.outcome.exact_runs, engine) if engine is not None else None
    raise_failures(checks)
    manifest = make_manifest(
        source={"net": str(options.net), "weights": str(options.weights), "solver": None},
        outputs={
            "directory": str(options.out),
            "deploy": DEPLOY,
            "weights": DEPLOY_WEIGHTS,
            "manifest": MANIFEST,
        },
        options={
            "passes": [StripTraining.name, *(one.name for one in all_exact(options.skip_passes))],
            "batch": made.net.view("TEST").batch,
            **({"fixed_size": True} if options.fixed_size else {}),
            "input_shapes": {blob: list(shape) for blob, shape in options.input_shapes.items()},
        },
        outcome=made.outcome,
        renamed=[],
        ledger=make_ledger(original, made.rewriter),
        lr_mult={},
        origins={},
        refit=None,
        reparam={},
        before=totals(original),
        after=totals(made.net),
        checks=checks,
        notes=[*upgrade_notes(original), *(() if options.shared else place.notes(files))],
    )
    weights = made.net.weights
    assert weights is not None
    place.publish(
        {
            DEPLOY: made.net.text(),
            DEPLOY_WEIGHTS: lambda file: save_weights(file, made.net, weights),
            MANIFEST: json_bytes(manifest),
        }
    )
    return manifest


def raise_failures(checks: list[CheckResult] | None) -> None:
    """Raises RefusedError with the first failure, if there is one."""
    for check in checks or []:
        if check.failure:
            raise RefusedError(f"check failed after {', '.join(check.passes)}: {check.failure}; nothing was written")
