"""Schedules as files, and what a run remembers of its parts."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest

from deeprebirth_caffe import zoo
from deeprebirth_caffe.engines.base import EngineError
from deeprebirth_caffe.errors import RebirthError
from deeprebirth_caffe.formats.solver import parse_solver
from deeprebirth_caffe.nets.load import load_net
from deeprebirth_caffe.nets.ranking import COLUMNS
from deeprebirth_caffe.options.shared import CLIP
from deeprebirth_caffe.runs.schedule.accuracy import points
from deeprebirth_caffe.runs.schedule.digests import data_digest
from deeprebirth_caffe.runs.schedule.learning import read_hits
from deeprebirth_caffe.runs.schedule.lock import LOCK
from deeprebirth_caffe.runs.schedule.state import RESULT, SCHEDULE, STEP, NotMade, Parts, arrange, is_begun, sweep

pytest.importorskip("pydantic")
pytest.importorskip("yaml")

from deeprebirth_caffe.bench.stats import ENOUGH_RUNS
from deeprebirth_caffe.runs.schedule.accuracy import over_budget
from deeprebirth_caffe.runs.schedule.checks import check_conversions
from deeprebirth_caffe.runs.schedule.context import Inputs
from deeprebirth_caffe.runs.schedule.files import parse_schedule, read_schedule, schema
from deeprebirth_caffe.runs.schedule.model import Budget, Distil, Learn
from deeprebirth_caffe.runs.schedule.solvers import relearning

ROOT = Path(__file__).parents[2]
CONFIGS = sorted([*(ROOT / "configs").glob("*.yaml"), *(ROOT / "examples").glob("*.yaml")])
BOMB = "".join(f"{chr(98 + i)}: &{chr(98 + i)} [{', '.join(['*' + chr(97 + i)] * 10)}]\n" for i in range(5))
"""Each line stands for ten times as much as the one before."""
FILES = "net: net.prototxt\nweights: net.caffemodel\n"
SHAPES = {"googlenet": (3, 224, 224), "resnet50": (3, 224, 224), "alexnet": (3, 227, 227), "googlenet28": (1, 28, 28)}


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_what_is_shipped_times_often_enough_for_an_interval(path: Path) -> None:
    timing = read_schedule(path).time
    assert timing is not None and timing.runs >= ENOUGH_RUNS


def test_on_is_a_word_and_1e3_a_number() -> None:
    made = parse_schedule(
        FILES + "time: {on: local}\ntest: {per_image: false}\njoint: {finetune: {base_lr: 1e-3}}\n", "s"
    )
    assert made.time is not None and made.time.on == "local" and made.test.per_image is False
    assert made.joint is not None and made.joint.finetune.base_lr == 0.001


def test_a_date_is_a_word_and_mappings_are_put_in() -> None:
    steps = "steps:\n- &one {stages: a, init: xavier, reduce: 0.25}\n- {<<: *one, stages: b, reduce: 0.75}\n"
    made = parse_schedule(FILES + "name: 2026-02-31\n" + steps, "s")
    assert made.name == "2026-02-31"
    assert [(one.stages, one.init, one.reduce) for one in made.steps] == [
        (("a",), "xavier", 0.25),
        (("b",), "xavier", 0.75),
    ]


def refused(text: str) -> str:
    """The error of a schedule."""
    with pytest.raises(RebirthError) as caught:
        parse_schedule(text, "s.yaml")
    assert "\n" not in str(caught.value)
    return str(caught.value).removeprefix("s.yaml: ")


def test_defaults_hold_for_steps_that_do_not_say_otherwise() -> None:
    made = parse_schedule(
        FILES
        + "defaults: {init: xavier, finetune: {epochs: 2, base_lr: 1e-3}, budget: {step: 0.5}}\n"
        + "steps:\n- stages: conv1\n- {stages: [a, b], finetune: {iterations: 7}, init: inherit}\n"
        + "joint: {finetune: {batch: 3}}\ntucker: {ranks: vbmf}\n",
        "s.yaml",
    )
    one, other = made.steps
    assert (one.name, one.stages, one.init, one.finetune.epochs, one.finetune.base_lr) == (
        *("conv1", ("conv1",), "xavier", 2),
        0.001,
    )
    assert (other.name, other.init) == ("a+b", "inherit")
    assert (other.finetune.iterations, other.finetune.epochs, other.finetune.base_lr) == (7, None, 0.001)
    assert made.joint is not None and made.tucker is not None
    assert (made.joint.finetune.epochs, made.joint.finetune.batch, made.joint.budget.step) == (2, 3, 0.5)
    assert (made.tucker.ranks, made.tucker.finetune.epochs, made.tucker.ratio) == ("vbmf", 2, None)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (FILES + "stepz: []\n", "stepz: there is no such key; did you mean steps?"),
        (
            FILES + "defaults: {finetune: {bas_lr: 1}}\nsteps: [{stages: a}, {stages: b}]\n",
            "defaults.finetune.bas_lr: ",
        ),
        (FILES + "steps: [{stages: a, finetune: {drops: [0.5, 2]}}]\n", "steps[0] (a).finetune.drops[1]: "),
        (FILES + "steps: [{stages: a, kernel: big}]\n", "steps[0] (a).kernel: "),
        (FILES + "steps: [{stages: a}, {stages: a}]\n", "two steps are called a"),
        (FILES + "steps: [{stages: tucker}]\n", "steps[0] (tucker).name: tucker is what another folder"),
        (FILES + "steps: [{stages: a, finetune: {epochs: 1, iterations: 2}}]\n", "iterations and epochs exclude"),
        (FILES + "steps: [{stages: a, skip_passes: nothing}]\n", "there is no pass 'nothing'"),
        (FILES + "steps: [{stages: a, budget: {step: -1}}]\n", "steps[0] (a).budget.step: "),
        (FILES + "time: {}\ndeploy: null\n", "time needs deploy"),
        (FILES + "net: b\n", "s.yaml, line 3, column 1: this is no YAML: the key net stands here twice"),
        ("weights: a\n", "net: this is missing"),
        ("- a\n", "a schedule is a mapping"),
        ("net: [\n", "s.yaml, line 2, column 1: this is no YAML"),
        (FILES + "steps: [{stages: 5}]\n", "steps[0] (5).stages: input should be a valid list, not 5"),
        (FILES + "steps: [{stages: {a: 1}}]\n", "steps[0] ({'a': 1}).stages: input should be a valid list"),
        (FILES + "steps: [{stages: a, name: 5}]\n", "steps[0] (5).name: "),
        (FILES + 'steps: [{stages: a, name: "x\\n"}]\n', "steps[0] (x).name: string should match"),
        (FILES + "steps: [{stages: ''}]\n", "steps[0].stages[0]: string should have at least 1 character"),
        (FILES + "steps: [1]\n", "steps[0]: input should be a valid mapping, not 1"),
        (FILES + "x: &a [a, a, a]\n" + BOMB + "steps: [{stages: *f}]\n", "this stands for more than 50,000 values"),
        (FILES + "x: &a {a: 1}\n" + BOMB.replace("[", "{<<: [").replace("]", "]}"), "more than 50,000 values"),
        (FILES + "name: &a [*a]\n", "an alias stands for what it is in"),
        (FILES + "seed: 0x" + "f" * 6000 + "\n", "line 3, column 7: this is no YAML: this number has 6,002 letters"),
        (FILES + "seed: 1:" + "1:" * 4000 + "1\n", "seed: input should be a valid integer"),
        (FILES + "seed: !!int 1:" + "1:" * 4000 + "1\n", "this number has 8,003 letters"),
        (FILES + "seed: !!float 1:1\n", "a value in it cannot be read: could not convert string to float: '1:1'"),
        (FILES + "name: " + "[" * 61 + "]" * 61 + "\n", "this is nested too deeply: more than 60"),
        (FILES + "steps: [" + "{stages: a}, " * 1001 + "]\n", "steps: list should have at most 1000 items"),
        (FILES + "steps: [" + "{stages: a}, " * 20_000 + "]\n", "this stands for more than 50,000 values"),
        (FILES + "seed: " + "x" * 100_000 + "\n", "letters ...]"),
        (FILES + "seed: !!int foo\n", "a value in it cannot be read: invalid literal"),
        (FILES + "seed: " + "1" * 5000 + "\n", "this number has 5,000 letters; 40 are the most"),
        (FILES + "engine: !!map foo\n", "this is no YAML: expected a mapping node"),
        (FILES + "test: {per_image: !!bool maybe}\n", "a value in it cannot be read: 'maybe'"),
        (FILES + "name: " + "[" * 3000 + "\n", "this is nested too deeply"),
    ],
)
def test_one_clear_error(text: str, words: str) -> None:
    assert words in refused(text)


def test_numbers_are_those_of_yaml_1_2() -> None:
    text = (
        "{net: a, weights: a, seed: 017, steps: [{stages: a, reduce: .5, lr_factor: 1e+1, reduce_patterns: {b: 1.}}]}"
    )
    found = parse_schedule(text, "s.yaml")
    assert (found.seed, found.steps[0].reduce, found.steps[0].lr_factor) == (17, 0.5, 10.0)
    assert parse_schedule(text.replace("017", "0x1F"), "s.yaml").seed == 31
    assert parse_schedule(text.replace("017", "0o17"), "s.yaml").seed == 15
    assert "finite" in refused(text.replace("1e+1", ".inf")) and "finite" in refused(text.replace("1e+1", ".NaN"))


def test_aliases_stay(tmp_path: Path) -> None:
    text = "net: a\nweights: a\ndefaults: {finetune: &f {iterations: 3}}\njoint: {finetune: {<<: *f, batch: 2}}\n"
    found = parse_schedule(text, "s.yaml")
    assert found.joint is not None and (found.joint.finetune.iterations, found.joint.finetune.batch) == (3, 2)


def test_a_file_that_is_too_large(tmp_path: Path) -> None:
    (tmp_path / "s.yaml").write_text("#" * (1 << 20) + "\n")
    with pytest.raises(RebirthError, match="it has 1,048,577 bytes, and at most 1,048,576 are read"):
        read_schedule(tmp_path / "s.yaml")
    with pytest.raises(RebirthError, match="this is a device"):
        read_schedule(Path("/dev/zero"))


def test_a_byte_order_mark_is_passed_over(tmp_path: Path) -> None:
    path = tmp_path / "s.yaml"
    path.write_text(FILES + "steps: [{stages: a}]\n", encoding="utf-8-sig")
    assert len(read_schedule(path).steps) == 1


def test_a_file_that_is_none(tmp_path: Path) -> None:
    with pytest.raises(RebirthError, match="cannot read this schedule"):
        read_schedule(tmp_path / "none.yaml")
    (tmp_path / "latin.yaml").write_bytes(b"name: \xe9\n")
    with pytest.raises(RebirthError, match="no text in UTF-8"):
        read_schedule(tmp_path / "latin.yaml")


def test_the_schema_is_that_of_the_docs() -> None:
    """`rebirth run --schema > docs/schedule.schema.json` writes it."""
    assert json.loads((ROOT / "docs" / "schedule.schema.json").read_text(encoding="utf-8")) == schema()


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_the_schedules_that_come_along_merge(path: Path, tmp_path: Path) -> None:
    schedule = read_schedule(path)
    name, _, _ = path.stem.partition("-")
    zoo.write(name, tmp_path)
    shapes = {"data": SHAPES.get(name, (3, 64, 64))}
    net = tmp_path / "train_val.prototxt"
    read = load_net(net, shapes=shapes)
    test = read.view("TEST")
    shaped = schedule.model_copy(update={"input_shapes": shapes})
    inputs = Inputs(shaped, path, tmp_path, net, net, None, read.view("TRAIN"), test, ("top1", "top5"), 1000, 32)
    check_conversions(inputs)
    learn = schedule.steps[0].finetune
    assert inputs.iterations(learn, "") == (learn.iterations or round(learn.epochs * 1000 / learn.batch))


def test_rates_fall_at_parts_of_a_step() -> None:
    learn = Learn(iterations=90, drops=(0.4, 0.8), gamma=0.5, tests=3)
    text = relearning(learn, None, [4])(90, 7, Path("net.prototxt"), Path("out"))
    for words in ("stepvalue: 36", "stepvalue: 72", "gamma: 0.5", "test_interval: 30", "random_seed: 7", "snapshot: 9"):
        assert words in text
    twice = relearning(learn, None, [4])(180, 7, Path("net.prototxt"), Path("out"))
    assert "stepvalue: 72" in twice and "stepvalue: 144" in twice


@pytest.mark.parametrize(
    ("asked", "lent", "paper", "norm"),
    [
        (None, None, False, CLIP),
        (None, None, True, None),
        (None, 35, False, 35),
        (None, 35, True, 35),
        (2, 35, True, 2),
        (0, 35, False, None),
        (0, None, False, None),
    ],
)
def test_gradients_are_cut(asked: float | None, lent: float | None, paper: bool, norm: float | None) -> None:
    solver = parse_solver("" if lent is None else f"clip_gradients: {lent}")
    text = relearning(Learn(iterations=9, clip_gradients=asked), solver, (), paper)(9, 1, Path("net"), Path("out"))
    found = parse_solver(text).message
    assert (found.clip_gradients if found.HasField("clip_gradients") else None) == norm


def test_budgets() -> None:
    base, before, now = {"top1": 0.9}, {"top1": 0.895}, {"top1": 0.88}
    assert points(base, now, ["top1", "top5"]) == {"top1": pytest.approx(2.0)}
    assert not over_budget(Budget(), "top1", now, before, base)
    assert not over_budget(Budget(step=1.5, total=2), "top1", now, before, base)
    assert "1.50 points under that of the step before, and 1.4" in over_budget(
        Budget(step=1.4), "top1", now, before, base
    )
    assert "2.00 points under that of the net it began with" in over_budget(
        Budget(total=1.9), "top1", now, before, base
    )
    assert over_budget(Budget(total=1), "top1", {"top1": None}, before, base) == "its top1 is no number"
    assert over_budget(Budget(step=1), "top1", now, {"top1": None}, base) == "the step before's top1 is no number"


@dataclass
class Work:
    """Makes a file, and counts how often."""

    folder: Path
    made: list[bool] = field(default_factory=list)
    fails: bool = False

    def __call__(self, going_on: bool) -> dict[str, Any]:
        self.made.append(going_on)
        (self.folder / "file").write_text("x", encoding="utf-8")
        if self.fails:
            raise KeyboardInterrupt
        return {"worth": len(self.made)}


@pytest.fixture
def work(tmp_path: Path) -> Work:
    (tmp_path / "01-a").mkdir()
    return Work(tmp_path / "01-a")


def parts_of(work: Work, look: bool = False) -> Parts:
    return Parts(work.folder, {"step": "01-a"}, look)


def test_a_part_is_made_once(work: Work) -> None:
    for _ in range(2):
        assert parts_of(work).part("p", {"a": 1}, ["file"], work) == {"worth": 1}
    assert work.made == [False]
    assert parts_of(work).part("p", {"a": 2}, ["file"], work) == {"worth": 2}
    (work.folder / "file").unlink()
    assert parts_of(work).part("p", {"a": 2}, ["file"], work) == {"worth": 3}
    assert work.made == [False] * 3


def test_a_part_that_was_begun_goes_on_and_a_changed_one_does_not(work: Work) -> None:
    work.fails = True
    for of in ({"a": 1}, {"a": 1}, {"a": 2}):
        with pytest.raises(KeyboardInterrupt):
            parts_of(work).part("p", of, ["file"], work)
    assert work.made == [False, True, False]
    work.fails = False
    parts_of(work).part("p", {"a": 2}, ["file"], work)
    assert work.made[-1] and json.loads((work.folder / STEP).read_text())["parts"]["p"]["done"]


def test_what_is_made_anew_ends_the_result(work: Work) -> None:
    parts_of(work).part("p", {}, ["file"], work)
    (work.folder / RESULT).write_text("{}", encoding="utf-8")
    parts_of(work).part("p", {}, ["file"], work)
    assert (work.folder / RESULT).exists()
    parts_of(work).part("p", {"new": 1}, ["file"], work)
    assert not (work.folder / RESULT).exists()


def test_looking_makes_nothing(work: Work) -> None:
    parts_of(work).part("p", {"a": 1}, ["file"], work)
    (work.folder / RESULT).write_text("{}", encoding="utf-8")
    before = (work.folder / STEP).read_bytes()
    assert parts_of(work, look=True).part("p", {"a": 1}, ["file"], work) == {"worth": 1}
    with pytest.raises(NotMade):
        parts_of(work, look=True).part("p", {"a": 2}, ["file"], work)
    assert work.made == [False] and (work.folder / STEP).read_bytes() == before and (work.folder / RESULT).exists()


def test_folders_follow_their_steps(tmp_path: Path) -> None:
    def put(names: list[str]) -> list[str]:
        for folder in arrange(tmp_path, names):
            folder.mkdir(exist_ok=True)
            (folder / STEP).touch()
            (folder / "name").write_text((folder / "name").read_text() if (folder / "name").exists() else folder.name)
        return sorted(str(one.relative_to(tmp_path)) for one in tmp_path.rglob("*") if one.is_dir())

    assert put(["base", "a", "b"]) == ["00-base", "01-a", "02-b"]
    assert put(["base", "b"]) == ["00-base", "01-b", "unused", "unused/a"]
    assert put(["base", "b", "a"]) == ["00-base", "01-b", "02-a"]
    assert (tmp_path / "02-a" / "name").read_text() == "01-a"
    assert (tmp_path / "01-b" / "name").read_text() == "02-b"


def test_more_than_a_hundred_steps_and_folders_of_others(tmp_path: Path) -> None:
    (tmp_path / "10-photos").mkdir()
    (tmp_path / "10-photos" / "mine").touch()
    names = [f"s{number}" for number in range(102)]
    for folder in arrange(tmp_path, names):
        folder.mkdir()
        (folder / STEP).touch()
    assert arrange(tmp_path, names[1:])[-1] == tmp_path / "100-s101"
    assert [one.name for one in tmp_path.glob("*-s101")] == ["100-s101"]
    assert (tmp_path / "10-photos" / "mine").exists()


def test_a_run_that_was_killed_at_once_is_one(tmp_path: Path) -> None:
    assert not is_begun(tmp_path) and not is_begun(tmp_path / "none")
    (tmp_path / SCHEDULE).touch()
    assert not is_begun(tmp_path)
    (tmp_path / LOCK).touch()
    (tmp_path / ".run.json.0123abcd.tmp").touch()
    assert is_begun(tmp_path)
    (tmp_path / "mine").touch()
    assert not is_begun(tmp_path)


def test_hits_of_images_with_odd_names(tmp_path: Path) -> None:
    table = tmp_path / "test.csv"
    rows = b'0,"a,b#1.png",1,1,1,1,1,0.5\n1,c#\xff.png,1,2,3,0,1,0.5\n2,"d\ne",1,2,7,0,0,0.5\n'
    table.write_bytes(",".join(COLUMNS).encode() + b"\n" + rows)
    assert read_hits(table).tolist() == [[1, 1], [0, 1], [0, 0]]
    table.write_text(",".join(COLUMNS) + "\n", encoding="utf-8")
    assert read_hits(table).shape == (0, 2)


def test_iterations_out_of_epochs(tmp_path: Path) -> None:
    net = tmp_path / "train_val.prototxt"
    zoo.write("googlenet28", tmp_path)
    views = load_net(net, shapes={"data": (1, 28, 28)})
    made = parse_schedule(FILES, "s")
    lent = parse_solver("iter_size: 4")
    inputs = Inputs(made, net, tmp_path, net, net, lent, views.view("TRAIN"), views.view("TEST"), ("top1",), 1000, 10)
    assert inputs.iterations(Learn(epochs=2), "x") == 50
    # Distillation has a solver of its own.
    assert inputs.iterations(Distil(epochs=2), "x", lent=False) == 200
    with pytest.raises(RebirthError, match=r"x: that is 1e.10 iterations, and a solver counts to 2147483647"):
        replace(inputs, records=10_000).iterations(Learn(epochs=1e6, batch=1), "x", lent=False)


def test_what_a_kill_left_is_swept(tmp_path: Path) -> None:
    for name in ("01-a/.rebirth-0123abcd.tmp/x", "01-a/.result.json.0123abcd.tmp", "01-a/.mine.tmp", "01-a/kept"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    sweep(tmp_path)
    assert sorted(one.name for one in (tmp_path / "01-a").iterdir()) == [".mine.tmp", "kept"]


@pytest.mark.parametrize(
    "change",
    [
        lambda folder: (folder / "data.mdb").write_bytes(b"y" * 200_000),
        lambda folder: (folder / "data.mdb").write_bytes(b"x" * 200_001),
        lambda folder: (folder / "more").touch(),
    ],
)
def test_data_are_known_by_content(tmp_path: Path, change: Callable[[Path], object]) -> None:
    (tmp_path / "data.mdb").write_bytes(b"x" * 200_000)
    (tmp_path / "lock.mdb").write_bytes(b"1")
    before = data_digest([tmp_path])
    (tmp_path / "lock.mdb").write_bytes(b"2")
    assert data_digest([tmp_path]) == before
    change(tmp_path)
    assert data_digest([tmp_path]) != before


def test_an_error_says_where_and_keeps_what_it_holds() -> None:
    error = EngineError("it broke", stderr_tail="the last line", fatal=True)
    error.within("step conv1")
    assert (str(error), error.stderr_tail, error.fatal) == ("step conv1: it broke", "the last line", True)
