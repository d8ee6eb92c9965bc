"""`rebirth distil`: a plain Caffe net, with its solver and start, in which a converted net learns from the original."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from deeprebirth_caffe import __version__
from deeprebirth_caffe.engines.probe import save_weights
from deeprebirth_caffe.formats.collector import uncollected
from deeprebirth_caffe.formats.prototxt import format_message
from deeprebirth_caffe.formats.solver import read_solver
from deeprebirth_caffe.proto import caffe_pb2 as pb
from deeprebirth_caffe.workflows.conversion import Opened, open_conversion
from deeprebirth_caffe.workflows.defaults import DISTIL_BASE_LR, DISTIL_ITERATIONS
from deeprebirth_caffe.workflows.distilling import Distilling, distilling_net
from deeprebirth_caffe.workflows.manifest import SCHEMA, read_earlier
from deeprebirth_caffe.workflows.outputs import MANIFEST, Place
from deeprebirth_caffe.workflows.publish import json_bytes
from deeprebirth_caffe.workflows.rewriting import INIT, SOLVER
from deeprebirth_caffe.workflows.solver import WEIGHT_DECAY

NET = "distil.prototxt"
PREFIX = "distil"
"""Of the snapshots."""

FALLS_AT = 2 / 3
"""The part of the iterations after which the learning rate falls to a tenth."""

DISPLAY = 100
SNAPSHOT = 1000


@dataclass(frozen=True)
class DistilOptions:
    """What `rebirth distil` is told; see its help.

    Attributes:
        directory: that `rebirth convert` wrote.
        weights: that the converted net starts from; None: those in the directory.
        teacher: the net that was converted; None: as the manifest says.
        teacher_weights: its weights; likewise.
        out: the output directory; None: `distil` in the directory.
        max_iter: how long the solver learns.
        batch: of the training data layers; None: as they are.
        base_lr: of the solver.
        force: write into an output directory that is not empty.
    """

    directory: Path
    weights: Path | None = None
    teacher: Path | None = None
    teacher_weights: Path | None = None
    out: Path | None = None
    max_iter: int = DISTIL_ITERATIONS
    batch: int | None = None
    base_lr: float = DISTIL_BASE_LR
    force: bool = False


@uncollected
def distil(options: DistilOptions) -> dict[str, Any]:
    """Writes distil.prototxt, solver.prototxt, init.caffemodel and manifest.json.

    Args:
        options: what to do.

    Returns:
        The manifest; docs/json.md describes it.

    Raises:
        RebirthError: bad input, or the output directory is not empty; nothing is written.
        UsageError: a batch is given, and the net has no data layer to set it in; nothing is written.
        RefusedError: the original cannot teach in one net with the converted one; nothing is written.
    """
    out = options.out if options.out is not None else options.directory / PREFIX
    files = (NET, SOLVER, INIT, MANIFEST)
    place = Place(out, options.force, files)
    opened = open_conversion(options.directory, options.weights, options.teacher, options.teacher_weights)
    lent = (options.directory / SOLVER, options.directory / MANIFEST)
    place.check((opened.found.net, opened.start, opened.pair.path, opened.teacher_weights, *lent))
    made = distilling_net(opened.pair, read_earlier(opened.found.net).reparam, options.batch)
    manifest = {**_manifest(options, opened, made, out), "notes": place.notes(files)}
    net, weights = made.net, made.net.weights
    assert weights is not None
    place.publish(
        {
            NET: format_message(net.message()),
            SOLVER: _solver(options, out),
            INIT: lambda file: save_weights(file, net, weights),
            MANIFEST: json_bytes(manifest),
        }
    )
    return manifest


def _solver(options: DistilOptions, out: Path) -> str:
    """The text of the solver: when it tests is lent from that of the converted net, how it learns is its own."""
    message = pb.SolverParameter(
        type="Adam",
        base_lr=options.base_lr,
        momentum=0.9,
        momentum2=0.999,
        weight_decay=WEIGHT_DECAY,
        lr_policy="step",
        gamma=0.1,
        stepsize=max(1, round(options.max_iter * FALLS_AT)),
        max_iter=options.max_iter,
        display=DISPLAY,
        snapshot=SNAPSHOT,
        solver_mode="CPU",
    )
    lent = options.directory / SOLVER
    if lent.is_file():
        own = read_solver(lent).message
        for name in ("test_interval", "iter_size", "random_seed", "solver_mode", "device_id"):
            if own.HasField(name):
                setattr(message, name, getattr(own, name))
        if own.HasField("train_state"):
            message.train_state.CopyFrom(own.train_state)
        # Other test nets would be nets without a teacher.
        message.test_iter.extend(own.test_iter[:1])
        message.test_state.extend(own.test_state[:1])
    message.net = os.path.join(out, NET)
    message.snapshot_prefix = os.path.join(out, PREFIX)
    note = "# Teaches the converted net what the original puts out. Paths are looked up from where caffe is started.\n"
    return note + format_message(message)


def _manifest(options: DistilOptions, opened: Opened, made: Distilling, out: Path) -> dict[str, Any]:
    return {
        "version": SCHEMA,
        "rebirth": __version__,
        "source": {
            "directory": str(options.directory),
            "net": str(opened.found.net),
            "weights": str(opened.start),
            "teacher": str(opened.pair.path),
            "teacher_weights": str(opened.teacher_weights),
        },
        "outputs": {
            "directory": str(out),
            "net": NET,
            "solver": SOLVER,
            "weights": INIT,
            "manifest": MANIFEST,
        },
        "options": {"max_iter": options.max_iter, "batch": options.batch, "base_lr": options.base_lr},
        "blocks": [
            {
                "loss": block.loss,
                "student": block.student,
                "teacher": block.teacher,
                "layers": list(block.layers),
                "weight": block.weight,
            }
            for block in made.blocks
        ],
        "left": [{"layer": name, "reason": reason} for name, reason in made.left.items()],
    }
