"""Layers that learn as several, in real Caffe: sums of convolutions as one, the start, training, what is deployed."""

from __future__ import annotations

from difflib import ndiff
from itertools import product
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest
from closeness import assert_within, between
from exact_tools import Shared, same
from nets import conv, data, layer, parse, reasons, rewrite

from deeprebirth_caffe import zoo
from deeprebirth_caffe.commands.convert import convert
from deeprebirth_caffe.commands.deploy import deploy
from deeprebirth_caffe.engines.random_weights import random_weights
from deeprebirth_caffe.formats.prototxt import format_message
from deeprebirth_caffe.ir import Layer, Net, Weights
from deeprebirth_caffe.ir.probe import probe, save_weights
from deeprebirth_caffe.nets.check import compare_nets
from deeprebirth_caffe.nets.load import load_net
from deeprebirth_caffe.nets.manifest import Manifest
from deeprebirth_caffe.nets.rewriting import Converted
from deeprebirth_caffe.nets.strip import strip
from deeprebirth_caffe.ops import conv_output_size
from deeprebirth_caffe.options.convert import ConvertOptions
from deeprebirth_caffe.options.deploy import DeployOptions
from deeprebirth_caffe.options.shared import CalibrationOptions, EngineOptions
from deeprebirth_caffe.passes.exact.fold_batchnorm import FoldBatchNorm
from deeprebirth_caffe.passes.exact.sum_siblings import SumSiblings
from deeprebirth_caffe.passes.relearn.reparametrize import Reparametrize
from deeprebirth_caffe.proto import caffe_pb2 as pb
from deeprebirth_caffe.relearn.calibration import calibration_inputs

if TYPE_CHECKING:
    from deeprebirth_caffe.engines.caffe.client import CaffeWorker
    from deeprebirth_caffe.engines.caffe.locate import CaffeInstall

EXAMPLE = Path(__file__).parents[2] / "examples" / "googlenet28.caffemodel"


@pytest.fixture
def engine(caffe_install: CaffeInstall, caffe: CaffeWorker) -> Shared:
    return Shared(caffe_install, caffe)


def window(high: int, wide: int, pads: tuple[int, int]) -> str:
    return f"kernel_h: {high} kernel_w: {wide} pad_h: {pads[0]} pad_w: {pads[1]}"


def linear(name: str, bottom: str, fields: str) -> str:
    return layer("Convolution", name, bottom, name, f"convolution_param {{ num_output: 4 {fields} }}")


SIZES = [(3, 3), (1, 1), (1, 3), (3, 1), (5, 5), (2, 2), (4, 1)]


def test_sums_of_convolutions(engine: Shared, monkeypatch: pytest.MonkeyPatch) -> None:
    """kernel x kernel x stride x dilation x group x coefficients, at every pad that gives both the same size."""
    monkeypatch.setattr("deeprebirth_caffe.passes.exact.sum_siblings.no_gain", lambda *costs: None)
    text, count, size = data(2, 4, 11, 11), 0, 11
    for (one, two), stride, dilation, group in product(product(SIZES, SIZES), (1, 2, 3), (1, 2), (1, 2)):
        fits = [
            (p, q)
            for p, q in product(range(4), repeat=2)
            if all(
                conv_output_size(size, one[a], stride, p, dilation)
                == conv_output_size(size, two[a], stride, q, dilation)
                > 0
                for a in (0, 1)
            )
        ]
        for p, q in fits[:: max(1, len(fits) // 2)]:
            name, more = f"x{count}", f"stride: {stride} dilation: {dilation} group: {group}"
            text += layer("AbsVal", f"{name}_in", "data")
            text += linear(f"{name}a", f"{name}_in", f"{window(*one, (p, p))} {more}")
            bias = " bias_term: false" if count % 2 else ""
            text += linear(f"{name}b", f"{name}_in", f"{window(*two, (q, q))} {more}{bias}")
            coefficients = "eltwise_param { coeff: 0.5 coeff: -2 }" if count % 3 else ""
            text += layer("Eltwise", name, (f"{name}a", f"{name}b"), name, coefficients)
            count += 1
    net = parse(text, weights=True)
    before = net.copy()
    done = rewrite(net, SumSiblings())
    assert len(done.rewrites) == count > 250 and not done.refusals
    assert sum(one.type == "Convolution" for one in net.layers) == count
    same(before, net, engine, blobs=2 * count)


def test_a_sum_with_others_keeps_them(engine: Shared, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("deeprebirth_caffe.passes.exact.sum_siblings.no_gain", lambda *costs: None)
    text, count = data(2, 4, 9, 9), 0
    for order, coefficients in product(
        (("a", "b", "c"), ("c", "a", "b"), ("a", "c", "b", "d")), ("", "coeff: 2 coeff: -1 coeff: 0.5")
    ):
        name = f"x{count}"
        bottoms = [f"{name}{one}" for one in order]
        text += conv(f"{name}a", "data", 4, 3, "pad: 1") + conv(f"{name}b", "data", 4, 1, "bias_term: false")
        text += layer("AbsVal", f"{name}c", "data") + conv(f"{name}d", f"{name}c", 4, 5, "pad: 2")
        more = " coeff: 3" if coefficients and len(order) == 4 else ""
        text += layer("Eltwise", name, bottoms, name, f"eltwise_param {{ {coefficients}{more} }}")
        text += "" if len(order) == 4 else layer("Silence", f"{name}s", f"{name}d", ())
        # The other term is read by one more.
        text += layer("Power", f"{name}p", f"{name}c", f"{name}p")
        count += 1
    net = parse(text, weights=True)
    before = net.copy()
    assert len(rewrite(net, SumSiblings()).rewrites) == count
    same(before, net, engine, blobs=2 * count)


HOSTS = [
    (3, 3, 1, 1, 1, 1), (5, 5, 2, 2, 1, 2), (1, 1, 0, 0, 1, 1), (1, 7, 0, 3, 1, 1), (3, 3, 0, 0, 1, 1),
    (3, 3, 2, 2, 2, 1), (7, 7, 3, 3, 1, 4), (4, 4, 1, 1, 1, 2), (3, 5, 1, 2, 1, 2), (5, 5, 4, 4, 2, 3),
]  # fmt: skip
"""kernel, pad, dilation, stride."""


@pytest.mark.parametrize("learned", [False, True])
def test_parts_compute_the_same_and_fold_to_the_layer(engine: Shared, learned: bool) -> None:
    """At the start as the layer alone; with any weights, folded, as the parts; the geometry is the layer's again."""
    text, names = data(2, 4, 16, 16), []
    for (index, (kh, kw, ph, pw, d, s)), group in product(enumerate(HOSTS), (1, 2)):
        name = f"x{index}_{group}_merge"
        own = f"{window(kh, kw, (ph, pw))} dilation: {d} stride: {s} group: {group}"
        text += linear(name, "data", own + (" bias_term: false" if index % 2 else ""))
        text += layer("AbsVal", f"{name}_abs", name)
        names.append(name)
    net = parse(text, weights=True)
    before = net.copy()
    parts = ("1x1", "1xk", "kx1", "kxk", "2x2")
    assert len(rewrite(net, Reparametrize(layers=frozenset(names), parts=parts)).rewrites) == len(names)
    same(before, net, engine, blobs=len(names))
    if learned:
        rng = np.random.default_rng(3)
        assert net.weights is not None
        for one in net.layers:
            if one.type in ("BatchNorm", "Scale"):
                net.weights.set(one.name, [rng.uniform(0.5, 2, blob.shape) for blob in net.weights[one.name]])
    wide = net.copy()
    rewrite(net, [FoldBatchNorm(), SumSiblings()])
    same(wide, net, engine, blobs=len(names))
    alone = {one.name: one.param.convolution_param for one in before.layers if one.type == "Convolution"}
    assert [one.name for one in net.layers] == [one.name for one in before.layers]
    for one in net.layers:
        if one.name in alone:
            expected = pb.ConvolutionParameter()
            expected.CopyFrom(alone[one.name])
            if not expected.bias_term:  # what BatchNorm adds needs one
                expected.bias_term = True
            assert one.param.convolution_param == expected


def test_kernels_without_room_are_left_out() -> None:
    text = data(1, 4, 16, 16) + conv("x_merge", "data", 4, 3)
    net = parse(text, weights=True)
    (done,) = rewrite(net, Reparametrize(layers=frozenset({"x_merge"}))).rewrites
    assert [note for note in done.applied.notes if "no pad lays" in note] == [
        f"x_merge: no pad lays {part} on its taps; it learns without" for part in ("1x1", "1xk", "kx1")
    ]
    again = reasons(net, Reparametrize(layers=frozenset({"x_merge_main"})))
    assert again == {"x_merge_main": "x_merge_main has a BatchNorm behind it already"}


# A converted net.


@pytest.fixture(scope="module")
def net28(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The training net of googlenet28, whose data is a folder of noise with structure."""
    folder = tmp_path_factory.mktemp("net28")
    path = folder / "train_val.prototxt"
    path.write_text(zoo.build("googlenet28").train_val)
    return path


def options(net: Path, out: Path, **more: object) -> ConvertOptions:
    shape = {"data": zoo.build("googlenet28").input_shape}
    return ConvertOptions(net, weights=EXAMPLE, out=out, input_shapes=shape, **more)  # type: ignore[arg-type]


def deployed(folder: Path, out: Path, engine: Shared, weights: str = "init.caffemodel") -> Manifest:
    shape = {"data": zoo.build("googlenet28").input_shape}
    return deploy(DeployOptions(folder / "train_val.prototxt", folder / weights, out, input_shapes=shape), engine)


def test_deploy_gives_the_net_that_one_layer_would_give(engine: Shared, net28: Path, tmp_path: Path) -> None:
    convert(options(net28, tmp_path / "plain"))
    wide = convert(options(net28, tmp_path / "wide", reparam=True))
    assert len(wide.manifest.reparam) == 11
    for name in ("plain", "wide"):
        manifest = deployed(tmp_path / name, tmp_path / f"{name}_deploy", engine)
        assert all(check.worst <= 1e-4 for check in manifest.check or ())
    texts = [(tmp_path / f"{name}_deploy" / "deploy.prototxt").read_text() for name in ("plain", "wide")]
    assert texts[0] == texts[1]
    models = [Weights.read(tmp_path / f"{name}_deploy" / "deploy.caffemodel") for name in ("plain", "wide")]
    assert list(models[0]) == list(models[1])
    for name in models[0]:
        for one, two in zip(models[0][name], models[1][name], strict=True):
            # The parts are added up, after each was folded.
            assert_within(name, one, two, between(11 * 9))


def test_the_next_conversion_folds_first(engine: Shared, net28: Path, tmp_path: Path) -> None:
    first = tmp_path / "first"
    convert(options(net28, first, reparam=True, only=("conv1",)))
    more = {"weights": first / "init.caffemodel", "input_shapes": {"data": zoo.build("googlenet28").input_shape}}
    again = convert(ConvertOptions(first / net28.name, out=tmp_path / "again", only=("conv2",), **more), engine)  # type: ignore[arg-type]
    names = [one.name for one in again.net.layers]
    assert "conv1/5x5_merge" in names and not any("conv1/5x5_merge_" in name for name in names)
    assert again.manifest.reparam == {} and again.manifest.check[0].worst <= 1e-4
    assert set(again.manifest.origins) == {"conv2/3x3_merge"}
    specs = next(one for one in again.net.layers if one.name == "conv1/5x5_merge").param.param
    assert [(spec.lr_mult, spec.decay_mult) for spec in specs] == [(1, 1), (2, 0)], "its step is over"
    # Not to be folded: it stays, and the manifest goes on to say so.
    skipped = ("fold-batchnorm",)
    left = convert(ConvertOptions(first / net28.name, only=("conv2",), skip_passes=skipped, dry_run=True, **more))  # type: ignore[arg-type]
    assert list(left.manifest.reparam) == ["conv1/5x5_merge"]
    assert any("still in parts" in note for note in left.manifest.notes)
    # Without weights the structure is the same.
    del more["weights"]
    bare = convert(ConvertOptions(first / net28.name, only=("conv2",), dry_run=True, **more))  # type: ignore[arg-type]
    assert bare.net.text() == again.net.text() and bare.net.weights is None


def pictures(folder: Path, count: int) -> Path:
    """Pictures with edges and surfaces, of 28 x 28."""
    cv2 = pytest.importorskip("cv2")
    rng = np.random.default_rng(1)
    folder.mkdir()
    for index in range(count):
        rough = rng.integers(0, 255, (5, 5), dtype=np.uint8)
        cv2.imwrite(str(folder / f"{index:03}.png"), cv2.resize(rough, (28, 28), interpolation=cv2.INTER_CUBIC))
    return folder


def trainable(net: Net, path: Path, images: np.ndarray) -> Path:
    """The TRAIN view with Input layers."""
    message = probe(net, net.view("TRAIN"), len(images)).message()
    path.write_text(format_message(message))
    return path


def test_measured_statistics_let_learning_start_where_test_is(
    engine: Shared, caffe: CaffeWorker, net28: Path, tmp_path: Path
) -> None:
    """In TRAIN, on the very images that were measured, every blob is what it is without parts."""
    source = pictures(tmp_path / "pictures", 48)
    calibrate = CalibrationOptions(str(source), 48, engine=EngineOptions("caffe"))
    plain = convert(options(net28, tmp_path / "plain", dry_run=True))
    results = {}
    for name, more in (("measured", {"calibrate": calibrate}), ("guessed", {})):
        results[name] = convert(options(net28, tmp_path / name, reparam=True, **more))
    assert any("measured on 48 images" in note for note in results["measured"].manifest.notes)
    assert any("--calibrate measures them" in note for note in results["guessed"].manifest.notes)
    for one in results.values():
        assert compare_nets(plain.net, one.net, engine, batch=8).failure == ""
    (batch,) = calibration_inputs(net28, plain.original, calibrate, [])
    off = {}
    for name, net in {"plain": plain.net, **{name: one.net for name, one in results.items()}}.items():
        assert net.weights is not None
        save_weights(tmp_path / "w.caffemodel", net, net.weights)
        path = trainable(net, tmp_path / "train.prototxt", batch["data"])
        loaded = caffe.load(path, "TRAIN", tmp_path / "w.caffemodel")
        try:
            off[name] = caffe.forward(loaded, batch, ["inception_4a/output"])["inception_4a/output"]
        finally:
            caffe.close(loaded)
    scale = float(np.abs(off["plain"]).max())
    assert np.abs(off["plain"] - off["measured"]).max() < 1e-3 * scale
    assert np.abs(off["plain"] - off["guessed"]).max() > 0.1 * scale


def test_real_caffe_trains_the_parts_and_deploy_folds_what_they_learned(
    engine: Shared, caffe: CaffeWorker, net28: Path, tmp_path: Path
) -> None:
    wide = tmp_path / "wide"
    result = convert(options(net28, wide, reparam=True))
    message = probe(result.net, result.net.view("TRAIN"), 8).message()
    first = message.layer[0]
    shapes = [list(shape.dim) for shape in first.input_param.shape]
    first.type = "DummyData"
    first.ClearField("input_param")
    for shape in shapes:
        first.dummy_data_param.shape.add().dim.extend(shape)
    first.dummy_data_param.data_filler.add(type="gaussian", std=1)
    first.dummy_data_param.data_filler.add(type="constant", value=3)
    path = tmp_path / "train.prototxt"
    path.write_text(format_message(message))
    solver = pb.SolverParameter(
        net=str(path), base_lr=0.01, lr_policy="fixed", momentum=0.9, solver_mode="CPU", random_seed=1,
        snapshot_prefix=str(tmp_path / "snap"), snapshot=6, max_iter=6,
    )  # fmt: skip
    (tmp_path / "solver.prototxt").write_text(format_message(solver))
    with engine.trainer(tmp_path / "solver.prototxt", weights=[wide / "init.caffemodel"], root=tmp_path) as trainer:
        losses = [trainer.step().loss for _ in range(6)]
        snapshot = trainer.snapshot()
    assert np.isfinite(losses).all() and losses[-1] < losses[0]
    learned, start = Weights.read(snapshot.model), Weights.read(wide / "init.caffemodel")
    for name in ("conv2/3x3_merge_1x1", "conv2/3x3_merge_1x1_scale", "conv2/3x3_merge_main_bn"):
        assert any(not np.array_equal(a, b) for a, b in zip(learned[name], start[name], strict=True)), name
    inputs = {"data": zoo.build("googlenet28").input_shape}
    done = deploy(DeployOptions(wide / net28.name, snapshot.model, tmp_path / "out", input_shapes=inputs), engine)
    assert {"fold-batchnorm", "sum-siblings"} <= {rewrite.pass_ for rewrite in done.rewrites}
    assert all(check.worst is not None and check.worst <= 1e-4 for check in done.check or ())
    assert not {one.type for one in Net.read(tmp_path / "out" / "deploy.prototxt").layers} & {"BatchNorm", "Eltwise"}


@pytest.mark.parametrize("paper", [False, True])
@pytest.mark.parametrize("name", ["googlenet64", "alexnet64", "resnet64"])
def test_the_zoo_folds_back(engine: Shared, tmp_path: Path, name: str, paper: bool) -> None:
    """Whatever convert made of a net, its parts fold to the same deploy net, but for biases that BatchNorm needs."""
    built = zoo.build(name)
    path = tmp_path / "train_val.prototxt"
    path.write_text(built.train_val)
    net = load_net(path, None, {"data": built.input_shape})
    save_weights(tmp_path / "w.caffemodel", net, random_weights(net))
    more = {"weights": tmp_path / "w.caffemodel", "input_shapes": {"data": built.input_shape}, "dry_run": True}
    plain = convert(ConvertOptions(path, paper=paper, **more))  # type: ignore[arg-type]
    wide = convert(ConvertOptions(path, paper=paper, reparam=True, **more))  # type: ignore[arg-type]
    assert bool(wide.manifest.reparam) == any(one.type == "Convolution" for one in reborn(plain))
    made = [strip(one.net, keep_exact=True) for one in (plain, wide)]
    lines = [one.net.text().splitlines() for one in made]
    extra = [line[2:] for line in ndiff(*lines) if line[0] in "+-"]
    assert {line.strip() for line in extra} <= {"bias_term: true", "bias_term: false"}
    for check in made[1].outcome.exact_runs:
        assert compare_nets(check.before, check.after, engine).failure == ""


def reborn(result: Converted) -> list[Layer]:
    """The rebirth layers of a conversion that `--reparam` can do something about."""
    names = {name for one in result.manifest.rewrites if one.kind == "relearn" for name in one.rebirth}
    behind = {one.bottoms[0] for one in result.net.layers if one.type == "BatchNorm"}
    return [one for one in result.net.layers if one.name in names and one.tops[0] not in behind]
