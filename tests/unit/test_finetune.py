"""What finetune, test and forward are made of: where paths start, which engine, labels, ranks, progress."""

from __future__ import annotations

import importlib.util
import io
import re
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from deeprebirth_caffe.cli.progress import Bar, accuracy_name, clock, spell_score
from deeprebirth_caffe.commands.finetune import go_on
from deeprebirth_caffe.engines.base import EngineError, Snapshot, Step
from deeprebirth_caffe.engines.caffe import saving
from deeprebirth_caffe.engines.caffe.engine import CaffeEngine
from deeprebirth_caffe.engines.caffe.locate import CaffeInstall
from deeprebirth_caffe.engines.choose import choose, predict
from deeprebirth_caffe.engines.plan import read_plan
from deeprebirth_caffe.engines.snapshots import snapshot_room
from deeprebirth_caffe.errors import RebirthError, UsageError
from deeprebirth_caffe.inputs.labels import judge_of
from deeprebirth_caffe.inputs.roots import find_root
from deeprebirth_caffe.ir import Net, NetState, View
from deeprebirth_caffe.nets.ranking import Classifier, Ranking, find_classifier
from deeprebirth_caffe.options.finetune import FinetuneOptions
from deeprebirth_caffe.options.shared import EngineOptions
from deeprebirth_caffe.training.pace import Pace
from deeprebirth_caffe.training.schedule import Schedule
from deeprebirth_caffe.training.snapshots import check_room
from deeprebirth_caffe.training.solver_nets import solver_nets

DOCS = Path(__file__).parents[2] / "docs" / "training.md"


# ------------------------------------------------------------ room for snapshots


@pytest.mark.parametrize(
    ("more", "arrays"), [("", 3), ('type: "Adam"', 5), ('type: "AdaDelta" snapshot_diff: true', 6), ("iter_size: 2", 3)]
)
def test_both_who_look_for_room_want_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, more: str, arrays: int
) -> None:
    """Before training starts, and before real Caffe writes: as much as one snapshot takes while it is made."""
    net = (
        'input: "data" input_shape { dim: 1 dim: 500 } layer { name: "ip" type: "InnerProduct" bottom: "data" top: "ip"'
    )
    (tmp_path / "net.prototxt").write_text(net + " inner_product_param { num_output: 2000 } }")
    (tmp_path / "solver.prototxt").write_text(
        f'net: "net.prototxt" base_lr: 1 lr_policy: "fixed" snapshot_prefix: "s" max_iter: 1 {more}'
    )
    plan = read_plan(tmp_path / "solver.prototxt", tmp_path)
    need = snapshot_room(plan.param, 2000 * 501)
    assert need == pytest.approx(4 * 2000 * 501 * arrays, abs=2**20)
    layers = [("data", []), ("ip", [(2000, 500), (2000,)])]
    looks = [
        lambda: check_room(plan, plan.param, solver_nets(plan).train.view),
        lambda: saving.need_room(plan, layers, tmp_path / "s_iter_1.caffemodel"),
    ]
    usage = shutil.disk_usage(tmp_path)
    for look in looks:
        monkeypatch.setattr(shutil, "disk_usage", lambda path: usage._replace(free=need))
        look()
        monkeypatch.setattr(shutil, "disk_usage", lambda path: usage._replace(free=need - 1))
        with pytest.raises(RebirthError, match="make room"):
            look()


# ------------------------------------------------------------ where paths start


def test_paths_start_here_as_in_caffe(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "top" / "models").mkdir(parents=True)
    (tmp_path / "here").mkdir()
    solver = tmp_path / "top" / "models" / "solver.prototxt"
    for folder in ("top", "top/models", "here"):
        (tmp_path / folder / "net.prototxt").touch()
    monkeypatch.chdir(tmp_path / "here")
    assert find_root(["net.prototxt"], solver) == Path()
    (tmp_path / "here" / "net.prototxt").unlink()
    assert find_root(["net.prototxt"], solver) == tmp_path / "top" / "models"
    assert find_root(["net.prototxt"], Path("../top/models/solver.prototxt")) == tmp_path / "top" / "models"
    (tmp_path / "top" / "models" / "net.prototxt").unlink()
    assert find_root(["/absolute", "net.prototxt"], solver) == tmp_path / "top"
    # What is nowhere is looked for here, and so is what needs no place.
    assert find_root(["no.prototxt"], solver) == find_root(["/absolute"], solver) == find_root([], solver) == Path()


# ------------------------------------------------------------ which engine


def views(kind: str = "ReLU") -> Any:
    """Of a net with one layer."""
    return Net.parse(
        f'input: "a" input_shape {{ dim: 1 }} layer {{ name: "x" type: "{kind}" bottom: "a" top: "b" }}'
    ).views


@pytest.fixture
def caffe_here(monkeypatch: pytest.MonkeyPatch) -> None:
    """A Caffe is found."""
    install = CaffeInstall(binary=None, python=Path("python"), where="a test")
    monkeypatch.setattr("deeprebirth_caffe.engines.caffe.engine.find_caffe", lambda path: install)


@pytest.fixture
def no_torch(monkeypatch: pytest.MonkeyPatch) -> None:
    """PyTorch is not installed."""
    real = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name, *more: None if name == "torch" else real(name, *more))


def test_auto_without_torch(no_torch: None, caffe_here: None) -> None:
    choice = choose(EngineOptions(), views())
    assert choice.engine.name == "caffe" and choice.reason.startswith("PyTorch is not installed (pip install ")
    with pytest.raises(EngineError, match="the embedded engine cannot be used: PyTorch is not installed"):
        choose(EngineOptions("torch"), views())


def test_no_engine_at_all(no_torch: None) -> None:
    with pytest.raises(EngineError, match=r"no engine runs this net: PyTorch is not .*nowhere does not exist"):
        choose(EngineOptions(caffe="nowhere"), views())


def convolutions(count: int, size: int, phase: str = "TEST") -> Any:
    """Of a net of 3x3 convolutions of 16 channels."""
    text = f'input: "0" input_shape {{ dim: 1 dim: 16 dim: {size} dim: {size} }}\n'
    for number in range(count):
        text += (
            f'layer {{ name: "c{number}" type: "Convolution" bottom: "{number}" top: "{number + 1}" '
            "convolution_param { num_output: 16 kernel_size: 3 pad: 1 } }\n"
        )
    net = Net.parse(text)
    return [View(NetState(phase), net.header, net.layers, net.data)]


def test_auto_predicts_the_faster_engine(caffe_here: None) -> None:
    pytest.importorskip("torch")
    small = choose(EngineOptions(), convolutions(1, 4))
    assert small.engine.name == "caffe"
    assert small.reason == "predicted faster on a net this small: 37 k multiply-adds an iteration, 1 layer"
    large = choose(EngineOptions(), convolutions(3, 128))
    assert large.engine.name == "torch"
    assert large.reason == "predicted faster: 113 M multiply-adds an iteration, 3 layers"
    assert choose(EngineOptions("torch"), convolutions(1, 4)).reason == ""
    assert choose(EngineOptions("caffe"), convolutions(3, 128)).reason == ""
    # Training is three passes; which engine is faster does not depend on that.
    assert predict(convolutions(3, 128, "TRAIN")) == (True, large.reason.replace("113 M", "340 M"))
    # What is spent on each layer is Caffe's advantage, what a layer computes PyTorch's.
    sides = [predict(convolutions(8, size))[0] for size in (8, 16, 32, 64, 128)]
    assert sides == sorted(sides) and sides[0] is False and sides[-1] is True


def test_auto_where_the_size_is_not_known(caffe_here: None) -> None:
    pytest.importorskip("torch")
    net = Net.parse(
        'layer { name: "d" type: "Data" top: "d" data_param { source: "nowhere" batch_size: 2 } }'
        'layer { name: "r" type: "ReLU" bottom: "d" top: "r" }'
    )
    choice = choose(EngineOptions(), [net.view("TEST")])
    assert choice.engine.name == "torch" and "how much this one computes is not known" in choice.reason


def test_auto_with_what_torch_alone_has(caffe_here: None) -> None:
    pytest.importorskip("torch")
    choice = choose(EngineOptions(precision="bf16"), convolutions(1, 4))
    assert (choice.engine.name, choice.reason) == ("torch", "the one that has --precision bf16")


def test_auto_on_a_gpu(caffe_here: None, monkeypatch: pytest.MonkeyPatch) -> None:
    torch = pytest.importorskip("torch")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    choice = choose(EngineOptions(device="cuda"), convolutions(1, 4))
    assert (choice.engine.name, choice.reason) == ("torch", "the one that has --device cuda")


def test_auto_without_caffe(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    pytest.importorskip("torch")
    for name in ("REBIRTH_CAFFE_PREFIX", "PATH"):
        monkeypatch.setenv(name, str(tmp_path))
    monkeypatch.delenv("REBIRTH_CAFFE", raising=False)
    choice = choose(EngineOptions(), convolutions(1, 4))
    assert choice.engine.name == "torch"
    assert choice.reason == "Caffe, predicted faster on a net this small, is not installed"
    with pytest.raises(EngineError, match=r"--caffe: .*nowhere does not exist"):
        choose(EngineOptions(caffe="nowhere"), convolutions(1, 4))


def test_auto_with_layers_that_torch_does_not_run(caffe_here: None, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("torch")
    choice = choose(EngineOptions(), views("Python"))
    assert choice.engine.name == "caffe"
    assert choice.reason == 'the embedded engine does not run layer "x" of type Python'
    with pytest.raises(EngineError, match='embedded engine cannot be used: it does not run layer "x" of type Python'):
        choose(EngineOptions(precision="bf16"), views("Python"))
    # Of a type that only forks have, the Caffe at hand is asked: it may be that fork.
    monkeypatch.setattr(CaffeEngine, "describe", lambda self: {"layer_types": ["ReLU", "Whatever"]})
    assert choose(EngineOptions(), views("Whatever")).engine.name == "caffe"
    monkeypatch.setattr(CaffeEngine, "describe", lambda self: {"layer_types": ["ReLU"]})
    both = 'neither the embedded one nor this Caffe knows layer "x" of type Whatever; rebirth doctor .*--portable'
    with pytest.raises(EngineError, match=both):
        choose(EngineOptions(), views("Whatever"))


def test_a_forks_arithmetic_is_not_run_as_plain_caffes(caffe_here: None, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("torch")
    monkeypatch.setattr(CaffeEngine, "describe", lambda self: {"layer_types": ["Eltwise"]})
    for fields in ("eltwise_param { operation: MIN }", "eltwise_param { stable_prod_grad: true twist: 1 }"):
        text = 'layer { name: "d" type: "Input" top: "d" input_param { shape { dim: [2, 3] } } } '
        net = Net.parse(text + f'layer {{ name: "x" type: "Eltwise" bottom: "d" bottom: "d" top: "x" {fields} }}')
        with pytest.raises(EngineError, match='does not run layer "x" of type Eltwise with a fork\'s eltwise_param'):
            choose(EngineOptions("torch"), net.views)
        assert choose(EngineOptions(), net.views).engine.name == "caffe"


def test_options_of_the_other_engine(caffe_here: None) -> None:
    for options in (EngineOptions("caffe", device="mps"), EngineOptions("caffe", precision="bf16")):
        with pytest.raises(UsageError, match="is the embedded engine's"):
            choose(options, views())
    assert choose(EngineOptions("caffe", device="cpu", precision="fp32"), views()).engine.name == "caffe"


def test_the_documented_layers_that_torch_does_not_run() -> None:
    pytest.importorskip("torch")
    from deeprebirth_caffe.engines.torch.layers.refused import REFUSED

    table = re.findall(r"^\| `(\w+)` \| (.*) \|$", DOCS.read_text(encoding="utf-8"), re.M)
    assert dict(table) == REFUSED


# ------------------------------------------------------------ going on


def test_the_command_that_goes_on() -> None:
    engine = EngineOptions("torch", "cuda", "bf16", 2, caffe="/opt/my caffe")
    weights = [Path("a"), Path("b")]
    options = FinetuneOptions(Path("my solver"), weights, None, engine, max_iter=7, log=Path("l"), force=True)
    tail = "--engine torch --device cuda --precision bf16 --threads 2 --caffe '/opt/my caffe' --max-iter 7 --log l"
    assert go_on(options, Path("s")) == f"rebirth finetune 'my solver' --resume s {tail}"
    assert go_on(options, None) == f"rebirth finetune 'my solver' -w a -w b {tail}"
    assert go_on(FinetuneOptions(Path("s")), None) == "rebirth finetune s"


@pytest.mark.parametrize(
    ("schedule", "numbers"),
    [
        (Schedule(0, 10, snapshot=4), [4, 8, 10]),
        (Schedule(4, 12, snapshot=4), [8, 12]),
        (Schedule(5, 7), [7]),
        (Schedule(0, 9, snapshot=4, snapshot_after_train=False), [4, 8]),
        (Schedule(0, 9, snapshot_after_train=False), []),
    ],
)
def test_which_snapshots_a_run_writes(schedule: Schedule, numbers: list[int]) -> None:
    assert schedule.snapshots() == numbers


# ------------------------------------------------------------ classes

HEADS = """input: "x" input_shape { dim: 4 dim: 6 } input: "y" input_shape { dim: 4 }
layer { name: "a" type: "InnerProduct" bottom: "x" top: "a" inner_product_param { num_output: 3 } }
layer { name: "b" type: "InnerProduct" bottom: "x" top: "b" inner_product_param { num_output: 5 } }
layer { name: "one" type: "Accuracy" bottom: "a" bottom: "y" top: "one" }
layer { name: "two" type: "Accuracy" bottom: "b" bottom: "y" top: "two" accuracy_param { ignore_label: 2 } }
layer { name: "loss" type: "SoftmaxWithLoss" bottom: "a" bottom: "y" top: "loss" softmax_param { axis: -1 } }
"""


def test_the_last_accuracy_says_where_scores_are() -> None:
    view = Net.parse(HEADS).view("TEST")
    assert find_classifier(view) == Classifier("b", "y", 1, 2)
    judges = {layer.name: judge_of(view, layer) for layer in view.layers}
    assert judges["a"] is None
    assert [(j.classes, j.axis, j.ignored) for j in judges.values() if j] == [(3, 1, None), (5, 1, 2), (3, -1, None)]
    alone = "".join(line for line in HEADS.splitlines(keepends=True) if "Accuracy" not in line)
    assert find_classifier(Net.parse(alone).view("TEST")) == Classifier("a", "y", -1, None)


def accuracy(scores: np.ndarray, labels: np.ndarray, top: int) -> float:
    """Caffe's Accuracy, as its code has it."""
    right = 0
    for row, label in zip(scores, labels.astype(int), strict=True):
        better = -1
        for score in row:
            if better < top:
                better += int(score >= row[label])
        right += better < top
    return right / len(labels)


def test_ranks_are_those_of_caffes_accuracy() -> None:
    random = np.random.default_rng(0)
    rows = io.BytesIO()
    ranking = Ranking(Classifier("s", "l", 1, None), rows=rows)
    scores = random.integers(0, 4, (200, 8)).astype(np.float32)  # with many that are equal
    labels = random.integers(0, 8, 200).astype(np.float32)
    ranking.add(scores[:120], labels[:120])
    ranking.add(scores[120:].reshape(80, 8, 1, 1), labels[120:].reshape(80, 1, 1, 1))
    assert ranking.images == 200
    assert ranking.hits == [round(200 * accuracy(scores, labels, top)) for top in (1, 5)]
    assert len(rows.getvalue().splitlines()) == 201


def test_what_does_not_count() -> None:
    ranking = Ranking(Classifier("s", "l", 1, ignored=2), most=4)
    nan = np.full((1, 3), np.nan, np.float32)
    ranking.add(np.concatenate([np.eye(3, dtype=np.float32), nan, nan]), np.array([0, 2, 1, 0, 0], np.float32))
    # One is ignored, one is behind the last, and NaN is no hit.
    assert (ranking.images, ranking.hits) == (3, [1, 2])


@pytest.mark.parametrize(("shape", "said"), [((2, 3, 4, 4), "2x3x4x4"), ((2,), "(2)")])
def test_scores_of_more_than_an_image(shape: tuple[int, ...], said: str) -> None:
    with pytest.raises(RebirthError, match=re.escape(said)):
        Ranking(Classifier("s", "l", 1, None)).add(np.zeros(shape, np.float32), np.zeros(2, np.float32))


def test_a_label_that_is_no_class() -> None:
    with pytest.raises(RebirthError, match=r"image 1 \(b.png\) has label 3, and blob \"s\" has 3 classes"):
        Ranking(Classifier("s", "l", 1, None)).add(
            np.zeros((2, 3), np.float32), np.array([0.0, 3.0]), ["a.png", "b.png"]
        )


# ------------------------------------------------------------ progress


def test_the_bar_shows_what_people_wait_for() -> None:
    from rich.console import Console

    screen = io.StringIO()
    bar = Bar(Console(file=screen, force_terminal=True, width=120, markup=False, highlight=False))
    bar.begin(0, 30)
    bar.stepped(Step(0, 0.01, 2.0, {}, 8, 0.1), 2.5, True, None)
    bar.testing(0, 0)
    bar.tested(0, 0, {"accuracy": 0.25, "loss": 1.5})
    bar.stepped(Step(0, 0.01, 2.0, {}, 8, 0.1), 2.5, True, 65.4)
    bar.saved(Snapshot(Path("a/x_iter_1.caffemodel"), Path("a/x_iter_1.solverstate")))
    bar.end()
    text = re.sub(r"\x1b\[[^A-Za-z]*[A-Za-z]", "", screen.getvalue())
    assert "iteration 0, test: accuracy 0.25, loss 1.5" in text
    assert "1/30 loss 2.5, test accuracy 0.2500, 1:05 left, lr 0.01, 80.0 images/s" in text
    assert "saved a/x_iter_1.caffemodel and x_iter_1.solverstate" in text


def test_the_count_is_whole_on_a_narrow_terminal() -> None:
    from rich.console import Console

    screen = io.StringIO()
    bar = Bar(Console(file=screen, force_terminal=True, width=80, markup=False, highlight=False))
    bar.begin(0, 450_000)
    bar.tested(0, 0, {"loss3/accuracy": 0.25})
    bar.stepped(Step(123_455, 0.0123456, 2.0, {}, 8, 0.1), 2.51234, True, 36_000.0)
    bar.end()
    text = re.sub(r"\x1b\[[^A-Za-z]*[A-Za-z]", "", screen.getvalue())
    rows = [line.rstrip() for line in re.split(r"[\r\n]+", text) if "/450000" in line]
    assert all(re.search(r" 0/450000( (testing|test loss3/accuracy 0.2500)|$)", row) for row in rows[:-1])
    assert "123456/450000 loss 2.51234, test loss3/accuracy 0.2500, 10:0" in rows[-1] and rows[-1].endswith("…")
    assert max(map(len, rows)) <= 80


def test_the_time_left_is_that_of_recent_iterations() -> None:
    pace = Pace()
    found = []
    for seconds in (1000.0, 2.0, 2.0, 2.0, *[4.0] * 50):
        pace.add(seconds)
        found.append(pace.left(10))
    assert found[:4] == [None, None, None, 20.0] and found[4] == 25.0 and found[-1] == 40.0


def test_a_bar_that_never_began_ends_quietly() -> None:
    from rich.console import Console

    screen = io.StringIO()
    bar = Bar(Console(file=screen))
    bar.say("checked\x1b[2J")
    bar.end()
    assert screen.getvalue() == "checked\\x1b[2J\n"


def test_names_and_times() -> None:
    scores = {"loss1/top-1": 0.1, "loss3/loss3": 2.0, "loss3/top-1": 0.3, "loss3/top-5": 0.6, "prob": (0.1, 0.2)}
    assert accuracy_name(scores) == "loss3/top-1"
    assert accuracy_name({"loss": 1.0, "my_accuracy": 0.5, "z": 0.0}) == "my_accuracy"
    assert accuracy_name({"loss": 1.0}) == "loss" and accuracy_name({"all": (0.0, 1.0)}) == ""
    assert [clock(seconds) for seconds in (0, 59.6, 3599, 3600, 90061)] == [
        "0:00",
        "1:00",
        "59:59",
        "1:00:00",
        "25:01:01",
    ]
    # What stands in the result has lists, and None where a number is none.
    assert accuracy_name({"prob": [0.1, None]}) == "" and spell_score([0.5, None]) == "[0.5, nan]"
    assert spell_score((0.0,) * 7) == "[0, 0, 0, 0, 0, 0, ...]" and spell_score(None) == "nan"
