"""Data layers against real Caffe's: the same batches, to the bit."""

from __future__ import annotations

import itertools
import os
import subprocess
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

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
from google.protobuf import text_format
from numpy.typing import NDArray

from deeprebirth_caffe.data import open_layer
from deeprebirth_caffe.engines.base import EngineError
from deeprebirth_caffe.engines.caffe.client import CaffeWorker
from deeprebirth_caffe.errors import RebirthError
from deeprebirth_caffe.proto import caffe_pb2 as pb

if TYPE_CHECKING:
    from deeprebirth_caffe.engines.caffe.locate import CaffeInstall

cv2 = pytest.importorskip("cv2")

Batch = Mapping[str, NDArray[np.float32]]
RECORDS, BATCH, ROUNDS = 7, 3, 5
"""Batches run over the end of the source twice, at different places."""
MEANS = {
    "none": "",
    "one": "mean_value: 103.5",
    "several": "mean_value: 104 mean_value: 116.7 mean_value: 122.3",
    "file": 'mean_file: "mean.binaryproto"',
}


def real(
    caffe: CaffeWorker, param: pb.LayerParameter, folder: Path, rounds: int = ROUNDS, phase: str = "TEST"
) -> list[dict[str, Any]]:
    """What Caffe reads."""
    path = folder / "net.prototxt"
    net_param = pb.NetParameter(name="net", layer=[param])
    # The worker is in `folder` only while it loads; later Caffe's own threads open the files that are listed.
    copy = net_param.layer[0]
    if param.type in ("ImageData", "WindowData"):
        settings = copy.image_data_param if param.type == "ImageData" else copy.window_data_param
        settings.root_folder = f"{folder}/{settings.root_folder}"
    elif param.type == "HDF5Data":
        names = (folder / param.hdf5_data_param.source).read_text().split()
        (folder / "absolute.txt").write_text("".join(f"{folder / name}\n" for name in names))
        copy.hdf5_data_param.source = "absolute.txt"
    path.write_text(text_format.MessageToString(net_param))
    net = caffe.load(path, phase, cwd=folder)
    try:
        return [caffe.forward(net, blobs=list(param.top)) for _ in range(rounds)]
    finally:
        caffe.close(net)


def ours(
    param: pb.LayerParameter, folder: Path, rounds: int = ROUNDS, train: bool = False, **how: Any
) -> Iterator[Any]:
    with open_layer(param, train, folder, **how) as opened:
        for _ in range(rounds):
            yield dict(zip(param.top, opened.next(), strict=True))


def same(caffe: CaffeWorker, param: pb.LayerParameter, folder: Path, rounds: int = ROUNDS, train: bool = False) -> None:
    theirs = real(caffe, param, folder, rounds, "TRAIN" if train else "TEST")
    for number, (a, b) in enumerate(zip(theirs, ours(param, folder, rounds, train), strict=True)):
        for name in param.top:
            assert b[name].dtype == np.float32
            np.testing.assert_array_equal(b[name], a[name], err_msg=f"batch {number}, {name}")


def refused_by_both(caffe: CaffeWorker, param: pb.LayerParameter, folder: Path, rounds: int, match: str) -> None:
    with pytest.raises(EngineError):
        real(caffe, param, folder, rounds)
    with pytest.raises(RebirthError, match=match):
        list(ours(param, folder, rounds))


def records(kind: str, rng: np.random.Generator) -> list[pb.Datum]:
    if kind == "float":
        return [floats(rng, (3, 9, 11), 3 * number - 2) for number in range(RECORDS)]
    pixels = [image(rng, 9, 11, 1 if kind == "gray" else 3) for _ in range(RECORDS)]
    if kind == "raw":
        return [raw(one, number) for number, one in enumerate(pixels)]
    suffix = ".jpg" if kind == "jpeg" else ".png"
    return [encoded(encode(one, suffix), number) for number, one in enumerate(pixels)]


@pytest.fixture(scope="module", params=["LMDB", "LEVELDB"])
def backend(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory, backend: str) -> Path:
    path = tmp_path_factory.mktemp(backend)
    rng = np.random.default_rng(0)
    for kind in ("raw", "float", "jpeg", "png", "gray"):
        database_of(path / kind, backend, records(kind, rng))
    mean_of(path / "mean.binaryproto", rng.uniform(90, 130, (3, 9, 11)))
    return path


@pytest.mark.parametrize("kind", ["raw", "float", "jpeg", "png", "gray"])
@pytest.mark.parametrize("mean", MEANS)
def test_records(caffe: CaffeWorker, folder: Path, backend: str, kind: str, mean: str) -> None:
    forces = ["force_gray: true", "force_color: true"] if kind in ("jpeg", "png", "gray") else [""]
    for crop, scale, force in itertools.product(("", "crop_size: 5"), ("", "scale: 0.0171"), ["", *forces]):
        gray = "gray" in force or (kind == "gray" and "color" not in force)
        if gray and mean in ("several", "file"):
            continue
        transform = f"{MEANS[mean]} {crop} {scale} {force}"
        same(caffe, data_layer(kind, BATCH, transform, f"backend: {backend}"), folder)


@pytest.mark.parametrize("kind", ["raw", "jpeg"])
def test_train_without_randomness(caffe: CaffeWorker, folder: Path, backend: str, kind: str) -> None:
    same(caffe, data_layer(kind, BATCH, "mean_value: 7 scale: 0.3", f"backend: {backend}"), folder, train=True)


def test_fields_that_mean_nothing_to_caffe(caffe: CaffeWorker, folder: Path, backend: str) -> None:
    more = f"backend: {backend} rand_skip: 5 crop_size: 4 scale: 3 mirror: true force_encoded_color: true"
    same(caffe, data_layer("raw", BATCH, "", more), folder, train=True)


@pytest.mark.parametrize("batch", [1, RECORDS, 2 * RECORDS + 1])
def test_batches_of_every_size(caffe: CaffeWorker, folder: Path, backend: str, batch: int) -> None:
    same(caffe, data_layer("raw", batch, "", f"backend: {backend}", tops=["data"]), folder)


def test_means_of_other_forms(caffe: CaffeWorker, tmp_path: Path) -> None:
    rng = np.random.default_rng(1)
    lmdb_of(tmp_path / "db", [raw(image(rng, 6, 8), 1), raw(image(rng, 6, 8), 2)])
    mean_of(tmp_path / "new", rng.uniform(0, 9, (3, 6, 8)), legacy=False)
    twice = pb.BlobProto(num=2, channels=3, height=6, width=8, data=rng.uniform(0, 9, 288))
    (tmp_path / "twice").write_bytes(twice.SerializeToString())
    double = pb.BlobProto(double_data=rng.uniform(0, 9, 144))
    double.shape.dim.extend((1, 3, 6, 8))
    (tmp_path / "double").write_bytes(double.SerializeToString())
    for name in ("new", "twice", "double"):
        same(caffe, data_layer("db", 3, f'mean_file: "{name}" crop_size: 3'), tmp_path, 1)
    mean_of(tmp_path / "small", rng.uniform(0, 9, (3, 6, 7)))
    flat = pb.BlobProto(data=rng.uniform(0, 9, 144))
    flat.shape.dim.extend((3, 6, 8))  # three axes are number, channels, height to Caffe
    (tmp_path / "flat").write_bytes(flat.SerializeToString())
    for name in ("small", "flat"):
        refused_by_both(caffe, data_layer("db", 3, f'mean_file: "{name}"'), tmp_path, 1, "mean file")


def test_records_of_several_sizes(caffe: CaffeWorker, tmp_path: Path) -> None:
    rng = np.random.default_rng(2)
    sizes = [(6, 8), (9, 7), (12, 5), (5, 5)]
    lmdb_of(tmp_path / "raw", [raw(image(rng, *size), number) for number, size in enumerate(sizes)])
    lmdb_of(tmp_path / "png", [encoded(encode(image(rng, *size)), number) for number, size in enumerate(sizes)])
    for source in ("raw", "png"):
        same(caffe, data_layer(source, 3, "crop_size: 5"), tmp_path)
        # Without a crop each batch has the shape of its first record.
        same(caffe, data_layer(source, 1), tmp_path)
        refused_by_both(caffe, data_layer(source, 2), tmp_path, 1, "00000001")
        refused_by_both(caffe, data_layer(source, 2, "crop_size: 6"), tmp_path, 2, "crop_size")


def test_channels_that_differ(caffe: CaffeWorker, tmp_path: Path) -> None:
    rng = np.random.default_rng(3)
    pictures = [encoded(encode(image(rng, 6, 8, channels)), channels) for channels in (3, 1, 4)]
    lmdb_of(tmp_path / "db", pictures)
    same(caffe, data_layer("db", 3, "force_color: true"), tmp_path)
    same(caffe, data_layer("db", 3, "force_gray: true"), tmp_path)
    refused_by_both(caffe, data_layer("db", 3), tmp_path, 1, "00000001")
    lmdb_of(tmp_path / "alpha", pictures[2:])
    same(caffe, data_layer("alpha", 1), tmp_path)


def test_both_forces(caffe: CaffeWorker, tmp_path: Path) -> None:
    pixels = image(np.random.default_rng(14), 6, 8)
    lmdb_of(tmp_path / "raw", [raw(pixels)])
    lmdb_of(tmp_path / "png", [encoded(encode(pixels))])
    same(caffe, data_layer("raw", 1, "force_color: true force_gray: true"), tmp_path, 1)
    refused_by_both(caffe, data_layer("png", 1, "force_color: true force_gray: true"), tmp_path, 1, "force_gray")


def test_raw_records_take_their_first_values(caffe: CaffeWorker, tmp_path: Path) -> None:
    longer = pb.Datum(channels=2, height=2, width=3, data=bytes(range(20)), label=-5)
    lmdb_of(tmp_path / "db", [longer])
    same(caffe, data_layer("db", 2), tmp_path, 1)


def test_databases_that_caffe_wrote(caffe: CaffeWorker, caffe_install: CaffeInstall, tmp_path: Path) -> None:
    rng = np.random.default_rng(4)
    listed = ""
    for number in range(5):
        (tmp_path / f"{number}.png").write_bytes(encode(image(rng, 10 + number, 12)))
        listed += f"{number}.png {number % 3}\n"
    (tmp_path / "list.txt").write_text(listed)
    if caffe_install.prefix is None:
        pytest.skip("only the Caffe of rebirth caffe install is known to have convert_imageset")
    binary = caffe_install.need_binary()
    # Its wrapper starts any program beside it, once it is told where it lies and which.
    wrapper = binary.read_text().replace("self=$0", f"self='{binary}'", 1)
    wrapper = wrapper.replace('/usr/bin/caffe"', '/usr/bin/convert_imageset"')
    for backend, option in itertools.product(("lmdb", "leveldb"), ("-check_size", "-encoded", "-gray")):
        name = f"{backend}{option}"
        options = [option, f"-backend={backend}", "-resize_height=8", "-resize_width=9"]
        command = ["sh", "-c", wrapper, "convert_imageset", *options, f"{tmp_path}/", "list.txt", name]
        environment = {**os.environ, "GLOG_logtostderr": "1"}
        subprocess.run(command, cwd=tmp_path, env=environment, check=True, capture_output=True, timeout=120)
        same(caffe, data_layer(name, 3, "", f"backend: {backend.upper()}"), tmp_path)


def outcomes(pixels: NDArray[np.uint8], crop: int, mirror: bool) -> set[bytes]:
    """Every crop of H x W x C pixels, and its mirror image, as the bytes of its planes."""
    found = set()
    for top, left in itertools.product(range(pixels.shape[0] - crop + 1), range(pixels.shape[1] - crop + 1)):
        cut = pixels[top : top + crop, left : left + crop].transpose(2, 0, 1).astype(np.float32)
        found.add(cut.tobytes())
        if mirror:
            found.add(np.ascontiguousarray(cut[:, :, ::-1]).tobytes())
    return found


@pytest.mark.parametrize("kind", ["raw", "png"])
@pytest.mark.parametrize("mirror", [True, False])
def test_random_crops_and_mirrors(caffe: CaffeWorker, tmp_path: Path, kind: str, mirror: bool) -> None:
    pixels = image(np.random.default_rng(5), 6, 7)
    lmdb_of(tmp_path / "db", [raw(pixels) if kind == "raw" else encoded(encode(pixels))])
    param = data_layer("db", 50, f"crop_size: 4 mirror: {str(mirror).lower()}", tops=["data"])
    possible = outcomes(pixels, 4, mirror)
    theirs = {one.tobytes() for batch in real(caffe, param, tmp_path, 8, "TRAIN") for one in batch["data"]}
    mine = {one.tobytes() for batch in ours(param, tmp_path, 8, True, seed=3) for one in batch["data"]}
    assert theirs == possible
    assert mine == possible


def test_mirrors_in_phase_test(caffe: CaffeWorker, tmp_path: Path) -> None:
    rng = np.random.default_rng(6)
    pixels = image(rng, 6, 7)
    mean = rng.uniform(90, 130, (3, 6, 7)).astype(np.float32)
    lmdb_of(tmp_path / "raw", [raw(pixels)])
    lmdb_of(tmp_path / "png", [encoded(encode(pixels))])
    mean_of(tmp_path / "mean", mean)
    cut = ((pixels.transpose(2, 0, 1) - mean) * np.float32(0.4))[:, 1:5, 1:5]
    possible = {np.ascontiguousarray(cut[:, :, ::step]).tobytes() for step in (1, -1)}
    for source in ("raw", "png"):
        param = data_layer(source, 20, 'crop_size: 4 mirror: true mean_file: "mean" scale: 0.4', tops=["data"])
        for batches in (real(caffe, param, tmp_path, 2), ours(param, tmp_path, 2)):
            assert {one.tobytes() for batch in batches for one in batch["data"]} == possible


# ------------------------------------------------------------ ImageData


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of pictures of all kinds and one size; `list.txt` names them."""
    path = tmp_path_factory.mktemp("pictures")
    rng = np.random.default_rng(7)
    (path / "sub dir").mkdir()
    kinds = [
        ("a.png", encode(image(rng, 10, 14))),
        ("sub dir/b.jpg", encode(cv2.resize(image(rng, 3, 4), (14, 10)), ".jpg", cv2.IMWRITE_JPEG_QUALITY, 60)),
        ("gray.png", encode(image(rng, 10, 14, 1))),
        ("alpha.png", encode(image(rng, 10, 14, 4))),
        ("deep.png", encode(image(rng, 10, 14).astype(np.uint16) * 257)),
        ("c.bmp", encode(image(rng, 10, 14), ".bmp")),
        ("gray.jpg", encode(image(rng, 10, 14, 1), ".jpg")),
    ]
    for name, data in kinds:
        (path / name).write_bytes(data)
    (path / "list.txt").write_text("".join(f"{name} {5 * at - 3}\n" for at, (name, _) in enumerate(kinds)))
    (path / "named.txt").write_text("".join(f"{Path(name).name} 1\n" for name, _ in kinds if "sub" in name))
    mean_of(path / "mean.binaryproto", rng.uniform(90, 130, (3, 10, 14)))
    return path


def images(more: str, transform: str = "", source: str = "list.txt") -> pb.LayerParameter:
    return layer("ImageData", f'image_data_param {{ source: "{source}" {more} }} transform_param {{ {transform} }}')


@pytest.mark.parametrize("color", [True, False])
@pytest.mark.parametrize("size", [(0, 0), (10, 14), (7, 5), (20, 28), (23, 9), (5, 7)])
def test_pictures(caffe: CaffeWorker, pictures: Path, color: bool, size: tuple[int, int]) -> None:
    settings = f"batch_size: 3 is_color: {str(color).lower()} new_height: {size[0]} new_width: {size[1]}"
    same(caffe, images(settings), pictures)
    same(caffe, images(settings, "crop_size: 5 mean_value: 101 scale: 0.3"), pictures)


def test_pictures_with_means(caffe: CaffeWorker, pictures: Path) -> None:
    same(caffe, images("batch_size: 4", MEANS["several"]), pictures)
    same(caffe, images("batch_size: 4", f"{MEANS['file']} crop_size: 6"), pictures)
    same(caffe, images("", "scale: 0.5"), pictures, 9, train=True)
    same(caffe, images('root_folder: "sub dir/"', source="named.txt"), pictures)
    same(caffe, images("crop_size: 4 scale: 3 mirror: true"), pictures, train=True)


def test_pictures_of_several_sizes(caffe: CaffeWorker, tmp_path: Path) -> None:
    rng = np.random.default_rng(8)
    for number, size in enumerate([(6, 8), (9, 7)]):
        (tmp_path / f"{number}.png").write_bytes(encode(image(rng, *size)))
    (tmp_path / "list.txt").write_text("0.png 4\n1.png 5")
    same(caffe, images("batch_size: 1"), tmp_path)
    same(caffe, images("batch_size: 2", "crop_size: 5"), tmp_path)
    refused_by_both(caffe, images("batch_size: 2"), tmp_path, 1, "line 2: .*1.png")


def turned(data: bytes, kind: str, orientation: int) -> bytes:
    """A JPEG or PNG that says how the camera was held."""
    from binascii import crc32

    exif = b"MM\0*\0\0\0\x08\0\x01\x01\x12\0\x03\0\0\0\x01\0" + bytes([orientation]) + bytes(6)
    if kind == ".jpg":
        block = b"Exif\0\0" + exif
        return data[:2] + b"\xff\xe1" + (len(block) + 2).to_bytes(2, "big") + block + data[2:]
    chunk = b"eXIf" + exif
    return data[:33] + len(exif).to_bytes(4, "big") + chunk + crc32(chunk).to_bytes(4, "big") + data[33:]


@pytest.mark.parametrize("kind", [".jpg", ".png"])
def test_pictures_that_say_how_they_are_turned(caffe: CaffeWorker, tmp_path: Path, kind: str) -> None:
    plain = encode(image(np.random.default_rng(9), 6, 9), kind)
    files = [turned(plain, kind, orientation) for orientation in range(1, 9)]
    for number, data in enumerate(files):
        (tmp_path / f"{number}{kind}").write_bytes(data)
    (tmp_path / "list.txt").write_text("".join(f"{number}{kind} {number}\n" for number in range(8)))
    lmdb_of(tmp_path / "db", [encoded(data, number) for number, data in enumerate(files)])
    same(caffe, images("batch_size: 1"), tmp_path, 8)
    for transform in ("", "force_color: true", "force_gray: true"):
        same(caffe, data_layer("db", 1, transform), tmp_path, 8)


def test_jpegs_of_every_kind(caffe: CaffeWorker, tmp_path: Path) -> None:
    rng = np.random.default_rng(10)
    listed, datums = "", []
    factors = [value for name, value in sorted(vars(cv2).items()) if name.startswith("IMWRITE_JPEG_SAMPLING_FACTOR_")]
    assert len(factors) == 5
    for factor, progressive, quality in itertools.product(factors, (0, 1), (40, 97)):
        pixels = cv2.resize(image(rng, 6, 8), (51, 37), interpolation=cv2.INTER_CUBIC)
        pixels ^= image(rng, 37, 51) & 15
        options = [cv2.IMWRITE_JPEG_SAMPLING_FACTOR, factor, cv2.IMWRITE_JPEG_PROGRESSIVE, progressive]
        data = encode(pixels, ".jpg", *options, cv2.IMWRITE_JPEG_QUALITY, quality)
        (tmp_path / f"{len(datums)}.jpg").write_bytes(data)
        listed += f"{len(datums)}.jpg 0\n"
        datums.append(encoded(data))
    (tmp_path / "list.txt").write_text(listed)
    lmdb_of(tmp_path / "db", datums)
    same(caffe, images(f"batch_size: {len(datums)}"), tmp_path, 1)
    same(caffe, images(f"batch_size: {len(datums)} is_color: false"), tmp_path, 1)
    same(caffe, images(f"batch_size: {len(datums)} new_height: 64 new_width: 64"), tmp_path, 1)
    for transform in ("", "force_gray: true"):
        same(caffe, data_layer("db", len(datums), transform), tmp_path, 1)


def test_a_jpeg_that_ends_early(caffe: CaffeWorker, tmp_path: Path) -> None:
    data = encode(cv2.resize(image(np.random.default_rng(11), 6, 8), (64, 48)), ".jpg")
    for number, cut in enumerate((2, 1, 20, len(data) // 3)):
        (tmp_path / f"{number}.jpg").write_bytes(data[:-cut])
    (tmp_path / "list.txt").write_text("".join(f"{number}.jpg 0\n" for number in range(4)))
    same(caffe, images("batch_size: 4"), tmp_path, 1)
    same(caffe, images("batch_size: 4 is_color: false"), tmp_path, 1)


@pytest.mark.parametrize("train", [True, False])
def test_shuffled_pictures(caffe: CaffeWorker, tmp_path: Path, train: bool) -> None:
    count = 6
    for number in range(count):
        (tmp_path / f"{number}.png").write_bytes(encode(np.full((2, 2, 3), number, np.uint8)))
    (tmp_path / "list.txt").write_text("".join(f"{number}.png {number}\n" for number in range(count)))
    param = images(f"batch_size: {count} shuffle: true")
    for batches in (real(caffe, param, tmp_path, 12, "TRAIN" if train else "TEST"), ours(param, tmp_path, 12, train)):
        orders = set()
        for batch in batches:
            np.testing.assert_array_equal(batch["data"][:, 0, 0, 0], batch["label"])
            assert sorted(batch["label"]) == list(range(count))
            orders.add(batch["label"].tobytes())
        assert len(orders) > 6


def test_rand_skip_of_pictures(caffe: CaffeWorker, tmp_path: Path) -> None:
    for number in range(6):
        (tmp_path / f"{number}.png").write_bytes(encode(np.full((2, 2, 3), number, np.uint8)))
    (tmp_path / "list.txt").write_text("".join(f"{number}.png {number}\n" for number in range(6)))
    param = images("batch_size: 1 rand_skip: 3")
    theirs = {float(real(caffe, param, tmp_path, 1)[0]["label"][0]) for _ in range(25)}
    mine = {float(next(ours(param, tmp_path, 1, seed=seed))["label"][0]) for seed in range(25)}
    assert theirs == mine == {0.0, 1.0, 2.0}


# ------------------------------------------------------------ HDF5Data


def hdf5(batch: int, more: str = "", tops: tuple[str, ...] = ("data", "label", "extra")) -> pb.LayerParameter:
    return layer("HDF5Data", f'hdf5_data_param {{ source: "list.txt" batch_size: {batch} {more} }}', tops)


def write_hdf5(folder: Path, rows: tuple[int, ...], dtype: Any = np.float32) -> None:
    h5py = pytest.importorskip("h5py")
    rng = np.random.default_rng(12)
    for number, count in enumerate(rows):
        with h5py.File(folder / f"{number}.h5", "w") as file:
            file["data"] = (rng.standard_normal((count, 2, 3, 4)) * 100).astype(dtype)
            file["label"] = (1000 * number + np.arange(count)).astype(dtype)
            file["extra"] = (rng.standard_normal((count, 5)) * 100).astype(dtype)
    (folder / "list.txt").write_text("".join(f"{number}.h5\n" for number in range(len(rows))))


@pytest.mark.parametrize("rows", [(7,), (4, 1, 5), (3, 3)])
@pytest.mark.parametrize("batch", [1, 3, 20])
def test_hdf5(caffe: CaffeWorker, tmp_path: Path, rows: tuple[int, ...], batch: int) -> None:
    write_hdf5(tmp_path, rows)
    same(caffe, hdf5(batch), tmp_path)
    same(caffe, hdf5(batch, tops=("label",)), tmp_path, train=True)


@pytest.mark.parametrize("dtype", [np.float64, np.int64, np.int32, np.uint8, np.float16])
def test_hdf5_of_other_numbers(caffe: CaffeWorker, tmp_path: Path, dtype: Any) -> None:
    write_hdf5(tmp_path, (4, 3), dtype)
    same(caffe, hdf5(3), tmp_path)


@pytest.mark.parametrize("rows", [(8,), (3, 5)])
def test_shuffled_hdf5(caffe: CaffeWorker, tmp_path: Path, rows: tuple[int, ...]) -> None:
    write_hdf5(tmp_path, rows)
    param = hdf5(8, "shuffle: true", ("label",))
    all_rows = sorted(float(1000 * number + row) for number, count in enumerate(rows) for row in range(count))
    for batches in (real(caffe, param, tmp_path, 10), ours(param, tmp_path, 10)):
        orders = set()
        for batch in batches:
            assert sorted(batch["label"].tolist()) == all_rows
            # A file's rows stay together.
            assert np.count_nonzero(np.diff(batch["label"] // 1000)) == len(rows) - 1
            orders.add(batch["label"].tobytes())
        assert len(orders) > 4


def test_hdf5_does_not_transform(caffe: CaffeWorker, tmp_path: Path) -> None:
    write_hdf5(tmp_path, (3,))
    param = hdf5(2)
    param.transform_param.scale = 2
    refused_by_both(caffe, param, tmp_path, 1, "does not transform")


# ------------------------------------------------------------ WindowData


WINDOWS = [
    (0, 0, 13, 9),
    (2, 3, 8, 5),
    (4, 1, 5, 9),
    (10, 6, 13, 9),
    (0, 0, 1, 7),
    (6, 4, 6, 4),
    (1, 1, 12, 8),
]


@pytest.mark.parametrize("window", WINDOWS)
def test_windows(caffe: CaffeWorker, pictures: Path, window: tuple[int, ...]) -> None:
    # One window of each kind, so that nothing is left to chance.
    corners = " ".join(map(str, window))
    (pictures / "windows.txt").write_text(
        f"# 0\na.png\n3\n10\n14\n2\n4 0.9 {corners}\n2 0.2 3 2 9 7\n# 1\nc.bmp\n3\n10\n14\n1\n1 0.6 0 0 3 3\n"
    )
    means = {**MEANS, "file": 'mean_file: "mean.binaryproto"'}
    grid = itertools.product(("", "context_pad: 1", 'crop_mode: "square"'), means, ("", "cache_images: true"))
    for pad, mean, cache in grid:
        body = f'source: "windows.txt" batch_size: 4 fg_threshold: 0.8 {pad} {cache} scale: 0.7 '
        param = layer(
            "WindowData", f"window_data_param {{ {body} }} transform_param {{ crop_size: 6 scale: 5 {means[mean]} }}"
        )
        same(caffe, param, pictures, 2)


def test_random_windows(caffe: CaffeWorker, pictures: Path) -> None:
    boxes = "".join(f"{3 + at} 0.9 {' '.join(map(str, window))}\n" for at, window in enumerate(WINDOWS))
    (pictures / "many.txt").write_text(f"# 0\na.png\n3\n10\n14\n{len(WINDOWS) + 1}\n{boxes}9 0.1 1 1 4 4\n")
    body = 'source: "many.txt" batch_size: 60 fg_fraction: 0.55 context_pad: 2 root_folder: ""'
    param = layer("WindowData", f"window_data_param {{ {body} }} transform_param {{ crop_size: 9 mirror: true }}")
    seen = []
    for batches in (real(caffe, param, pictures, 8, "TRAIN"), ours(param, pictures, 8, True)):
        rows = [(label, one.tobytes()) for batch in batches for label, one in zip(batch["label"], batch["data"])]
        seen.append(set(rows))
        assert sum(label > 0 for label, _ in rows) == 8 * 33
    assert seen[0] == seen[1]
    assert len(seen[0]) == 2 * (len(WINDOWS) + 1)


def test_leveldbs_are_left_as_readable(caffe: CaffeWorker, tmp_path: Path) -> None:
    datums = records("raw", np.random.default_rng(13))
    param = data_layer(leveldb_of(tmp_path / "db", datums), 2, "", "backend: LEVELDB")
    for _ in range(2):
        same(caffe, param, tmp_path)
