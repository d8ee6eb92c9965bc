"""The embedded engine by itself: fillers, sharing, loading, state, memory, precision, faults."""

from __future__ import annotations

import gc
import json
import platform
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from nets import conv, data, fc, layer, pool, relu

pytest.importorskip("torch")

import torch

from deeprebirth_caffe.engines import EngineError, engine
from deeprebirth_caffe.engines.torch.fillers import filled
from deeprebirth_caffe.engines.torch.memory import freed_memory_kept
from deeprebirth_caffe.engines.torch.net import TorchNet
from deeprebirth_caffe.formats.caffemodel import read_caffemodel, write_caffemodel
from deeprebirth_caffe.ir import Net, NetState, Weights
from deeprebirth_caffe.proto import caffe_pb2 as pb

XAVIER = 'weight_filler { type: "xavier" }'
SMALL = (
    data(4, 3, 12, 12)
    + data(4, name="label")
    + conv("c", "data", 6, fields=XAVIER)
    + relu("r", "c")
    + layer("LRN", "n", "c", "n", "lrn_param { local_size: 3 alpha: 0.1 }")
    + pool("p", "n", 3)
    + layer("BatchNorm", "bn", "p", "p")
    + layer("Dropout", "d", "p", "p", "include { phase: TRAIN }")
    + fc("f", "p", 5, fields=XAVIER)
    + layer("SoftmaxWithLoss", "loss", ["f", "label"])
)


def make(text: str, phase: str = "TRAIN", **more: object) -> TorchNet:
    return TorchNet(Net.parse(text), NetState(phase), **{"seed": 3, **more})  # type: ignore[arg-type]


def batch(seed: int = 0, classes: int = 5) -> dict[str, torch.Tensor]:
    random = torch.Generator().manual_seed(seed)
    return {
        "data": torch.randn(4, 3, 12, 12, generator=random),
        "label": torch.randint(0, classes, (4,), generator=random).float(),
    }


def step(net: TorchNet, seed: int = 0) -> float:
    """Plain SGD."""
    net.zero_grad()
    net.forward(batch(seed))
    net.backward()
    with torch.no_grad():
        for each in net.learnable:
            if each.tensor.grad is not None:
                each.tensor -= 0.05 * each.lr_mult * each.tensor.grad
    return float(net.loss)


def weights(net: TorchNet) -> list[np.ndarray]:
    return [array for _, _, arrays in net.export()[1] for array in arrays]


# ---------------------------------------------------------------- fillers


@pytest.mark.parametrize(
    ("text", "low", "high", "mean", "deviation"),
    [
        ('type: "constant" value: 2.5', 2.5, 2.5, 2.5, 0.0),
        ('type: "uniform" min: -1 max: 3', -1, 3, 1.0, 4 / 12**0.5),
        ('type: "gaussian" mean: 2 std: 0.5', -2, 6, 2.0, 0.5),
        ('type: "xavier"', -((3 / 50) ** 0.5), (3 / 50) ** 0.5, 0.0, 50**-0.5),
        ('type: "xavier" variance_norm: FAN_OUT', -((3 / 500) ** 0.5), (3 / 500) ** 0.5, 0.0, 500**-0.5),
        ('type: "xavier" variance_norm: AVERAGE', -((3 / 275) ** 0.5), (3 / 275) ** 0.5, 0.0, 275**-0.5),
        ('type: "msra"', -2, 2, 0.0, (2 / 50) ** 0.5),
    ],
)
def test_fillers_have_the_right_distribution(text: str, low: float, high: float, mean: float, deviation: float) -> None:
    from google.protobuf import text_format

    filler = text_format.Parse(text, pb.FillerParameter())
    values = filled(filler, (100, 10, 5, 1), torch.Generator().manual_seed(1), "here")
    assert low <= float(values.min()) <= float(values.max()) <= high
    assert float(values.mean()) == pytest.approx(mean, abs=6 * deviation / 5000**0.5)
    assert float(values.std()) == pytest.approx(deviation, rel=0.05)


def test_sparse_gaussian_leaves_as_many_as_it_says() -> None:
    filler = pb.FillerParameter(type="gaussian", sparse=15)
    values = filled(filler, (100, 200), torch.Generator().manual_seed(1), "here")
    assert float((values != 0).float().mean()) == pytest.approx(0.15, abs=0.02)


def test_unit_ball_rows_sum_to_one() -> None:
    values = filled(pb.FillerParameter(type="positive_unitball"), (7, 3, 2), torch.Generator(), "here")
    assert float(values.min()) >= 0
    assert torch.allclose(values.sum((1, 2)), torch.ones(7))


def test_bilinear_filler_interpolates() -> None:
    values = filled(pb.FillerParameter(type="bilinear"), (2, 1, 4, 4), torch.Generator(), "here")
    line = torch.tensor([0.25, 0.75, 0.75, 0.25])
    assert torch.equal(values[1, 0], line[:, None] * line[None, :])
    with pytest.raises(EngineError, match="square kernels"):
        filled(pb.FillerParameter(type="bilinear"), (2, 4, 3), torch.Generator(), "here")


def test_an_unknown_filler_is_refused() -> None:
    with pytest.raises(EngineError, match=r'layer "f": there is no filler "xavir"'):
        make(data(1, 4) + fc("f", "data", fields='weight_filler { type: "xavir" }'))


# ---------------------------------------------------------------- blobs and their rates


def test_rates_of_shared_blobs_follow_caffe() -> None:
    text = data(2, 4) + fc("a", "data", rest='param { name: "w" } param { lr_mult: 2 decay_mult: 0 }')
    net = make(text + fc("b", "data", rest='param { name: "w" lr_mult: 3 }'))
    assert [(e.layer, e.index, e.lr_mult, e.decay_mult) for e in net.learnable] == [
        ("a", 0, 3.0, 1.0),
        ("a", 1, 2.0, 0.0),
        ("b", 1, 1.0, 1.0),
    ]
    assert net.blobs_of["a"][0] is net.blobs_of["b"][0]
    with pytest.raises(EngineError, match="another lr_mult: 3 instead of 2"):
        make(
            data(2, 4)
            + fc("a", "data", rest='param { name: "w" lr_mult: 2 }')
            + fc("b", "data", rest='param { name: "w" lr_mult: 3 }')
        )
    with pytest.raises(EngineError, match="which is 5x4, not 6x4"):
        make(
            data(2, 4) + fc("a", "data", 5, rest='param { name: "w" }') + fc("b", "data", 6, rest='param { name: "w" }')
        )


def test_statistics_are_not_learnt() -> None:
    net = make(SMALL)
    assert [e.lr_mult for e in net.learnable if e.layer == "bn"] == [0.0, 0.0, 0.0]


def test_a_test_net_uses_the_training_nets_blobs() -> None:
    net = Net.parse(SMALL)
    train = TorchNet(net, NetState("TRAIN"), seed=1)
    test = TorchNet(net, NetState("TEST"), seed=2, share=train)
    assert all(
        a is b for name in train.blobs_of for a, b in zip(train.blobs_of[name], test.blobs_of[name], strict=True)
    )
    before = test.forward(batch())["loss"]
    step(train)
    assert test.forward(batch())["loss"] != before
    other = Net.parse(SMALL.replace("num_output: 6", "num_output: 7"))
    with pytest.raises(EngineError, match=r'layer "c" has other blobs in the test net'):
        TorchNet(other, NetState("TEST"), share=train)


def test_weights_go_out_and_come_back(tmp_path: Path) -> None:
    net = make(SMALL)
    step(net)
    name, layers = net.export()
    path = tmp_path / "w.caffemodel"
    write_caffemodel(path, name, layers)
    assert [(one.name, one.type) for one in read_caffemodel(path).layers][:3] == [
        ("data", "Input"),
        ("label", "Input"),
        ("c", "Convolution"),
    ]
    other = make(SMALL, seed=99)
    assert not np.array_equal(weights(other)[0], weights(net)[0])
    other.load(Weights.read(path))
    assert all(map(np.array_equal, weights(other), weights(net)))


def test_weights_of_another_net_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "w.caffemodel"
    write_caffemodel(path, "x", [("f", "InnerProduct", [np.zeros((5, 7)), np.zeros(5)])])
    with pytest.raises(EngineError, match=r'blob 0 of layer "f" is 5x150, .*w.caffemodel has 5x7'):
        make(SMALL).load(Weights.read(path))
    write_caffemodel(path, "x", [("f", "InnerProduct", [np.zeros((5, 150))])])
    with pytest.raises(EngineError, match=r'layer "f" has 2 blobs, .* has 1'):
        make(SMALL).load(Weights.read(path))
    write_caffemodel(path, "x", [("unheard of", "InnerProduct", [np.zeros((5, 7))])])
    net = make(SMALL)
    before = weights(net)
    net.load(Weights.read(path))
    assert all(map(np.array_equal, before, weights(net)))


# ---------------------------------------------------------------- running


def test_the_same_seed_gives_the_same_bits() -> None:
    def run() -> tuple[list[float], list[np.ndarray]]:
        net = make(SMALL)
        return [step(net, seed) for seed in range(4)], weights(net)

    (losses, first), (again, second) = run(), run()
    assert losses == again
    assert all(map(np.array_equal, first, second))
    assert losses[-1] != make(SMALL, seed=4).loss


def test_state_goes_on_to_the_bit() -> None:
    net = make(SMALL)
    step(net)
    state = json.loads(json.dumps(net.state()))
    layers = net.export()[1]
    expected = [step(net, seed) for seed in range(3)]
    other = make(SMALL, seed=77)
    other.load(Weights({each: tuple(arrays) for each, _, arrays in layers if arrays}))
    other.restore(state)
    assert [step(other, seed) for seed in range(3)] == expected
    fresh = make(SMALL, seed=77)
    fresh.load(Weights({each: tuple(arrays) for each, _, arrays in layers if arrays}))
    assert [step(fresh, seed) for seed in range(3)] != expected, "dropout does not depend on the state"


def test_learning_lowers_the_loss() -> None:
    net = make(SMALL)
    losses = [step(net) for _ in range(30)]
    assert losses[-1] < 0.5 * losses[0]


def test_no_tensor_is_left_behind() -> None:
    def alive() -> int:
        gc.collect()
        return sum(1 for thing in gc.get_objects() if issubclass(type(thing), torch.Tensor))

    net = make(SMALL)
    for _ in range(3):
        step(net)
    before = alive()
    for _ in range(5):
        step(net)
    assert alive() == before


def test_gradients_add_up() -> None:
    net = make(SMALL.replace('type: "Dropout"', 'type: "ReLU"'))
    for _ in range(2):
        net.forward(batch())
        net.backward()
    twice = net.blobs_of["f"][0].grad
    net.zero_grad()
    net.forward(batch())
    net.backward()
    assert twice is not None and net.blobs_of["f"][0].grad is not None
    assert torch.allclose(twice, 2 * net.blobs_of["f"][0].grad)


def test_dropout_keeps_the_mean() -> None:
    text = data(100, 100) + layer("Dropout", "d", "data", "d", "dropout_param { dropout_ratio: 0.3 }")
    ones = {"data": np.ones((100, 100))}
    values = make(text).forward(ones)["d"]
    assert sorted({round(float(v), 5) for v in values.unique()}) == [0.0, round(1 / 0.7, 5)]
    assert float((values == 0).float().mean()) == pytest.approx(0.3, abs=0.03)
    assert torch.equal(make(text, "TEST").forward(ones)["d"], torch.ones(100, 100))


def test_dummy_data_is_drawn_anew_unless_it_is_constant() -> None:
    fields = 'dummy_data_param { shape { dim: 2 dim: 3 } data_filler { type: "gaussian" } data_filler { value: 4 } }'
    net = make(layer("DummyData", "d", [], ["a", "b"], fields))
    first, second = net.forward(), net.forward()
    assert not torch.equal(first["a"], second["a"])
    assert torch.equal(second["b"], torch.full((2, 3), 4.0))
    assert net.images == 2


def test_stochastic_pooling_draws_by_size() -> None:
    text = data(1, 1, 200, 200) + pool("p", "data", 2, 2, "pool: STOCHASTIC")
    tile = np.array([[1.0, 2.0], [3.0, 4.0]])
    drawn = make(text).forward({"data": np.tile(tile, (1, 1, 100, 100))})["p"]
    for value in (1, 2, 3, 4):
        assert float((drawn == value).float().mean()) == pytest.approx(value / 10, abs=0.03)


def test_labels_out_of_range_are_one_clear_error() -> None:
    net = make(SMALL)
    for label in (5, -1):
        fed = batch() | {"label": torch.tensor([0.0, 1.0, float(label), 2.0])}
        with pytest.raises(EngineError, match=rf'layer "loss": label {label} is no class, for "f" has 5 \(0 to 4\)'):
            net.forward(fed)


def test_a_layer_that_fails_is_named() -> None:
    net = make(data(1, 3, 8, 8) + fc("f", "data"), "TEST")
    with pytest.raises(EngineError, match=r'layer "f" \(InnerProduct\) failed in PyTorch'):
        net.forward({"data": np.zeros((1, 3, 9, 9))})


def test_blobs_that_do_not_exist_are_named() -> None:
    net = make(SMALL)
    with pytest.raises(EngineError, match="no blob 'x'; it has data, label, c, n"):
        net.forward(batch(), keep=["x"])
    with pytest.raises(EngineError, match="blob 'c' is no input; this net takes data, label"):
        net.forward({"c": np.zeros(1)})


def test_unknown_types_are_refused() -> None:
    with pytest.raises(EngineError, match=r'layer "s" has type Sparkle, which Caffe 1.0 does not have'):
        make(data(1, 3) + layer("Sparkle", "s", "data"))


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="the allocator is another one")
def test_freed_memory_is_used_again() -> None:
    import resource

    def new_pages() -> int:
        before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
        for _ in range(8):
            torch.ones(16 << 20)
        return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

    def resident() -> int:
        return int(Path("/proc/self/statm").read_text().split()[1])

    given_back = new_pages()
    with freed_memory_kept():
        assert min(new_pages() for _ in range(6)) < given_back / 10
        held = resident()
    assert resident() < held - (8 << 20) // 4096, "it is not given back at the end"


# ---------------------------------------------------------------- precision


def test_bf16_keeps_weights_and_losses_in_single_precision() -> None:
    single, half = make(SMALL), make(SMALL, precision="bf16")
    kept = half.forward(batch(), keep=["c", "n", "f", "loss"])
    assert {name: tensor.dtype for name, tensor in kept.items()} == {
        "c": torch.bfloat16,
        "n": torch.float32,
        "f": torch.bfloat16,
        "loss": torch.float32,
    }
    half.backward()
    assert {blob.dtype for blobs in half.blobs_of.values() for blob in blobs} == {torch.float32}
    assert {e.tensor.grad.dtype for e in half.learnable if e.tensor.grad is not None} == {torch.float32}
    single.forward(batch())
    single.backward()
    a, b = single.blobs_of["c"][0].grad, half.blobs_of["c"][0].grad
    assert a is not None and b is not None
    assert 0 < float((a - b).norm() / a.norm()) < 0.05


# ---------------------------------------------------------------- the engine


def test_forward_gives_all_blobs_or_those_asked_for(tmp_path: Path) -> None:
    path = tmp_path / "net.prototxt"
    path.write_text(data(1, 3, 8, 8) + conv("c", "data", fields=XAVIER) + relu("r", "c") + pool("p", "c"))
    torch_engine = engine("torch", seed=1)
    image = np.random.default_rng(0).standard_normal((2, 3, 10, 10)).astype(np.float32)
    found = torch_engine.forward(path, None, image)
    assert {name: array.shape for name, array in found.items()} == {
        "data": (2, 3, 10, 10),
        "c": (2, 4, 8, 8),
        "p": (2, 4, 4, 4),
    }
    assert all(array.dtype == np.float32 and array.flags.c_contiguous for array in found.values())
    assert found["c"].min() == 0 < found["c"].max()
    assert np.array_equal(torch_engine.forward(path, None, {"data": image}, ["p"])["p"], found["p"])


def test_batches_come_from_the_nets_own_data(tmp_path: Path) -> None:
    h5py = pytest.importorskip("h5py")
    rows = np.arange(20, dtype=np.float32).reshape(5, 4)
    with h5py.File(tmp_path / "rows.h5", "w") as file:
        file["rows"] = rows
    (tmp_path / "list.txt").write_text("rows.h5\n")
    path = tmp_path / "net.prototxt"
    path.write_text(
        layer("HDF5Data", "source", [], "rows", 'hdf5_data_param { source: "list.txt" batch_size: 2 }')
        + layer("Power", "twice", "rows", "twice", "power_param { scale: 2 }")
    )
    found = [batch["twice"] for batch in engine("torch").batches(path, None, 4, root=tmp_path)]
    assert np.array_equal(np.concatenate(found), 2 * rows[[0, 1, 2, 3, 4, 0, 1, 2]])
    [asked] = engine("torch").batches(path, None, 1, ["rows"], root=tmp_path)
    assert list(asked) == ["rows"]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"device": "tpu"}, "no device 'tpu': there is cpu, cuda, mps"),
        ({"device": "cpu:1"}, "no device 'cpu:1'"),
        ({"precision": "fp16"}, "no precision 'fp16': there is fp32, bf16"),
        ({"threads": 0}, "cannot run on 0 threads"),
    ],
)
def test_bad_options_are_refused(options: dict[str, object], message: str) -> None:
    with pytest.raises(EngineError, match=message):
        engine("torch", **options)


def test_a_missing_device_is_an_error() -> None:
    if not torch.cuda.is_available():
        with pytest.raises(EngineError, match="PyTorch sees no CUDA device"):
            engine("torch", device="cuda")
    if not torch.backends.mps.is_available():
        with pytest.raises(EngineError, match="PyTorch sees no Apple GPU"):
            engine("torch", device="mps")


def test_without_pytorch_it_says_what_to_install() -> None:
    script = (
        "import sys, importlib.util\n"
        "real = importlib.util.find_spec\n"
        "importlib.util.find_spec = lambda name, *rest: None if name == 'torch' else real(name, *rest)\n"
        "from deeprebirth_caffe.engines import EngineError, engine\n"
        "try:\n    engine('torch')\n"
        "except EngineError as error:\n    print(error)\n"
        "print('torch' in sys.modules)\n"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    said, imported = done.stdout.splitlines()
    assert said.startswith("the embedded engine needs PyTorch: pip install 'torch") and imported == "False"
