"""Whatever a command writes, the next one reads: nets with wild names and numbers go through a whole chain."""

from __future__ import annotations

import contextlib
import json
from pathlib import Path
from random import Random

import pytest

from deeprebirth_caffe.commands.convert import convert
from deeprebirth_caffe.commands.deploy import deploy
from deeprebirth_caffe.commands.tucker import tucker
from deeprebirth_caffe.engines.random_weights import random_weights
from deeprebirth_caffe.errors import RebirthError
from deeprebirth_caffe.formats.prototxt import format_message, parse_message
from deeprebirth_caffe.formats.solver import read_solver
from deeprebirth_caffe.ir import Net
from deeprebirth_caffe.ir.probe import save_weights
from deeprebirth_caffe.nets.conversion import read_conversion
from deeprebirth_caffe.nets.load import load_net
from deeprebirth_caffe.nets.manifest import read_earlier
from deeprebirth_caffe.options.convert import ConvertOptions
from deeprebirth_caffe.options.deploy import DeployOptions
from deeprebirth_caffe.options.plan import PlanOptions
from deeprebirth_caffe.options.tucker import TuckerOptions
from deeprebirth_caffe.proto import caffe_pb2 as pb
from deeprebirth_caffe.runs.planning.plan import plan
from deeprebirth_caffe.runs.schedule.files import read_schedule

TEMPLATE = """
layer { name: "data" type: "Data" top: "data" top: "label" transform_param { crop_size: 16 mean_value: [1, 2, 3] }
  data_param { source: "none" batch_size: 2 } }
layer { name: "L0" type: "Convolution" bottom: "data" top: "B0" param { lr_mult: 1 } param { lr_mult: 2 }
  convolution_param { num_output: 8 kernel_size: 5 pad: 2 } }
layer { name: "L1" type: "BatchNorm" bottom: "B0" top: "B0" }
layer { name: "L2" type: "Scale" bottom: "B0" top: "B0" scale_param { bias_term: true } }
layer { name: "L3" type: "ReLU" bottom: "B0" top: "B0" }
layer { name: "L4" type: "Pooling" bottom: "B0" top: "B1" pooling_param { kernel_size: 2 stride: 2 } }
layer { name: "L5" type: "LRN" bottom: "B1" top: "B2" lrn_param { local_size: 3 alpha: 0.0001 } }
layer { name: "L6/1x1" type: "Convolution" bottom: "B2" top: "B3" convolution_param { num_output: 4 kernel_size: 1 } }
layer { name: "L6/3x3" type: "Convolution" bottom: "B2" top: "B4"
  convolution_param { num_output: 6 kernel_size: 3 pad: 1 } }
layer { name: "L6/out" type: "Concat" bottom: "B3" bottom: "B4" top: "B5" }
layer { name: "L7" type: "Dropout" bottom: "B5" top: "B5" }
layer { name: "L8" type: "InnerProduct" bottom: "B5" top: "B6" inner_product_param { num_output: 6 } }
layer { name: "L9" type: "SoftmaxWithLoss" bottom: "B6" bottom: "label" top: "B7" }
layer { name: "L10" type: "Accuracy" bottom: "B6" bottom: "label" top: "B8" include { phase: TEST } }
"""
NAMES = (
    *(
        "conv1",
        "a/b",
        "é",
        "漢字",
        "a b",
        'say "so"',
        "it's",
        "\\",
        "#",
        "{",
        "file",
        "x" * 200,
        "-o",
        "=1+1",
        "*",
        "?",
    ),
    *(
        "[a]",
        "null",
        "true",
        "1e5",
        "0x10",
        "~",
        "- a",
        "a: b",
        "a\u202eb",
        "\x7f",
        "%",
        "@",
        "&a",
        "!x",
        "|",
        ">",
        "`",
    ),
    *("conv1_merge", "a_fold", "a_in", "a_core2", "$(x)", "${HOME}", "\ud7ff", "😀", " ", "a.", "00-base", "base"),
)
NUMBERS = (0.0, -0.0, 1e-45, 1e-30, 0.1, 1.0, 3.0, 1e7, 1e20, 1e36, 3.4028234663852886e38)
PLACES = (
    *("lrn_param.alpha", "lrn_param.beta", "lrn_param.k", "batch_norm_param.eps", "relu_param.negative_slope"),
    *("dropout_param.dropout_ratio", "transform_param.scale", "convolution_param.bias_filler.value"),
)


def wild(random: Random) -> str:
    """The net with other names, and with numbers at the edges."""
    net = parse_message(TEMPLATE, pb.NetParameter)
    net.name = random.choice(NAMES)
    chosen = random.sample(NAMES, len(NAMES))
    blobs: dict[str, str] = {name: name for name in ("data", "label")}
    for layer in net.layer:
        if random.randrange(2):
            layer.name = layer.name.replace("L6", "six") if "/" in layer.name else chosen.pop()
        for names in (layer.bottom, layer.top):
            for index, name in enumerate(names):
                names[index] = blobs.setdefault(name, chosen.pop() if random.randrange(3) == 0 else name)
        for path in PLACES:
            if random.randrange(12) == 0:
                *way, field = path.split(".")
                message = layer
                for step in way:
                    message = getattr(message, step)
                setattr(message, field, random.choice(NUMBERS))
        for spec in layer.param:
            spec.lr_mult = random.choice(NUMBERS[:-1])
    return format_message(net)


@pytest.mark.parametrize("seed", range(40))
def test_a_chain_of_commands(tmp_path: Path, seed: int) -> None:
    pytest.importorskip("yaml")
    random = Random(seed)
    net, weights = tmp_path / "net.prototxt", tmp_path / "net.caffemodel"
    net.write_text(wild(random), encoding="utf-8")
    try:
        read = Net.read(net)
        save_weights(weights, read, random_weights(read))
        load_net(net, weights)
    except RebirthError:
        return  # two layers that learn have one name, say
    rewritten = []
    with contextlib.suppress(RebirthError):  # an lr_mult that cannot be ten times as large
        convert(ConvertOptions(net, weights, out=tmp_path / "a"))
        rewritten.append(tmp_path / "a")
    with contextlib.suppress(RebirthError):
        tucker(TuckerOptions(net, weights, out=tmp_path / "b"))
        rewritten.append(tmp_path / "b")
    for folder in rewritten:
        found = load_net(folder / net.name, folder / "init.caffemodel")
        assert Net.parse(found.text()).message() == found.message()
        read_solver(folder / "solver.prototxt")
        read_earlier(folder / net.name)
        read_conversion(folder)
        json.loads((folder / "manifest.json").read_bytes())
        if (folder / "deploy.prototxt").exists():
            load_net(folder / "deploy.prototxt", folder / "init.caffemodel")
        convert(ConvertOptions(folder / net.name, folder / "init.caffemodel", dry_run=True))
        deploy(DeployOptions(folder / net.name, folder / "init.caffemodel", folder / "deployed"))
        load_net(folder / "deployed/deploy.prototxt", folder / "deployed/deploy.caffemodel")
        json.loads((folder / "deployed/manifest.json").read_bytes())
    with contextlib.suppress(RebirthError):
        plan(PlanOptions(net, weights, tmp_path / "s.yaml"), lambda text: None, lambda *_: None)
        read_schedule(tmp_path / "s.yaml")
