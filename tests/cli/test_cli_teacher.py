"""`rebirth finetune --teacher`: the losses it adds, what it says, going on, and what it refuses."""

from __future__ import annotations

import json
import shlex
from pathlib import Path
from typing import Any

import jsondocs
import numpy as np
import pytest
from cli_tools import Cli, complaint
from tiny import CLASSES, NET, SOLVER, make_tiny

from deeprebirth_caffe.ir import Weights

pytest.importorskip("torch")
pytest.importorskip("lmdb")

TEACHER = ("--teacher", "net.prototxt", "--teacher-weights", "teacher.caffemodel")

DEPLOY = """layer { name: "data" type: "Input" top: "data" input_param { shape { dim: 1 dim: 1 dim: 8 dim: 8 } } }
layer { name: "fc1" type: "InnerProduct" bottom: "data" top: "fc1" inner_product_param { num_output: 8 } }
layer { name: "relu1" type: "ReLU" bottom: "fc1" top: "fc1" }
layer { name: "fc2" type: "InnerProduct" bottom: "fc1" top: "fc2" inner_product_param { num_output: 4 } }
layer { name: "prob" type: "Softmax" bottom: "fc2" top: "prob" }
"""


@pytest.fixture(autouse=True)
def _tiny(_folder: None, cli: Cli) -> None:
    """A teacher that knows the four kinds of pictures, and a student whose first layer is a new one."""
    make_tiny(Path())
    assert cli("finetune", "solver.prototxt", "--engine", "torch", "--threads", 1, "--max-iter", 60).code == 0
    Path("snap/tiny_iter_60.caffemodel").rename("teacher.caffemodel")
    student = NET.replace('name: "fc1"', 'name: "fc1_merge"').replace(
        "scale: 0.00390625", "scale: 0.00390625 mirror: true", 1
    )
    dropout = 'layer { name: "drop" type: "Dropout" bottom: "fc1" top: "drop" dropout_param { dropout_ratio: 0.2 } }\n'
    student = student.replace('layer { name: "fc2" type: "InnerProduct" bottom: "fc1"', dropout + FC2)
    Path("student.prototxt").write_text(student, encoding="utf-8")
    Path("learn.prototxt").write_text(
        SOLVER.replace("net.prototxt", "student.prototxt").replace("snap/", "learned/"), encoding="utf-8"
    )
    Path("deploy.prototxt").write_text(DEPLOY, encoding="utf-8")


FC2 = 'layer { name: "fc2" type: "InnerProduct" bottom: "drop"'


def learn(cli: Cli, *more: object, teacher: tuple[str, ...] = TEACHER) -> Any:
    """Trains the student."""
    return cli("finetune", "learn.prototxt", "--threads", 1, *teacher, *more)


def log(path: str) -> list[dict[str, Any]]:
    """A log, held against its documentation."""
    found = [json.loads(line) for line in Path(path).read_text(encoding="utf-8").splitlines()]
    for one in found:
        jsondocs.check(one, "finetune --log")
    return found


def test_a_whole_run(cli: Cli) -> None:
    result = learn(cli, "--match-blobs", "--log", "run.jsonl", "--json")
    assert result.code == 0, result.err
    jsondocs.check(result.data, "finetune")
    told = result.data["teacher"]
    assert result.data["engine"] == "torch" and (told["temperature"], told["alpha"], told["match_weight"]) == (
        2,
        0.5,
        1,
    )
    assert told["heads"] == [{"name": "loss", "student": "fc2", "teacher": "fc2"}] and told["blobs"] == ["fc1"]
    lines = log("run.jsonl")
    for one in lines:
        parts = one["parts"]
        assert set(parts["heads"]) == {"loss"} and set(parts["blobs"]) == {"fc1"}
        whole = 0.5 * parts["own"] + 0.5 * parts["heads"]["loss"] + parts["blobs"]["fc1"]
        assert one["loss"] == pytest.approx(whole, rel=1e-5)
        assert one["outputs"] == {"loss": pytest.approx(parts["own"], rel=1e-5)}
    assert told["parts"] == lines[-1]["parts"]
    assert lines[-1]["parts"]["heads"]["loss"] < lines[0]["parts"]["heads"]["loss"]
    said = result.err.splitlines()
    assert "engine torch: the one that has --teacher" in said
    assert "teacher net.prototxt: the loss is 0.5 x the net's own losses + 0.5 x divergence + 1 x blobs, T = 2" in said
    assert "compared: loss (fc2 with fc2)" in said and "blobs compared: fc1" in said


def test_without_a_teacher_nothing_is_said_of_one(cli: Cli) -> None:
    result = learn(cli, "--engine", "torch", "--log", "run.jsonl", "--json", "--max-iter", 2, teacher=())
    assert result.data["teacher"] is None and not any("parts" in one for one in log("run.jsonl"))


def test_a_teacher_that_counts_nothing_changes_nothing(cli: Cli) -> None:
    """The labels' part is what it is without a teacher: the same random numbers, the same gradients."""
    assert learn(cli, "--engine", "torch", "--max-iter", 5, "--log", "a.jsonl", teacher=()).code == 0
    assert learn(cli, "--max-iter", 5, "--log", "b.jsonl", "--force", "--alpha", 1e-12).code == 0
    for one, other in zip(log("a.jsonl"), log("b.jsonl"), strict=True):
        assert one["loss"] == pytest.approx(other["parts"]["own"], rel=1e-5)


def test_going_on_changes_no_bit(cli: Cli) -> None:
    """With mirroring and dropout; the command that goes on is the one that is printed."""
    options = ("--temperature", 3.5, "--alpha", 0.7, "--match-blobs", "--match-weight", 0.3)
    assert learn(cli, *options, "--log", "whole.jsonl").code == 0
    Path("learned").rename("whole")
    assert learn(cli, *options, "--log", "run.jsonl", "--max-iter", 15).code == 0
    from deeprebirth_caffe.commands.finetune import go_on
    from deeprebirth_caffe.options.finetune import FinetuneOptions, TeacherOptions
    from deeprebirth_caffe.options.shared import EngineOptions

    teacher = TeacherOptions(Path(TEACHER[1]), Path(TEACHER[3]), 3.5, 0.7, True, 0.3)
    started = FinetuneOptions(
        Path("learn.prototxt"), engine=EngineOptions(threads=1), log=Path("run.jsonl"), teacher=teacher
    )
    words = shlex.split(go_on(started, Path("learned/tiny_iter_10.solverstate")))
    result = cli(*words[1:])
    assert result.code == 0, result.err
    whole, again = log("whole.jsonl"), log("run.jsonl")
    assert len(whole) == len(again) == 25
    for one, other in zip(whole, again, strict=True):
        assert (one["loss"], one["parts"]) == (other["loss"], other["parts"])
    mine, its = (Weights.read(f"{folder}/tiny_iter_25.caffemodel") for folder in ("learned", "whole"))
    assert all(np.array_equal(a, b) for name in mine for a, b in zip(mine[name], its[name], strict=True))


def test_a_student_without_labels_learns_from_a_deploy_net(cli: Cli) -> None:
    bare = Path("student.prototxt").read_text(encoding="utf-8")
    losses = [line for line in bare.splitlines() if '"loss"' in line or '"accuracy"' in line]
    for line in losses:
        bare = bare.replace(line, "")
    Path("student.prototxt").write_text(bare.replace('top: "label"', ""), encoding="utf-8")
    teacher = ("--teacher", "deploy.prototxt", "--teacher-weights", "teacher.caffemodel")
    solver = Path("learn.prototxt").read_text(encoding="utf-8").replace("test_iter: 3 test_interval: 10", "")
    Path("learn.prototxt").write_text(solver, encoding="utf-8")
    result = learn(cli, "--json", "--max-iter", 120, "--log", "run.jsonl", teacher=teacher)
    assert result.code == 0, result.err
    told = result.data["teacher"]
    assert told["alpha"] == 1 and told["heads"] == [{"name": "fc2", "student": "fc2", "teacher": "fc2"}]
    lines = log("run.jsonl")
    assert lines[-1]["parts"]["own"] == 0 and result.data["loss"] < 0.5 * lines[0]["loss"]
    # What it learned without a label it is tested with labels for.
    full = NET.replace('name: "fc1"', 'name: "fc1_merge"')
    Path("full.prototxt").write_text(full, encoding="utf-8")
    tested = cli(
        "test", "full.prototxt", "-w", result.data["model"], "--engine", "torch", "--iterations", "all", "--json"
    )
    assert tested.data["top1"] > 1.5 / CLASSES


def test_gathered_batches_are_one_iteration(cli: Cli) -> None:
    """With iter_size the parts are means over the batches, as the loss is."""
    with Path("learn.prototxt").open("a", encoding="utf-8") as file:
        file.write("iter_size: 3\n")
    assert learn(cli, "--max-iter", 3, "--log", "run.jsonl").code == 0
    for one in log("run.jsonl"):
        assert one["loss"] == pytest.approx(0.5 * one["parts"]["own"] + 0.5 * one["parts"]["heads"]["loss"], rel=1e-5)


def test_training_that_diverges_stops(cli: Cli) -> None:
    result = learn(cli, "--match-blobs", "--match-weight", 1e30, "--max-iter", 25)
    assert "the loss is no number any more" in result.err and result.code == 1
    assert "nothing was saved" in result.err


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (TEACHER[:2], "--teacher needs --teacher-weights"),
        (TEACHER[2:], "--teacher-weights needs --teacher"),
        (("--alpha", "0.3"), "--alpha needs --teacher"),
        (("--temperature", "3"), "--temperature needs --teacher"),
        (("--match-blobs",), "--match-blobs needs --teacher"),
        ((*TEACHER, "--match-weight", "2"), "--match-weight needs --match-blobs"),
        ((*TEACHER, "--alpha", "1.5"), "1.5 is not in the range 0<=x<=1"),
        ((*TEACHER, "--temperature", "0"), "0.0 is not in the range x>0"),
        ((*TEACHER, "--alpha", "0"), "--alpha 0 lets the teacher say nothing"),
        ((*TEACHER, "--engine", "caffe"), "--teacher is the embedded engine's; leave --engine caffe out"),
    ],
)
def test_words_that_do_not_go_together(cli: Cli, words: tuple[str, ...], message: str) -> None:
    assert message in complaint(learn(cli, *words, teacher=()), 2)


def test_a_teacher_that_does_not_fit(cli: Cli) -> None:
    Path("other.prototxt").write_text(DEPLOY.replace('"fc2"', '"fc3"'), encoding="utf-8")
    words = ("--teacher", "other.prototxt", "--teacher-weights", "teacher.caffemodel")
    assert "has nothing for layer fc3 of other.prototxt" in complaint(learn(cli, teacher=words), 1)
    Path("other.prototxt").write_text(DEPLOY.replace("dim: 8 dim: 8", "dim: 9 dim: 9"), encoding="utf-8")
    assert learn(cli, "--max-iter", 1, teacher=words).code == 0  # its input follows the student's data
    Path("other.prototxt").write_text(SOLVER, encoding="utf-8")
    assert "other.prototxt" in complaint(learn(cli, teacher=words), 1)
