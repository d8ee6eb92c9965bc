"""What the text format allows and what it refuses: each line was tried on Caffe's own parser."""

from __future__ import annotations

import math
import sys
import time
from pathlib import Path

import pytest

from deeprebirth_caffe.formats.prototxt import (
    PrototxtError,
    parse_message,
    parse_net,
    parse_solver,
    read_net,
    read_solver,
)
from deeprebirth_caffe.proto import caffe_pb2 as pb


def layer(text: str) -> pb.LayerParameter:
    return parse_net(f'layer {{ name: "x" {text} }}').layers[0].message


@pytest.mark.parametrize(
    ("spelling", "value"),
    [
        ("1.f", 1),
        ("1f", 1),
        ("1F", 1),
        (".5", 0.5),
        ("5.", 5),
        ("1e5f", 1e5),
        ("1.e5", 1e5),
        ("1e+5", 1e5),
        ("0", 0),
        ("0f", 0),
        ("-0", 0),
        ("- 1", -1),
        ("-# so\n 1", -1),
        ("99999999999999999999999", 1e23),
    ],
)
def test_floats(spelling: str, value: float) -> None:
    [read] = layer(f"loss_weight: {spelling}").loss_weight
    assert read == pytest.approx(value)
    assert math.copysign(1, read) == (-1 if spelling.startswith("-") else 1)


@pytest.mark.parametrize("spelling", ["nan", "NaN", "-nan", "inf", "INF", "-Infinity", "1e400", "3.5e38"])
def test_not_a_number(spelling: str) -> None:
    """In single precision, which is what Caffe computes in."""
    with pytest.raises(PrototxtError, match=r":1:32: loss_weight: .* is not a number that Caffe can use"):
        layer(f"loss_weight: {spelling}")


@pytest.mark.parametrize(("spelling", "value"), [("inf", math.inf), ("-INF", -math.inf), ("1e400", math.inf)])
def test_limits_may_be_infinite(spelling: str, value: float) -> None:
    assert layer(f"threshold_param {{ threshold: {spelling} }}").threshold_param.threshold == value
    with pytest.raises(PrototxtError, match="is not a number"):
        layer("threshold_param { threshold: nan }")


@pytest.mark.parametrize(
    "spelling",
    [
        "0x10",
        "010",
        "00.5",
        "00",
        "--1",
        "+1",
        "infinit",
        '"1"',
        "1.2.3",
        "1e",
        "1_0",
        "{}",
        "/2",
        "1;;",
        "1,,",
        "[1, 2,]",
        "[1 2]",
        "[1, 2",
        "1loss_weight: 2",
        "1top: 'b'",
        "1.top: 'b'",
    ],
)
def test_no_floats(spelling: str) -> None:
    with pytest.raises(PrototxtError):
        layer(f"loss_weight: {spelling}")


@pytest.mark.parametrize(
    ("field", "spelling", "value"),
    [
        ("num_output", "0x10", 16),
        ("num_output", "0X1f", 31),
        ("num_output", "010", 8),
        ("num_output", "4294967295", 2**32 - 1),
        ("axis", "-2147483648", -(2**31)),
        ("axis", "- 1", -1),
        ("bias_term", "true", True),
        ("bias_term", "True", True),
        ("bias_term", "t", True),
        ("bias_term", "1", True),
        ("bias_term", "0x1", True),
        ("bias_term", "f", False),
        ("bias_term", "00", False),
        ("engine", "CAFFE", 1),
        ("engine", "1", 1),
    ],
)
def test_other_scalars(field: str, spelling: str, value: int) -> None:
    parameter = layer(f"convolution_param {{ {field}: {spelling} }}").convolution_param
    assert parameter.HasField(field)
    assert getattr(parameter, field) == value


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("num_output: 08", "expected an integer, found '08'"),
        ("num_output: 3.0", "expected an integer, found '3.0'"),
        ("num_output: 3f", "expected an integer"),
        ("num_output: -3", "'-3' is out of range (0 to 4294967295)"),
        ("num_output: 4294967296", "out of range"),
        ("num_output: " + "9" * 100_000, "out of range"),
        ("num_output: many", "expected an integer, found 'many'"),
        ("num_output: '3'", "expected an integer, found \"'3'\""),
        ("axis: -2147483649", "out of range"),
        ("bias_term: TRUE", "expected true or false, found 'TRUE'"),
        ("bias_term: 2", "expected true or false"),
        ('bias_term: "true"', "expected true or false"),
        ("engine: caffe", "'caffe' is not one of Engine's values (DEFAULT, CAFFE, CUDNN); did you mean CAFFE?"),
        ("engine: CUDN", "did you mean CUDNN?"),
        ("engine: CDUNN", "did you mean CUDNN?"),
        ("engine: DEFUALTS", "did you mean DEFAULT?"),
        ('engine: "CAFFE"', "is not one of"),
        ("num_output 3", "unexpected '3', expected ':' or '{' after 'num_output'"),
        ("num_output { }", "'num_output' takes a single value, not a block"),
        ("num_output: [3]", "'num_output' takes one value, not a list"),
        ("pad [3]", "expected ':' after 'pad'"),
        ("weight_filler: 3", "'weight_filler' takes a block"),
        ("weight_filler: [{}]", "takes one value, not a list"),
        ("num_output: 3 num_output: 3", "'num_output' stands twice in one ConvolutionParameter"),
        ("weight_filler { } weight_filler { }", "'weight_filler' stands twice"),
    ],
)
def test_wrong_values(text: str, reason: str) -> None:
    with pytest.raises(PrototxtError) as info:
        layer(f"convolution_param {{ {text} }}")
    assert reason in str(info.value)
    assert len(str(info.value)) < 250


def test_required_fields() -> None:
    assert layer("clip_param { min: 1 max: 2 }").clip_param.max == 2
    with pytest.raises(PrototxtError, match=r"<text>:1:30: ClipParameter lacks its required field 'max'"):
        layer("clip_param { min: 1 }")


@pytest.mark.parametrize(
    ("literal", "value"),
    [
        ('"a" "b"', "ab"),
        ("'a' \"b\" # and\n 'c'", "abc"),
        (r'"a\x41\101\n\t\?\'\""', "aAA\n\t?'\""),
        (r'"\x414"', "A4"),
        (r'"\7\18"', "\x07\x018"),
        (r'"\303\251"', "é"),
        (r'"\u00e9"', "é"),
        (r'"\U0001F600"', "😀"),
        (r'"\ud83d\ude00"', "😀"),
        ('"é 漢"', "é 漢"),
        ('"it\'s"', "it's"),
        ('"a # b { } [ ] : ; ,"', "a # b { } [ ] : ; ,"),
        ('""', ""),
    ],
)
def test_strings(literal: str, value: str) -> None:
    assert list(layer(f"bottom: {literal}").bottom) == [value]


@pytest.mark.parametrize(
    "literal", [r'"\x"', r'"\q"', r'"\X41"', r'"\U00110000"', "abc", '"a', "'a\"", '"a\nb"', '"a\\']
)
def test_no_strings(literal: str) -> None:
    with pytest.raises(PrototxtError):
        layer(f"bottom: {literal}")


@pytest.mark.parametrize(
    "text",
    [
        'layer: { name: "a" } layer <name: "b">',
        'layer: [{ name: "a" }, <name: "b">]',
        'layer [{name:"a"},{name:"b"}]',
        'layer{name:"a"},layer{name:"b"};',
        '\ufefflayer{name\n:\n"a"}\x0blayer{\x0cname # {\r\n:"b"}#',
    ],
)
def test_blocks(text: str) -> None:
    source = parse_net(text)
    assert [found.message.name for found in source.layers] == ["a", "b"]
    assert source.text() == text.removeprefix("\ufeff")


@pytest.mark.parametrize(
    "text",
    [
        "layer {",
        "layer }",
        "}",
        'name: "a"}',
        "layer: 3",
        "layer { param { lr_mult: 1 > }",
        ",",
        ';name: "a"',
        "a.b: 3",
        'name: "a";;',
        "// comment\n",
        "/* c */",
        "\x01",
        "layer [{}",
        "layer [{} {}]",
        "[a.b: 3",
        "[a}]: 3",
        "a: -",
        "a:",
        "é: 3",
        "layer: -{ }",
    ],
)
def test_no_nets(text: str) -> None:
    with pytest.raises(PrototxtError) as info:
        parse_net(text)
    assert "\n" not in str(info.value)
    assert str(info.value).startswith("<text>:1:")


def test_unknown_fields_are_named_and_no_error() -> None:
    source = parse_net(
        'fork: 1 layer { type: "Pooling" [a.b / c]: { x: 3 }'
        " pooling_param { ceil_mode: 1 pad: 2 ceil_mode: no z { y: 1 } } }"
    )
    assert source.unknown == ["fork"]
    assert source.layers[0].unknown == ["[a.b/c]", "pooling_param.ceil_mode", "pooling_param.z"]
    assert source.layers[0].message.pooling_param.pad == 2


def test_a_forks_value_of_an_enum_is_kept_and_a_slip_is_not() -> None:
    for word in ("FRACTIONAL", "MIN", "7", "-1"):
        text = f'layer {{ type: "Pooling" pooling_param {{ pad: 2 pool: {word} }} }}'
        source = parse_net(text)
        assert source.layers[0].unknown == ["pooling_param.pool"]
        assert not source.layers[0].message.pooling_param.HasField("pool")
        assert source.text() == text
    for word in ("MAXX", "AVG", "max", "MXA", "STOCASTIK"):
        with pytest.raises(PrototxtError, match="did you mean"):
            parse_net(f'layer {{ type: "Pooling" pooling_param {{ pool: {word} }} }}')
    with pytest.raises(PrototxtError, match="'VALIDATE' is not one of Phase's values"):
        parse_net('layer { type: "Data" include { phase: VALIDATE } }')
    with pytest.raises(PrototxtError, match="'FRACTIONAL' is not one of"):
        parse_message("pool: FRACTIONAL", pb.PoolingParameter)


def test_a_message_must_be_known_altogether() -> None:
    assert parse_message("pad: 3", pb.PoolingParameter).pad == 3
    with pytest.raises(
        PrototxtError, match=r"^f:2:1: PoolingParameter has no field 'ceil_mode'; correct or remove it$"
    ):
        parse_message("pad: 3\nceil_mode: true", pb.PoolingParameter, "f")


def test_positions_are_lines_and_columns() -> None:
    text = '\ufeffname: "n"\r\nlayer {\r\n  type: "Pooling"\r\n\r\n  pooling_param { pool: AVG }\r\n}\r\n'
    with pytest.raises(PrototxtError) as info:
        parse_net(text, "dir/net.prototxt")
    assert str(info.value) == (
        "dir/net.prototxt:5:25: pool: 'AVG' is not one of PoolMethod's values (MAX, AVE, STOCHASTIC); did you mean AVE?"
    )
    with pytest.raises(PrototxtError, match=r"^<text>:1:3: "):
        parse_net("\ufeffa 3")
    source = parse_net('# one\n  layer { }\nlayer\n{ name: "x" }', "n")
    assert [found.where for found in source.layers] == ["n:2:3", "n:3:1"]


def test_an_unclosed_brace_is_named_by_its_place() -> None:
    with pytest.raises(PrototxtError) as info:
        parse_net('layer {\n  name: "a"\n  param {\n    lr_mult: 1\n}\nlayer { }\n')
    assert str(info.value) == "<text>:1:7: '{' is never closed; add the missing '}' in front of the next layer at 6:1"
    with pytest.raises(PrototxtError, match=r"^<text>:1:4: '<' is never closed; add the missing '>'$"):
        parse_net("a: < b: 3")
    with pytest.raises(PrototxtError, match=r"^<text>:1:3: the text ends where .* should be"):
        parse_net("a:\n ")


def test_old_nets_are_read_in_todays_form() -> None:
    source = parse_net('name: "v1"\n  layers { name: "a" type: DATA }', "old")
    assert source.forms == ("V1",)
    assert source.layers[0].message.type == "Data"
    assert source.layers[0].where == "old:2:3"
    assert source.text() == 'name: "v1"\n  layer {\n    name: "a"\n    type: "Data"\n  }'


def test_header_fields() -> None:
    source = parse_net(
        'name: "n" input: "data" input_dim: 1 input_dim: 3 input_shape { dim: [1, 3] } state { phase: TRAIN }'
    )
    assert list(source.header.input) == ["data"]
    assert list(source.header.input_dim) == [1, 3]
    assert list(source.header.input_shape[0].dim) == [1, 3]
    assert source.header.state.phase == pb.TRAIN


def test_solvers() -> None:
    source = parse_solver('net: "a" test_iter: 10 solver_mode: CPU fork { x: 1 }\nsolver_type: ADAM', "s")
    assert source.message.solver_mode == pb.SolverParameter.CPU
    assert source.unknown == ["fork"]
    assert source.where("solver_type") == "s:2:1"
    assert source.where("missing") == "s:1:1"


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"\x0a\x04name\x00", "binary file, not a prototxt"),
        (b"\xff\xfelayer { }", "begins like a text in UTF-16, and is none; save it as UTF-8"),
        (b"\n <!DOCTYPE html>\n<html>", "a web page, not a prototxt"),
        (b"<HTML>", "a web page"),
    ],
)
def test_files_that_are_something_else(tmp_path: Path, content: bytes, reason: str) -> None:
    path = tmp_path / "net.prototxt"
    path.write_bytes(content)
    with pytest.raises(PrototxtError) as info:
        read_net(path)
    assert reason in str(info.value)
    assert str(info.value).startswith(f"{path}: ")


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16", "utf-16-le", "utf-16-be"])
@pytest.mark.parametrize("newline", ["\n", "\r\n"])
def test_byte_order_marks_are_left_out_of_what_is_written(tmp_path: Path, encoding: str, newline: str) -> None:
    """Caffe refuses a text that begins with one."""
    text = newline.join(["# caf\u00e9", 'layer { name: "a" }', 'layer { name: "b" }', ""])
    path = tmp_path / "net.prototxt"
    marked = text if encoding in ("utf-8-sig", "utf-16") else "\ufeff" + text  # these two write the mark themselves
    path.write_bytes(marked.encode(encoding))
    source = read_net(path)
    assert source.text() == text
    assert source.layers[1].where == f"{path}:3:1"
    kept = [(layer.message, layer) for layer in source.layers[:1]]
    assert source.render(source.header, kept) == text.replace('layer { name: "b" }' + newline, "")
    path.write_bytes("\ufeffbase_lr: 1".encode())
    solver = read_solver(path)
    solver.message.base_lr = 2
    assert solver.render(solver.message) == "base_lr: 2"


def test_files_that_cannot_be_read(tmp_path: Path) -> None:
    for path in (tmp_path / "none", tmp_path):
        with pytest.raises(PrototxtError, match="cannot read it"):
            read_net(path)
    with pytest.raises(PrototxtError, match="cannot read it"):
        read_net("a\0b")
    large = tmp_path / "large"
    with large.open("wb") as file:
        file.truncate(300 << 20)
    with pytest.raises(PrototxtError, match="300 MiB is too large for a prototxt; is it a caffemodel"):
        read_net(large)


def test_bytes_that_are_not_utf8_are_kept(tmp_path: Path) -> None:
    data = b'# \xb2\xe2\xca\xd4\r\nlayer { name: "\xff" type: "T" } # \xe9'
    path = tmp_path / "gbk.prototxt"
    path.write_bytes(data)
    source = read_net(path)
    assert source.layers[0].message.name == "\ufffd"
    assert source.text().encode("utf-8", "surrogateescape") == data
    source.layers[0].message.type = "U"
    text = source.render(source.header, [(source.layers[0].message, source.layers[0])])
    assert text.encode("utf-8", "surrogateescape") == data.replace(b'"T"', b'"U"')


def test_an_empty_file_is_an_empty_net(tmp_path: Path) -> None:
    (tmp_path / "empty").write_bytes(b"")
    source = read_net(tmp_path / "empty")
    assert (source.layers, source.unknown, source.text()) == ([], [], "")


@pytest.mark.parametrize(
    "text",
    [
        " " * 1_000_000,
        "#" * 1_000_000,
        "# a\n" * 300_000,
        " \n \t" * 300_000 + "!",
        '"' * 1_000_000,
        "a: " + "'' " * 300_000,
        "\\" * 1_000_000,
        "a: '" + "\\n" * 500_000,
        "1" * 1_000_000,
        "-" * 1_000_000,
        "[" * 1_000_000,
        "a:" * 500_000,
        "a: [" + "1," * 500_000,
        "{" * 1_000_000,
        "layer { name: " * 100_000,
        "fork: 1 " * 100_000,
        "".join(f"f{i}: 1 " for i in range(50_000)),
    ],
    ids=range(17),
)
def test_hostile_texts_take_no_time(text: str) -> None:
    start = time.process_time()
    try:
        parse_net(text)
    except PrototxtError as error:
        assert len(str(error)) < 300
    # Work that grows with the square of the length would take hours.
    assert time.process_time() - start < 60
    assert sys.getrecursionlimit() >= 1000
