"""Files with a structure of their own (HDF5, pictures, LMDB, LevelDB): made whole, then damaged where it hurts."""

from __future__ import annotations

import io
import shutil
import struct
import tempfile
import zlib
from collections.abc import Sequence
from pathlib import Path
from random import Random
from typing import Any

import mutate
import numpy as np
import seeds as files

from deeprebirth_caffe.commands.convert import convert
from deeprebirth_caffe.data import open_layer
from deeprebirth_caffe.data.decode import COLOR, GRAY, NATIVE, BadRecordError, decode
from deeprebirth_caffe.errors import RebirthError
from deeprebirth_caffe.formats.pictures import load_opencv
from deeprebirth_caffe.formats.records import datum_shape
from deeprebirth_caffe.formats.solverstate import read_solverstate
from deeprebirth_caffe.formats.stores import open_cursor
from deeprebirth_caffe.options.convert import ConvertOptions
from deeprebirth_caffe.proto import caffe_pb2 as pb

RECORDS = 200
"""How far a database is read."""


def weights_files() -> list[bytes]:
    """HDF5 weights of `WEIGHED`, sound ones and such as nobody should write."""
    return [_weights(Random(number), number) for number in range(40)]


def damage_weights(random: Random, seeds: Sequence[bytes]) -> bytes:
    """One of them, most often with some bytes changed."""
    return random.choice(seeds) if random.randrange(8) == 0 else _flipped(random, random.choice(seeds))


def run_weights(data: bytes, folder: Path) -> None:
    """Takes the file through a conversion, and reads it as data and as a solverstate."""
    path, net = folder / "net.caffemodel.h5", folder / "weighed.prototxt"
    path.write_bytes(data)
    if not net.exists():
        net.write_text(files.WEIGHED)
    (folder / "list.txt").write_text(path.name)
    top = "data/conv1/0"
    datum_shape("list.txt", "HDF5", folder, top=top)
    param = pb.LayerParameter(name="data", type="HDF5Data", top=[top])
    param.hdf5_data_param.source, param.hdf5_data_param.batch_size = "list.txt", 2
    try:
        with open_layer(param, False, folder, threads=1) as data_layer:
            data_layer.next()
    finally:
        try:
            convert(ConvertOptions(net, path, out=folder / "out", dry_run=True))
        finally:
            read_solverstate(path)


def _weights(random: Random, number: int) -> bytes:
    import h5py

    memory = io.BytesIO()
    with h5py.File(memory, "w") as file:
        data = file.create_group("data")
        for layer, (_, shapes) in files.SHAPES.items():
            group = data.create_group(layer)
            for index, shape in enumerate(shapes):
                _dataset(random if number % 4 else None, group, str(index), shape)
        if number % 4 == 0:
            file.create_dataset("iter", data=3)
            file.create_dataset("current_step", data=0)
            file.create_dataset("learned_net", data=b"net.caffemodel.h5")
            file.create_group("history").create_dataset("0", data=np.ones((4, 3, 3, 3), np.float32))
        elif random.randrange(2):
            _stranger(random, file, data)
    return memory.getvalue()


def _dataset(random: Random | None, group: Any, name: str, shape: tuple[int, ...]) -> None:
    """A blob; with a source of chance now and then an odd one."""
    import h5py

    kind = 0 if random is None else random.randrange(16)
    if kind == 1:
        group.create_dataset(name, shape, np.float64, data=np.full(shape, 1e300))
    elif kind == 2:
        group.create_dataset(name, (2**31, 2**20), np.float32, chunks=(64, 64))
    elif kind == 3:
        group.create_dataset(name, shape, h5py.string_dtype())
    elif kind == 4:
        group.create_dataset(name, data=h5py.Empty("f4"))
    elif kind == 5:
        group.create_dataset(name, shape, np.dtype([("a", "f4"), ("b", "i8")]))
    elif kind == 6:
        group[name] = h5py.SoftLink(f"{group.name}/{name}")
    elif kind == 7:
        group[name] = h5py.ExternalLink("/etc/passwd", "/a")
    elif kind == 8:
        group.create_group(name)
    elif kind == 9:
        group.create_dataset(name, data=np.zeros(shape, np.float32), compression="gzip", chunks=shape)
    elif kind == 10:
        group.create_dataset(name, shape[::-1], ">f4", data=np.full(shape[::-1], np.nan))
    else:
        group.create_dataset(name, data=np.ones(shape, np.float32))


def _stranger(random: Random, file: Any, data: Any) -> None:
    import h5py

    kind = random.randrange(5)
    if kind == 0:
        data["again"] = data["conv1"]
    elif kind == 1:
        data["conv1/loop"] = data
    elif kind == 2:
        data["x\x1b[2J"] = h5py.SoftLink("/nowhere")
    elif kind == 3:
        data.attrs["a"] = np.arange(1000)
    else:
        file.create_dataset("data2", (2**40,), np.uint8, chunks=(1024,))


def pictures() -> list[bytes]:
    """One picture in each format that OpenCV writes."""
    cv2 = load_opencv()
    random = np.random.default_rng(0)
    color, gray = (random.integers(0, 256, shape, np.uint8) for shape in ((9, 12, 3), (9, 12)))
    deep = random.integers(0, 65536, (9, 12, 3), np.uint16)
    alpha = random.integers(0, 256, (9, 12, 4), np.uint8)
    found = []
    for suffix in (".png", ".jpg", ".bmp", ".webp", ".tiff", ".ppm", ".pgm", ".jp2", ".gif", ".ras", ".hdr", ".avif"):
        for picture in (color, gray, deep, alpha):
            try:
                done, data = cv2.imencode(suffix, picture)
            except cv2.error:
                continue
            if done:
                found.append(data.tobytes())
    return found


def damage_picture(random: Random, seeds: Sequence[bytes]) -> bytes:
    """A picture with its head or its body changed; a PNG most often with sums that fit again."""
    data = _flipped(random, random.choice(seeds)) if random.randrange(3) else bytearray(random.choice(seeds))
    if data[:8] == b"\x89PNG\r\n\x1a\n" and random.randrange(4):
        data = bytearray(data)
        if random.randrange(2):
            sides = [random.choice((0, 1, 12, 255, 1000, 10**5, 2**31 - 1, 2**32 - 1)) for _ in range(2)]
            data[16:24] = struct.pack(">II", *sides)
        data[29:33] = struct.pack(">I", zlib.crc32(data[12:29]))
    return bytes(data)


def run_picture(data: bytes, folder: Path) -> None:
    """Decodes it in every way."""
    for flag in (COLOR, GRAY, NATIVE):
        try:
            decode(data, flag)
        except BadRecordError as error:
            raise RebirthError(str(error)) from error


def _records() -> list[tuple[bytes, bytes]]:
    random = np.random.default_rng(0)
    found = []
    for number in range(40):
        pixels = random.integers(0, 256, 3 * 6 * (7 + 200 * (number % 5 == 0)), np.uint8).tobytes()
        datum = pb.Datum(channels=3, height=6, width=len(pixels) // 18, data=pixels, label=number % 4)
        found.append((b"%08d" % number, datum.SerializeToString()))
    return found


def lmdbs() -> list[bytes]:
    """The files of small databases."""
    import lmdb

    found = []
    for count, gone in ((40, 0), (3, 0), (40, 17)):
        with tempfile.TemporaryDirectory() as folder:
            with lmdb.open(folder, map_size=1 << 22) as database, database.begin(write=True) as transaction:
                for key, value in _records()[:count]:
                    transaction.put(key, value)
                for key, _ in _records()[:gone]:
                    transaction.delete(key)
            found.append(Path(folder, "data.mdb").read_bytes())
    return found


def damage_lmdb(random: Random, seeds: Sequence[bytes]) -> bytes:
    """A database with heads and indices of pages changed, or cut off."""
    data = bytearray(random.choice(seeds))
    for _ in range(random.choice((1, 1, 2, 5))):
        page = 4096 * random.randrange(len(data) // 4096 or 1)
        at = page + (random.randrange(160) if random.randrange(3) else random.randrange(4096))
        width = random.choice((1, 2, 4, 8))
        value = random.choice((0, 1, 2, 3, 4095, 4096, 2**15, 2**16 - 1, 2**31, 2**32 - 1, 2**63, 2**64 - 1))
        data[at : at + width] = random.randbytes(width) if random.randrange(2) else value.to_bytes(8, "little")[:width]
    return bytes(data[: random.randrange(len(data))] if random.randrange(12) == 0 else data)


def run_lmdb(data: bytes, folder: Path) -> None:
    """Reads the first record's shape and all records, and looks for some."""
    place = folder / "lmdb"
    place.mkdir(exist_ok=True)
    (place / "data.mdb").write_bytes(data)
    _read(place, "LMDB")


def leveldbs() -> list[bytes]:
    """The files of small databases, each in front of its name."""
    import plyvel

    found = []
    for count, settle in ((40, False), (40, True), (3, True)):
        with tempfile.TemporaryDirectory() as folder:
            with plyvel.DB(folder, create_if_missing=True) as database:
                for key, value in _records()[:count]:
                    database.put(key, value)
                if settle:
                    database.compact_range()
            found.append(_packed(Path(folder)))
    return found


def damage_leveldb(random: Random, seeds: Sequence[bytes]) -> bytes:
    """One of its files changed."""
    entries = _unpacked(random.choice(seeds))
    name = random.choice(sorted(entries))
    entries[name] = _flipped(random, entries[name]) if random.randrange(10) else b""
    if random.randrange(20) == 0:
        del entries[random.choice(sorted(entries))]
    return b"".join(_entry(name, data) for name, data in entries.items())


def run_leveldb(data: bytes, folder: Path) -> None:
    """Likewise."""
    place = folder / "leveldb"
    shutil.rmtree(place, ignore_errors=True)
    place.mkdir()
    for name, content in _unpacked(data).items():
        (place / name).write_bytes(content)
    _read(place, "LEVELDB")


def _read(place: Path, backend: str) -> None:
    datum_shape(str(place), backend)
    cursor = open_cursor(place, backend)
    try:
        first, keys = cursor.key(), [cursor.key()]
        for _ in range(RECORDS):
            bytes(cursor.value())
            cursor.advance()
            if cursor.key() == first:
                break
            keys.append(cursor.key())
        for key in keys[::7]:
            cursor.seek(key)
        cursor.seek(b"no such key")
    finally:
        cursor.close()


def _packed(folder: Path) -> bytes:
    names = [path for path in sorted(folder.iterdir()) if path.name not in ("LOCK", "LOG", "LOG.old")]
    return b"".join(_entry(path.name, path.read_bytes()) for path in names)


def _entry(name: str, data: bytes) -> bytes:
    return struct.pack("<II", len(name), len(data)) + name.encode() + data


def _unpacked(data: bytes) -> dict[str, bytes]:
    found, at = {}, 0
    while at < len(data):
        length, size = struct.unpack_from("<II", data, at)
        at += 8
        found[data[at : at + length].decode()] = data[at + length : at + length + size]
        at += length + size
    return found


def _flipped(random: Random, data: bytes) -> bytes:
    """Bytes changed in place for the most part, so that what stands behind them keeps its place."""
    if random.randrange(4) == 0:
        return mutate.mutate_bytes(random, [data])
    found = bytearray(data)
    for _ in range(random.choice((1, 1, 2, 4, 16))):
        at = random.randrange(len(found) or 1)
        if random.randrange(2):
            at = min(at, int(random.expovariate(0.01)))
        width = random.choice((1, 1, 2, 4, 8))
        value = random.choice((b"\0" * 8, b"\xff" * 8, b"\x7f" + b"\xff" * 7, random.randbytes(8)))
        found[at : at + width] = value[:width]
    return bytes(found)
