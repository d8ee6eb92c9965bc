"""Random nets for inference through all exact passes: the function stays, and a second run finds nothing."""

from __future__ import annotations

from random import Random
from typing import TYPE_CHECKING

import pytest
from exact_tools import ZEROS, Shared
from hypothesis import given, settings
from hypothesis import strategies as st
from nets import conv, data, fc, layer, parse, pool, rewrite

from deeprebirth_caffe.ir import summarize
from deeprebirth_caffe.nets.check import compare_nets
from deeprebirth_caffe.nets.exactness import EXACT_NAMES, all_exact
from deeprebirth_caffe.ops import ShapeError

if TYPE_CHECKING:
    from deeprebirth_caffe.engines.caffe.client import CaffeWorker
    from deeprebirth_caffe.engines.caffe.locate import CaffeInstall
    from deeprebirth_caffe.ir import Net

AFFINE = {
    "BatchNorm": "",
    "Scale": "scale_param { bias_term: true }",
    "Bias": "",
    "Power": "power_param { scale: 0.7 shift: 0.1 }",
}


def make(seed: int) -> str:
    """A net of linear, affine and useless layers in any order, with forks; channels differ by orders of magnitude."""
    rng = Random(seed)
    text = data(1, rng.choice([2, 4, 64]), 12, 12)
    blobs = ["data"]
    for number in range(rng.randint(3, 12)):
        name, bottom = f"x{number}", rng.choice(blobs[-2:])
        kinds = ["conv", "conv", "conv", "siblings", "sum", "deconv", "affine", "affine", "pool", "abs", "zero"]
        kind = rng.choice(kinds)
        own = rng.choice(["", "", "pad: 1", "stride: 2", "dilation: 2", "group: 2", "bias_term: false"])
        out = rng.choice([2, 2, 4, 32])
        if kind == "affine":
            what = rng.choice(list(AFFINE))
            text += layer(what, name, bottom, name, AFFINE[what])
        elif kind == "zero":
            what, fields = rng.choice(ZEROS)
            text += layer(what, name, bottom, name, fields)
        elif kind == "abs":
            text += layer("AbsVal", name, bottom)
        elif kind == "pool":
            text += pool(name, bottom, *rng.choice([(2, 2), (3, 1), (1, 1)]), "pool: AVE")
        elif kind == "siblings":
            size = rng.choice([(1, 1), (1, 3), (3, 3)])
            pair = [conv(f"{name}{s}", bottom, rng.choice([1, 2]), k, f"pad: {k // 2}") for s, k in zip("ab", size)]
            text += "".join(pair) + layer(
                "Concat", name, rng.choice([(f"{name}a", f"{name}b"), (f"{name}b", f"{name}a")])
            )
        elif kind == "sum":
            wide = rng.choice([1, 2])
            sides = [(rng.choice(["1", "3", "5"]), s) for s in "abc"[: rng.randint(2, 3)]]
            for size, s in sides:
                text += conv(f"{name}{s}", bottom, 4, int(size), f"pad: {int(size) // 2} stride: {wide}")
            text += layer("Eltwise", name, [f"{name}{s}" for _, s in sides], name)
        else:
            made = conv(name, bottom, out, rng.choice([1, 2, 3]), own)
            text += made.replace('"Convolution"', '"Deconvolution"') if kind == "deconv" else made
        blobs.append(name)
    if rng.random() < 0.7:
        text += fc("score", blobs[-1], rng.choice([3, 300])) + layer("Softmax", "prob", "score")
    return text


def sound(seed: int) -> Net | None:
    """The net of a seed, if Caffe would load it and its numbers fit."""
    try:
        net = parse(make(seed), weights=True)
        summarize(net.view())
    except (ShapeError, RuntimeError, ValueError):
        return None
    except Exception as error:
        if type(error).__name__ == "NetError":
            return None
        raise
    return net


@settings(max_examples=150, deadline=None, derandomize=True, database=None)
@given(st.integers(0, 2**32))
def test_a_second_run_finds_nothing_and_outputs_stay(seed: int) -> None:
    net = sound(seed)
    if net is None:
        return
    outputs = {value.name: value.shape for value in net.view().outputs}
    rewrite(net, all_exact())
    assert {value.name: value.shape for value in net.view().outputs} == outputs
    text = net.text()
    assert net.weights is not None
    for row in summarize(net.view()).layers:
        if row.param_shapes:
            assert tuple(array.shape for array in net.weights[row.layer.name]) == row.param_shapes
    assert not rewrite(net, all_exact()).rewrites and net.text() == text


def test_real_caffe_agrees_and_every_pass_is_reached(caffe: CaffeWorker, caffe_install: CaffeInstall) -> None:
    engine = Shared(caffe_install, caffe)
    reached: set[str] = set()
    compared = 0
    for seed in range(250):
        net = sound(seed)
        if net is None:
            continue
        before = net.copy()
        done = rewrite(net, all_exact())
        reached |= {one.pass_name for one in done.rewrites}
        if done.rewrites:
            result = compare_nets(before, net, engine)
            if "is constant" in result.failure:
                continue
            if result.failure == "the two nets have no blob in common":
                pytest.fail(make(seed))
            assert result.failure == "", (seed, make(seed))
            compared += 1
    assert compared > 60 and reached == set(EXACT_NAMES)
