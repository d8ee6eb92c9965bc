"""Where a run's snapshots go, and whether they can."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Sequence
from pathlib import Path

from deeprebirth_caffe.engines.base import Snapshot
from deeprebirth_caffe.engines.plan import Plan
from deeprebirth_caffe.errors import RebirthError
from deeprebirth_caffe.ir import View, Weights, param_shapes
from deeprebirth_caffe.ops import FLOAT_BYTES, count
from deeprebirth_caffe.proto import caffe_pb2 as pb

TWO_HISTORIES = ("AdaDelta", "Adam")
"""The solvers that keep two numbers for each weight; all others keep one."""


def check_overwriting(plan: Plan, iterations: Sequence[int], resume: Path | None) -> None:
    """Refuses to write over an older run's snapshots; a run that goes on may write its own anew.

    Args:
        plan: of the run.
        iterations: when it will save.
        resume: the solverstate it goes on from.

    Raises:
        RebirthError: it names the first.
    """
    prefix = os.path.realpath(plan.root / plan.prefix)
    if resume is not None and os.path.realpath(resume).startswith(f"{prefix}_iter_"):
        return
    names = [name for number in iterations for name in (plan.model_name(number), plan.state_name(number))]
    there = [plan.root / name for name in names if (plan.root / name).exists()]
    if there:
        more = f" (and {len(there) - 1} more)" if len(there) > 1 else ""
        raise RebirthError(
            f"{there[0]}{more}: an older run's snapshot, which this run would write over; move it away, --resume "
            "that run, or add --force"
        )


def check_room(plan: Plan, size: int) -> None:
    """Makes the directory of the snapshots and looks whether one fits into it.

    Args:
        plan: of the run.
        size: bytes of a snapshot.

    Raises:
        RebirthError: the directory cannot be made or written, or there is no room.
    """
    folder = (plan.root / plan.prefix).parent
    try:
        folder.mkdir(parents=True, exist_ok=True)
        _sweep(plan, folder)
        with tempfile.TemporaryFile(dir=folder):
            pass
        free = shutil.disk_usage(folder).free
    except OSError as error:
        raise RebirthError(f"{folder}: snapshots cannot be written there: {error.strerror or error}") from error
    if free < size:
        raise RebirthError(
            f"{folder}: a snapshot takes {size / 2**20:.0f} MiB and {free / 2**20:.0f} MiB are free; make room, or "
            "let snapshot_prefix lead elsewhere"
        )


def _sweep(plan: Plan, folder: Path) -> None:
    """Takes away what a run that was killed while it saved left behind under hidden names."""
    start = f".{Path(plan.prefix).name}_iter_"
    for path in folder.iterdir():
        if path.name.startswith(start) and path.suffix == ".tmp" and path.is_file():
            path.unlink()


def snapshot_size(solver: pb.SolverParameter, view: View) -> int:
    """About how many bytes a snapshot takes: the weights, and the solver's history of each."""
    shapes = [shape for layer in view.layers for shape in param_shapes(view, layer) or ()]
    histories = 2 if solver.type in TWO_HISTORIES else 1
    return FLOAT_BYTES * sum(map(count, shapes)) * (1 + histories)


def broken_weights(snapshot: Snapshot) -> str:
    """Says which layer of saved weights holds numbers that are none; the empty string where none does."""
    weights = Weights.read(snapshot.model)
    layer = next((name for name in weights if not weights.finite(name)), None)
    return "" if layer is None else f"the weights of layer {layer} are no numbers any more (NaN or infinite)"
