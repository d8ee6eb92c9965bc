"""Solver states, in both formats."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from nvcaffe import TYPES, raw_state

from deeprebirth_caffe.errors import RebirthError
from deeprebirth_caffe.formats.caffemodel import write_caffemodel
from deeprebirth_caffe.formats.hdf5 import stream_hdf5_model
from deeprebirth_caffe.formats.solverstate import SolverState, read_solverstate, write_solverstate
from deeprebirth_caffe.proto import caffe_pb2 as pb

ENDS = (".solverstate", ".solverstate.h5")


def _state() -> SolverState:
    random = np.random.default_rng(3)
    history = [random.normal(size=shape).astype(np.float32) for shape in ((2, 3, 1, 1), (5,), (4, 2))]
    history[1][0] = np.nan
    return SolverState(12345, "some where/x_iter_12345.caffemodel", history, 7)


@pytest.mark.parametrize("end", ENDS)
def test_what_is_written_is_read(end: str, tmp_path: Path) -> None:
    path = tmp_path / f"x{end}"
    write_solverstate(path, _state())
    found = read_solverstate(path)
    assert (found.iteration, found.learned_net, found.current_step) == (12345, _state().learned_net, 7)
    for mine, wanted in zip(found.history, _state().history, strict=True):
        np.testing.assert_array_equal(mine, wanted, strict=True)
    assert [one.name for one in tmp_path.iterdir()] == [path.name]


def test_the_message_is_protobufs(tmp_path: Path) -> None:
    """What protobuf itself writes is read, and what we write it reads."""
    write_solverstate(tmp_path / "mine", _state())
    message = pb.SolverState.FromString((tmp_path / "mine").read_bytes())
    assert (message.iter, message.current_step) == (12345, 7)
    assert message.learned_net == _state().learned_net
    assert [list(blob.shape.dim) for blob in message.history] == [[2, 3, 1, 1], [5], [4, 2]]
    np.testing.assert_array_equal(message.history[2].data, _state().history[2].reshape(-1))
    (tmp_path / "theirs").write_bytes(message.SerializeToString())
    np.testing.assert_array_equal(read_solverstate(tmp_path / "theirs").history[1], _state().history[1])


def test_old_shapes_are_marked(tmp_path: Path) -> None:
    """Early versions of Caffe gave every blob four dimensions."""
    message = pb.SolverState(iter=3)
    message.history.add(num=1, channels=1, height=1, width=2, data=[1, 2])
    (tmp_path / "old").write_bytes(message.SerializeToString())
    found = read_solverstate(tmp_path / "old")
    assert found.history[0].shape == (1, 1, 1, 2)
    assert list(found.legacy) == [True]


@pytest.mark.parametrize("dtype", TYPES)
def test_raw_data_of_nvcaffe(dtype: str, tmp_path: Path) -> None:
    write_solverstate(tmp_path / "plain", _state())
    (tmp_path / "raw").write_bytes(raw_state((tmp_path / "plain").read_bytes(), dtype))
    found = read_solverstate(tmp_path / "raw")
    assert not found.plain
    assert read_solverstate(tmp_path / "plain").plain
    for mine, wanted in zip(found.history, _state().history, strict=True):
        assert mine.dtype in (np.float32, np.float64)
        np.testing.assert_array_equal(mine, wanted.astype(dtype))


def test_names_that_are_not_utf8_survive(tmp_path: Path) -> None:
    state = SolverState(1, "caf\udce9", [], 0)
    for end in ENDS:
        write_solverstate(tmp_path / f"x{end}", state)
        assert read_solverstate(tmp_path / f"x{end}").learned_net == "caf\udce9"


def test_weights_are_named_as_such(tmp_path: Path) -> None:
    arrays = [np.ones((2, 2), np.float32)]
    write_caffemodel(tmp_path / "w.caffemodel", "net", [("ip", "InnerProduct", arrays)])
    with (tmp_path / "w.caffemodel.h5").open("wb") as file:
        stream_hdf5_model(file, [("ip", arrays)])
    for name in ("w.caffemodel", "w.caffemodel.h5"):
        with pytest.raises(RebirthError, match=f"{name}: these are weights, not a solverstate"):
            read_solverstate(tmp_path / name)


@pytest.mark.parametrize("end", ENDS)
def test_every_cut_is_an_error(end: str, tmp_path: Path) -> None:
    """A file cut off anywhere is told from a whole one, or reads as fewer arrays, which the net then notices."""
    whole, cut = tmp_path / f"whole{end}", tmp_path / f"cut{end}"
    write_solverstate(whole, _state())
    data = whole.read_bytes()
    errors = 0
    for size in range(0, len(data), max(1, len(data) // 60)):
        cut.write_bytes(data[:size])
        try:
            found = read_solverstate(cut)
        except RebirthError as error:
            assert str(error).startswith(str(cut))
            assert "\n" not in str(error)
            errors += 1
        else:
            assert len(found.history) <= 3
    assert errors > 40


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", "this file is empty"),
        (b'net: "x.prototxt"\nbase_lr: 0.1\n', "or not a solverstate"),
        (b"PK\x03\x04 and more", "or not a solverstate"),
        (b"\x08\x05\x1a\x7f", "cut off: at byte 2"),
        (b"\x20\x05", "it has no iteration"),
        (b"\x08\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01", "its iteration is"),
    ],
)
def test_other_files_are_told(content: bytes, words: str, tmp_path: Path) -> None:
    path = tmp_path / "x.solverstate"
    path.write_bytes(content)
    with pytest.raises(RebirthError, match=words):
        read_solverstate(path)


def test_a_missing_file_is_told(tmp_path: Path) -> None:
    with pytest.raises(RebirthError, match="cannot read it: No such file"):
        read_solverstate(tmp_path / "none")


def test_hdf5_without_a_history_is_told(tmp_path: Path) -> None:
    import h5py

    with h5py.File(tmp_path / "x.h5", "w") as file:
        file["something"] = [1.0]
    with pytest.raises(RebirthError, match="without an iteration and a history"):
        read_solverstate(tmp_path / "x.h5")
