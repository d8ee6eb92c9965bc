"""Snapshots of real Caffe: written by it, read back by us, then given their names.

Caffe writes where it is told when the solver is opened. That is a directory of our own beside the final place, made for
each snapshot and removed after it, so that no half-written file ever has a snapshot's name.
"""

from __future__ import annotations

import dataclasses
import os
import shutil
from collections.abc import Callable, Sequence
from math import prod
from pathlib import Path

from deeprebirth_caffe.engines.base import Snapshot
from deeprebirth_caffe.engines.plan import Plan
from deeprebirth_caffe.errors import RebirthError
from deeprebirth_caffe.formats import hdf5
from deeprebirth_caffe.formats.caffemodel import read_caffemodel
from deeprebirth_caffe.formats.solverstate import read_solverstate, write_solverstate

Layers = Sequence[tuple[str, Sequence[tuple[int, ...]]]]
"""Each layer's name and the shapes of its parameters."""

STEM = "caffe"
"""What Caffe calls its files inside that directory, in front of `_iter_N`."""

_TWO_ARRAYS = ("AdaDelta", "Adam")
_SLACK = 1 << 20


def save(plan: Plan, iteration: int, layers: Layers, work: Path, write: Callable[[], object]) -> Snapshot:
    """Makes a snapshot, whole or not at all.

    Args:
        plan: the solver.
        iteration: how many iterations are done.
        layers: those of the training net, in Caffe's order.
        work: the directory that Caffe writes into; it lies beside the final place and is there only meanwhile.
        write: makes Caffe write.

    Raises:
        RebirthError: it cannot be written; older snapshots are as they were.
    """
    learned_net = plan.model_name(iteration)
    model, state = plan.root / learned_net, plan.root / plan.state_name(iteration)
    end = ".h5" if plan.hdf5 else ""
    try:
        model.parent.mkdir(parents=True, exist_ok=True)
        _need_room(plan, layers, model)
        work.mkdir()
        write()
        made = work / f"{STEM}_iter_{iteration}.caffemodel{end}"
        _check_model(made, layers, plan.hdf5)
        # Caffe has named the place it wrote to. The name it would have given is put there instead.
        found = read_solverstate(work / f"{STEM}_iter_{iteration}.solverstate{end}")
        if found.iteration != iteration:
            raise RebirthError(f"{state}: Caffe saved iteration {found.iteration} instead of {iteration}; save again")
        renamed = work / f"state.solverstate{end}"
        write_solverstate(renamed, dataclasses.replace(found, learned_net=learned_net))
        if read_solverstate(renamed).learned_net != learned_net:
            raise RebirthError(f"{state}: what was written does not read back; check the disk")
        _synchronise(made)
        # The state comes last: it names the weights, so where it is, both are.
        made.replace(model)
        renamed.replace(state)
        _synchronise(model.parent)
    except OSError as error:
        raise RebirthError(f"{model}: cannot write it: {error.strerror or error}") from error
    finally:
        shutil.rmtree(work, ignore_errors=True)
    return Snapshot(model, state)


def _need_room(plan: Plan, layers: Layers, model: Path) -> None:
    """Refuses before Caffe starts to write: on a full disk it aborts, and the training would be lost with it."""
    numbers = sum(prod(shape) for _, shapes in layers for shape in shapes)
    arrays = 2 if plan.param.type in _TWO_ARRAYS else 1
    # The state stands there twice for a while, before and after its weights have been renamed.
    need = 4 * numbers * (1 + bool(plan.param.snapshot_diff) + 2 * arrays) + _SLACK
    free = shutil.disk_usage(model.parent).free
    if free < need:
        raise RebirthError(
            f"{model}: not written, the disk is full: it has {free >> 20} MB left and needs {-(-need >> 20)} MB; "
            "make room"
        )


def _check_model(path: Path, layers: Layers, as_hdf5: bool) -> None:
    """Reads weights back; they must hold what the net holds.

    Raises:
        RebirthError: they do not.
    """
    if as_hdf5:
        shapes = dict(layers)
        wrong = [
            name
            for name, arrays in hdf5.read_hdf5_model(path).items()
            if len(arrays) > len(shapes.get(name, ()))
            or any(a is not hdf5.SHARED and a.shape != s for a, s in zip(arrays, shapes[name], strict=False))
        ]
    else:
        found = [(layer.name, [blob.shape for blob in layer.blobs]) for layer in read_caffemodel(path).layers]
        expected = [(name, list(shapes)) for name, shapes in layers]
        wrong = [one[0] for one, other in zip(expected, found, strict=False) if one != other]
        wrong += [name for name, _ in expected[len(found) :]]
    if wrong:
        raise RebirthError(f"{path}: layer {wrong[0]!r} does not read back as Caffe holds it; nothing was saved")


def _synchronise(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
