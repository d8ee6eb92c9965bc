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
from typing import TYPE_CHECKING

from deeprebirth_caffe.engines.base import Snapshot
from deeprebirth_caffe.engines.plan import Plan
from deeprebirth_caffe.engines.snapshots import check_finite, held, resume_path, snapshot_room
from deeprebirth_caffe.errors import RebirthError
from deeprebirth_caffe.formats import hdf5
from deeprebirth_caffe.formats.caffemodel import read_caffemodel
from deeprebirth_caffe.formats.solverstate import read_solverstate, write_solverstate

if TYPE_CHECKING:
    from deeprebirth_caffe.engines.base import Array

Layers = Sequence[tuple[str, Sequence[tuple[int, ...]]]]
"""Each layer's name and the shapes of its parameters."""

STEM = "caffe"
"""What Caffe calls its files inside that directory, in front of `_iter_N`."""


def save(plan: Plan, iteration: int, layers: Layers, work: Path, write: Callable[[], object]) -> Snapshot:
    """Makes a snapshot, whole or not at all.

    Args:
        plan: the solver.
        iteration: how many iterations are done.
        layers: those of the training net, in Caffe's order.
        work: the directory that Caffe writes into; it lies beside the final place and is there only meanwhile.
        write: makes Caffe write.

    Raises:
        DivergedError: the weights are no numbers any more.
        RebirthError: it cannot be written. In either case older snapshots are as they were.
    """
    learned_net = plan.model_name(iteration)
    model, state = plan.root / learned_net, plan.root / plan.state_name(iteration)
    end = ".h5" if plan.hdf5 else ""
    try:
        model.parent.mkdir(parents=True, exist_ok=True)
        need_room(plan, layers, model)
        with held(work):
            write()
            made = work / f"{STEM}_iter_{iteration}.caffemodel{end}"
            _check_model(made, layers, plan.hdf5)
            # Caffe has named the place it wrote to. The name it would have given is put there instead.
            found = read_solverstate(work / f"{STEM}_iter_{iteration}.solverstate{end}")
            if found.iteration != iteration:
                raise RebirthError(
                    f"{state}: Caffe saved iteration {found.iteration} instead of {iteration}; save again"
                )
            renamed = work / f"state.solverstate{end}"
            write_solverstate(renamed, dataclasses.replace(found, learned_net=learned_net))
            if read_solverstate(renamed).learned_net != learned_net:
                raise RebirthError(f"{state}: what was written does not read back; check the disk")
            _synchronise(made)
            # The state comes last: it names the weights, so where it is, both are.
            made.replace(model)
            renamed.replace(state)
            # Of another run, or of this one before it went on: it says where the data were then.
            resume_path(state).unlink(missing_ok=True)
            _synchronise(model.parent)
    except OSError as error:
        raise RebirthError(f"{model}: cannot write it: {error.strerror or error}") from error
    return Snapshot(model, state)


def need_room(plan: Plan, layers: Layers, model: Path) -> None:
    """Refuses before Caffe starts to write: on a full disk it aborts, and the training would be lost with it."""
    need = snapshot_room(plan.param, sum(prod(shape) for _, shapes in layers for shape in shapes))
    free = shutil.disk_usage(model.parent).free
    if free < need:
        raise RebirthError(
            f"{model}: not written, the disk is full: it has {free >> 20} MB left and needs {-(-need >> 20)} MB; "
            "make room"
        )


def _check_model(path: Path, layers: Layers, as_hdf5: bool) -> None:
    """Reads weights back; they must hold what the net holds, and numbers.

    Raises:
        DivergedError: there are some that are none.
        RebirthError: they are not the net's.
    """
    if as_hdf5:
        shapes = dict(layers)
        kept: dict[str, Sequence[Array]] = dict(hdf5.read_hdf5_model(path))
        wrong = [
            name
            for name, arrays in kept.items()
            if len(arrays) > len(shapes.get(name, ()))
            or any(a is not hdf5.SHARED and a.shape != s for a, s in zip(arrays, shapes[name], strict=False))
        ]
    else:
        read = read_caffemodel(path).layers
        kept = {layer.name: layer.blobs for layer in read}
        found = [(layer.name, [blob.shape for blob in layer.blobs]) for layer in read]
        expected = [(name, list(shapes)) for name, shapes in layers]
        wrong = [one[0] for one, other in zip(expected, found, strict=False) if one != other]
        wrong += [name for name, _ in expected[len(found) :]]
    if wrong:
        raise RebirthError(f"{path}: layer {wrong[0]!r} does not read back as Caffe holds it; nothing was saved")
    check_finite(kept.items())


def _synchronise(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
