"""The shape of the first record, from each kind of source and from none."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from data_sources import encode, leveldb_of

from deeprebirth_caffe.formats.records import datum_shape
from deeprebirth_caffe.formats.stores import open_cursor
from deeprebirth_caffe.proto import caffe_pb2 as pb


def lmdb_at(path: Path, *values: bytes, subdir: bool = True) -> Path:
    lmdb = pytest.importorskip("lmdb")
    with lmdb.open(str(path), subdir=subdir, map_size=1 << 20) as database, database.begin(write=True) as transaction:
        for number, value in enumerate(values):
            transaction.put(b"%08d" % number, value)
    return path


def image(height: int, width: int, channels: int = 3, kind: str = ".png") -> bytes:
    return encode(np.zeros((height, width, channels), np.uint8), kind)


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_lmdb(tmp_path: Path) -> None:
    first = pb.Datum(channels=3, height=4, width=5, data=bytes(60), label=1)
    second = pb.Datum(channels=1, height=1, width=1)
    path = lmdb_at(tmp_path / "db", first.SerializeToString(), second.SerializeToString())
    before = sorted(p.name for p in path.iterdir())
    assert datum_shape(str(path), "LMDB") == (3, 4, 5)
    assert datum_shape("db", "LMDB", tmp_path) == (3, 4, 5)
    assert sorted(p.name for p in path.iterdir()) == before


def test_lmdb_in_one_file(tmp_path: Path) -> None:
    datum = pb.Datum(channels=1, height=28, width=28)
    path = lmdb_at(tmp_path / "db.mdb", datum.SerializeToString(), subdir=False)
    assert datum_shape(str(path), "LMDB") == (1, 28, 28)


def test_lmdb_that_is_open_already(tmp_path: Path) -> None:
    path = lmdb_at(tmp_path / "db", pb.Datum(channels=3, height=4, width=5).SerializeToString())
    cursor = open_cursor(path, "LMDB")
    assert datum_shape(str(path), "LMDB") == (3, 4, 5)
    assert pb.Datum.FromString(bytes(cursor.value())).width == 5
    cursor.close()


def test_leveldb_is_left_as_it_is(tmp_path: Path) -> None:
    datums = [pb.Datum(channels=3, height=4, width=5 + number) for number in range(9)]
    path = leveldb_of(tmp_path / "db", datums)
    before = contents(path)
    assert datum_shape(str(path), "LEVELDB") == (3, 4, 5)
    assert contents(path) == before
    # Also where somebody has it open, and where its files are tables rather than a log.
    cursor = open_cursor(path, "LEVELDB")
    assert datum_shape("db", "LEVELDB", tmp_path) == (3, 4, 5)
    cursor.close()
    before = contents(path)
    assert any(name.endswith(".ldb") for name in before)
    assert datum_shape("db", "LEVELDB", tmp_path) == (3, 4, 5)
    assert contents(path) == before


@pytest.mark.parametrize("channels", [1, 3, 4])
def test_encoded_records(tmp_path: Path, channels: int) -> None:
    datum = pb.Datum(encoded=True, data=image(5, 7, channels))
    path = lmdb_at(tmp_path / "db", datum.SerializeToString())
    assert datum_shape(str(path), "LMDB") == (channels, 5, 7)


@pytest.mark.parametrize(
    "value", [b"", b"\xff\xff", b"\x22\x00", pb.Datum(encoded=True, data=b"no image").SerializeToString()]
)
def test_records_that_say_nothing(tmp_path: Path, value: bytes) -> None:
    assert datum_shape(str(lmdb_at(tmp_path / "db", value)), "LMDB") is None


def test_databases_that_are_none(tmp_path: Path) -> None:
    assert datum_shape(str(lmdb_at(tmp_path / "db")), "LMDB") is None
    (tmp_path / "bad").mkdir()
    (tmp_path / "bad" / "data.mdb").write_bytes(b"x" * 9999)
    (tmp_path / "text").write_text("x")
    for name in ("bad", "text", "missing", "", "a\0b", "x" * 5000):
        for backend in ("LMDB", "LEVELDB", "IMAGES", "HDF5", "?"):
            assert datum_shape(name, backend, tmp_path) is None
    assert not (tmp_path / "missing").exists()


def test_image_lists(tmp_path: Path) -> None:
    (tmp_path / "pic tures").mkdir()
    (tmp_path / "pic tures" / "a b.jpg").write_bytes(image(6, 9, kind=".jpg"))
    listing = tmp_path / "list.txt"
    listing.write_text("\npic tures/a b.jpg 3\nmissing.jpg 4\n")
    assert datum_shape(str(listing), "IMAGES", tmp_path) == (3, 6, 9)
    listing.write_text("a b.jpg 3\n")
    assert datum_shape(str(listing), "IMAGES", "/", image_root=f"{tmp_path}/pic tures/") == (3, 6, 9)
    turned = b"\xff\xe1\x00\x22Exif\0\0MM\0*\0\0\0\x08\0\x01\x01\x12\0\x03\0\0\0\x01\0\x06" + bytes(6)
    plain = image(6, 9, kind=".jpg")
    (tmp_path / "turned.jpg").write_bytes(plain[:2] + turned + plain[2:])
    listing.write_text("turned.jpg 0\n")
    assert datum_shape(str(listing), "IMAGES", tmp_path) == (3, 9, 6)
    for text in ("", "missing.jpg 1", "list.txt 0", "\xff\xfe"):
        listing.write_text(text)
        assert datum_shape(str(listing), "IMAGES", tmp_path) is None


def test_hdf5_lists(tmp_path: Path) -> None:
    h5py = pytest.importorskip("h5py")
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file["data"] = [[[1.0, 2.0]], [[3.0, 4.0]]]
        file["label"] = [1.0, 2.0]
    (tmp_path / "list.txt").write_text("a.h5\n")
    assert datum_shape("list.txt", "HDF5", tmp_path) == (1, 2)
    assert datum_shape("list.txt", "HDF5", tmp_path, top="label") == ()
    assert datum_shape("list.txt", "HDF5", tmp_path, top="none") is None
