"""Weights in and out: every format a file may have, and every way it may be broken."""

from __future__ import annotations

import io
import random
import tracemalloc
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from nvcaffe import TYPES, raw_blob

from deeprebirth_caffe.errors import RebirthError
from deeprebirth_caffe.formats import wire
from deeprebirth_caffe.formats.caffemodel import (
    MAX_FILE,
    CaffemodelError,
    LayerBlobs,
    matches_shape,
    read_caffemodel,
    stream_caffemodel,
    write_caffemodel,
)
from deeprebirth_caffe.formats.legacy import V1_TYPES, v0_type
from deeprebirth_caffe.proto import caffe_pb2 as pb

WEIGHT = np.arange(24, dtype=np.float32).reshape(4, 3, 1, 2) / 7
BIAS = np.array([1, -0.0, np.inf, 3e-45], np.float32)


def blob(array: np.ndarray[Any, Any], legacy: bool = False) -> pb.BlobProto:
    made = pb.BlobProto()
    if legacy:
        shape = (1,) * (4 - array.ndim) + array.shape
        made.num, made.channels, made.height, made.width = shape
    else:
        made.shape.dim.extend(array.shape)
    (made.double_data if array.dtype == np.float64 else made.data).extend(array.ravel().tolist())
    return made


def saved(tmp_path: Path, data: bytes | pb.NetParameter, name: str = "w.caffemodel") -> Path:
    path = tmp_path / name
    path.write_bytes(data if isinstance(data, bytes) else data.SerializeToString())
    return path


def error(path: Path) -> str:
    with pytest.raises(CaffemodelError) as info:
        read_caffemodel(path)
    text = str(info.value)
    assert text.startswith(f"{path}: ")
    assert "\n" not in text
    assert info.value.exit_code == 1
    return text.removeprefix(f"{path}: ")


def test_todays_format(tmp_path: Path) -> None:
    net = pb.NetParameter(name="net")
    net.layer.add(name="data", type="Input", top=["data"])
    net.layer.add(name="c", type="Convolution", bottom=["data"], blobs=[blob(WEIGHT), blob(BIAS)])
    net.layer.add(name="c", type="Scale", blobs=[blob(BIAS.astype(np.float64))])
    net.layer.add(name="scalar", type="BatchNorm", blobs=[blob(np.array(3, np.float32))])
    net.layer[1].blobs[0].diff.extend([0.5] * 24)
    model = read_caffemodel(saved(tmp_path, net))
    assert model.name == "net"
    assert [(layer.name, layer.type) for layer in model.layers] == [
        ("data", "Input"),
        ("c", "Convolution"),
        ("c", "Scale"),
        ("scalar", "BatchNorm"),
    ]
    weight, bias = model.layers[1].blobs
    assert weight.dtype == np.float32
    assert weight.shape == WEIGHT.shape
    assert weight.tobytes() == WEIGHT.tobytes()
    assert bias.tobytes() == BIAS.tobytes()
    assert not weight.flags.writeable
    assert not weight.flags.owndata
    assert model.layers[2].blobs[0].dtype == np.float64
    assert model.layers[3].blobs[0].shape == ()
    assert model.layers[1].legacy == (False, False)
    assert bytes(model.layers[1].raw[0]) == net.layer[1].blobs[0].SerializeToString()


def test_v1_and_v0(tmp_path: Path) -> None:
    net = pb.NetParameter(name="old")
    net.layers.add(name="c", type=pb.V1LayerParameter.CONVOLUTION, blobs=[blob(WEIGHT, True), blob(BIAS, True)])
    v0 = net.layers.add(bottom=["c"], top=["ip"]).layer
    v0.name, v0.type = "ip", "innerproduct"
    v0.blobs.append(blob(WEIGHT.reshape(4, 6), True))
    net.layers.add(name="loss", type=pb.V1LayerParameter.SOFTMAX_LOSS)
    first, second, third = read_caffemodel(saved(tmp_path, net)).layers
    assert (first.name, first.type, second.name, second.type) == ("c", "Convolution", "ip", "InnerProduct")
    assert (third.name, third.type, third.blobs) == ("loss", "SoftmaxWithLoss", [])
    assert [found.shape for found in first.blobs] == [(4, 3, 1, 2), (1, 1, 1, 4)]
    assert second.blobs[0].shape == (1, 1, 4, 6)
    assert first.legacy == (True, True)


def test_the_old_dimensions_go_before_a_shape(tmp_path: Path) -> None:
    both = blob(BIAS)
    both.num = both.channels = both.height = 1
    both.width = 4
    net = pb.NetParameter()
    net.layer.add(name="a", blobs=[both])
    [layer] = read_caffemodel(saved(tmp_path, net)).layers
    assert layer.blobs[0].shape == (1, 1, 1, 4)


def test_every_old_type_has_a_name() -> None:
    assert set(V1_TYPES) == set(pb.V1LayerParameter.LayerType.values())
    assert [number for number, name in V1_TYPES.items() if not name] == [pb.V1LayerParameter.NONE]
    assert V1_TYPES[pb.V1LayerParameter.MULTINOMIAL_LOGISTIC_LOSS] == "MultinomialLogisticLoss"
    assert [v0_type(name) for name in ("conv", "pool", "softmax_loss", "hdf5_data", "im2col", "padding")] == [
        "Convolution",
        "Pooling",
        "SoftmaxWithLoss",
        "HDF5Data",
        "Im2col",
        "padding",
    ]


def field(number: int, content: bytes) -> bytes:
    return wire.encode_head(number, len(content)) + content


def one_blob(content: bytes) -> bytes:
    return field(100, field(1, b"a") + field(7, content))


def unpacked(values: np.ndarray[Any, Any], number: int) -> bytes:
    tag = wire.encode_tag(number, wire.FIXED32 if values.dtype == np.float32 else wire.FIXED64)
    return b"".join(tag + value.tobytes() for value in values)


@pytest.mark.parametrize("count", [1, 2, 63, 64, 65, 66, 200, 5000])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_values_that_are_not_packed(tmp_path: Path, count: int, dtype: type) -> None:
    values = np.random.default_rng(0).standard_normal(count).astype(dtype)
    number = 5 if dtype is np.float32 else 8
    shape = field(7, wire.encode_tag(1, wire.VARINT) + wire.encode_varint(count))
    for content in (unpacked(values, number) + shape, shape + unpacked(values, number)):
        [layer] = read_caffemodel(saved(tmp_path, one_blob(content))).layers
        assert layer.blobs[0].tobytes() == values.tobytes()


def test_values_in_pieces(tmp_path: Path) -> None:
    content = (
        unpacked(BIAS[:2], 5)
        + field(5, BIAS[2:].tobytes())
        + wire.encode_tag(1, wire.VARINT)
        + b"\x01"
        + unpacked(BIAS[:1], 5)
        + field(5, b"")
        + wire.encode_tag(2, wire.VARINT)
        + b"\x01"
        + bytes([3 << 3, 1, 4 << 3, 5])
    )
    [layer] = read_caffemodel(saved(tmp_path, one_blob(content))).layers
    assert layer.blobs[0].tolist() == [[[[*BIAS.tolist(), 1.0]]]]


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "this file is empty"),
        (b"<!DOCTYPE html>\n<html><body>404</body></html>", "this is a web page, not a caffemodel"),
        (b"  \n<HTML>", "this is a web page"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 5\n", "a Git LFS pointer"),
        (b"\x89HDF\r\n\x1a\n\0\0", "weights in HDF5"),
        (b"PK\x03\x04\x14\0", "a zip archive"),
        (b"\x1f\x8b\x08\0", "a gzip archive"),
        (b"x" * 257 + b"ustar\x0000", "a tar archive"),
        (b'name: "n"\nlayer { name: "x" }\n' * 99, "this is text (a prototxt?), not a caffemodel"),
        (b"# a net\nlayer { }", "this is text"),
        (b"Not Found", "this is a short text"),
        (b"\x80\x02}q\0", "a Python pickle"),
        (b"\x08\x01\x12\x05\x0a", "cut off: at byte 2 field 2 claims 5 bytes where 1 are left, of 5 in all"),
        (b"\0\0\0\0", "damaged, or not a caffemodel: at byte 0 there is no field 0"),
        (b"\x0b\x01", "at byte 0 field 1 has the unknown type 3"),
        (b"\x0a\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff", "at byte 1 a number has more than ten bytes"),
        (b"\x0a\xff\xff\xff\xff\xff\xff\xff\xff\x7f" + b"x" * 90, "at byte 0 field 1 claims 9223372036854775807 bytes"),
        (b"\x0a\xff\xff", "cut off: at byte 1 a number is cut off"),
        (b"\x0d\0\0", "cut off: at byte 0 field 1 is cut off"),
        (b"\x0a\x04name", "holds no layers, so it is no caffemodel"),
        (one_blob(field(5, b"abc")), "blob 0 of layer 'a': its 3 bytes of values are not a multiple of 4"),
        (one_blob(field(7, b"\x08\x05") + field(5, b"abcd")), "its shape is 5, but it holds 1 values"),
        (one_blob(b"\x08\x02\x10\x02" + field(5, b"abcd")), "its shape is 2 x 2 x 0 x 0, but it holds 1 values"),
        (one_blob(field(5, b"abcdefgh")), "its shape is one value, but it holds 2 values"),
        (one_blob(field(7, b"\x08" + wire.encode_varint(-4)) + field(5, b"abcd")), "its shape is -4, but"),
        (one_blob(field(7, field(1, b"\x01" * 99))), "its shape has more than 32 dimensions"),
        (one_blob(field(7, field(1, (b"\xff" * 8 + b"\x7f") * 30))), "but it holds 0 values"),
        (one_blob(field(7, field(1, b"\x80"))), "at byte 12 a number is cut off"),
        (one_blob(b"\x2d\0\0\0"), "at byte 8 field 5 is cut off"),
    ],
)
def test_what_is_no_caffemodel(tmp_path: Path, content: bytes, reason: str) -> None:
    assert reason in error(saved(tmp_path, content))


def test_a_solverstate_and_missing_files(tmp_path: Path) -> None:
    state = pb.SolverState(iter=3, learned_net="net_iter_3.caffemodel", history=[blob(BIAS)])
    assert "a solver's state" in error(saved(tmp_path, state.SerializeToString(), "a.solverstate"))
    assert "cannot read it: No such file or directory" in error(tmp_path / "none")
    assert "cannot read it: Is a directory" in error(tmp_path)


def test_cut_anywhere(tmp_path: Path) -> None:
    net = pb.NetParameter(name="n")
    net.layer.add(name="c", type="Convolution", blobs=[blob(WEIGHT), blob(BIAS)])
    net.layer.add(name="d", type="Convolution", blobs=[blob(BIAS)])
    data = net.SerializeToString()
    whole = {3, len(net.name) + 2 + net.layer[0].ByteSize() + 4}  # ends between two fields
    for size in range(2, len(data)):
        path = saved(tmp_path, data[:size])
        if size in whole and size > 3:
            assert len(read_caffemodel(path).layers) == 1
        else:
            assert ("cut off" in error(path)) == (size != 3)


@settings(max_examples=400, deadline=None)
@given(st.integers(0, 2**48))
def test_damaged_files_are_one_error(tmp_path_factory: pytest.TempPathFactory, seed: int) -> None:
    rng = random.Random(seed)
    net = pb.NetParameter(name="n")
    net.layer.add(name="c", type="Convolution", blobs=[blob(WEIGHT), blob(BIAS)])
    net.layers.add(name="d", type=4, blobs=[blob(BIAS, True)])
    data = bytearray(net.SerializeToString())
    for _ in range(rng.randrange(1, 6)):
        at = rng.randrange(len(data))
        if rng.random() < 0.5:
            data[at] = rng.choice([0, 1, 0x7F, 0x80, 0xFF, rng.randrange(256)])
        else:
            data[at : at + rng.randrange(4)] = rng.randbytes(rng.randrange(4))
    path = tmp_path_factory.getbasetemp() / "damaged.caffemodel"
    path.write_bytes(data)
    try:
        model = read_caffemodel(path)
    except CaffemodelError as problem:
        assert "\n" not in str(problem)
    else:
        assert sum(array.nbytes for layer in model.layers for array in layer.blobs) <= len(data)


@given(st.binary(max_size=300))
def test_any_bytes_at_all(data: bytes) -> None:
    for _ in range(2):
        try:
            list(wire.fields(data, 0, len(data)))
        except wire.WireError as problem:
            assert 0 <= problem.at <= len(data)
        data = b"\xa2\x06" + wire.encode_varint(len(data)) + data


@given(st.integers(0, 2**64 - 1))
def test_numbers_there_and_back(value: int) -> None:
    data = wire.encode_varint(value)
    assert wire.read_varint(data + b"\xff", 0, len(data) + 1) == (value, len(data))
    assert wire.encode_varint(value - 2**64) == data


def test_writing(tmp_path: Path) -> None:
    path = tmp_path / "w.caffemodel"
    write_caffemodel(
        path,
        "nét",
        [
            ("c", "Convolution", [WEIGHT, BIAS.astype(np.float64)]),
            ("r", "ReLU", []),
            ("s", "Scale", [np.array(2, np.float16), WEIGHT.T, np.zeros((0, 3), np.float32)]),
        ],
    )
    net = pb.NetParameter.FromString(path.read_bytes())
    assert net.SerializeToString(deterministic=True) == path.read_bytes()
    assert net.name == "nét"
    assert [(layer.name, layer.type, len(layer.blobs)) for layer in net.layer] == [
        ("c", "Convolution", 2),
        ("r", "ReLU", 0),
        ("s", "Scale", 3),
    ]
    assert list(net.layer[2].blobs[1].shape.dim) == [2, 1, 3, 4]
    read = read_caffemodel(path)
    assert read.layers[0].blobs[0].tobytes() == WEIGHT.tobytes()
    assert read.layers[0].blobs[1].tobytes() == BIAS.tobytes()
    assert read.layers[2].blobs[0].shape == ()
    assert np.array_equal(read.layers[2].blobs[1], WEIGHT.T)
    assert read.layers[2].blobs[2].shape == (0, 3)
    assert list(tmp_path.iterdir()) == [path]


def test_kept_layers_are_copied_byte_by_byte(tmp_path: Path) -> None:
    net = pb.NetParameter(name="n")
    odd = blob(WEIGHT.astype(np.float64))
    odd.diff.append(3)
    strange = odd.SerializeToString() + b"\xf8\x07\x05"  # a field of some fork
    content = (
        field(1, b"c") + field(2, b"Convolution") + field(7, strange) + field(7, blob(BIAS, True).SerializeToString())
    )
    path = saved(tmp_path, field(1, b"n") + field(100, content))
    [layer] = read_caffemodel(path).layers
    assert isinstance(layer, LayerBlobs)
    # Over the very file the views look into.
    write_caffemodel(path, "n", [(layer.name, layer.type, layer)])
    assert path.read_bytes() == field(1, b"n") + field(100, content)
    net.layers.add(name="c", type=pb.V1LayerParameter.CONVOLUTION, blobs=[blob(BIAS, True)])
    [old] = read_caffemodel(saved(tmp_path, net)).layers
    write_caffemodel(path, "n", [("renamed", "Scale", old)])
    today = pb.NetParameter.FromString(path.read_bytes())
    assert today.layer[0].blobs[0] == net.layers[0].blobs[0]
    assert (today.layer[0].name, today.layer[0].type) == ("renamed", "Scale")


def test_what_caffe_could_not_read_is_not_written(tmp_path: Path) -> None:
    path = tmp_path / "w.caffemodel"
    huge = np.broadcast_to(np.float32(0), (MAX_FILE // 4 + 1,))
    with pytest.raises(RebirthError, match="larger than 2 GiB"):
        write_caffemodel(path, "n", [("a", "Scale", [BIAS]), ("b", "InnerProduct", [huge])])
    with pytest.raises(RebirthError, match="cannot write it"):
        write_caffemodel(tmp_path / "none" / "w", "n", [])
    assert not list(tmp_path.iterdir())


def test_memory_is_bounded_by_the_largest_array(tmp_path: Path) -> None:
    path = tmp_path / "w.caffemodel"
    array = np.zeros(1 << 20, np.float64)
    with path.open("wb") as file:
        stream_caffemodel(file, "n", [(str(i), "Scale", [array]) for i in range(12)])
    assert path.stat().st_size > 12 << 22
    tracemalloc.start()
    model = read_caffemodel(path)
    write_caffemodel(tmp_path / "copy", "n", [(layer.name, layer.type, layer) for layer in model.layers])
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 2 << 20
    assert (tmp_path / "copy").read_bytes() == path.read_bytes()


def test_streaming_to_any_file() -> None:
    file = io.BytesIO()
    stream_caffemodel(file, "n", [("a", "Scale", [BIAS])])
    assert pb.NetParameter.FromString(file.getvalue()).layer[0].name == "a"


@pytest.mark.parametrize(
    ("shape", "wanted", "legacy", "fits"),
    [
        ((4, 3), (4, 3), False, True),
        ((4, 3), (3, 4), False, False),
        ((1, 1, 4, 3), (4, 3), False, False),
        ((1, 1, 4, 3), (4, 3), True, True),
        ((1, 1, 1, 4), (4,), True, True),
        ((4, 1, 1, 1), (4,), True, False),
        ((2, 3, 1, 1), (2, 3, 1, 1), True, True),
        ((1, 1, 1, 1), (), True, True),
        ((1, 2, 1, 1), (1, 1, 2, 1, 1), True, False),
    ],
)
def test_matching_shapes(shape: tuple[int, ...], wanted: tuple[int, ...], legacy: bool, fits: bool) -> None:
    assert matches_shape(shape, wanted, legacy) is fits


def nvcaffe_net(dtype: str, legacy: bool = False, kind: int | None = None) -> bytes:
    blobs = [raw_blob(blob(array, legacy).SerializeToString(), dtype, kind) for array in (WEIGHT, BIAS[:2])]
    layer = pb.LayerParameter(name="c", type="Convolution").SerializeToString()
    layer += b"".join(wire.encode_head(7, len(one)) + one for one in blobs)
    return wire.encode_head(100, len(layer)) + layer


@pytest.mark.parametrize("legacy", [False, True])
@pytest.mark.parametrize("dtype", TYPES)
def test_raw_data_of_nvcaffe(tmp_path: Path, dtype: str, legacy: bool) -> None:
    path = saved(tmp_path, nvcaffe_net(dtype, legacy))
    [layer] = read_caffemodel(path).layers
    want = [array.astype(dtype) for array in (WEIGHT, BIAS[:2])]
    assert [array.dtype for array in layer.blobs] == [np.dtype(dtype)] * 2
    assert not layer.blobs[0].flags.owndata
    assert [array.ravel().tolist() for array in layer.blobs] == [array.ravel().tolist() for array in want]
    # What is written is plain Caffe's: its own fields, with the shape as it was given.
    write_caffemodel(tmp_path / "plain.caffemodel", "net", [(layer.name, layer.type, layer)])
    message = pb.NetParameter.FromString((tmp_path / "plain.caffemodel").read_bytes())
    for stored, array in zip(message.layer[0].blobs, want, strict=True):
        assert np.array_equal(np.array(stored.data, np.float32), array.ravel().astype(np.float32))
        assert stored.HasField("num") is legacy
        assert len(stored.SerializeToString()) < 4 * array.size + 20
    again = read_caffemodel(tmp_path / "plain.caffemodel").layers[0]
    assert (again.legacy, [one.shape for one in again.blobs]) == (layer.legacy, [one.shape for one in layer.blobs])


def test_values_in_a_forks_own_fields_are_told_as_such(tmp_path: Path) -> None:
    wrong = error(saved(tmp_path, nvcaffe_net("<i4", kind=3)))
    assert "blob 0 of layer 'c'" in wrong
    assert "raw_data (field 12, NVCaffe's) is of type 3" in wrong
    assert "download" not in wrong
    values = blob(WEIGHT)
    values.ClearField("data")
    for field, said in ((10, "half_data"), (14, "field 14")):
        odd = values.SerializeToString() + wire.encode_head(field, 24) + bytes(24)
        layer = (
            pb.LayerParameter(name="c", type="Convolution").SerializeToString() + wire.encode_head(7, len(odd)) + odd
        )
        wrong = error(saved(tmp_path, wire.encode_head(100, len(layer)) + layer))
        assert "4 x 3 x 1 x 2" in wrong
        assert said in wrong
        assert "download" not in wrong


@pytest.mark.parametrize(
    ("kind", "size", "said"),
    [(1, 96, "it holds 24 values"), (0, 12, "12 bytes of raw data are not a multiple of 8")],
)
def test_raw_data_of_the_wrong_size(tmp_path: Path, kind: int, size: int, said: str) -> None:
    odd = pb.BlobProto(shape=pb.BlobShape(dim=[2])).SerializeToString()
    odd += wire.encode_tag(10, wire.VARINT) + wire.encode_varint(kind) + wire.encode_head(12, size) + bytes(size)
    layer = wire.encode_head(7, len(odd)) + odd
    assert said in error(saved(tmp_path, wire.encode_head(100, len(layer)) + layer))
