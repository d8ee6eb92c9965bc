"""Weights in HDF5."""

from __future__ import annotations

import io
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from nets import conv, data, fc, parse

from deeprebirth_caffe.errors import RebirthError
from deeprebirth_caffe.formats.caffemodel import write_caffemodel
from deeprebirth_caffe.formats.hdf5 import SHARED, is_hdf5, read_hdf5_model, stream_hdf5_model
from deeprebirth_caffe.ir import Weights
from deeprebirth_caffe.nets.load import load_net

ONE = np.arange(6, dtype=np.float32).reshape(2, 3)
TWO = np.array([1, np.nan], np.float32)


def _write(path: Path, layers: Sequence[tuple[str, Sequence[Any]]]) -> Path:
    with path.open("wb") as file:
        stream_hdf5_model(file, layers)
    return path


def test_what_is_written_is_read(tmp_path: Path) -> None:
    path = _write(tmp_path / "x.caffemodel.h5", [("data", []), ("ip", [ONE, TWO]), ("z", [TWO])])
    found = read_hdf5_model(path)
    assert list(found) == ["ip", "z"]
    np.testing.assert_array_equal(found["ip"][0], ONE, strict=True)
    np.testing.assert_array_equal(found["ip"][1], TWO, strict=True)


def test_the_layout_is_caffes(tmp_path: Path) -> None:
    """A group for each layer, those without weights too; shared weights stand only where they belong."""
    import h5py

    with h5py.File(_write(tmp_path / "x.h5", [("data", []), ("a", [ONE, TWO]), ("b", [None, TWO])])) as file:
        names: list[str] = []
        file.visit(names.append)
        assert names == ["data", "data/a", "data/a/0", "data/a/1", "data/b", "data/b/1", "data/data"]
        assert file["data/a/0"].dtype == "<f4"


def test_it_is_told_by_its_contents(tmp_path: Path) -> None:
    """As in Caffe the name does not matter."""
    path = _write(tmp_path / "odd.caffemodel", [("ip", [ONE])])
    assert is_hdf5(path)
    np.testing.assert_array_equal(Weights.read(path)["ip"][0], ONE)
    write_caffemodel(tmp_path / "odd.h5", "net", [("ip", "InnerProduct", [ONE])])
    assert not is_hdf5(tmp_path / "odd.h5")
    np.testing.assert_array_equal(Weights.read(tmp_path / "odd.h5")["ip"][0], ONE)


def test_a_shared_parameter_that_is_left_out_keeps_its_place(tmp_path: Path) -> None:
    found = read_hdf5_model(_write(tmp_path / "x.h5", [("b", [None, TWO])]))
    assert found["b"][0] is SHARED
    np.testing.assert_array_equal(found["b"][1], TWO)


def test_shared_parameters_come_back_with_the_net(tmp_path: Path) -> None:
    """Wholly shared layers, those that share the first blob, and those that share the second."""
    named = 'param { name: "w" } param { name: "b" }'
    text = (
        data(1, 3)
        + fc("a", "data", 2, rest=named)
        + fc("b", "data", 2, rest=named)
        + fc("c", "data", 2, rest='param { name: "w" }')
        + fc("d", "data", 2, rest='param { lr_mult: 1 } param { name: "b" }')
    )
    (tmp_path / "net.prototxt").write_text(text)
    own = np.array([5, 6], np.float32)
    path = _write(tmp_path / "x.h5", [("a", [ONE, own]), ("b", [None, None]), ("c", [None, own + 1]), ("d", [ONE + 1])])
    weights = load_net(tmp_path / "net.prototxt", path).weights
    assert weights is not None
    wanted = {"a": (ONE, own), "b": (ONE, own), "c": (ONE, own + 1), "d": (ONE + 1, own)}
    assert set(weights) == set(wanted)
    for name, arrays in wanted.items():
        for mine, array in zip(weights[name], arrays, strict=True):
            np.testing.assert_array_equal(mine, array)


def test_weights_of_another_net_are_refused(tmp_path: Path) -> None:
    (tmp_path / "net.prototxt").write_text(data(1, 3) + fc("a", "data", 4))
    path = _write(tmp_path / "x.h5", [("a", [ONE, TWO])])
    with pytest.raises(RebirthError, match="the shapes of 1 layer differ: a wants 4x3 \\+ 4 and the file has 2x3"):
        load_net(tmp_path / "net.prototxt", path)


def test_converting_starts_from_hdf5(tmp_path: Path) -> None:
    """What `load_net` gives is written as a caffemodel like any other weights."""
    text = data(1, 3, 8, 8) + conv("c", "data")
    net = parse(text, weights=True)
    assert net.weights is not None
    (tmp_path / "net.prototxt").write_text(text)
    path = _write(tmp_path / "x.h5", [("c", net.weights["c"])])
    read = load_net(tmp_path / "net.prototxt", path).weights
    assert read is not None
    write_caffemodel(tmp_path / "y.caffemodel", "", [(name, "", read[name]) for name in read])
    np.testing.assert_array_equal(Weights.read(tmp_path / "y.caffemodel")["c"][0], net.weights["c"][0])


@pytest.mark.parametrize("name", ["conv/1x1", "", "."])
def test_names_that_caffe_cannot_keep_are_refused(name: str) -> None:
    file = io.BytesIO()
    with pytest.raises(RebirthError, match="set snapshot_format: BINARYPROTO"):
        stream_hdf5_model(file, [(name, [ONE])], "x.h5")
    assert not file.getvalue()


def test_two_layers_of_one_name_are_refused() -> None:
    with pytest.raises(RebirthError, match="two layers are called 'a'"):
        stream_hdf5_model(io.BytesIO(), [("a", [ONE]), ("a", [ONE])], "x.h5")


def test_a_cut_file_is_told(tmp_path: Path) -> None:
    whole = _write(tmp_path / "x.h5", [("ip", [np.ones((50, 50), np.float32)])]).read_bytes()
    for size in range(8, len(whole) - 1, 611):
        (tmp_path / "cut.h5").write_bytes(whole[:size])
        with pytest.raises(RebirthError, match=r"cut\.h5: cut off or damaged"):
            read_hdf5_model(tmp_path / "cut.h5")


def test_other_hdf5_files_are_told(tmp_path: Path) -> None:
    import h5py

    with h5py.File(tmp_path / "x.h5", "w") as file:
        file["images"] = [1.0]
    with pytest.raises(RebirthError, match="none with weights: it has no group 'data'"):
        read_hdf5_model(tmp_path / "x.h5")
    with h5py.File(tmp_path / "y.h5", "w") as file:
        file.create_group("data").create_group("ip")["0"] = np.array([b"text"])
    with pytest.raises(RebirthError, match=r"layer 'ip' holds \|S4 where numbers are wanted"):
        read_hdf5_model(tmp_path / "y.h5")
    _write(tmp_path / "z.h5", [("data", [])])
    with pytest.raises(RebirthError, match="holds no weights"):
        read_hdf5_model(tmp_path / "z.h5")


def test_a_missing_library_says_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = _write(tmp_path / "x.h5", [("ip", [ONE])])
    monkeypatch.setitem(sys.modules, "h5py", None)
    with pytest.raises(RebirthError, match="HDF5 files need h5py: pip install '"):
        Weights.read(path)
