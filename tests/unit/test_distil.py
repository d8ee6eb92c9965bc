"""`rebirth distil` as a function: what is compared with what, what learns, what is refused."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from distil_tools import NET, as_sgd, converted
from numpy.typing import NDArray

from deeprebirth_caffe.commands.distil import Distilled, distil
from deeprebirth_caffe.engines.torch.engine import TorchEngine
from deeprebirth_caffe.engines.torch.net import TorchNet
from deeprebirth_caffe.errors import RebirthError, RefusedError
from deeprebirth_caffe.ir import Net, NetState, Weights
from deeprebirth_caffe.nets.load import load_net
from deeprebirth_caffe.options.distil import DistilOptions
from deeprebirth_caffe.results import to_json


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The working directory."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


def _written(directory: Path, **more: Any) -> tuple[Distilled, Net]:
    """What distil says, and the net that it wrote."""
    manifest = distil(DistilOptions(directory, force=True, **more))
    out = manifest.outputs.directory
    return manifest, Net.read(out / "distil.prototxt", Weights.read(out / "init.caffemodel"))


def _running(net: Net, phase: str) -> TorchNet:
    assert net.weights is not None
    made = TorchNet(net, NetState(phase), seed=1, data_seed=1)
    made.load(net.weights)
    return made


def _blobs(net: Net, phase: str, names: list[str]) -> dict[str, NDArray[Any]]:
    """Blobs of a net's first batch."""
    made = _running(net, phase)
    try:
        return {name: tensor.numpy() for name, tensor in made.forward(None, names).items()}
    finally:
        made.close()


def test_the_net_is_plain_and_the_teacher_learns_nothing(folder: Path) -> None:
    manifest, net = _written(converted(folder))
    view = net.view("TRAIN")
    types = [layer.type for layer in net.layers]
    assert "Dropout" not in types and "Accuracy" not in types and "SoftmaxWithLoss" not in types
    assert types.count("EuclideanLoss") == len(manifest.blocks) == 4
    assert [list(layer.tops) for layer in net.layers if layer.type == "Data"] == [["data"]] * 2
    teachers = [layer for layer in net.layers if layer.name.startswith("teacher/")]
    assert all(top.startswith("teacher/") for layer in teachers for top in layer.tops)
    assert all(spec.lr_mult == spec.decay_mult == 0 for layer in teachers for spec in layer.param.param)
    assert all(
        len(layer.param.param) == 2 for layer in teachers if layer.type == "Convolution" and "r/b" not in layer.name
    )
    assert all(layer.param.batch_norm_param.use_global_stats for layer in teachers if layer.type == "BatchNorm")
    assert {layer.name for layer in view.layers} == {layer.name for layer in net.view("TEST").layers}
    sizes = {value.name: value.shape for value in load_net("made/distil/distil.prototxt").view("TRAIN").values}
    for layer in net.layers:
        if layer.type == "EuclideanLoss":
            shape = sizes[layer.bottoms[0]]
            assert shape is not None and shape == sizes[layer.bottoms[1]]
            assert layer.param.loss_weight[0] == pytest.approx(1 / np.prod(shape[1:]))


def test_blocks_end_where_a_modules_layers_meet(folder: Path) -> None:
    manifest, _ = _written(converted(folder))
    found = {block.loss: (block.student, list(block.layers)) for block in manifest.blocks}
    assert found == {
        "distil/conv1_merge": ("norm1", ["conv1_merge"]),
        "distil/m/output": ("pool2", ["m/3x3_merge", "m/5x5_merge"]),
        "distil/r/sum": ("r/sum", ["r/b_merge"]),
        "distil/fc": ("fc", []),
    }
    assert [row.layer for row in manifest.left] == ["m/3x3_reduce_merge"]


@pytest.mark.parametrize("phase", ["TRAIN", "TEST"])
def test_the_teacher_says_in_both_phases_what_the_original_does_in_test(folder: Path, phase: str) -> None:
    made = converted(folder)
    manifest, net = _written(made)
    sides = {block.loss: block.teacher for block in manifest.blocks}
    found = _blobs(net, phase, list(sides.values()))
    original = load_net("net.prototxt", "net.caffemodel")
    branches = ["m/1x1", "m/3x3", "m/5x5", "m/pool_proj"]
    wanted = _blobs(original, "TEST", ["norm1", *branches, "r/sum", "fc"])
    assert np.array_equal(found[sides["distil/conv1_merge"]], wanted["norm1"])
    assert np.array_equal(found[sides["distil/r/sum"]], wanted["r/sum"])
    assert np.array_equal(found[sides["distil/fc"]], wanted["fc"])
    # The biases tell whose channel each one of the merged layers is.
    student, old = load_net(made / "net.prototxt", made / "init.caffemodel").weights, original.weights
    assert student is not None and old is not None
    places = {float(bias): (name, row) for name in branches for row, bias in enumerate(old[name][1])}
    biases = [float(bias) for name in ("m/3x3_merge", "m/5x5_merge") for bias in student[name][1]]
    assert len(places) == 26 and sorted(biases) == sorted(places)
    joined = np.stack([wanted[name][:, row] for name, row in map(places.__getitem__, biases)], axis=1)
    pooled = joined.reshape(4, 26, 6, 2, 6, 2).max((3, 5))
    assert np.array_equal(found[sides["distil/m/output"]], pooled)


def test_only_the_student_moves_and_its_snapshots_load(folder: Path) -> None:
    made = converted(folder)
    _written(made)
    before = Weights.read(made / "distil" / "init.caffemodel")
    with TorchEngine(seed=1).trainer(
        made / "distil" / "solver.prototxt", weights=[made / "distil/init.caffemodel"]
    ) as t:
        losses = [t.step().loss for _ in range(20)]
        tested = t.test()
        snapshot = t.snapshot()
    assert losses[-1] < losses[0] and set(tested) == {
        f"distil/{name}" for name in ("conv1_merge", "m/output", "r/sum", "fc")
    }
    after = Weights.read(snapshot.model)
    moved = {
        name
        for name in before
        if any(not np.array_equal(*pair) for pair in zip(before[name], after[name], strict=True))
    }
    assert moved == {name for name in before if not name.startswith("teacher/")}
    # The converted net takes them by name.
    student = load_net(made / "net.prototxt", snapshot.model)
    assert student.weights is not None
    assert {layer.name for layer in student.layers if layer.op is not None and layer.op.tensor} <= set(student.weights)


def test_the_cache_leaves_the_teacher_out_and_changes_nothing(folder: Path) -> None:
    made = converted(folder)
    _written(made)
    losses, passed = [], []
    for cache in (0, None):
        engine = TorchEngine(seed=1, cache=cache)
        with engine.trainer(made / "distil/solver.prototxt", weights=[made / "distil/init.caffemodel"]) as trainer:
            losses.append([trainer.step().loss for _ in range(9)])
            passed.append(trainer.net.frozen.passed if trainer.net.frozen is not None else None)
            if trainer.net.frozen is not None:
                idle = {step.layer.name for step in trainer.net.frozen._still}
                assert idle and all(name.startswith("teacher/") for name in idle)
    assert losses[0] == losses[1]
    assert passed == [None, 6]  # all but the first pass over the ten images


def test_layers_that_learn_as_several_are_compared_where_they_are_summed(folder: Path) -> None:
    manifest, net = _written(converted(folder, reparam=True))
    assert [block.student for block in manifest.blocks] == ["norm1", "pool2", "r/sum", "fc"]
    names = {layer.name for layer in net.layers}
    assert any(name.startswith("conv1_merge_") for name in names)
    assert all(np.isfinite(one).all() for one in _blobs(net, "TRAIN", [b.loss for b in manifest.blocks]).values())


def test_options(folder: Path) -> None:
    made = converted(folder)
    shutil.copy("net.caffemodel", "elsewhere.caffemodel")
    manifest, net = _written(
        made, out=Path("there"), batch=2, max_iter=9, base_lr=0.5, teacher_weights=Path("elsewhere.caffemodel")
    )
    assert to_json(manifest.options) == {"max_iter": 9, "batch": 2, "base_lr": 0.5, "calibrate": None}
    assert manifest.source.teacher_weights == Path("elsewhere.caffemodel")
    sizes = [layer.param.data_param.batch_size for layer in net.layers if layer.type == "Data"]
    assert sizes == [2, 4]
    text = Path("there/solver.prototxt").read_text()
    for line in ("max_iter: 9", "stepsize: 6", "base_lr: 0.5", "test_iter: 3", "test_interval: 7", "random_seed: 1"):
        assert line in text.splitlines()
    assert 'net: "there/distil.prototxt"' in text and 'snapshot_prefix: "there/distil"' in text


def test_a_deploy_net_can_teach(folder: Path) -> None:
    made = converted(folder)
    deploy = NET[: NET.index('layer { name: "loss"')].split('layer { name: "data"')[2].partition("}\n")[2]
    start = deploy.index('layer { name: "conv1"')
    shape = "shape { dim: 1 dim: 3 dim: 24 dim: 24 }"
    Path("deploy.prototxt").write_text(
        f'layer {{ name: "in" type: "Input" top: "picture" input_param {{ {shape} }} }}\n'
        + deploy[start:].replace('bottom: "data"', 'bottom: "picture"')
    )
    _, plain = _written(made)
    manifest, net = _written(made, teacher=Path("deploy.prototxt"), out=Path("there"))
    losses = [block.loss for block in manifest.blocks]
    for name, value in _blobs(plain, "TRAIN", losses).items():
        assert np.array_equal(_blobs(net, "TRAIN", losses)[name], value)


def test_labels_that_a_data_layer_must_give_are_silenced(folder: Path) -> None:
    import cv2

    rng = np.random.default_rng(3)
    for number in range(4):
        cv2.imwrite(f"{number}.png", rng.integers(0, 255, (24, 24, 3), dtype=np.uint8))
    Path("list.txt").write_text("".join(f"{number}.png {number}\n" for number in range(4)))
    pictures = NET.replace('type: "Data"', 'type: "ImageData"').replace(
        'data_param { source: "db" batch_size: 4 backend: LMDB }',
        'image_data_param { source: "list.txt" batch_size: 4 }',
    )
    assert pictures != NET
    _, net = _written(converted(folder, net=pictures))
    silent = [layer for layer in net.layers if layer.type == "Silence"]
    assert [list(layer.bottoms) for layer in silent] == [["label"]] * 2
    for phase in ("TRAIN", "TEST"):
        assert [layer.type for layer in net.view(phase).layers].count("Silence") == 1
        assert net.view(phase).blob("label") not in net.view(phase).outputs


def test_names_that_teacher_and_student_share_weights_by_are_kept_apart(folder: Path) -> None:
    named = NET.replace('top: "fc"', 'top: "fc" param { name: "w" }')
    assert named != NET
    _, net = _written(converted(folder, net=named))
    names = {layer.name: [spec.name for spec in layer.param.param] for layer in net.layers}
    assert names["fc"][0] == "w" and names["teacher/fc"][0] == "teacher/w"


@pytest.mark.parametrize(
    ("change", "error", "words"),
    [
        (
            lambda net: net.replace("kernel_size: 2 stride: 2", "kernel_size: 2 stride: 2 pool: STOCHASTIC"),
            RefusedError,
            "pools at random",
        ),
        (lambda net: net.replace('"r/', '"teacher/r/'), RebirthError, "wanted for the teacher"),
    ],
)
def test_what_cannot_be_done_is_said(
    folder: Path, change: Callable[[str], str], error: type[RebirthError], words: str
) -> None:
    net = change(NET)
    assert net != NET
    made = converted(folder, net=net)
    with pytest.raises(error, match=words):
        distil(DistilOptions(made))
    assert not (made / "distil").exists()


def test_other_errors(folder: Path) -> None:
    made = converted(folder)
    distil(DistilOptions(made))
    with pytest.raises(RebirthError, match="not empty"):
        distil(DistilOptions(made))
    with pytest.raises(RebirthError, match="manifest"):
        distil(DistilOptions(folder))
    Path("net.caffemodel").unlink()
    with pytest.raises(RebirthError, match="--teacher-weights"):
        distil(DistilOptions(made, force=True))


def test_a_net_that_does_not_train_is_refused(folder: Path) -> None:
    from deeprebirth_caffe.commands.convert import convert
    from deeprebirth_caffe.options.convert import ConvertOptions

    converted(folder)
    convert(ConvertOptions(Path("made/deploy.prototxt"), Path("made/init.caffemodel"), out=Path("again")))
    with pytest.raises(RebirthError, match="no data layer to train with"):
        distil(DistilOptions(Path("again")))


def test_gradients_are_those_of_the_weighted_distances(folder: Path) -> None:
    """Against differences of the loss, in a layer below two blocks."""
    made = converted(folder)
    _written(made)
    as_sgd(made / "distil/solver.prototxt", 0.1)
    with TorchEngine(seed=1).trainer(
        made / "distil/solver.prototxt", weights=[made / "distil/init.caffemodel"]
    ) as trainer:
        net = trainer.net
        state = net.state()
        weights = net.blobs_of["r/b_merge"][0]
        net.forward()
        net.backward()
        assert weights.grad is not None
        place = tuple(int(one) for one in np.unravel_index(int(weights.grad.abs().argmax()), weights.shape))
        slope = float(weights.grad[place])
        losses = []
        for sign in (1, -1):
            net.restore(state)
            with torch.no_grad():
                weights[place] += sign * 1e-3
                net.forward()
                weights[place] -= sign * 1e-3
            losses.append(float(net.loss))
    assert (losses[0] - losses[1]) / 2e-3 == pytest.approx(slope, rel=0.02)
