"""What finetune, test and forward are made of: where paths start, which engine, labels, ranks, progress."""

from __future__ import annotations

import importlib.util
import io
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from deeprebirth_caffe.cli.progress import Bar, accuracy_name, clock, spell_score
from deeprebirth_caffe.engines.base import EngineError, Snapshot, Step
from deeprebirth_caffe.engines.caffe.locate import CaffeInstall
from deeprebirth_caffe.errors import RebirthError, UsageError
from deeprebirth_caffe.ir import Net
from deeprebirth_caffe.workflows.choose import EngineOptions, choose
from deeprebirth_caffe.workflows.finetune import FinetuneOptions, go_on
from deeprebirth_caffe.workflows.labels import judge_of
from deeprebirth_caffe.workflows.ranking import Classifier, Ranking, find_classifier
from deeprebirth_caffe.workflows.roots import find_root
from deeprebirth_caffe.workflows.schedule import Schedule

DOCS = Path(__file__).parents[2] / "docs" / "training.md"


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


def test_auto_with_torch(caffe_here: None) -> None:
    pytest.importorskip("torch")
    choice = choose(EngineOptions(), views())
    assert choice.engine.name == "torch" and choice.reason
    assert choose(EngineOptions("torch"), views()).reason == ""
    choice = choose(EngineOptions(), views("Python"))
    assert (choice.engine.name, choice.reason) == ("caffe", 'it does not run layer "x" of type Python')
    assert choose(EngineOptions(), views("Whatever")).engine.name == "caffe"
    with pytest.raises(EngineError, match='does not run layer "x" of type Python'):
        choose(EngineOptions(precision="bf16"), views("Python"))


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
    engine = EngineOptions("torch", "cuda", "bf16", 2, "/opt/my caffe")
    options = FinetuneOptions(Path("my solver"), [Path("a"), Path("b")], None, engine, 7, Path("l"), force=True)
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
    bar.testing(0, 0)
    bar.tested(0, 0, {"accuracy": 0.25, "loss": 1.5})
    bar.stepped(Step(0, 0.01, 2.0, {}, 8, 0.1), 2.5, True, 65.4)
    bar.saved(Snapshot(Path("a/x_iter_1.caffemodel"), Path("a/x_iter_1.solverstate")))
    bar.end()
    text = re.sub(r"\x1b\[[^A-Za-z]*[A-Za-z]", "", screen.getvalue())
    assert "iteration 0, test: accuracy 0.25, loss 1.5" in text
    assert "1/30 1:05 left, loss 2.5, lr 0.01, 80.0 images/s, accuracy 0.2500" in text
    assert "saved a/x_iter_1.caffemodel and x_iter_1.solverstate" in text


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
    assert spell_score((0.0,) * 7) == "[0, 0, 0, 0, 0, 0, ...]" and spell_score(None) == "nan"
