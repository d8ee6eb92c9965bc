"""Nets that are built field by field: most are nearly sound, with values at the edges and names of any kind."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from random import Random
from typing import Any

from google.protobuf.descriptor import FieldDescriptor as Kind

from deeprebirth_caffe import ops
from deeprebirth_caffe.commands.convert import convert
from deeprebirth_caffe.engines.prepare import plain
from deeprebirth_caffe.engines.random_weights import random_weights
from deeprebirth_caffe.errors import RebirthError
from deeprebirth_caffe.formats.prototxt import format_message
from deeprebirth_caffe.formats.prototxt.fields import is_repeated
from deeprebirth_caffe.ir import Net, NetError
from deeprebirth_caffe.nets.load import check_weights
from deeprebirth_caffe.nets.strip import strip
from deeprebirth_caffe.options.convert import ConvertOptions
from deeprebirth_caffe.proto import caffe_pb2 as pb
from deeprebirth_caffe.wording import json_bytes

TYPES = sorted(entry.type for entry in ops.all_ops())
COMMON = (
    *("Convolution", "Pooling", "ReLU", "InnerProduct", "Concat", "Eltwise", "BatchNorm", "Scale", "LRN", "Dropout"),
    *("Softmax", "SoftmaxWithLoss", "Accuracy", "Slice", "Split", "Reshape", "Flatten", "Deconvolution", "Bias"),
)
INTEGERS = (0, 1, 1, 1, 2, 2, 3, 3, 4, 5, 7, 8, 16, 31, 32, 255, 4096, 65536, 2**31 - 1, 2**32 - 1, 2**63 - 1, -1, -2)
FLOATS = (0.0, -0.0, 1.0, 0.5, 2.0, -1.0, 10.0, 0.1, 1e-45, 1e-30, 1e30, 3.4028234663852886e38, -3.4e38, 1e37)
NAMES = (
    *("data", "label", "conv1", "conv2", "bn", "a/b", "a_merge", "a_fold", "loss", "é", "漢字", "a b", 'say "so"', "'"),
    *("\\", "#", "{", "", "file", "allow_pickle", "x" * 300, "-o", "..", "a/../b", "\u202e", "\x1b[2J", "a\nb", "=1+1"),
)
ODD = 3
"""In how many of a hundred places something odd is written."""


def build(random: Random, _: Sequence[bytes]) -> bytes:
    """The text of a net, and in front of it a line that says what is done with it."""
    net = pb.NetParameter(name=_name(random))
    blobs: list[str] = []
    _input(random, net, blobs)
    for number in range(random.randrange(1, 8)):
        _layer(random, net, blobs, number)
    text = format_message(net)
    if random.randrange(4) == 0:  # a word that a fork may have written
        text = text.replace("}", f" {random.choice(('ceil_mode', 'group_size', 'foo'))}: {random.choice('01')} }}", 1)
    return text.encode("utf-8", "surrogateescape")


def run(data: bytes, folder: Path) -> None:
    """Reads a net, converts it with and without weights, deploys and exports it; what is written is read again."""
    path = folder / "built.prototxt"
    path.write_bytes(data)
    options = ConvertOptions(path, out=folder / "out", paper=len(data) % 2 == 1, dry_run=True)
    found = convert(options)
    again(found.net)
    json_bytes(found.manifest)
    if found.deploy is not None:
        again(found.deploy)
    net = Net.read(path)
    net.weights = random_weights(net)
    check_weights(net, net.weights)
    if sum(array.size for name in net.weights for array in net.weights[name]) > 1 << 20:
        return
    if net.trains:
        net = strip(net).net
        again(net)
    if len(data) % 3 == 0:
        from deeprebirth_caffe.to_onnx import to_onnx

        to_onnx(plain(net).net)


def again(net: Net) -> None:
    """Whatever is written can be read, and means the same."""
    text = net.text()
    try:
        second = Net.parse(text)
        _ = second.views
    except RebirthError as error:
        raise AssertionError(f"what was written cannot be read: {error}") from error
    if second.message() != net.message():
        raise AssertionError("what was written says something else")


def _input(random: Random, net: pb.NetParameter, blobs: list[str]) -> None:
    shape = [random.choice((1, 1, 2)), random.choice((1, 3, 4, 8)), random.choice((5, 8, 9)), random.choice((5, 8, 9))]
    if _odd(random):
        shape = [_integer(random, 0, 2**31 - 1) for _ in range(random.randrange(6))]
    form = random.randrange(4)
    if form == 0:
        net.input.append("data")
        net.input_shape.add().dim.extend(dim for dim in shape if dim >= 0)
    elif form == 1:
        for phase in (pb.TRAIN, pb.TEST):
            layer = net.layer.add(name="data", type="Data", top=["data", "label"])
            layer.include.add().phase = phase
            layer.data_param.source, layer.data_param.batch_size = "none", random.choice((1, 2, 50))
            layer.transform_param.crop_size = random.choice((5, 8, 9))
            layer.transform_param.mean_value.extend([1.0] * random.choice((1, 3, 3, 3)))
        blobs.append("label")
    else:
        layer = net.layer.add(name="data", type="Input", top=["data"])
        layer.input_param.shape.add().dim.extend(shape)
    blobs.append("data")


def _layer(random: Random, net: pb.NetParameter, blobs: list[str], number: int) -> None:
    kind = random.choice(COMMON if random.randrange(4) else TYPES)
    entry = ops.op(kind)
    layer = net.layer.add(name=_name(random) if _odd(random) else f"{kind.lower()}{number}", type=kind)
    most = 3 if entry is None or entry.max_bottoms is None else entry.max_bottoms
    least = 1 if entry is None else entry.min_bottoms
    for _ in range(random.randint(least, max(least, most))):
        layer.bottom.append(random.choice(blobs[-3:] if random.randrange(5) else blobs) if blobs else "data")
    tops = 1 if entry is None else len(layer.bottom) if entry.equal_counts else max(1, entry.min_tops)
    place = entry is not None and entry.in_place and blobs and layer.bottom[:] == blobs[-1:] and random.randrange(2)
    for index in range(tops):
        layer.top.append(layer.bottom[0] if place else _name(random) if _odd(random) else f"blob{number}_{index}")
    blobs.extend(layer.top)
    for field, _ in list(_parameters(layer)):
        if (field.name.replace("_", "").removesuffix("param") in kind.lower() and random.randrange(2)) or _odd(random):
            _fill(random, getattr(layer, field.name), 0)
    _usual(random, layer)
    if kind in ("Convolution", "InnerProduct", "Scale") and random.randrange(4) == 0:
        _fill(random, layer.param.add(), 0)
    if random.randrange(20) == 0:
        layer.include.add().phase = random.choice((pb.TRAIN, pb.TEST))
    if random.randrange(30) == 0:
        layer.loss_weight.append(random.choice(FLOATS))
    if _odd(random):
        _fill(random, layer, 2)


def _usual(random: Random, layer: pb.LayerParameter) -> None:
    """What a layer cannot be without, more often than not."""
    if random.randrange(10) == 0:
        return
    if layer.type in ("Convolution", "Deconvolution"):
        conv = layer.convolution_param
        conv.num_output = random.choice((1, 2, 4, 6))
        if not conv.kernel_size and not conv.HasField("kernel_h"):
            conv.kernel_size.append(random.choice((1, 1, 3, 5)))
    elif layer.type == "InnerProduct":
        layer.inner_product_param.num_output = random.choice((1, 3, 5))
    elif layer.type == "Clip":
        layer.clip_param.min, layer.clip_param.max = random.choice(FLOATS), random.choice(FLOATS)
    elif layer.type == "Pooling" and not layer.pooling_param.global_pooling:
        layer.pooling_param.kernel_size = random.choice((2, 3))
        layer.pooling_param.stride = random.choice((1, 2))


def _parameters(layer: pb.LayerParameter) -> list[tuple[Any, str]]:
    return [(field, field.name) for field in layer.DESCRIPTOR.fields if field.name.endswith("_param")]


def _fill(random: Random, message: Any, depth: int) -> None:
    """Sets some fields of a message to values that its types can hold."""
    for field in message.DESCRIPTOR.fields:
        if random.randrange(5 if depth < 2 else 12) or field.name in (
            "name",
            "type",
            "bottom",
            "top",
            "phase",
            "blobs",
        ):
            continue
        if field.message_type is not None:
            if depth < 2:
                inner = getattr(message, field.name)
                _fill(random, inner.add() if is_repeated(field) else inner, depth + 1)
        elif is_repeated(field):
            values = getattr(message, field.name)
            values.extend(_value(random, field) for _ in range(random.choice((1, 1, 1, 2, 3, 5))))
        else:
            setattr(message, field.name, _value(random, field))


def _value(random: Random, field: Any) -> Any:
    if field.cpp_type == Kind.CPPTYPE_STRING:
        return random.choice(("xavier", "msra", "constant", "bilinear", _name(random))).replace("\0", "")
    if field.cpp_type == Kind.CPPTYPE_ENUM:
        return random.choice([value.number for value in field.enum_type.values])
    if field.cpp_type == Kind.CPPTYPE_BOOL:
        return random.random() < 0.5
    if field.cpp_type in (Kind.CPPTYPE_FLOAT, Kind.CPPTYPE_DOUBLE):
        return random.choice(FLOATS)
    low, high = {
        Kind.CPPTYPE_INT32: (-(2**31), 2**31 - 1),
        Kind.CPPTYPE_INT64: (-(2**63), 2**63 - 1),
        Kind.CPPTYPE_UINT32: (0, 2**32 - 1),
        Kind.CPPTYPE_UINT64: (0, 2**64 - 1),
    }[field.cpp_type]
    if _odd(random):
        return _integer(random, low, high)
    return random.choice((0, 1, 1, 1, 2, 3)) if low == 0 else random.choice((-1, 0, 1, 1, 2))


def _integer(random: Random, low: int, high: int) -> int:
    return min(max(random.choice(INTEGERS), low), high)


def _name(random: Random) -> str:
    return random.choice(NAMES)


def _odd(random: Random) -> bool:
    return random.randrange(100) < ODD


def seeds() -> list[bytes]:
    """One sound net, so that everything is imported before memory is counted."""
    random = Random(0)
    found: list[bytes] = []
    while len(found) < 3:
        data = build(random, ())
        try:
            _ = Net.parse(data.decode("utf-8", "surrogateescape")).views
        except (RebirthError, NetError):
            continue
        found.append(data)
    return found
