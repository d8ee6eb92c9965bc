"""Our schema is Caffe's, field by field, and lives beside another `caffe` in one process."""

from __future__ import annotations

import subprocess
import sys
from typing import Any

import numpy as np
from google.protobuf import descriptor_pb2
from measured_caffe import MeasuringWorker

from deeprebirth_caffe.proto import caffe_pb2 as pb

Facts = dict[str, Any]


def our_file() -> descriptor_pb2.FileDescriptorProto:
    file = descriptor_pb2.FileDescriptorProto()
    pb.DESCRIPTOR.CopyToProto(file)
    return file


def facts(file: descriptor_pb2.FileDescriptorProto) -> Facts:
    """Everything a file declares, by full name, without the package's own name."""
    package = f".{file.package}."
    found: Facts = {}

    def enum(prefix: str, declared: descriptor_pb2.EnumDescriptorProto) -> None:
        for value in declared.value:
            found[f"{prefix}{declared.name}.{value.name}"] = value.number

    def message(prefix: str, declared: descriptor_pb2.DescriptorProto) -> None:
        name = f"{prefix}{declared.name}"
        found[name] = "message"
        for field in declared.field:
            found[f"{name}.{field.name}"] = (
                field.number,
                descriptor_pb2.FieldDescriptorProto.Label.Name(field.label),
                descriptor_pb2.FieldDescriptorProto.Type.Name(field.type),
                field.type_name.removeprefix(package),
                default(field),
                field.options.packed,
                field.HasField("oneof_index"),
            )
        for inner in declared.enum_type:
            enum(f"{name}.", inner)
        for nested in declared.nested_type:
            message(f"{name}.", nested)
        assert not declared.extension_range

    for declared_enum in file.enum_type:
        enum("", declared_enum)
    for declared in file.message_type:
        message("", declared)
    return found


def default(field: descriptor_pb2.FieldDescriptorProto) -> str | float | None:
    """A default as a value: 1e-05 and 9.99999975e-06 are one float."""
    if not field.HasField("default_value"):
        return None
    if field.type == field.TYPE_FLOAT:
        return float(np.float32(field.default_value))
    if field.type == field.TYPE_DOUBLE:
        return float(field.default_value)
    return field.default_value


def test_the_schema_is_pycaffes(caffe: MeasuringWorker) -> None:
    theirs = descriptor_pb2.FileDescriptorProto.FromString(caffe.schema())
    assert theirs.package == "caffe"
    assert theirs.syntax in ("", "proto2")
    ours, expected = facts(our_file()), facts(theirs)
    assert {name for name in ours if name not in expected} == set()
    assert {name for name in expected if name not in ours} == set()
    differing = [f"{name}: {ours[name]} here, {expected[name]} there" for name in ours if ours[name] != expected[name]]
    assert not differing, "\n".join(differing)
    assert len(ours) > 500


def test_the_comparison_sees_a_difference() -> None:
    file = our_file()
    changed = our_file()
    layer = next(message for message in changed.message_type if message.name == "LayerParameter")
    layer.field[0].number = 999
    ours, theirs = facts(file), facts(changed)
    assert [name for name in ours if ours[name] != theirs[name]] == ["LayerParameter.name"]


BESIDE_ANOTHER = """
from google.protobuf import descriptor_pb2, descriptor_pool, message_factory
import sys

def register_theirs():
    file = descriptor_pb2.FileDescriptorProto.FromString(bytes.fromhex(sys.argv[2]))
    assert (file.name, file.package) == ("caffe.proto", "caffe")
    pool = descriptor_pool.Default()
    pool.AddSerializedFile(file.SerializeToString())
    return message_factory.GetMessageClass(pool.FindMessageTypeByName("caffe.NetParameter"))

if sys.argv[1] == "first":
    theirs = register_theirs()
from deeprebirth_caffe.formats.prototxt import parse_net
from deeprebirth_caffe.proto import caffe_pb2 as pb
if sys.argv[1] == "last":
    theirs = register_theirs()

header = parse_net('name: "n" layer { name: "a" convolution_param { pad: 3 } }')
ours = pb.NetParameter(name=header.header.name, layer=[header.layers[0].message])
read = theirs.FromString(ours.SerializeToString())
assert (read.name, read.layer[0].convolution_param.pad[0]) == ("n", 3)
assert read.DESCRIPTOR.full_name == "caffe.NetParameter"
assert ours.DESCRIPTOR.full_name == "deeprebirth_caffe.NetParameter"
assert pb.NetParameter.FromString(read.SerializeToString()) == ours
print("both")
"""


def test_another_caffe_in_the_same_process() -> None:
    file = our_file()
    theirs = descriptor_pb2.FileDescriptorProto.FromString(
        _renamed(file, "deeprebirth_caffe", "caffe").SerializeToString()
    )
    theirs.name = "caffe.proto"
    for order in ("first", "last"):
        done = subprocess.run(
            [sys.executable, "-W", "error", "-c", BESIDE_ANOTHER, order, theirs.SerializeToString().hex()],
            capture_output=True,
            text=True,
            check=False,
        )
        assert (done.stdout, done.stderr) == ("both\n", "")


def _renamed(file: descriptor_pb2.FileDescriptorProto, old: str, new: str) -> descriptor_pb2.FileDescriptorProto:
    """A copy of a file with another package."""
    copy = descriptor_pb2.FileDescriptorProto()
    copy.CopyFrom(file)
    copy.package = new

    def rename(message: descriptor_pb2.DescriptorProto) -> None:
        for field in message.field:
            if field.type_name.startswith(f".{old}."):
                field.type_name = f".{new}.{field.type_name.removeprefix(f'.{old}.')}"
        for nested in message.nested_type:
            rename(nested)

    for message in copy.message_type:
        rename(message)
    return copy
