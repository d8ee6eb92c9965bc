"""Solver states: the iteration of a training run, the weights it belongs to, and the solver's history.

Both of Caffe's formats: `.solverstate` (a message) and `.solverstate.h5` (HDF5).
"""

from __future__ import annotations

import mmap
import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from deeprebirth_caffe.errors import RebirthError
from deeprebirth_caffe.formats import files, hdf5, wire
from deeprebirth_caffe.formats.blobs import ForkBlobError, encode_blob, read_blob
from deeprebirth_caffe.formats.caffemodel import MAX_FILE
from deeprebirth_caffe.formats.files import open_regular

Array = NDArray[Any]


class SolverStateError(RebirthError):
    """A solverstate that cannot be read or written."""


@dataclass(frozen=True, eq=False)
class SolverState:
    """The content of a solverstate.

    Attributes:
        iteration: the number of finished iterations.
        learned_net: the path of the weights, from the directory Caffe was started in; may be empty.
        history: the solver's arrays, an array for each learnable blob; AdaDelta and Adam have a second set behind it.
        current_step: of lr_policy "multistep".
        legacy: for each array, whether its shape was given by the old four dimensions.
        plain: whether plain Caffe reads the file; false for NVCaffe's raw data.
    """

    iteration: int
    learned_net: str
    history: Sequence[Array]
    current_step: int = 0
    legacy: Sequence[bool] = field(default=())
    plain: bool = True


def read_solverstate(path: str | os.PathLike[str]) -> SolverState:
    """Reads a solverstate; its first bytes tell the format.

    Raises:
        RebirthError: it is missing, cut off, damaged, or no solverstate; the text says what it is.
    """
    name = os.fspath(path)
    if hdf5.is_hdf5(path):
        return _read_hdf5(name)
    try:
        with open_regular(name) as file:
            if not os.fstat(file.fileno()).st_size:
                raise SolverStateError(f"{name}: this file is empty; go on from an older solverstate")
            data = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
        raise SolverStateError(f"{name}: cannot read it: {reason}") from error
    try:
        return _read_message(name, data)
    except wire.WireError as error:
        if error.cut and _begins_well(data):
            raise SolverStateError(
                f"{name}: cut off: at byte {error.at} {error.reason}; go on from an older solverstate"
            ) from error
        raise _wrong(name, f"at byte {error.at} {error.reason}") from error


def write_solverstate(path: str | os.PathLike[str], state: SolverState) -> None:
    """Writes a solverstate whole or not at all; as HDF5 if its name ends with `.h5`, as in Caffe.

    Raises:
        RebirthError: it cannot be written, or would be too large for Caffe to read.
    """
    with files.atomic_file(path) as file:
        stream_solverstate(file, state, os.fspath(path))


def stream_solverstate(file: BinaryIO, state: SolverState, path: str) -> None:
    """Writes the bytes of a solverstate into an open file, in the format of `path`'s name."""
    if path.endswith(".h5"):
        hdf5.write_hdf5(file, lambda out: _fill_hdf5(out, state), path)
        return
    learned = state.learned_net.encode("utf-8", "surrogateescape")
    head = wire.encode_tag(1, wire.VARINT) + wire.encode_varint(state.iteration)
    head += wire.encode_head(2, len(learned)) + learned
    tail = wire.encode_tag(4, wire.VARINT) + wire.encode_varint(state.current_step)
    total = len(head) + len(tail)
    file.write(head)
    for array in state.history:
        size, pieces = encode_blob(array)
        front = wire.encode_head(3, size)
        total += len(front) + size
        if total > MAX_FILE:
            raise SolverStateError(f"{path}: would be larger than 2 GiB, which Caffe does not read; use HDF5")
        file.write(front)
        for piece in pieces:
            file.write(np.ascontiguousarray(piece, "<f4").data if isinstance(piece, np.ndarray) else piece)
    file.write(tail)


def _read_message(name: str, data: mmap.mmap) -> SolverState:
    iteration: int | None = None
    learned, step = "", 0
    history: list[Array] = []
    legacy: list[bool] = []
    plain = True
    for number, kind, begin, end in wire.fields(data, 0, len(data)):
        if (number, kind) == (1, wire.VARINT):
            iteration = begin
        elif (number, kind) == (2, wire.BYTES):
            learned = bytes(data[begin:end]).decode("utf-8", "surrogateescape")
        elif (number, kind) == (3, wire.BYTES):
            try:
                blob = read_blob(data, begin, end)
            except wire.WireError:
                raise
            except ForkBlobError as error:
                raise SolverStateError(f"{name}: array {len(history)} of its history: {error}") from error
            except ValueError as error:
                raise _wrong(name, f"array {len(history)} of its history: {error}") from error
            # Half precision is only a way of storing.
            history.append(blob.array.astype(np.float32) if blob.array.dtype == np.float16 else blob.array)
            legacy.append(blob.legacy)
            plain &= blob.plain
        elif (number, kind) == (4, wire.VARINT):
            step = begin
        elif number in (1, 100) and kind == wire.BYTES:
            raise SolverStateError(
                f"{name}: these are weights, not a solverstate; give the file that ends with .solverstate, "
                "or start from these weights with -w"
            )
    if iteration is None:
        raise _wrong(name, "it has no iteration")
    return _checked(name, SolverState(iteration, learned, history, step, legacy, plain))


def _checked(name: str, state: SolverState) -> SolverState:
    for number, what in ((state.iteration, "iteration"), (state.current_step, "current_step")):
        if not 0 <= number < 1 << 31:
            raise _wrong(name, f"its {what} is {number}")
    return state


def _begins_well(data: mmap.mmap) -> bool:
    """Whether a file starts like a solverstate of Caffe: with the iteration."""
    return data[0] == 1 << 3 | wire.VARINT


def _wrong(name: str, reason: str) -> SolverStateError:
    return SolverStateError(
        f"{name}: damaged, or not a solverstate: {reason}; give the file that ends with .solverstate"
    )


def _read_hdf5(name: str) -> SolverState:
    with hdf5.Reader(name) as file:
        there = file.keys(file.file)
        if "history" not in there or "iter" not in there:
            if "data" in there:
                raise SolverStateError(
                    f"{name}: these are weights, not a solverstate; give the file that ends with .solverstate.h5, "
                    "or start from these weights with -w"
                )
            raise _wrong(name, "an HDF5 file without an iteration and a history")
        arrays = file.numbered(file.group("history"), "history")
        if sorted(arrays) != list(range(len(arrays))):
            raise _wrong(name, "its history has gaps")
        learned = file.array(file.file, "learned_net")
        return _checked(
            name,
            SolverState(
                _integer(file, name, "iter"),
                "" if learned is None else _text(learned),
                [arrays[index] for index in range(len(arrays))],
                _integer(file, name, "current_step"),
                [False] * len(arrays),
            ),
        )


def _integer(file: hdf5.Reader, name: str, key: str) -> int:
    value = file.array(file.file, key)
    if value is None:
        return 0
    if value.size != 1 or value.dtype.kind not in "iu":
        raise _wrong(name, f"{key!r} is no whole number")
    return int(value.reshape(-1)[0])


def _text(value: Array) -> str:
    item = value.reshape(-1)[0] if value.size else b""
    return bytes(item).decode("utf-8", "surrogateescape") if isinstance(item, bytes) else str(item)


def _fill_hdf5(out: Any, state: SolverState) -> None:
    """Writes as Caffe does: whole numbers as arrays of length 1, the path as a text with a zero at its end."""
    learned = state.learned_net.encode("utf-8", "surrogateescape")
    out.create_dataset("iter", data=np.array([state.iteration], "<i4"))
    out.create_dataset("learned_net", data=np.array(learned + b"\0", f"S{len(learned) + 1}"))
    out.create_dataset("current_step", data=np.array([state.current_step], "<i4"))
    history = out.create_group("history")
    for index, array in enumerate(state.history):
        history.create_dataset(str(index), data=np.asarray(array, "<f4"))
