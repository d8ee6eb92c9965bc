"""`rebirth deploy`: learned weights to the phone. Training layers and auxiliary heads out, BatchNorm folded: exact."""

from __future__ import annotations

from deeprebirth_caffe.engines.base import Engine
from deeprebirth_caffe.errors import RebirthError
from deeprebirth_caffe.formats.outputs import MANIFEST, Place
from deeprebirth_caffe.ir.probe import save_weights
from deeprebirth_caffe.nets.check import check_runs, checking, raise_failures
from deeprebirth_caffe.nets.exactness import EXACT_NAMES, all_exact, check_names
from deeprebirth_caffe.nets.ledger import make_ledger
from deeprebirth_caffe.nets.load import layers_without_weights, load_net, upgrade_notes
from deeprebirth_caffe.nets.manifest import DeployRecord, Manifest, Outputs, Source, rewritten, totals
from deeprebirth_caffe.nets.strip import DEPLOY, DEPLOY_WEIGHTS, strip
from deeprebirth_caffe.options.deploy import DeployOptions
from deeprebirth_caffe.options.fields import record
from deeprebirth_caffe.passes.exact.strip_training import StripTraining
from deeprebirth_caffe.wording import json_bytes


def deploy(options: DeployOptions, engine: Engine | None = None) -> Manifest:
    """Writes deploy.prototxt, deploy.caffemodel and manifest.json.

    Args:
        options: what to do.
        engine: real Caffe, to check the result with; None: that of `options`, where they want a check.

    Returns:
        The manifest.

    Raises:
        RefusedError: the check does not hold; nothing is written.
    """
    check_names(options.skip_passes, EXACT_NAMES)
    engine = checking(options.check, options.caffe, engine)
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
    manifest = Manifest(
        source=Source(net=options.net, weights=options.weights, solver=None),
        options=DeployRecord(
            passes=[StripTraining.name, *(one.name for one in all_exact(options.skip_passes))],
            **{**record(options), "batch": made.net.view("TEST").batch},
        ),
        outputs=Outputs(directory=options.out, deploy=DEPLOY, weights=DEPLOY_WEIGHTS),
        rewrites=rewritten(made.outcome),
        refusals=made.outcome.refusals,
        renamed_blobs={},
        ledger=make_ledger(original, made.rewriter),
        lr_mult={},
        origins={},
        refit=None,
        reparam={},
        before=totals(original),
        after=totals(made.net),
        check=checks,
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
