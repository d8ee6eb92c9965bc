"""What layers of the embedded engine do that real Caffe cannot be asked: chance, faults, states between batches."""

from __future__ import annotations

import json
import os
from pathlib import Path

import numpy as np
import pytest
from closeness import assert_within, between

pytest.importorskip("torch")

import torch
from exact_net import ExactNet, array
from nets import conv, data, layer

from deeprebirth_caffe.engines.base import EngineError
from deeprebirth_caffe.engines.torch.layers.base import Spec, make
from deeprebirth_caffe.engines.torch.net import TorchNet
from deeprebirth_caffe.ir import Net, NetState
from deeprebirth_caffe.proto import caffe_pb2 as pb


def net(body: str, *shapes: tuple[int, ...], phase: str = "TRAIN", tops: int = 1, seed: int = 1) -> TorchNet:
    text = "force_backward: true "
    for index, shape in enumerate(shapes):
        dims = " ".join(f"dim: {size}" for size in shape)
        text += f'layer {{ name: "x{index}" type: "Input" top: "x{index}" input_param {{ shape {{ {dims} }} }} }} '
    bottoms = " ".join(f'bottom: "x{index}"' for index in range(len(shapes)))
    named = " ".join(f'top: "y{index}"' for index in range(tops))
    return TorchNet(Net.parse(f'{text} layer {{ name: "it" {bottoms} {named} {body} }}'), NetState(phase), seed=seed)


def pools(body: str, phase: str, items: int) -> tuple[TorchNet, torch.Tensor, torch.Tensor]:
    pooled = net(body, (items, 1, 2, 2), phase=phase)
    window = torch.tensor([[1.0, 2.0], [3.0, 4.0]]).expand(items, 1, 2, 2).contiguous()
    top = pooled.forward({"x0": window}, keep=["y0"], retain=True)["y0"]
    return pooled, window, top


STOCHASTIC = 'type: "Pooling" pooling_param { pool: STOCHASTIC kernel_size: 2 stride: 2 }'
PYRAMID = 'type: "SPP" spp_param { pool: STOCHASTIC pyramid_height: 1 }'


@pytest.mark.parametrize("body", [STOCHASTIC, PYRAMID])
def test_stochastic_pooling_picks_a_pixel_as_often_as_it_is_large(body: str) -> None:
    items = 5000
    pooled, _, top = pools(body, "TRAIN", items)
    shares = [float((top == value).float().mean()) for value in (1, 2, 3, 4)]
    assert shares == pytest.approx([0.1, 0.2, 0.3, 0.4], abs=0.03)
    pooled.backward({"y0": np.full(tuple(top.shape), 2, np.float32)})
    grad = pooled.blob_diff("x0").flatten(1)
    assert torch.equal(grad.sum(1), torch.full((items,), 2.0))
    assert torch.equal(grad.argmax(1) + 1, top.flatten().long())  # to the pixel that was picked


@pytest.mark.parametrize("body", [STOCHASTIC, PYRAMID])
def test_stochastic_pooling_gives_the_expected_value_in_test(body: str) -> None:
    _, _, top = pools(body, "TEST", 3)
    assert top.flatten().tolist() == pytest.approx([3.0] * 3)  # (1 + 4 + 9 + 16) / (1 + 2 + 3 + 4)


def test_dropout_repeats_itself_with_a_seed() -> None:
    ones = {"x0": np.ones((50, 50), np.float32)}
    first, again, other = (
        net('type: "Dropout"', (50, 50), seed=seed).forward(ones, keep=["y0"])["y0"] for seed in (1, 1, 2)
    )
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


def recurrent(kind: str, fields: str = "") -> TorchNet:
    fillers = 'weight_filler { type: "uniform" min: -1 max: 1 } bias_filler { value: 0.25 }'
    return net(f'type: "{kind}" recurrent_param {{ num_output: 3 {fields} {fillers} }}', (2, 4, 5), (2, 4))


@pytest.mark.parametrize("channels", [2, 3, 4, 6, 7])
def test_the_gradient_of_a_strided_pixel_by_pixel_convolution(channels: int) -> None:
    """In front of a BatchNorm, whose gradient has channels last: PyTorch's own is garbage there, or the end."""
    text = (
        data(4, channels, 24, 24)
        + conv("c", "data", 12, 1, "stride: 2 bias_term: false")
        + layer("BatchNorm", "bn", "c")
        + layer("TanH", "bent", "bn")
        + layer("Reduction", "loss", "bent", "loss", "loss_weight: 1 reduction_param { operation: SUMSQ }")
    )
    image = np.random.default_rng(0).standard_normal((4, channels, 24, 24)).astype(np.float32)
    ours = TorchNet(Net.parse(text), NetState("TRAIN"), seed=1)
    exact = ExactNet(Net.parse(text), NetState("TRAIN"), ours)
    for one in (ours, exact):
        one.forward({"data": image})
        one.backward()
    mine, true = (one.blobs_of["c"][0].grad for one in (ours, exact))
    assert mine is not None and true is not None
    assert_within("diff of c", array(true), array(mine), between(4 * 12 * 12 * 12))


@pytest.mark.parametrize("kind", ["LSTM", "RNN"])
def test_recurrent_fillers(kind: str) -> None:
    for blob in recurrent(kind).blobs_of["it"]:
        if blob.dim() == 1:
            assert torch.equal(blob, torch.full_like(blob, 0.25))
        else:
            assert 0 < float(blob.detach().std()) < 1
            assert float(blob.detach().abs().max()) <= 1


@pytest.mark.parametrize("kind", ["LSTM", "RNN"])
def test_states_go_on_to_the_next_batch_where_a_sequence_does(kind: str) -> None:
    made = recurrent(kind)
    x = np.random.default_rng(0).standard_normal((2, 4, 5)).astype(np.float32)
    goes_on, starts = np.ones((2, 4), np.float32), np.array([[0.0] * 4, [1.0] * 4], np.float32)
    first = made.forward({"x0": x, "x1": starts}, keep=["y0"])["y0"].clone()
    second = made.forward({"x0": x, "x1": goes_on}, keep=["y0"])["y0"].clone()
    third = made.forward({"x0": x, "x1": starts}, keep=["y0"])["y0"].clone()
    assert not torch.allclose(first, second)
    assert torch.equal(first, third)


@pytest.mark.parametrize("kind", ["LSTM", "RNN"])
def test_two_batches_are_one_long_one(kind: str) -> None:
    x = np.random.default_rng(0).standard_normal((4, 4, 5)).astype(np.float32)
    cont = np.array([[0.0] * 4, *[[1.0] * 4] * 3], np.float32)
    short, long = recurrent(kind), net(f'type: "{kind}" recurrent_param {{ num_output: 3 }}', (4, 4, 5), (4, 4))
    with torch.no_grad():
        for theirs, ours in zip(long.blobs_of["it"], short.blobs_of["it"], strict=True):
            theirs.copy_(ours)
    whole = long.forward({"x0": x, "x1": cont}, keep=["y0"])["y0"]
    parts = [short.forward({"x0": x[i : i + 2], "x1": cont[i : i + 2]}, keep=["y0"])["y0"].clone() for i in (0, 2)]
    assert_within("y0", whole.numpy(), torch.cat(parts).numpy(), between(4 * (5 + 3)))


def test_another_batch_size_starts_the_states_anew() -> None:
    made = recurrent("LSTM")
    rng = np.random.default_rng(0)
    made.forward({"x0": rng.standard_normal((2, 4, 5)), "x1": np.ones((2, 4))})
    top = made.forward({"x0": rng.standard_normal((2, 7, 5)), "x1": np.ones((2, 7))}, keep=["y0"])["y0"]
    assert tuple(top.shape) == (2, 7, 3)


def test_filter_may_let_nothing_through() -> None:
    filtered = net('type: "Filter"', (3, 2), (3,), phase="TEST")
    top = filtered.forward({"x0": np.ones((3, 2)), "x1": np.zeros(3)}, keep=["y0"])["y0"]
    assert tuple(top.shape) == (0, 2)


THREE = pb.BlobProto(shape=pb.BlobShape(dim=[3]), data=[1, 2, 3]).SerializeToString()


@pytest.mark.parametrize(
    ("content", "why"),
    [(None, "cannot read"), (THREE, "3 numbers, not 5 x 5"), (b"", "BlobProto"), (b"\xff", "BlobProto")],
)
def test_a_bad_infogain_matrix_is_an_error(tmp_path: Path, content: bytes | None, why: str) -> None:
    path = tmp_path / "matrix.binaryproto"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(EngineError, match=f'layer "it".*{why}'):
        net(f'type: "InfogainLoss" infogain_loss_param {{ source: "{path}" }}', (4, 5), (4,))


def test_hdf5_output_says_where_it_cannot_write(tmp_path: Path) -> None:
    pytest.importorskip("h5py")
    os.mkfifo(tmp_path / "pipe")
    for path, why in ((tmp_path / "none" / "out.h5", "No such file"), (tmp_path / "pipe", "this is a pipe")):
        made = net(f'type: "HDF5Output" hdf5_output_param {{ file_name: "{path}" }}', (2, 3), (2,), tops=0)
        with pytest.raises(EngineError, match=f'layer "it": {path}: cannot write it: {why}'):
            made.forward({"x0": np.ones((2, 3)), "x1": np.ones(2)})


def test_python_layers_are_refused() -> None:
    param = pb.LayerParameter(name="it", type="Python")
    with pytest.raises(EngineError, match=r'layer "it".*Python.*pycaffe'):
        make(Spec(param, True, (), (), torch.Generator()))


@pytest.mark.parametrize("kind", ["LSTM", "RNN"])
def test_carried_states_are_part_of_the_nets_state(kind: str) -> None:
    rng = np.random.default_rng(0)
    batches = [{"x0": rng.standard_normal((2, 4, 5)), "x1": np.ones((2, 4))} for _ in range(2)]
    made, other = recurrent(kind), recurrent(kind)
    made.forward(batches[0])
    state = json.loads(json.dumps(made.state()))
    wanted = made.forward(batches[1], keep=["y0"])["y0"]
    assert not torch.equal(other.forward(batches[1], keep=["y0"])["y0"], wanted)
    other.restore(state)
    assert torch.equal(other.forward(batches[1], keep=["y0"])["y0"], wanted)


def test_paths_start_at_the_root(tmp_path: Path) -> None:
    h5py = pytest.importorskip("h5py")
    text = """
        layer { name: "x" type: "Input" top: "x" top: "l"
                input_param { shape { dim: 2 dim: 3 } shape { dim: 2 } } }
        layer { name: "out" type: "HDF5Output" bottom: "x" bottom: "l" hdf5_output_param { file_name: "out.h5" } }
    """
    TorchNet(Net.parse(text), NetState("TEST"), root=tmp_path).forward({"x": np.ones((2, 3)), "l": np.ones(2)})
    with h5py.File(tmp_path / "out.h5") as found:
        assert set(found) == {"data", "label"}
