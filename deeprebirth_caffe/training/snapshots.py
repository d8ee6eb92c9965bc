"""Where a run's snapshots go, and whether they can."""

from __future__ import annotations

import os
import re
import shutil
import tempfile
from collections.abc import Sequence
from pathlib import Path

from deeprebirth_caffe.engines.plan import Plan
from deeprebirth_caffe.engines.snapshots import remove_leftovers, snapshot_room
from deeprebirth_caffe.errors import RebirthError
from deeprebirth_caffe.ir import View, param_shapes
from deeprebirth_caffe.ops import count
from deeprebirth_caffe.proto import caffe_pb2 as pb


def continues(plan: Plan, resume: Path | None) -> bool:
    """Whether a run goes on from a snapshot of its own: one with its prefix."""
    prefix = os.path.realpath(plan.root / plan.prefix)
    return resume is not None and os.path.realpath(resume).startswith(f"{prefix}_iter_")


def written_again(plan: Plan, iterations: Sequence[int]) -> list[Path]:
    """The solverstates that are there already among those that a run will write."""
    states = [plan.root / plan.state_name(number) for number in iterations]
    return [state for state in states if state.exists()]


def older_snapshots(plan: Plan) -> list[Path]:
    """The files of all snapshots that are there with a run's prefix, whatever their iteration and format."""
    prefix = plan.root / plan.prefix
    name = re.compile(rf"{re.escape(prefix.name)}_iter_\d+\.(caffemodel|solverstate)(\.h5)?(\.resume)?")
    if not prefix.parent.is_dir():
        return []
    return sorted(one for one in prefix.parent.iterdir() if name.fullmatch(one.name))


def check_overwriting(plan: Plan, iterations: Sequence[int]) -> None:
    """Refuses to write over an older run's snapshots.

    Raises:
        RebirthError: it names the first.
    """
    names = [name for number in iterations for name in (plan.model_name(number), plan.state_name(number))]
    there = [plan.root / name for name in names if (plan.root / name).exists()]
    alone = [path for path in there if path.name.endswith((".caffemodel", ".caffemodel.h5"))]
    if there and len(alone) == len(there):
        raise RebirthError(
            f"{there[0]}: weights of an older run without their solverstate (it was ended while it saved, or the "
            "solverstate was moved): nothing can go on from them, and this run would write over them; move them away, "
            "or add --force"
        )
    if there:
        more = f" (and {len(there) - 1} more)" if len(there) > 1 else ""
        raise RebirthError(
            f"{there[0]}{more}: an older run's snapshot, which this run would write over; move it away, --resume "
            "that run, or add --force"
        )


def check_room(plan: Plan, solver: pb.SolverParameter, view: View) -> None:
    """Makes the directory of the snapshots and looks whether one fits into it.

    Raises:
        RebirthError: the directory cannot be made or written, or there is no room.
    """
    prefix = plan.root / plan.prefix
    folder = prefix.parent
    shapes = [shape for layer in view.layers for shape in param_shapes(view, layer) or ()]
    size = snapshot_room(solver, sum(map(count, shapes)))
    try:
        folder.mkdir(parents=True, exist_ok=True)
        remove_leftovers(prefix)
        with tempfile.TemporaryFile(dir=folder):
            pass
        free = shutil.disk_usage(folder).free
    except OSError as error:
        raise RebirthError(f"{folder}: snapshots cannot be written there: {error.strerror or error}") from error
    if free < size:
        raise RebirthError(
            f"{folder}: a snapshot needs {size / 2**20:.0f} MiB and {free / 2**20:.0f} MiB are free; make room, or "
            "let snapshot_prefix lead elsewhere"
        )
