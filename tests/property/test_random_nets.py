"""Random nets, converted with random options: what must hold for every net.

A net is made block by block: chains of convolutions with whatever may stand behind one, inception-like modules with
branches of random kinds in random order, residual joins, blobs with a second reader; for one phase or for two. Net and
options follow from one seed, so that a failure is a number to try again.
"""

from __future__ import annotations

import re
import tempfile
from collections import Counter
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from random import Random
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import event, given, settings
from hypothesis import strategies as st
from nets import PASSES, conv, data, fc, layer, pool

from deeprebirth_caffe.commands.convert import convert, passes_of
from deeprebirth_caffe.engines.caffe.engine import CaffeEngine
from deeprebirth_caffe.engines.random_weights import random_weights
from deeprebirth_caffe.errors import RefusedError
from deeprebirth_caffe.formats.prototxt import parse_net
from deeprebirth_caffe.ir import Net, summarize
from deeprebirth_caffe.ir.probe import probe, save_weights
from deeprebirth_caffe.ir.stages import MADE_SUFFIX
from deeprebirth_caffe.nets.exactness import FINISHING
from deeprebirth_caffe.nets.load import load_net
from deeprebirth_caffe.nets.rewriting import Converted
from deeprebirth_caffe.ops import conv_output_size, pool_output_size
from deeprebirth_caffe.options.convert import ConvertOptions
from deeprebirth_caffe.passes.exact.fold_ahead import FoldAhead
from deeprebirth_caffe.passes.exact.sum_siblings import SumSiblings
from deeprebirth_caffe.rewrite import Rewriter
from deeprebirth_caffe.rewrite.pipeline import run

if TYPE_CHECKING:
    from collections.abc import Iterator

    from deeprebirth_caffe.engines.caffe.client import CaffeWorker
    from deeprebirth_caffe.engines.caffe.locate import CaffeInstall

TRAIN, TEST = "include { phase: TRAIN }", "include { phase: TEST }"


class Maker:
    """Writes one net, a line a layer, and keeps track of what the next layer may do."""

    def __init__(self, rng: Random) -> None:
        self.rng = rng
        self.lines: list[str] = []
        self.count = 0
        self.phases = self.maybe()
        self.channels = 3
        self.size = rng.randint(9, 20)
        self.image = (self.channels, self.size, self.size)
        self.blob = "data"
        self.alone = False
        if self.phases:
            for phase, batch in ((TRAIN, 3), (TEST, 2)):
                self.add(layer("Data", "data", (), ("data", "label"), f"{phase} data_param {{ batch_size: {batch} }}"))
        else:
            self.add(data(1, *self.image))

    def pick(self, *choices: Any) -> Any:
        return self.rng.choice(choices)

    def maybe(self) -> bool:
        return self.rng.random() < 0.5

    def add(self, text: str) -> None:
        space = "  " if len(self.lines) % 3 == 0 else " "
        self.lines.append(text.rstrip("\n").replace(" type:", f"{space}type:", 1))

    def name(self, kind: str) -> str:
        self.count += 1
        return f"{kind}{self.count}"

    def text(self) -> str:
        return "\n".join(self.lines) + "\n"

    # One layer each.

    def conv(self, bottom: str, channels: int, kernel: int, fields: str, name: str = "") -> str:
        name = name or self.name("conv")
        rates = self.pick("", "param { lr_mult: 1 } param { lr_mult: 2 }", "param { lr_mult: 0.5 decay_mult: 1 }")
        bias = self.pick("", "", " bias_term: false")
        rates = rates.replace(" param { lr_mult: 2 }", "") if bias else rates
        self.add(conv(name, bottom, channels, kernel, fields + bias, rest=rates))
        return name

    def behind(self, kind: str, bottom: str, *, in_place: bool) -> str:
        """A layer that keeps the shape."""
        name = self.name(kind.lower())
        top = bottom if in_place and kind != "LRN" else name
        fields = "scale_param { bias_term: true }" if kind == "Scale" and self.maybe() else ""
        if kind == "BatchNorm" and self.maybe():
            fields = "batch_norm_param { use_global_stats: true }"
        if kind == "Dropout" and self.phases and top == bottom and self.maybe():
            fields = TRAIN
        self.add(layer(kind, name, bottom, top, fields))
        return top

    def go_on(self, blob: str, *, alone: bool = True) -> None:
        self.blob, self.alone = blob, alone

    # Blocks.

    def some_conv(self) -> None:
        kernel, stride, pad = self.pick(1, 3, 5, 2), self.pick(1, 1, 2), self.pick(0, 1, 2)
        dilation = self.pick(1, 1, 2)
        size = conv_output_size(self.size, kernel, stride, pad, dilation)
        if pad >= kernel or size < 2 or self.size + 2 * pad < dilation * (kernel - 1) + 1:
            kernel, stride, pad, dilation, size = 1, 1, 0, 1, self.size
        channels = self.pick(4, 8, 16)
        group = 2 if self.channels % 2 == 0 and self.pick(False, False, True) else 1
        fields = f"pad: {pad} stride: {stride} dilation: {dilation} group: {group}"
        self.go_on(self.conv(self.blob, channels, kernel, fields))
        self.channels, self.size = channels, size
        kinds = ["ReLU", "ReLU", "BatchNorm", "Scale", "LRN", "Dropout", "PReLU", "Pooling", "Pooling"]
        for kind in self.rng.choices(kinds, k=self.rng.randint(0, 4)):
            if kind == "Pooling":
                self.some_pool()
            else:
                self.go_on(self.behind(kind, self.blob, in_place=self.alone and self.maybe()))

    def some_pool(self) -> None:
        # No stride beyond the kernel: Caffe's last window could lie outside the image, full of -FLT_MAX or NaN.
        kernel, stride = self.pick((2, 2), (3, 2), (3, 3), (2, 1), (1, 1))
        pad = self.pick(0, 0, 1) if kernel > 1 else 0
        size = pool_output_size(self.size, kernel, stride, pad)
        if size < 1 or kernel > self.size:
            return
        name = self.name("pool")
        way = self.pick("MAX", "AVE")
        self.add(pool(name, self.blob, kernel, stride, f"pad: {pad} pool: {way}"))
        self.go_on(name)
        self.size = size

    def some_module(self) -> None:
        """Branches from one blob to one Concat; all of them keep the size."""
        stem = self.name("module")
        suffix = self.pick((), ("ReLU",), ("BatchNorm", "Scale", "ReLU"))
        tops, channels = [], 0
        kinds = self.rng.choices(["1x1", "3x3", "5x5", "direct", "pool", "bare"], k=self.rng.randint(2, 4))
        for index, kind in enumerate(kinds):
            name, out = f"{stem}/{kind}_{index}", self.pick(2, 3, 4)
            kernel = {"3x3": 3, "5x5": 5, "direct": 3}.get(kind, 1)
            blob = self.blob
            if kind in ("3x3", "5x5"):
                blob = self.conv(blob, self.pick(2, 4), 1, "", f"{name}_reduce")
                if self.maybe():
                    blob = self.behind("ReLU", blob, in_place=True)
            if kind in ("pool", "bare"):
                self.add(pool(f"{name}_pool", blob, 3, 1, "pad: 1"))
                blob = f"{name}_pool"
            if kind == "bare":
                out = self.channels
            else:
                blob = self.conv(blob, out, kernel, f"pad: {kernel // 2}", name)
                for one in suffix:
                    blob = self.behind(one, blob, in_place=self.maybe())
            tops.append(blob)
            channels += out
        self.rng.shuffle(tops)
        self.add(layer("Concat", f"{stem}/output", tops))
        self.go_on(f"{stem}/output")
        self.channels = channels

    def some_join(self) -> None:
        """Two convolutions of one blob, added."""
        tops = []
        for _ in range(2):
            kernel = self.pick(1, 3)
            blob = self.conv(self.blob, 4, kernel, f"pad: {kernel // 2}")
            tops.append(self.behind("ReLU", blob, in_place=self.maybe()) if self.maybe() else blob)
        name = self.name("sum")
        self.add(layer("Eltwise", name, tops))
        self.go_on(name)
        self.channels = 4
        if self.maybe():
            self.some_pool()

    def some_reader(self) -> None:
        """Somebody else reads the blob too."""
        name = self.name("side")
        rule = self.pick(TRAIN, TEST, "") if self.phases else ""
        self.add(fc(name, self.blob, 3, rest=rule))
        self.add(layer("Silence", f"{name}_end", name, (), rule))
        self.alone = False

    def end(self) -> None:
        self.add(fc("score", self.blob, 4))
        if self.phases:
            self.add(layer("SoftmaxWithLoss", "loss", ("score", "label"), "loss"))
            self.add(layer("Accuracy", "acc", ("score", "label"), "acc", TEST))
        else:
            self.add(layer("Softmax", "prob", "score"))


def make(seed: int) -> tuple[str, tuple[int, int, int], dict[str, Any]]:
    """A net, the shape of its images, and options of convert: `weights` says whether there are some."""
    rng = Random(seed)
    maker = Maker(rng)
    if rng.random() < 0.8:
        maker.some_conv()
    blocks = [maker.some_conv, maker.some_module, maker.some_module, maker.some_join, maker.some_reader]
    for block in rng.choices(blocks, k=rng.randint(1, 4)):
        block()
    maker.end()
    mix = {
        "weights": rng.random() < 0.5,
        "paper": rng.random() < 0.3,
        "exact": rng.random() < 0.1,
        "branch": rng.random() < 0.8,
        "streamline": rng.random() < 0.8,
        "bn": rng.choice([None, "fold", "prune"]),
        "kernel": rng.choice(["keep", "receptive", 4]),
        "reduce": rng.choice([0.5, 1.0, 0.1]),
        "reduce_patterns": rng.choice([(), (("*reduce*", 0.75),)]) if "_reduce" in maker.text() else (),
        "force_merge": rng.random() < 0.5,
        "init": rng.choice([None, "inherit", "xavier"]),
    }
    return maker.text(), maker.image, mix


def converted(
    text: str, image: tuple[int, int, int], mix: dict[str, Any], engine: CaffeEngine | None = None
) -> Converted:
    """Converts through files, as a user does."""
    with tempfile.TemporaryDirectory(prefix="rebirth-nets-") as name:
        path = Path(name) / "net.prototxt"
        path.write_text(text)
        # Shapes are compared below, so --paper must not bring its own batch.
        size = re.search(r"phase: TRAIN \} data_param \{ batch_size: (\d+)", text)
        batch = int(size.group(1)) if size else None
        shapes = {"data": image}
        options = ConvertOptions(path, dry_run=True, input_shapes=shapes, batch=batch, **{**mix, "weights": None})
        if mix["weights"]:
            net = load_net(path, None, {"data": image})
            weights = Path(name) / "net.caffemodel"
            save_weights(weights, net, random_weights(net))
            options = replace(options, weights=weights)
        return convert(options, engine)


def shapes_by_state(net: Net) -> dict[str, dict[str, Any]]:
    return {str(view.state): {name: value.shape for name, value in view.blobs.items()} for view in net.views}


def params_by_name(net: Net) -> dict[str, Any]:
    return {row.layer.name: row.param_shapes for view in net.views for row in summarize(view).layers}


def rates(net: Net, name: str) -> list[float]:
    (found,) = net.layer_named(name)
    return [spec.lr_mult for spec in found.param.param]


def body(message: Any) -> bytes:
    """A layer's message without the blobs that it reads and writes."""
    twin = type(message)()
    twin.CopyFrom(message)
    twin.ClearField("bottom")
    twin.ClearField("top")
    return bytes(twin.SerializeToString(deterministic=True))


SEEDS = st.integers(0, 2**32)
QUICK = settings(max_examples=200, deadline=None, derandomize=True, database=None)


@QUICK
@given(SEEDS)
def test_what_holds_for_every_conversion(seed: int) -> None:
    text, image, mix = make(seed)
    result = converted(text, image, mix)
    old, new, manifest = result.original, result.net, result.manifest
    assert old.text() == text
    for rewrite in manifest.rewrites:
        event(rewrite.pass_)

    # Names: no blob and no layer of the old net means something else now.
    before, after = shapes_by_state(old), shapes_by_state(new)
    assert before.keys() == after.keys()
    for state, blobs in after.items():
        assert None not in blobs.values()
        common = blobs.keys() & before[state].keys()
        assert {name: blobs[name] for name in common} == {name: before[state][name] for name in common}
    old_params, new_params = params_by_name(old), params_by_name(new)
    old_bodies = {one.name: body(one.param) for one in old.layers}
    for one in new.layers:
        if one.name in old_bodies and one.type != "Data":
            assert body(one.param) == old_bodies[one.name], one.name
            assert new_params[one.name] == old_params[one.name]
    rebirth = {name for rewrite in manifest.rewrites for name in rewrite.rebirth}
    assert not rebirth & old.names()
    new_layers = {one.name for one in new.layers}
    assert len(new_layers) + ("label" in text) == len(new.layers)
    for view in new.views:
        (twin,) = (one for one in old.views if one.state == view.state)
        assert {value.name for value in view.outputs} == {value.name for value in twin.outputs}

    # Learning rates.
    assert not manifest.lr_mult or new.trains
    for name, originals in manifest.lr_mult.items():
        assert rates(new, name) == [10 * value for value in originals]
        source = rates(old, MADE_SUFFIX.sub("", name))
        assert originals == [*source, 1.0, 1.0][: len(originals)]

    # Text: it says the same, and untouched layers are as they were.
    written = new.text()
    assert [one.message for one in parse_net(written).layers] == [one.param for one in new.layers]
    lines = set(text.split("\n"))
    untouched = {one.name for one in new.layers if one.source and one.source.message == one.param}
    for line in written.split("\n"):
        name = line.split('name: "')[1].split('"')[0] if 'name: "' in line else ""
        if name in untouched:
            assert line in lines

    # Weights: each layer has what Caffe would allocate, under its own name.
    if mix["weights"]:
        weights = new.weights
        assert weights is not None
        wanted = {name: shapes for name, shapes in new_params.items() if shapes}
        assert {name: tuple(array.shape for array in weights[name]) for name in weights} == wanted
        assert all(weights.finite(name) for name in weights)
        ledger = manifest.ledger
        assert ledger.copied + ledger.folded + ledger.relearned == len(weights)
    else:
        assert new.weights is None

    # Deploy.
    deploy = result.deploy
    assert deploy is not None
    assert not {one.type for one in deploy.layers} & {"Data", "SoftmaxWithLoss", "Accuracy", "Dropout", "Silence"}
    assert "prob" in {value.name for value in deploy.view("TEST").outputs}
    assert {one.name for one in deploy.layers} - {"prob"} <= new_layers
    test = shapes_by_state(new)["TEST"]
    for name, shape in shapes_by_state(deploy)["TEST"].items():
        assert name == "prob" or shape[1:] == test[name][1:] or name not in test


@QUICK
@given(SEEDS)
def test_converting_again_changes_nothing(seed: int) -> None:
    text, image, mix = make(seed)
    result = converted(text, image, mix)
    options = ConvertOptions(Path("net.prototxt"), **{**mix, "weights": None})
    again = Net.parse(result.net.text())
    for one in again.layers:
        if one.type == "Data":
            again.data[one] = image
    again.weights = result.net.weights.copy() if result.net.weights is not None else None
    for one in passes_of(options):
        outcome = run(Rewriter(again), [one])
        assert [(rewrite.pass_name, rewrite.applied.removed) for rewrite in outcome.rewrites] == []
    assert again.text() == result.net.text()


def test_the_nets_are_not_dull() -> None:
    """The generator reaches every pass again and again, so that the properties above are about something."""
    reached: Counter[str] = Counter()
    for seed in range(60):
        result = converted(*make(seed))
        reached.update({rewrite.pass_ for rewrite in result.manifest.rewrites})
    # What needs a net of its own kind is reached in test_random_exact.py.
    rare = {one.name for one in (FoldAhead, SumSiblings, *FINISHING)}
    assert set(reached) | rare == set(PASSES) - {"strip-training", "tucker", "reparametrize"}
    assert min(count for name, count in reached.items() if name not in rare) >= 5, reached


class Shared(CaffeEngine):
    """The engine on the worker that all tests share."""

    worker: CaffeWorker

    @contextmanager
    def session(self, threads: int | None = None) -> Iterator[CaffeWorker]:
        yield self.worker


def test_real_caffe_agrees(caffe: CaffeWorker, caffe_install: CaffeInstall) -> None:
    """It loads every converted net in both phases with the shapes foretold, and the exact rewrites are exact."""
    engine = Shared(caffe_install)
    engine.worker = caffe

    compared = 0
    for seed in range(50):
        try:
            result = converted(*make(seed), engine)
        except RefusedError as error:
            # So few channels may all be negative: then a ReLU proves nothing, and the check says so.
            assert "is constant" in str(error), seed
            continue
        checks = result.manifest.check
        compared += sum(check.blobs for check in checks or ())
        for net in (result.original, result.net, result.deploy):
            assert net is not None
            for view in net.views:
                with tempfile.NamedTemporaryFile("w", suffix=".prototxt") as file:
                    file.write(probe(net, view).text())
                    file.flush()
                    loaded = caffe.load(file.name, view.state.phase)
                    caffe.close(loaded)
                shapes = {name: shape for name, shape in loaded.blobs.items() if name not in loaded.copies}
                assert shapes == {name: value.shape for name, value in view.blobs.items()}
    assert compared > 100


@pytest.mark.parametrize("name", sorted(PASSES))
def test_every_pass_has_a_name_and_a_kind(name: str) -> None:
    assert PASSES[name].name == name and PASSES[name].kind is not None
