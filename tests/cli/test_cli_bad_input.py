"""Bad input: one line on stderr that says what, where and what to do, the documented code, and nothing written."""

from __future__ import annotations

import os
import struct
from collections.abc import Callable
from pathlib import Path
from typing import BinaryIO

import numpy as np
import pytest
from cli_tools import Cli, Everything, SmallNet, complaint

from deeprebirth_caffe.formats.caffemodel import write_caffemodel
from deeprebirth_caffe.ir import Net, Weights
from deeprebirth_caffe.ir.probe import save_weights

HTML = "<!DOCTYPE html>\n<html><body>404</body></html>\n"
HEAD = 'input: "data"\ninput_shape { dim: 1 dim: 3 dim: 8 dim: 8 }\n'


def net(*layers: str) -> str:
    """A small net."""
    return HEAD + "\n".join(f"layer {{ {layer} }}" for layer in layers) + "\n"


def conv(name: str, bottom: str = "data", top: str = "conv") -> str:
    """A convolution; name and blobs as they stand in the text."""
    fields = "convolution_param { num_output: 4 kernel_size: 3 }"
    return f'name: "{name}" type: "Convolution" bottom: "{bottom}" top: "{top}" {fields}'


NETS: dict[str, tuple[str | bytes, str]] = {
    "a web page": (HTML, "this is a web page"),
    "no doctype": ("  <html>", "this is a web page"),
    "empty": ("", "there is no layer in this file"),
    "only a comment": ("# layer {}\n", "there is no layer in this file"),
    "only a name": ('name: "net"\n', "there is no layer in this file"),
    "binary": (b"\x0a\x04net\x00\x00\xff\xfe" * 100, "this is a binary file"),
    "unclosed brace": ('name: "x"\nlayer {\n  name: "a"\n  type: "ReLU"\n', "bad.prototxt:2:7: '{' is never closed"),
    "surplus brace": ('layer { name: "a" type: "ReLU" } }\n', "bad.prototxt:1:34: "),
    "unclosed string": ('layer {\n  name: "a\n}\n', "bad.prototxt:2:9: "),
    "no value": ("layer {\n  name:\n}\n", "bad.prototxt:3:1: "),
    "wrong type of value": ('layer { name: "a" type: 3 }\n', "bad.prototxt:1:25: "),
    "wrong enum": (net('name: "p" type: "Pooling" pooling_param { pool: MIX }'), "bad.prototxt:3:"),
    "a word": ("hello\n", "bad.prototxt:"),
    "deep": ("layer { " * 5000 + "}" * 5000, "blocks nested more than 100 deep"),
    "old format, dangling": ('layers { name: "a" type: RELU bottom: "data" top: "a" }\n', "bad.prototxt:1:1: "),
    "a cycle": (
        net(
            'name: "a" type: "Eltwise" bottom: "data" bottom: "y" top: "x"',
            'name: "b" type: "ReLU" bottom: "x" top: "y"',
        ),
        'bad.prototxt:3:1: layer "a" reads blob "y", which layer "b" makes from what "a" puts out: a cycle',
    ),
    "reads itself": (net('name: "a" type: "Eltwise" bottom: "data" bottom: "x" top: "x"'), 'layer "a" reads blob "x"'),
    "dangling bottom": (
        net(conv("a", "nope")),
        'bad.prototxt:3:1: layer "a" reads blob "nope", which no layer produces',
    ),
    "two producers": (net(conv("a"), conv("b")), 'bad.prototxt:4:1: layer "b" produces blob "conv", which layer "a"'),
    "no type": (net('name: "a" bottom: "data" top: "x"'), 'layer "a" has no type'),
    "too small": (
        net(conv("a"), conv("b", "conv", "c2"), conv("c", "c2", "c3"), conv("d", "c3", "c4")),
        "bad.prototxt:6:1",
    ),
    "a folder up": (net(conv("../x y")), 'bad.prototxt:3:1: layer name "../x y" climbs out'),
    "a folder up in the middle": (net(conv("a/../../x")), "climbs out"),
    "a folder up in a blob": (net(conv("a", "data", "../y")), 'blob name "../y" climbs out'),
    "a newline in a name": (net(conv(r"a\nb")), r"layer name 'a\nb' holds a control character"),
    "an escape in a name": (net(conv(r"a\033[31mb")), "holds a control character"),
    "a zero in a blob": (net(conv("a", "data", r"x\000y")), "holds a control character"),
    "include and exclude": (
        net(conv("a") + " include { phase: TRAIN } exclude { phase: TEST }"),
        "has both include and exclude rules",
    ),
    "more than Caffe can count": (
        net(conv("a")).replace("dim: 8 dim: 8", "dim: 800000 dim: 800000"),
        "has more elements than Caffe can count",
    ),
}


@pytest.mark.parametrize("what", NETS)
def test_nets(cli: Cli, everything: Everything, what: str) -> None:
    text, said = NETS[what]
    Path("bad.prototxt").write_bytes(text.encode() if isinstance(text, str) else text)
    before = everything()
    for arguments in (
        ["convert", "bad.prototxt"],
        ["convert", "bad.prototxt", "--json", "--dry-run"],
        ["inspect", "bad.prototxt", "--json"],
        ["diff", "bad.prototxt", "bad.prototxt"],
    ):
        complaining = complaint(cli(*arguments), 1)
        assert complaining.startswith("bad.prototxt:") and said in complaining
    assert everything() == before


def whole(net28: SmallNet) -> bytes:
    """The bytes of a good caffemodel."""
    return Path(net28.weights).read_bytes()


def truncated(share: float) -> Callable[[SmallNet], bytes]:
    """One that is cut off."""
    return lambda net28: whole(net28)[: int(share * len(whole(net28)))]


def nan(net28: SmallNet) -> bytes:
    """One with a single NaN."""
    weights = Weights.read(net28.weights)
    weight, bias = (np.array(blob) for blob in weights["inception_3b/3x3"])
    weight.flat[7] = np.nan
    weights.set("inception_3b/3x3", [weight, bias])
    save_weights(Path("nan"), Net.read(net28.train_val), weights)
    return Path("nan").read_bytes()


def infinite(net28: SmallNet) -> bytes:
    """One with an infinity, in a layer of its own."""
    blobs = [np.full((24, 1, 5, 5), np.inf, np.float32), np.zeros(24, np.float32)]
    write_caffemodel(Path("inf"), "net", [("conv1/5x5", "Convolution", blobs)])
    return Path("inf").read_bytes()


def one_layer(name: str, *shapes: tuple[int, ...]) -> Callable[[SmallNet], bytes]:
    """One with one layer."""

    def make(net28: SmallNet) -> bytes:
        blobs = [np.ones(shape, np.float32) for shape in shapes]
        write_caffemodel(Path("one"), "net", [(name, "Convolution", blobs)])
        return Path("one").read_bytes()

    return make


def varint(number: int) -> bytes:
    """A number as protobuf writes it."""
    out = b""
    while number > 127:
        out += bytes([number & 127 | 128])
        number >>= 7
    return out + bytes([number])


LAYER, BLOBS, DATA = b"\xa2\x06", b"\x3a", b"\x2a"
"""The tags of NetParameter.layer, LayerParameter.blobs and BlobProto.data."""

WEIGHTS: dict[str, tuple[Callable[[SmallNet], bytes], str]] = {
    "cut off in half": (truncated(0.5), "cut off"),
    "cut off at the end": (truncated(0.9999), "cut off"),
    "cut off at once": (truncated(0.0001), "cut off"),
    "empty": (lambda net28: b"", "this file is empty"),
    "a web page": (lambda net28: HTML.encode(), "this is a web page"),
    "a prototxt": (lambda net28: Path(net28.train_val).read_bytes(), "w.caffemodel: "),
    "noise": (lambda net28: np.random.default_rng(0).bytes(5000), "w.caffemodel: "),
    "a layer of 4 GB": (lambda net28: LAYER + varint(2**32 - 1), "claims 4294967295 bytes where 0 are left"),
    "a layer of exabytes": (lambda net28: LAYER + varint(2**63 - 1) + b"x" * 20, "w.caffemodel: "),
    "a number that never ends": (lambda net28: LAYER + b"\xff" * 30, "w.caffemodel: "),
    "a blob of 2 GB": (
        lambda net28: LAYER + varint(6) + BLOBS + varint(4) + DATA + b"\xff\xff\x7f" + b"\0" * 9,
        "w.caffemodel: ",
    ),
    "a blob of half a float": (
        lambda net28: LAYER + varint(8) + BLOBS + varint(6) + DATA + varint(3) + b"abcd",
        "w.caffemodel: ",
    ),
    "NaN": (nan, "layer inception_3b/3x3 holds NaN or infinite numbers"),
    "infinite": (infinite, "layer conv1/5x5 holds NaN or infinite numbers"),
    "another net's names": (one_layer("fc6", (2, 2), (2,)), "none of its 1 layers has a name of this net"),
    "another net's shapes": (
        one_layer("conv1/5x5", (64, 3, 7, 7), (64,)),
        "conv1/5x5 wants 24x1x5x5 + 24 and the file has 64x3x7x7 + 64",
    ),
    "a bias that is missing": (
        one_layer("conv1/5x5", (24, 1, 5, 5)),
        "conv1/5x5 wants 24x1x5x5 + 24 and the file has 24x1x5x5",
    ),
}


@pytest.mark.parametrize("what", WEIGHTS)
def test_weights(cli: Cli, net28: SmallNet, everything: Everything, what: str) -> None:
    make, said = WEIGHTS[what]
    Path("w.caffemodel").write_bytes(make(net28))
    before = everything()
    given = (net28.train_val, "-w", "w.caffemodel", "--input-shape", net28.shape)
    for arguments in (
        ["convert", *given],
        ["convert", *given, "--dry-run", "--json"],
        ["deploy", *given, "-o", "out"],
        ["inspect", *given],
    ):
        complaining = complaint(cli(*arguments), 1)
        assert complaining.startswith("w.caffemodel: ") and said in complaining
    assert everything() == before


def test_weights_of_another_zoo_net(cli: Cli, small: Callable[[str], SmallNet], everything: Everything) -> None:
    one, other = small("alexnet64"), small("resnet64")
    before = everything()
    complaining = complaint(cli("convert", one.train_val, "-w", other.weights), 1)
    assert "another net" in complaining
    assert everything() == before


def test_a_net_given_as_weights_and_the_other_way_round(cli: Cli, net28: SmallNet) -> None:
    assert "is it a caffemodel?" in complaint(cli("convert", net28.weights), 1)
    complaint(cli("convert", net28.train_val, "-w", net28.train_val), 1)


def test_directories_as_files(cli: Cli, net28: SmallNet, everything: Everything) -> None:
    before = everything()
    for arguments in (
        ["convert", "googlenet28"],
        ["convert", net28.train_val, "-w", "googlenet28"],
        ["convert", net28.train_val, "--solver", "googlenet28"],
        ["inspect", "googlenet28"],
        ["diff", net28.train_val, "googlenet28"],
        ["deploy", "googlenet28", "-w", net28.weights, "-o", "out"],
    ):
        assert "File 'googlenet28' is a directory" in complaint(cli(*arguments), 2)
    assert everything() == before


@pytest.mark.skipif(os.name != "posix" or os.geteuid() == 0, reason="root may read and write everything")
def test_what_may_not_be_read_or_written(cli: Cli, net28: SmallNet, everything: Everything) -> None:
    before = everything()
    folder = Path("locked")
    for path in (net28.train_val, net28.weights, net28.solver):
        Path(path).chmod(0)
        arguments = ["convert", net28.train_val, "-w", net28.weights, "--solver", net28.solver, "-o", "out"]
        assert path in complaint(cli(*arguments), 2)
        Path(path).chmod(0o644)
    folder.mkdir(mode=0o555)
    assert "locked" in complaint(cli("convert", net28.deploy, "-o", "locked/out"), 1)
    assert "locked" in complaint(cli("convert", net28.deploy, "-o", "locked"), 1)
    folder.rmdir()
    assert everything() == before


def test_output_that_cannot_be(cli: Cli, net28: SmallNet, everything: Everything) -> None:
    Path("file").write_text("mine", encoding="utf-8")
    Path("nowhere").symlink_to("gone")
    Path("full/train_val.prototxt").mkdir(parents=True)
    before = everything()
    for out, code, *more in (
        ("file", 2),
        ("file/below", 1),
        ("nowhere", 1),
        ("googlenet28", 1),
        ("full", 1),
        ("full", 1, "--force"),  # a directory has the name of a result
        ("x" * 300, 1),
    ):
        given = ("convert", net28.train_val, "-o", out, "--input-shape", net28.shape, *more)
        assert out.partition("/")[0][:100] in complaint(cli(*given), int(code))
    assert everything() == before
    for command in (["zoo", "alexnet64", "-o", "full"], ["deploy", net28.train_val, "-w", net28.weights, "-o", "full"]):
        assert complaint(cli(*command), 1) == "full: this directory is not empty; choose another or add --force"
    assert everything() == before


def test_an_error_in_the_middle_of_writing(
    cli: Cli, net28: SmallNet, everything: Everything, monkeypatch: pytest.MonkeyPatch
) -> None:
    def disk_full(file: BinaryIO, *_: object) -> None:
        file.write(b"x" * 1000)
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("deeprebirth_caffe.nets.rewriting.save_weights", disk_full)
    monkeypatch.setattr("deeprebirth_caffe.commands.deploy.save_weights", disk_full)
    Path("there").mkdir()
    Path("there/train_val.prototxt").write_text("old", encoding="utf-8")
    before = everything()
    given = (net28.train_val, "-w", net28.weights, "--input-shape", net28.shape, "--force", "-o")
    for command in ("convert", "deploy"):
        for out in ("there", "new", "new/and/deep"):
            assert "No space left on device" in complaint(cli(command, *given, out), 1)
            assert everything() == before


def test_as_real_processes(process: Cli, net28: SmallNet, everything: Everything) -> None:
    Path("bad.caffemodel").write_bytes(struct.pack("<I", 7))
    Path("bad.prototxt").write_text(net(conv(r"\033[31mred")), encoding="utf-8")
    before = everything()
    for code, arguments in (
        (1, ["convert", net28.train_val, "-w", "bad.caffemodel"]),
        (1, ["convert", "bad.prototxt", "--json"]),
        (2, ["convert", "a\nb.prototxt"]),
        (2, ["convert", net28.train_val, "--only", "a\x1b[31mb"]),
        (3, ["convert", net28.train_val, "--input-shape", net28.shape, "--only", "loss1"]),
    ):
        said = complaint(process(*arguments), code)
        assert said.isprintable()
    assert everything() == before
