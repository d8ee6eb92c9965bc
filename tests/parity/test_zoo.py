"""Every net of the zoo in real Caffe: it loads in both phases, with the shapes that `ops` foretells."""

from __future__ import annotations

import math
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest

from deeprebirth_caffe import ops, zoo
from deeprebirth_caffe.formats.prototxt import format_message, parse_message
from deeprebirth_caffe.proto import caffe_pb2 as pb

if TYPE_CHECKING:
    from deeprebirth_caffe.engines.caffe.client import CaffeWorker

BATCH = 2
SMALL = ["googlenet64", "googlenet28", "alexnet64", "resnet64"]


def with_inputs(net: pb.NetParameter, shape: tuple[int, int, int]) -> pb.NetParameter:
    """The net with an Input layer where each Data layer was, so that it needs no database."""
    swapped = pb.NetParameter()
    swapped.CopyFrom(net)
    for layer in swapped.layer:
        if layer.type == "Data":
            layer.type = "Input"
            layer.ClearField("data_param")
            layer.ClearField("transform_param")
            layer.input_param.shape.add(dim=(BATCH, *shape))
            layer.input_param.shape.add(dim=(BATCH,))
    return swapped


def foretold(
    net: pb.NetParameter, phase: int
) -> tuple[dict[str, tuple[int, ...]], dict[str, tuple[tuple[int, ...], ...]]]:
    """Shapes of the blobs, and of the parameters by layer, as `ops` has them."""
    blobs: dict[str, tuple[int, ...]] = {}
    params: dict[str, tuple[tuple[int, ...], ...]] = {}
    for layer in net.layer:
        if layer.include and layer.include[0].phase != phase:
            continue
        op = ops.op(layer.type)
        assert op is not None, layer.type
        bottoms = [blobs[bottom] for bottom in layer.bottom]
        blobs.update(zip(layer.top, op.shapes(layer, bottoms), strict=True))
        shapes = tuple(op.params(layer, bottoms))
        if shapes:
            params[layer.name] = shapes
    return blobs, params


@pytest.mark.parametrize(("form", "phase"), [("deploy", "TEST"), ("train_val", "TRAIN"), ("train_val", "TEST")])
@pytest.mark.parametrize("name", zoo.names())
def test_loads_in_real_caffe(caffe: CaffeWorker, tmp_path: Path, name: str, form: str, phase: str) -> None:
    built = zoo.build(name)
    net = with_inputs(parse_message(getattr(built, form), pb.NetParameter), built.input_shape)
    path = tmp_path / "net.prototxt"
    path.write_text(format_message(net))
    blobs, params = foretold(net, pb.Phase.Value(phase))

    loaded = caffe.load(path, phase)
    try:
        assert {blob: shape for blob, shape in loaded.blobs.items() if blob not in loaded.copies} == blobs
        assert loaded.params == params
    finally:
        caffe.close(loaded)


@pytest.mark.parametrize("name", SMALL)
def test_small_nets_start_out_undecided(caffe: CaffeWorker, tmp_path: Path, name: str) -> None:
    """On pixels of the size they are trained on, the first loss is near ln(classes)."""
    built = zoo.build(name)
    net = with_inputs(parse_message(built.train_val, pb.NetParameter), built.input_shape)
    path = tmp_path / "net.prototxt"
    path.write_text(format_message(net))
    random = np.random.default_rng(0)
    picture = random.standard_normal((BATCH, *built.input_shape)).astype(np.float32)

    loaded = caffe.load(path, "TRAIN", seed=1)
    try:
        inputs = {"data": picture, "label": np.array([0, 1], np.float32)}
        losses = {
            blob: float(values)
            for blob, values in caffe.forward(loaded, inputs).items()
            if "loss" in blob and values.size == 1
        }
    finally:
        caffe.close(loaded)
    assert losses
    assert all(abs(loss - math.log(built.classes)) < 1.5 for loss in losses.values()), losses
