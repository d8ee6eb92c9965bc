"""Small databases, pictures and HDF5 files for the tests of data layers."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from google.protobuf import text_format
from numpy.typing import NDArray

from deeprebirth_caffe.proto import caffe_pb2 as pb

Image = NDArray[np.uint8]


def image(rng: np.random.Generator, height: int, width: int, channels: int = 3) -> Image:
    """Pixels as OpenCV has them, H x W x C, or H x W for one channel."""
    shape = (height, width, channels) if channels > 1 else (height, width)
    return rng.integers(0, 256, shape, dtype=np.uint8)


def encode(pixels: Image, kind: str = ".png", *options: int) -> bytes:
    cv2 = pytest.importorskip("cv2")
    done, data = cv2.imencode(kind, pixels, list(options))
    assert done
    return bytes(data)


def raw(pixels: Image, label: int = 0) -> pb.Datum:
    planes = pixels[None] if pixels.ndim == 2 else pixels.transpose(2, 0, 1)
    channels, height, width = planes.shape
    return pb.Datum(channels=channels, height=height, width=width, data=planes.tobytes(), label=label)


def floats(rng: np.random.Generator, shape: tuple[int, int, int], label: int = 0) -> pb.Datum:
    values = rng.standard_normal(shape).astype(np.float32)
    return pb.Datum(channels=shape[0], height=shape[1], width=shape[2], float_data=values.ravel(), label=label)


def encoded(data: bytes, label: int = 0) -> pb.Datum:
    return pb.Datum(encoded=True, data=data, label=label)


def lmdb_of(path: Path, values: Sequence[pb.Datum | bytes]) -> Path:
    lmdb = pytest.importorskip("lmdb")
    with lmdb.open(str(path), map_size=1 << 24) as database, database.begin(write=True) as transaction:
        for number, value in enumerate(values):
            transaction.put(b"%08d" % number, value if isinstance(value, bytes) else value.SerializeToString())
    return path


def leveldb_of(path: Path, values: Sequence[pb.Datum | bytes]) -> Path:
    plyvel = pytest.importorskip("plyvel")
    database = plyvel.DB(str(path), create_if_missing=True)
    for number, value in enumerate(values):
        database.put(b"%08d" % number, value if isinstance(value, bytes) else value.SerializeToString())
    database.close()
    return path


def database_of(path: Path, backend: str, values: Sequence[pb.Datum | bytes]) -> Path:
    return lmdb_of(path, values) if backend == "LMDB" else leveldb_of(path, values)


def mean_of(path: Path, mean: NDArray[Any], *, legacy: bool = True) -> Path:
    blob = pb.BlobProto(data=mean.ravel().astype(np.float32))
    if legacy:
        blob.num, blob.channels, blob.height, blob.width = 1, *mean.shape
    else:
        blob.shape.dim.extend((1, *mean.shape))
    path.write_bytes(blob.SerializeToString())
    return path


def layer(kind: str, body: str, tops: Sequence[str] = ("data", "label")) -> pb.LayerParameter:
    """A data layer from the text of its parameters."""
    param = text_format.Parse(body, pb.LayerParameter())
    param.name = "source"
    param.type = kind
    param.top.extend(tops)
    return param


def data_layer(source: Path | str, batch: int, transform: str = "", more: str = "", **kind: Any) -> pb.LayerParameter:
    """A Data layer of an LMDB, unless `more` says otherwise."""
    backend = "" if "backend" in more else "backend: LMDB"
    body = f'data_param {{ source: "{source}" batch_size: {batch} {backend} {more} }}'
    return layer("Data", f"{body} transform_param {{ {transform} }}", **kind)
