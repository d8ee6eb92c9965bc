"""A small net with all that a distilling net has to get right, converted, in a folder with its data."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from data_sources import image, lmdb_of, raw

from deeprebirth_caffe.commands.convert import convert
from deeprebirth_caffe.engines.random_weights import random_weights
from deeprebirth_caffe.ir.probe import save_weights
from deeprebirth_caffe.nets.load import load_net
from deeprebirth_caffe.options.convert import ConvertOptions

RECORDS, BATCH = 10, 4


def conv(name: str, bottom: str, outputs: int, kernel: int, more: str = "") -> str:
    """A convolution that keeps height and width, and its ReLU in place."""
    return f"""
layer {{ name: "{name}" type: "Convolution" bottom: "{bottom}" top: "{name}" param {{ lr_mult: 1 decay_mult: 1 }}
  param {{ lr_mult: 2 decay_mult: 0 }}
  convolution_param {{ num_output: {outputs} kernel_size: {kernel} pad: {kernel // 2} {more}
    weight_filler {{ type: "xavier" }} }} }}
layer {{ name: "{name}_relu" type: "ReLU" bottom: "{name}" top: "{name}" }}"""


def data(phase: str) -> str:
    """The data layer of a phase."""
    return f"""
layer {{ name: "data" type: "Data" top: "data" top: "label" include {{ phase: {phase} }}
  transform_param {{ scale: 0.01 }} data_param {{ source: "db" batch_size: {BATCH} backend: LMDB }} }}"""


NET = "".join(
    [
        'name: "small"',
        data("TRAIN"),
        data("TEST"),
        conv("conv1", "data", 12, 3),
        'layer { name: "pool1" type: "Pooling" bottom: "conv1" top: "pool1"'
        " pooling_param { kernel_size: 3 stride: 2 } }",
        'layer { name: "norm1" type: "LRN" bottom: "pool1" top: "norm1" lrn_param { local_size: 3 alpha: 0.1 } }',
        # A module whose channels a merge puts in another order, and a pool behind it.
        conv("m/1x1", "norm1", 6, 1),
        conv("m/3x3_reduce", "norm1", 8, 1),
        conv("m/3x3", "m/3x3_reduce", 10, 3),
        conv("m/5x5_reduce", "norm1", 4, 1),
        conv("m/5x5", "m/5x5_reduce", 6, 5),
        'layer { name: "m/pool" type: "Pooling" bottom: "norm1" top: "m/pool"'
        " pooling_param { kernel_size: 3 stride: 1 pad: 1 } }",
        conv("m/pool_proj", "m/pool", 4, 1),
        'layer { name: "m/output" type: "Concat" bottom: "m/1x1" bottom: "m/3x3" bottom: "m/5x5" bottom: "m/pool_proj"'
        ' top: "m/output" }',
        'layer { name: "pool2" type: "Pooling" bottom: "m/output" top: "pool2"'
        " pooling_param { kernel_size: 2 stride: 2 } }",
        # A residual block.
        conv("r/a", "pool2", 26, 3),
        'layer { name: "r/a_bn" type: "BatchNorm" bottom: "r/a" top: "r/a_bn" }',
        'layer { name: "r/a_scale" type: "Scale" bottom: "r/a_bn" top: "r/a_bn" scale_param { bias_term: true } }',
        'layer { name: "r/b" type: "Convolution" bottom: "r/a_bn" top: "r/b" convolution_param { num_output: 26'
        ' kernel_size: 3 pad: 1 bias_term: false weight_filler { type: "xavier" } } }',
        'layer { name: "r/b_bn" type: "BatchNorm" bottom: "r/b" top: "r/b" }',
        'layer { name: "r/b_scale" type: "Scale" bottom: "r/b" top: "r/b" scale_param { bias_term: true } }',
        'layer { name: "r/short" type: "Convolution" bottom: "pool2" top: "r/short" convolution_param { num_output: 26'
        ' kernel_size: 1 weight_filler { type: "xavier" } } }',
        'layer { name: "r/sum" type: "Eltwise" bottom: "r/short" bottom: "r/b" top: "r/sum" }',
        'layer { name: "r/relu" type: "ReLU" bottom: "r/sum" top: "r/sum" }',
        'layer { name: "drop" type: "Dropout" bottom: "r/sum" top: "r/sum" dropout_param { dropout_ratio: 0.4 } }',
        'layer { name: "fc" type: "InnerProduct" bottom: "r/sum" top: "fc"'
        ' inner_product_param { num_output: 5 weight_filler { type: "xavier" } } }',
        'layer { name: "loss" type: "SoftmaxWithLoss" bottom: "fc" bottom: "label" top: "loss" }',
        'layer { name: "accuracy" type: "Accuracy" bottom: "fc" bottom: "label" top: "accuracy"'
        " include { phase: TEST } }",
    ]
)


def converted(folder: Path, more: Sequence[str] = (), net: str = NET, bn: str = "prune", reparam: bool = False) -> Path:
    """Writes data, the net with random weights and a solver, and converts it; gives the directory.

    Args:
        folder: the working directory.
        more: stages that are skipped.
        net: the net.
        bn: what becomes of BatchNorm.
        reparam: whether rebirth layers learn as several.
    """
    rng = np.random.default_rng(2)
    lmdb_of(folder / "db", [raw(image(rng, 24, 24), number % 5) for number in range(RECORDS)])
    (folder / "net.prototxt").write_text(net)
    read = load_net(folder / "net.prototxt")
    save_weights(folder / "net.caffemodel", read, random_weights(read))
    (folder / "own.prototxt").write_text(
        'net: "net.prototxt" base_lr: 0.1 lr_policy: "fixed" test_iter: 3 test_interval: 7 random_seed: 1\n'
    )
    options = ConvertOptions(
        folder / "net.prototxt",
        folder / "net.caffemodel",
        folder / "own.prototxt",
        folder / "made",
        skip=tuple(more),
        bn=bn,
        reparam=reparam,
    )
    convert(options)
    return folder / "made"


def as_sgd(solver: Path, base_lr: float) -> None:
    """Gives a solver plain SGD, whose steps are as large as its gradients."""
    lines = [
        line
        for line in solver.read_text().splitlines()
        if not line.startswith(("type", "momentum2", "base_lr", "weight_decay"))
    ]
    solver.write_text("\n".join([*lines, f"base_lr: {base_lr}", "weight_decay: 0.01", ""]))
