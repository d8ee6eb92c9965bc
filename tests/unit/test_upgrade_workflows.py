"""The commands on old files: what they make is what they make of the same net in today's form."""

from __future__ import annotations

from pathlib import Path

import pytest
import upgrade_corpus as corpus

from deeprebirth_caffe import zoo
from deeprebirth_caffe.commands.convert import convert
from deeprebirth_caffe.commands.inspect import inspect
from deeprebirth_caffe.formats.prototxt import format_message
from deeprebirth_caffe.ir import Net
from deeprebirth_caffe.options.convert import ConvertOptions
from deeprebirth_caffe.proto import caffe_pb2 as pb


def with_input_named(net: Net) -> pb.NetParameter:
    """The whole net; the Input layer that an upgrade makes is called "input"."""
    message = net.message()
    for layer in message.layer:
        if layer.type == "Input":
            layer.name = "input"
    return message


@pytest.mark.parametrize("kind", ["train_val", "deploy"])
@pytest.mark.parametrize("name", ["alexnet64", "googlenet28"])
def test_converted_v1_equals_converted_today(name: str, kind: str, tmp_path: Path) -> None:
    today, old = tmp_path / "today.prototxt", tmp_path / "old.prototxt"
    today.write_text(getattr(zoo.build(name), kind))
    old.write_text(format_message(corpus.as_v1(Net.read(today).message())))
    results = [convert(ConvertOptions(net=path, out=tmp_path / path.stem)) for path in (today, old)]
    assert with_input_named(results[0].net) == with_input_named(results[1].net)
    assert results[0].manifest.rewrites == results[1].manifest.rewrites
    assert "layers {" not in (tmp_path / "old" / "old.prototxt").read_text()
    first, *notes = results[1].manifest.notes
    assert first == f"{old}: in Caffe's old form V1; read, and written, in today's"
    assert notes == results[0].manifest.notes


def test_inspect_says_what_was_left_out(tmp_path: Path) -> None:
    path = tmp_path / "v0.prototxt"
    path.write_text(
        'input: "data" input_dim: [1, 3, 8, 8]\n'
        'layers { layer { name: "pad" type: "padding" pad: 1 } bottom: "data" top: "pad" }\n'
        'layers { layer { name: "c" type: "conv" num_output: 2 kernelsize: 3 alpha: 1 } bottom: "pad" top: "c" }\n'
    )
    found = inspect(path)
    assert [layer.top_shapes for layer in found.layers] == [((1, 3, 8, 8),), ((1, 2, 8, 8),)]
    assert found.notes == [
        f"{path}: in Caffe's old form V0; read, and written, in today's",
        f'{path}:3:1: layer "c": padding layer "pad" goes into it (pad: 1)',
        f'{path}:3:1: layer "c": \'alpha\' means nothing to a layer of type "conv"; left out',
    ]
