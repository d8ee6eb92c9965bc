"""Snapshots of the embedded engine: weights, the state of data and random numbers, solverstate.

All three are complete and checked on the disk under temporary names before the first takes its own; the solverstate
comes last, so a training that is killed at any moment leaves whole snapshots. Beside `NAME.solverstate` stands
`NAME.solverstate.resume`, JSON, with what Caffe's own files have no room for. It knows what is in both
files by checksums: one that belongs to others is not believed.
"""

from __future__ import annotations

import json
import os
import zlib
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from deeprebirth_caffe.engines.base import Snapshot
from deeprebirth_caffe.engines.snapshots import check_finite, resume_path
from deeprebirth_caffe.errors import RebirthError
from deeprebirth_caffe.formats import files, hdf5
from deeprebirth_caffe.formats.caffemodel import read_caffemodel, stream_caffemodel
from deeprebirth_caffe.formats.files import read_regular
from deeprebirth_caffe.formats.jsonfile import ANYTHING, COUNT, TEXT, WHOLE, Each, parse_json, shaped
from deeprebirth_caffe.formats.solverstate import SolverState, read_solverstate, stream_solverstate

Array = NDArray[Any]
Layers = Sequence[tuple[str, str, Sequence[Array]]]
"""(name, type, parameters) of each layer of a net."""

VERSION = 1


@dataclass(frozen=True)
class Resume:
    """What Caffe's files have no room for.

    Attributes:
        device: where the nets ran ("cpu", "cuda", "mps"): random numbers of one are nothing to another.
        seed: of the random numbers of the data layers.
        train: state of the training net's random numbers and data layers.
        tests: likewise, for each test net.
    """

    device: str
    seed: int
    train: dict[str, Any]
    tests: list[dict[str, Any]]


_RESUME = {
    "device": TEXT,
    "seed": WHOLE,
    "train": Each(ANYTHING),
    "tests": [Each(ANYTHING)],
    "contents": {"model": COUNT, "state": COUNT},
}


def write_snapshot(
    model: Path,
    state: Path,
    name: str,
    layers: Layers,
    shared: frozenset[tuple[str, int]],
    solver: SolverState,
    resume: Resume,
) -> Snapshot:
    """Writes a snapshot, whole or not at all.

    Args:
        model: path of the weights; HDF5 where it ends with `.h5`.
        state: of the solverstate, likewise.
        name: the net's.
        layers: all its layers.
        shared: (layer, index) of parameters that belong to an earlier layer, which HDF5 leaves out.
        solver: the solverstate.
        resume: what else is needed to go on exactly.

    Raises:
        DivergedError: the weights are no numbers any more.
        RebirthError: it cannot be written (a full disk), or what was read back is something else.
    """
    check_finite((layer, arrays) for layer, _, arrays in layers)
    try:
        model.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise RebirthError(f"{model.parent}: cannot make this directory: {error.strerror or error}") from error
    with ExitStack() as stack:
        # They take their names in the opposite order: the solverstate last.
        state_file = stack.enter_context(files.atomic_file(state))
        resume_file = stack.enter_context(files.atomic_file(resume_path(state)))
        model_file = stack.enter_context(files.atomic_file(model))
        if str(model).endswith(".h5"):
            entries = [
                (layer, [None if (layer, index) in shared else array for index, array in enumerate(arrays)])
                for layer, _, arrays in layers
            ]
            hdf5.stream_hdf5_model(model_file, entries, str(model))
        else:
            stream_caffemodel(model_file, name, layers, str(model))
        _settle(model_file)
        _check_model(Path(model_file.name), model, layers, shared)
        stream_solverstate(state_file, solver, str(state))
        _settle(state_file)
        _check_state(Path(state_file.name), state, solver)
        content = {
            "version": VERSION,
            "iteration": solver.iteration,
            "contents": {"model": _model_sum(Path(model_file.name)), "state": _state_sum(solver)},
            "device": resume.device,
            "seed": resume.seed,
            "train": resume.train,
            "tests": resume.tests,
        }
        resume_file.write(json.dumps(content, separators=(",", ":")).encode())
        _settle(resume_file)
    return Snapshot(model, state)


def read_resume(path: Path, state: SolverState, model: Path) -> tuple[Resume | None, str]:
    """Reads the file beside a solverstate.

    Args:
        path: of the solverstate.
        state: what it says.
        model: the weights that belong to it.

    Returns:
        What it says, or None; and why it is not used where there is one, else nothing.

    Raises:
        RebirthError: the solverstate and the weights are of different snapshots.
    """
    beside = resume_path(path)
    try:
        content = shaped(parse_json(read_regular(beside)), {"version": ANYTHING})
        if content["version"] != VERSION:
            return None, f"{beside}: not used, for another version of this program wrote it"
        content = shaped(content, _RESUME)
    except FileNotFoundError:
        return None, ""
    except (OSError, ValueError) as error:
        return None, f"{beside}: not used, for it is damaged ({error})"
    resume = Resume(content["device"], content["seed"], content["train"], content["tests"])
    known = content["contents"]["model"], content["contents"]["state"]
    same = _model_sum(model) == known[0], _state_sum(state) == known[1]
    if not any(same):
        return None, f"{beside}: not used, for it is of another solverstate"
    if not all(same):
        # A kill between two renames over an older snapshot of the same iteration.
        other = path if same[0] else model
        raise RebirthError(f"{other}: of another snapshot than {beside.name} beside it; go on from another solverstate")
    return resume, ""


def _settle(file: BinaryIO) -> None:
    """Brings what was written to the disk: here a full one shows, before any file has taken its name."""
    file.flush()
    os.fsync(file.fileno())


def _check_model(written: Path, path: Path, layers: Layers, shared: frozenset[tuple[str, int]]) -> None:
    if str(path).endswith(".h5"):
        found = {
            layer: [array for array in arrays if array is not hdf5.SHARED]
            for layer, arrays in hdf5.read_hdf5_model(written).items()
        }
        kept = {
            layer: [array for index, array in enumerate(arrays) if (layer, index) not in shared]
            for layer, _, arrays in layers
        }
    else:
        found = {layer.name: list(layer.blobs) for layer in read_caffemodel(written).layers if layer.blobs}
        kept = {layer: list(arrays) for layer, _, arrays in layers}
    wanted = {layer: arrays for layer, arrays in kept.items() if arrays}
    if found.keys() != wanted.keys() or not all(_same(found[layer], wanted[layer]) for layer in wanted):
        raise _other(path)


def _check_state(written: Path, path: Path, solver: SolverState) -> None:
    found = read_solverstate(written)
    facts = (found.iteration, found.learned_net, found.current_step)
    if facts != (solver.iteration, solver.learned_net, solver.current_step) or not _same(found.history, solver.history):
        raise _other(path)


def _same(found: Sequence[Array], wanted: Sequence[Array]) -> bool:
    """Whether arrays are the same to the bit, NaNs too."""
    return len(found) == len(wanted) and all(
        one.shape == other.shape and np.array_equal(_bits(one), _bits(other))
        for one, other in zip(found, wanted, strict=True)
    )


def _bits(array: Array) -> Array:
    return np.ascontiguousarray(array, np.float32).view(np.uint32)


def _other(path: Path) -> RebirthError:
    return RebirthError(f"{path}: read back, it is not what was written; check the disk")


def _model_sum(path: Path) -> int:
    """A checksum of the numbers in weights: the same whichever engine wrote them."""
    if hdf5.is_hdf5(path):
        layers = list(hdf5.read_hdf5_model(path).items())
    else:
        layers = [(layer.name, tuple(layer.blobs)) for layer in read_caffemodel(path).layers if layer.blobs]
    value = 0
    for name, arrays in layers:
        value = _sum(arrays, zlib.crc32(name.encode("utf-8", "surrogateescape"), value))
    return value


def _state_sum(state: SolverState) -> int:
    """Likewise, of a solverstate."""
    return _sum(state.history, zlib.crc32(f"{state.iteration} {state.current_step}".encode()))


def _sum(arrays: Sequence[Array], value: int) -> int:
    for array in arrays:
        value = zlib.crc32(_bits(array).data, value)
    return value
