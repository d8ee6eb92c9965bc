"""Data sources that cannot be used: one error that says which layer, which source, which record."""

from __future__ import annotations

import os
import resource
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from data_sources import (
    data_layer,
    database_of,
    encode,
    encoded,
    floats,
    image,
    layer,
    leveldb_of,
    lmdb_of,
    mean_of,
    raw,
)

from deeprebirth_caffe.data import check_source, open_layer
from deeprebirth_caffe.errors import RebirthError
from deeprebirth_caffe.formats.records import datum_shape
from deeprebirth_caffe.proto import caffe_pb2 as pb

pytest.importorskip("cv2")

RNG = np.random.default_rng(0)
GOOD = raw(image(RNG, 6, 8), 1)


def refused(param: pb.LayerParameter, root: Path, *words: str) -> None:
    """Refused before anything starts, in one line."""
    for train in (True, False):
        with pytest.raises(RebirthError) as caught:
            open_layer(param, train, root)
        said(caught.value, param, *words)
    with pytest.raises(RebirthError) as caught:
        check_source(param, root)
    said(caught.value, param, *words)


def said(error: RebirthError, param: pb.LayerParameter, *words: str) -> None:
    text = str(error)
    assert text.startswith(f'layer "source" ({param.type}): ')
    assert "\n" not in text
    for word in words:
        assert word in text, text


def met(param: pb.LayerParameter, root: Path, fine: int, *words: str) -> None:
    """Found when it is read: some batches are fine, and then it is said, however often one asks."""
    for threads in (1, 3):
        with open_layer(param, False, root, threads=threads) as opened:
            for _ in range(fine):
                opened.next()
            for _ in range(2):
                with pytest.raises(RebirthError) as caught:
                    opened.next()
                said(caught.value, param, *words)


def database(source: str, backend: str, batch: int = 2, transform: str = "") -> pb.LayerParameter:
    return data_layer(source, batch, transform, f"backend: {backend}")


BACKENDS = pytest.mark.parametrize("backend", ["LMDB", "LEVELDB"])


# ------------------------------------------------------------ databases


@BACKENDS
def test_nothing_there(tmp_path: Path, backend: str) -> None:
    refused(database("db", backend), tmp_path, "db: not found")
    refused(database("", backend), tmp_path, "no source")
    refused(database("x" * 5000, backend), tmp_path, "cannot be reached")
    (tmp_path / "file").write_text("hello")
    refused(database("file/db", backend), tmp_path, "cannot be reached")
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


@BACKENDS
def test_no_database(tmp_path: Path, backend: str) -> None:
    name = "LMDB" if backend == "LMDB" else "LevelDB"
    (tmp_path / "file").write_text("hello")
    (tmp_path / "folder").mkdir()
    (tmp_path / "other").mkdir()
    for file in ("data.mdb", "CURRENT"):
        (tmp_path / "other" / file).write_bytes(b"x" * 9999)
    for source in ("file", "folder", "other"):
        refused(database(source, backend), tmp_path, f"{source}: no {name}")
    assert sorted(path.name for path in (tmp_path / "folder").iterdir()) == []


def test_a_database_of_the_other_kind(tmp_path: Path) -> None:
    lmdb_of(tmp_path / "lmdb", [GOOD])
    leveldb_of(tmp_path / "leveldb", [GOOD])
    refused(database("leveldb", "LMDB"), tmp_path, "no LMDB", "data.mdb")
    refused(database("lmdb", "LEVELDB"), tmp_path, "no LevelDB", "CURRENT")
    # What Caffe takes where nothing is said.
    param = pb.LayerParameter()
    param.CopyFrom(database("lmdb", "LMDB"))
    param.data_param.ClearField("backend")
    refused(param, tmp_path, "no LevelDB")


@BACKENDS
def test_empty(tmp_path: Path, backend: str) -> None:
    database_of(tmp_path / "db", backend, [])
    refused(database("db", backend), tmp_path, "empty")
    # It is let go of: the same path can be made anew and read.
    for path in (tmp_path / "db").iterdir():
        path.unlink()
    database_of(tmp_path / "db", backend, [GOOD])
    check_source(database("db", backend), tmp_path)


def test_truncated_lmdb(tmp_path: Path) -> None:
    lmdb_of(tmp_path / "db", [raw(image(RNG, 60, 80), number) for number in range(20)])
    file = tmp_path / "db" / "data.mdb"
    data = file.read_bytes()
    for size in (len(data) - 1, len(data) // 2, 8192, 8191, 5000):
        file.write_bytes(data[:size])
        refused(database("db", "LMDB"), tmp_path, "truncated", f"{size} bytes")
    for size in (4096, 4000, 100, 0):
        file.write_bytes(data[:size])
        refused(database("db", "LMDB"), tmp_path, "no LMDB, or a damaged one")
    file.write_bytes(data)
    check_source(database("db", "LMDB"), tmp_path)


def test_truncated_leveldb(tmp_path: Path) -> None:
    path = leveldb_of(tmp_path / "db", [raw(image(RNG, 60, 80), number) for number in range(20)])
    plyvel = pytest.importorskip("plyvel")
    plyvel.DB(str(path)).close()  # from its log to a table
    (table,) = path.glob("*.ldb")
    data = table.read_bytes()
    table.write_bytes(data[: len(data) // 2])
    refused(database("db", "LEVELDB"), tmp_path, "damaged")
    table.unlink()
    refused(database("db", "LEVELDB"), tmp_path, "damaged")


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
@BACKENDS
def test_no_permission(tmp_path: Path, backend: str) -> None:
    path = database_of(tmp_path / "db", backend, [GOOD])
    files = list(path.iterdir())
    for file in files:
        file.chmod(0)
    refused(database("db", backend), tmp_path, "ermission")
    for file in files:
        file.chmod(0o644)


def test_locked_leveldb(tmp_path: Path) -> None:
    leveldb_of(tmp_path / "db", [GOOD])
    code = "import plyvel, sys; db = plyvel.DB(sys.argv[1]); print('open', flush=True); sys.stdin.read()"
    with subprocess.Popen(
        [sys.executable, "-c", code, str(tmp_path / "db")], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as other:
        assert other.stdout is not None
        assert other.stdout.readline() == "open\n"
        refused(database("db", "LEVELDB"), tmp_path, "locked", "another process")
        other.communicate()
    check_source(database("db", "LEVELDB"), tmp_path)


@BACKENDS
@pytest.mark.parametrize(
    ("bad", "words"),
    [
        (b"\xff\xff", "no Datum"),
        (b"", "no Datum"),
        (pb.Datum(label=3), "no Datum"),
        (pb.Datum(channels=3, height=6, width=8, data=bytes(143)), "143 values of 144"),
        (pb.Datum(channels=3, height=6, width=8, float_data=[1.0] * 5), "5 values of 144"),
        (pb.Datum(channels=3, height=6, width=8), "0 values of 144"),
        (pb.Datum(channels=1 << 30, height=1 << 30, width=1 << 30, data=b"x"), "values of"),
        (encoded(b""), "no picture"),
        (encoded(b"\xff\xd8 no JPEG"), "no picture, or a damaged one"),
        (encoded(encode(image(RNG, 60, 80), ".jpg")[:900]), "no picture, or a damaged one"),
        (encoded(encode(image(RNG, 60, 80), ".png")[:900]), "no picture, or a damaged one"),
        (encoded(encode(image(RNG, 6, 8).astype(np.uint16))), "16 bits"),
    ],
)
def test_records_that_are_none(tmp_path: Path, backend: str, bad: pb.Datum | bytes, words: str) -> None:
    database_of(tmp_path / "first", backend, [bad, GOOD])
    refused(database("first", backend), tmp_path, "first: 00000000:", words)
    database_of(tmp_path / "later", backend, [*[GOOD] * 5, bad, *[GOOD] * 5])
    check_source(database("later", backend), tmp_path)
    met(database("later", backend), tmp_path, 2, "later: 00000005:", words)


@BACKENDS
def test_records_of_another_size(tmp_path: Path, backend: str) -> None:
    database_of(tmp_path / "db", backend, [GOOD, GOOD, GOOD, raw(image(RNG, 5, 9)), floats(RNG, (2, 6, 8))])
    met(database("db", backend), tmp_path, 1, "00000003", "3x5x9", "3x6x8", "crop_size")
    met(database("db", backend, transform="crop_size: 6"), tmp_path, 1, "00000003", "crop_size 6", "5x9")
    met(database("db", backend, 4, "crop_size: 5"), tmp_path, 1, "00000000", "2x5x5", "channels")


def test_settings(tmp_path: Path) -> None:
    lmdb_of(tmp_path / "db", [GOOD])
    refused(database("db", "LMDB", 0), tmp_path, "batch_size")
    param = database("db", "LMDB")
    param.data_param.ClearField("batch_size")
    refused(param, tmp_path, "batch_size must be given")
    for transform, words in (
        ('mean_value: 1 mean_file: "x"', "mean_file and mean_value"),
        ("mean_value: 1 mean_value: 2", "3 channel(s), but there are 2 mean_value"),
        ("crop_size: 7", "crop_size 7 is larger"),
    ):
        refused(database("db", "LMDB", transform=transform), tmp_path, words)


def test_both_forces(tmp_path: Path) -> None:
    lmdb_of(tmp_path / "raw", [GOOD])
    lmdb_of(tmp_path / "png", [encoded(encode(image(RNG, 6, 8)))])
    both = "force_color: true force_gray: true"
    check_source(database("raw", "LMDB", transform=both), tmp_path)
    refused(database("png", "LMDB", transform=both), tmp_path, "force_color and force_gray")


def test_mean_files(tmp_path: Path) -> None:
    lmdb_of(tmp_path / "db", [GOOD])
    (tmp_path / "folder").mkdir()
    (tmp_path / "empty").touch()
    (tmp_path / "text").write_text("no binaryproto")
    (tmp_path / "short").write_bytes(
        pb.BlobProto(num=1, channels=3, height=6, width=8, data=[1.0] * 9).SerializeToString()
    )
    (tmp_path / "deep").write_bytes(pb.BlobProto(shape=pb.BlobShape(dim=[1] * 5), data=[1.0]).SerializeToString())
    mean_of(tmp_path / "small", np.ones((3, 6, 7)))
    for name, words in (
        ("missing", "cannot read it"),
        ("folder", "cannot read it"),
        ("empty", "no binaryproto"),
        ("text", "no binaryproto"),
        ("short", "no binaryproto"),
        ("deep", "1x1x1x1x1"),
        ("small", "3x6x7"),
    ):
        refused(
            database("db", "LMDB", transform=f'mean_file: "{name}"'),
            tmp_path,
            "mean file" if name == "small" else name,
            words,
        )


# ------------------------------------------------------------ lists


def images(more: str = "batch_size: 2", transform: str = "") -> pb.LayerParameter:
    return layer("ImageData", f'image_data_param {{ source: "list.txt" {more} }} transform_param {{ {transform} }}')


def hdf5(more: str = "batch_size: 2") -> pb.LayerParameter:
    return layer("HDF5Data", f'hdf5_data_param {{ source: "list.txt" {more} }}')


def windows(more: str = "batch_size: 2", transform: str = "crop_size: 4") -> pb.LayerParameter:
    return layer("WindowData", f'window_data_param {{ source: "list.txt" {more} }} transform_param {{ {transform} }}')


@pytest.mark.parametrize("make", [images, hdf5, windows])
def test_lists_that_are_not_there(tmp_path: Path, make: Callable[..., pb.LayerParameter]) -> None:
    refused(make(), tmp_path, "list.txt: cannot read", "No such file")
    (tmp_path / "list.txt").mkdir()
    refused(make(), tmp_path, "list.txt: cannot read", "directory")
    (tmp_path / "list.txt").rmdir()
    (tmp_path / "list.txt").touch()
    refused(make(), tmp_path, "empty")
    param = make()
    for part in (param.image_data_param, param.hdf5_data_param, param.window_data_param):
        part.source = ""
    refused(param, tmp_path, "no source")
    refused(make("batch_size: 0"), tmp_path, "batch_size")


def test_lists_of_pictures(tmp_path: Path) -> None:
    (tmp_path / "a b.png").write_bytes(encode(image(RNG, 6, 8)))
    (tmp_path / "bad.png").write_bytes(b"no picture")
    listed = tmp_path / "list.txt"
    for text, line in (
        ("a b.png 1\na b.png\n", 2),
        ("a b.png", 1),
        ("a b.png 1\n\na b.png 2\n", 2),
        ("a b.png 1\na b.png 2 \n", 2),
        ("a b.png 1\na b.png 1.5\n", 2),
        ("a b.png 1_0\n", 1),
        ("a b.png \uff11\n", 1),
        ("a b.png 2147483648\n", 1),
        ("a b.png " + "9" * 400, 1),
        (" 3\n", 1),
    ):
        listed.write_text(text)
        refused(images(), tmp_path, f"list.txt: line {line} is not a file and its label")
    listed.write_text("missing.png 1\n")
    refused(images(), tmp_path, "line 1:", "missing.png", "No such file")
    listed.write_text("bad.png 1\n")
    refused(images(), tmp_path, "line 1:", "bad.png", "no picture")
    listed.write_text("a b.png 1\r\na b.png 2\n")
    check_source(images(), tmp_path)
    refused(images("batch_size: 1 rand_skip: 3"), tmp_path, "rand_skip 3", "2 pictures")
    refused(images("batch_size: 1 new_height: 3"), tmp_path, "new_height and new_width")
    refused(images(transform="crop_size: 7"), tmp_path, "line 1:", "crop_size 7")


def test_pictures_further_down(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(encode(image(RNG, 6, 8)))
    (tmp_path / "bad.jpg").write_bytes(encode(image(RNG, 6, 8), ".jpg")[:50])
    listed = tmp_path / "list.txt"
    listed.write_text("a.png 1\n" * 5 + "gone.png 1\n")
    with pytest.raises(RebirthError, match=r"list\.txt: line 6: .*gone\.png: .*No such file"):
        check_source(images(), tmp_path)
    met(images(), tmp_path, 2, "list.txt: line 6:", "gone.png", "No such file")
    listed.write_text("a.png 1\n" * 3 + "bad.jpg 1\n")
    check_source(images(), tmp_path)
    met(images(), tmp_path, 1, "list.txt: line 4:", "bad.jpg", "no picture, or a damaged one")


def write_hdf5(path: Path, **sets: Any) -> None:
    h5py = pytest.importorskip("h5py")
    with h5py.File(path, "w") as file:
        for name, values in sets.items():
            file[name] = values


def test_lists_of_hdf5(tmp_path: Path) -> None:
    good = {"data": np.ones((3, 2)), "label": np.ones(3)}
    write_hdf5(tmp_path / "good", **good)
    write_hdf5(tmp_path / "nolabel", data=np.ones((3, 2)))
    write_hdf5(tmp_path / "uneven", data=np.ones((3, 2)), label=np.ones(4))
    write_hdf5(tmp_path / "scalar", data=1.0, label=np.ones(3))
    write_hdf5(tmp_path / "text", data=[b"a", b"b", b"c"], label=np.ones(3))
    write_hdf5(tmp_path / "norows", data=np.ones((0, 2)), label=np.ones(0))
    write_hdf5(tmp_path / "wider", data=np.ones((3, 3)), label=np.ones(3))
    (tmp_path / "damaged").write_bytes((tmp_path / "good").read_bytes()[:300])
    for name, words in (
        ("gone", "No such file"),
        ("list.txt", "no HDF5 file"),
        ("damaged", "no HDF5 file"),
        ("nolabel", 'no data set "label"'),
        ("uneven", "same number of rows"),
        ("scalar", '"data" does not hold rows of numbers'),
        ("text", '"data" does not hold rows of numbers'),
        ("norows", "no rows"),
        ("wider", "another shape than in good"),
    ):
        (tmp_path / "list.txt").write_text(f"good\n{name}\n")
        refused(hdf5(), tmp_path, f"list.txt: {name}: ", words)
    (tmp_path / "list.txt").write_text("good\n")
    param = hdf5()
    param.transform_param.mirror = False
    refused(param, tmp_path, "does not transform")
    with open_layer(hdf5(), False, tmp_path) as opened:
        (tmp_path / "good").unlink()
        with pytest.raises(RebirthError, match=r"list\.txt: good: "):
            opened.next()


def test_lists_of_windows(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(encode(image(RNG, 10, 12)))
    listed = tmp_path / "list.txt"
    head, boxes = "# 0\na.png\n3 10 12\n", "1 0.9 1 1 5 5\n1 0.1 1 1 5 5\n"
    fine = f"{head}2\n{boxes}"
    for text, words in (
        ("hello\n", "no window file"),
        (f"{head}3\n{boxes}", "picture number 1"),
        (f"{head}2\n{boxes}2", "picture number 1"),
        (f"{head}2\n1 0.9 1 1 5 x\n1 0.1 1 1 5 5\n", "no window file"),
        (f"{head}2\n0 0.9 1 1 5 5\n1 0.1 1 1 5 5\n", "no window file"),
        (fine.replace("# 0", "# 7"), "picture # 7"),
        (fine.replace("3 10 12", "1 10 12"), "1 channel(s)"),
        (f"{head}1\n1 0.9 1 1 5 5\n", "bg_threshold"),
        (f"{head}1\n1 0.1 1 1 5 5\n", "fg_threshold"),
    ):
        listed.write_text(text)
        refused(windows("batch_size: 4"), tmp_path, "list.txt: ", words)
    listed.write_text(fine)
    check_source(windows(), tmp_path)
    refused(windows(transform=""), tmp_path, "crop_size")
    refused(windows("batch_size: 4 context_pad: 2"), tmp_path, "context_pad 2")
    for shape in ((3, 10, 3), (1, 10, 12), (3, 5, 12)):
        mean_of(tmp_path / "mean", np.ones(shape))
        refused(windows(transform='crop_size: 4 mean_file: "mean"'), tmp_path, "x".join(map(str, shape)))
    for corners in ("1 1 12 5", "-1 1 5 5", "3 3 2 5", "1 8 5 10"):
        listed.write_text(fine.replace("1 1 5 5", corners))
        met(windows(), tmp_path, 0, "picture number 0: a.png", corners)
    listed.write_text(fine.replace("a.png", "gone.png"))
    with pytest.raises(RebirthError, match=r"picture number 0: gone\.png: .*No such file"):
        check_source(windows(), tmp_path)
    met(windows(), tmp_path, 0, "picture number 0: gone.png", "No such file")


def test_layers_without_a_source(tmp_path: Path) -> None:
    for kind in ("Input", "DummyData", "MemoryData", "Convolution", "?"):
        check_source(layer(kind, ""), tmp_path)
        with pytest.raises(RebirthError, match="reads no files"):
            open_layer(layer(kind, ""), True, tmp_path)


@pytest.mark.parametrize(("module", "make"), [("plyvel", "leveldb"), ("cv2", "images"), ("h5py", "hdf5")])
def test_a_library_that_is_missing(tmp_path: Path, module: str, make: str) -> None:
    lmdb_of(tmp_path / "lmdb", [GOOD])
    leveldb_of(tmp_path / "leveldb", [GOOD])
    (tmp_path / "a.png").write_bytes(encode(image(RNG, 6, 8)))
    (tmp_path / "list.txt").write_text("a.png 1\n" if make == "images" else "a.h5\n")
    write_hdf5(tmp_path / "a.h5", data=np.ones((3, 2)), label=np.ones(3))
    param = {
        "leveldb": database("leveldb", "LEVELDB"),
        "images": images(),
        "hdf5": hdf5(),
    }[make]
    check_source(param, tmp_path)
    code = (
        "import sys; sys.modules[sys.argv[1]] = None\n"
        "from deeprebirth_caffe.data import check_source\n"
        "from deeprebirth_caffe.errors import RebirthError\n"
        "from deeprebirth_caffe.proto import caffe_pb2 as pb\n"
        "try: check_source(pb.LayerParameter.FromString(bytes.fromhex(sys.argv[2])), sys.argv[3])\n"
        "except RebirthError as error: print(error)\n"
    )
    command = [sys.executable, "-c", code, module, param.SerializeToString().hex(), str(tmp_path)]
    text = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    assert text.startswith('layer "source"') or text.startswith("reading ")
    assert ": pip install '" in text


def test_libraries_say_nothing_of_their_own(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """libpng writes to descriptor 2, whatever OpenCV was told; afterwards that is what it was."""
    damaged = bytearray(encode(image(RNG, 40, 50)))
    damaged[200] ^= 255
    (tmp_path / "bad.png").write_bytes(damaged)
    (tmp_path / "list.txt").write_text("bad.png 1\n")
    refused(images(), tmp_path, "no picture, or a damaged one")
    assert datum_shape("list.txt", "IMAGES", tmp_path) is None
    os.write(2, b"heard")
    assert capfd.readouterr().err == "heard"


def test_a_png_whose_chunk_is_longer_than_any_memory(tmp_path: Path) -> None:
    """OpenCV makes room for what a chunk says before it looks whether the file has it."""
    data = encode(image(RNG, 6, 8))
    at = data.index(b"IDAT") - 4
    (tmp_path / "a.png").write_bytes(data[:at] + b"\x33\x00\x00\x00" + data[at + 4 :])
    (tmp_path / "list.txt").write_text("a.png 1\n")
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    refused(images(), tmp_path, "no picture, or a damaged one")
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 300_000  # KiB
