"""`rebirth plan`: schedules that people can read, and targets on a stand-in for the machine."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from types import TracebackType
from typing import Any

import jsondocs
import numpy as np
import pytest
from cli_tools import Cli, Result, SmallNet, complaint, listing
from tiny import write_lmdb

from deeprebirth_caffe.bench.machine import Facts, facts
from deeprebirth_caffe.bench.targets import Job
from deeprebirth_caffe.commands.test import Scored
from deeprebirth_caffe.ir import Net
from deeprebirth_caffe.passes.costs import predicted
from deeprebirth_caffe.proto import caffe_pb2 as pb
from deeprebirth_caffe.runs.planning.errors import Fidelity
from deeprebirth_caffe.runs.planning.plan import _free
from deeprebirth_caffe.runs.planning.trials import Candidate, Made

yaml = pytest.importorskip("yaml")
pytest.importorskip("pydantic")

ALL = ["conv1", "conv2", "inception_3a", "inception_3b", "inception_4a"]
ERRORS = {"conv1": 0.5, "conv2": 0.2, "inception_3a": 0.1, "inception_3b": 0.05, "inception_4a": 0.4}


@pytest.fixture
def plan(cli: Cli, net28: SmallNet) -> Callable[..., Result]:
    """`plan("--recipe", "paper")` plans googlenet28 into plan.yaml."""

    def call(*more: object) -> Result:
        common = ("-w", net28.weights, "-o", "plan.yaml", "--input-shape", net28.shape)
        return cli("plan", net28.train_val, *common, *more)

    return call


def schedule(path: str = "plan.yaml") -> Any:
    """The file as `rebirth run` reads it."""
    from deeprebirth_caffe.runs.schedule.files import read_schedule

    return read_schedule(Path(path))


def stages(path: str = "plan.yaml") -> list[str]:
    return [stage for step in schedule(path).steps for stage in step.stages]


def test_the_papers_way(plan: Callable[..., Result]) -> None:
    result = plan("--recipe", "paper", "--json")
    assert (result.code, result.err) == (0, "")
    jsondocs.check(result.data, "plan")
    found = schedule()
    assert [step.name for step in found.steps] == stages() == ALL
    assert [step["name"] for step in result.data["steps"]] == ALL
    assert (found.net, found.weights) == ("googlenet28/train_val.prototxt", "googlenet28/random.caffemodel")
    assert dict(found.input_shapes) == {"data": (1, 28, 28)} and found.test.metric == "top1"
    for step in found.steps:
        assert (step.paper, step.init, step.lr_factor) == (True, "xavier", 10)
        learn = step.finetune
        assert (learn.epochs, learn.batch, learn.base_lr, learn.drops, learn.gamma) == (
            2,
            32,
            0.001,
            (0.4444, 0.8889),
            0.1,
        )
    assert found.joint is None and found.tucker.ratio == 0.5 and found.tucker.finetune.epochs == 2
    assert found.time.engines == ("caffe",) and found.deploy is not None


def test_the_best_way(plan: Callable[..., Result]) -> None:
    result = plan()
    assert (result.code, result.err) == (0, "")
    assert result.out.endswith("wrote plan.yaml\nthen: rebirth run plan.yaml\n")
    found = schedule()
    assert {step.init for step in found.steps} == {"refit"} and found.joint is not None
    assert (found.joint.finetune.epochs, found.joint.finetune.base_lr) == (10, 0.01)
    assert found.joint.finetune.teacher is not None
    assert all(step.finetune.teacher is not None and step.calibrate.source == "own" for step in found.steps)


def test_it_is_for_people(plan: Callable[..., Result]) -> None:
    plan()
    lines = Path("plan.yaml").read_text(encoding="utf-8").splitlines()
    assert all(len(line) <= 112 for line in lines)
    place = lines.index("  - stages: [conv1]")
    assert lines[place - 1].startswith("  # conv1: remove-lrn, pool-to-stride; without pool1/norm1, pool1/3x3_s2; 0.25")
    assert any(line.startswith("#   pool5/3x3_s1: global pooling") for line in lines)
    # Whoever reads YAML reads this, our own rules for numbers or not.
    plain = yaml.safe_load("\n".join(lines))
    assert plain["defaults"]["finetune"]["base_lr"] == 0.001 and plain["time"]["engines"] == ["caffe"]


def test_what_is_said_goes_into_the_file(plan: Callable[..., Result], net28: SmallNet) -> None:
    more = ("--skip", "inception_4a", "--no-pass", "remove-lrn", "--max-iter", 70, "--no-tucker", "--metric", "top5")
    Path("pictures").mkdir()
    engine = ("--engine", "torch", "--threads", 2, "--calibrate", "pictures", "--samples", 9, "--solver", net28.solver)
    timing = ("--time-with", "mnn", "--time-threads", 2, "--on", "adb", "--runs", 3, "--iterations", 4)
    assert plan(*more, *engine, *timing).code == 0
    found = schedule()
    assert stages() == ALL[:4] and found.tucker is None and found.test.metric == "top5"
    assert all(step.finetune.iterations == 70 and step.finetune.epochs is None for step in found.steps)
    assert all(step.skip_passes == ("remove-lrn",) for step in found.steps)
    assert (found.engine.name, found.engine.threads, found.solver) == ("torch", 2, net28.solver)
    assert (found.steps[0].calibrate.source, found.steps[0].calibrate.samples) == ("pictures", 9)
    time = found.time
    assert (time.engines, time.threads, time.on, time.runs, time.iterations) == (("mnn",), (2,), "adb", 3, 4)


def test_paths_start_where_the_file_lies(cli: Cli, net28: SmallNet) -> None:
    Path("plans").mkdir()
    whole = Path(net28.weights).absolute()
    pictures = ("--calibrate", "shots/*.png")
    result = cli("plan", net28.train_val, "-w", whole, "-o", "plans/a.yaml", "--input-shape", net28.shape, *pictures)
    assert result.code == 0
    found = schedule("plans/a.yaml")
    assert (found.net, found.weights) == ("../googlenet28/train_val.prototxt", str(whole))
    assert found.steps[0].calibrate.source == "../shots/*.png"


def test_the_paper_on_resnet(cli: Cli, small: Callable[[str], SmallNet]) -> None:
    net = small("resnet64")
    common = ("plan", net.train_val, "-w", net.weights, "-o", "r.yaml", "--input-shape", net.shape)
    assert cli(*common, "--recipe", "paper", "--only", "conv1", "--only", "res2a").code == 0
    found = schedule("r.yaml")
    assert [step.name for step in found.steps] == ["conv1", "res2a_branch1", "res2a_branch2a-branch2c"]
    assert found.steps[2].stages == ("res2a_branch2a", "res2a_branch2b", "res2a_branch2c")
    assert found.test.metric == "top5"  # 100 classes


@pytest.mark.parametrize(
    ("more", "code", "words"),
    [
        (("--only", "conv9"), 2, 'no stage "conv9"'),
        (("--only", "loss3"), 3, "there is nothing to merge"),
        (("--no-pass", "remove-lrm"), 2, "there is no pass 'remove-lrm'"),
        (("--metric", "top7"), 1, "no metric top7; there is top1, top5"),
        (("--epochs", 1, "--max-iter", 5), 2, "exclude each other"),
        (("--target", "speed=3"), 2, "write speedup=3"),
        (("-o", "nowhere/plan.yaml"), 1, "there is no directory nowhere"),
        (("-o", "googlenet28/train_val.prototxt"), 1, "this command reads"),
    ],
)
def test_one_clear_error(plan: Callable[..., Result], more: tuple[object, ...], code: int, words: str) -> None:
    assert words in complaint(plan(*more), code)
    assert listing() == ["googlenet28"]


def test_a_deploy_net_does_not_relearn(cli: Cli, net28: SmallNet) -> None:
    said = complaint(cli("plan", net28.deploy, "-w", net28.weights, "-o", "plan.yaml"), 2)
    assert "give the net that trains" in said and listing() == ["googlenet28"]


def test_nothing_is_overwritten_unasked(plan: Callable[..., Result]) -> None:
    Path("plan.yaml").write_text("mine", encoding="utf-8")
    assert "add --force" in complaint(plan(), 1)
    assert Path("plan.yaml").read_text(encoding="utf-8") == "mine"
    assert plan("--force").code == 0 and stages() == ALL


def test_names_of_folders() -> None:
    taken = {"deploy"}
    assert [_free(name, taken) for name in ("a/b c", "a b c", "a/b c", "deploy", "-", "x" * 70)] == [
        *("a_b_c", "a_b_c-2", "a_b_c-3", "deploy-2", "step", "x" * 60)
    ]


class FakeNet:
    """Takes as long as its layers are predicted to take, 40 million multiply-adds a millisecond."""

    single = True
    pid = None

    def __init__(self, job: Job, machine: Machine) -> None:
        view = Net.read(job.net).view("TEST")
        self.machine = machine
        self.rows: list[tuple[str, float]] = []
        for layer in view.layers:
            if layer.type != "Input":
                shapes = [value.shape for value in view.ins[layer]]
                cost = predicted(layer.param, [shape for shape in shapes if shape is not None])
                assert isinstance(cost, float)
                self.rows.append((layer.name, cost / 40e6))

    def run(self, iterations: int, warmup: int) -> list[float]:
        if self.machine.stops:
            raise KeyboardInterrupt
        # A whole pass has some work of its own, so stages never add up to it quite.
        return [sum(ms for _, ms in self.rows) + self.machine.around] * iterations

    def layers(self, iterations: int) -> list[tuple[str, float]] | None:
        return self.rows if self.machine.says_layers else None

    def describe(self) -> dict[str, object]:
        return {}

    def peak_rss_bytes(self) -> int | None:
        return None

    def notes(self) -> list[str]:
        return []

    def close(self) -> None:
        pass


class Machine:
    """A machine on which nothing runs."""

    name = "local"

    def __init__(self) -> None:
        self.says_layers = True
        self.stops = False
        self.around = 0.0
        self.load = 0.0
        self.opened = 0

    def __enter__(self) -> Machine:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        pass

    def describe(self) -> Facts:
        return facts({})

    def read_files(self, patterns: Iterable[str]) -> Mapping[str, str]:
        return {"/proc/loadavg": f"{self.load} 0 0 1/1 1"}

    def meter(self) -> str:
        return "not available here"

    def open(self, job: Job) -> FakeNet:
        self.opened += 1
        return FakeNet(job, self)


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch) -> Machine:
    """Times that are known: those of `FakeNet`."""
    fake = Machine()
    monkeypatch.setattr("deeprebirth_caffe.commands.time.open_target", lambda spec, **options: fake)
    return fake


@pytest.fixture
def judged(monkeypatch: pytest.MonkeyPatch) -> None:
    """Errors that are known: those of `ERRORS`, half of them for each pass."""
    known: dict[Path, Candidate] = {}

    @contextmanager
    def refitted(self: Fidelity, candidate: Candidate) -> Iterator[Made]:
        with self.trials.made(dict([candidate])) as made:
            known[made.net] = candidate
            yield made

    def error(self: Fidelity, made: Made) -> float:
        stage, passes = known[made.net]
        manifest = json.loads((made.net.parent / "manifest.json").read_text(encoding="utf-8"))
        assert {one["stage"] for one in manifest["rewrites"]} == {stage}
        return ERRORS[stage] * len(passes) / 2

    monkeypatch.setattr(Fidelity, "begin", lambda self: None)
    monkeypatch.setattr(Fidelity, "refitted", refitted)
    monkeypatch.setattr(Fidelity, "error", error)


@pytest.mark.usefixtures("judged")
def test_a_speedup(plan: Callable[..., Result], machine: Machine) -> None:
    result = plan("--target", "speedup=1.5", "--json")
    assert result.code == 0, result.err
    jsondocs.check(result.data, "plan")
    target = result.data["target"]
    assert target["reached_speedup"] >= 1.5 and target["accuracy"] is None and target["base"] is None
    chosen = [one["stage"] for one in target["candidates"] if one["chosen"]]
    assert set(chosen) == set(stages()) and 0 < len(chosen) < len(ALL)
    # In the net's own order, however they were chosen.
    assert stages() == [stage for stage in ALL if stage in chosen]
    kept = target["total_ms"] - sum(one["saved_ms"] for one in target["candidates"] if one["chosen"])
    assert target["total_ms"] / kept == pytest.approx(target["reached_speedup"], rel=1e-6)
    assert target["total_ms"] == pytest.approx(sum(target["stages_ms"].values()))
    assert schedule().tucker is None
    text = Path("plan.yaml").read_text(encoding="utf-8")
    assert (
        "# Target: speedup=1.5. Together the merges below make the net" in text and "# Measured and not taken:" in text
    )
    assert all(len(line) <= 112 for line in text.splitlines())
    # One net for all passes, two for the parts of conv1 and conv2, and the net as it is; then pairs.
    assert machine.opened % 2 == 0 and machine.opened <= 4 + 2 * 3


@pytest.mark.usefixtures("judged")
def test_part_of_a_merge(plan: Callable[..., Result], machine: Machine) -> None:
    result = plan("--target", "speedup=1.05", "--only", "conv1", "--json")
    assert result.code == 0, result.err
    (step,) = schedule().steps
    assert step.skip_passes == ("remove-lrn",) and result.data["steps"][0]["stages"][0]["passes"] == ["pool-to-stride"]


@pytest.mark.usefixtures("judged")
def test_a_plan_takes_more_where_stages_do_not_add_up(plan: Callable[..., Result], machine: Machine) -> None:
    machine.around = 0.4
    more = plan("--target", "speedup=1.4", "--json").data["target"]
    assert more["reached_speedup"] >= 1.4
    saved = sum(one["saved_ms"] for one in more["candidates"] if one["chosen"])
    assert more["total_ms"] / (more["total_ms"] - saved) > more["reached_speedup"]


@pytest.mark.usefixtures("judged")
def test_a_busy_machine_is_told(plan: Callable[..., Result], machine: Machine) -> None:
    machine.load = 5.0
    notes = plan("--target", "speedup=1.4", "--json").data["notes"]
    assert notes == ["The times may be off: the machine was busy in the minute before: load average 5."]
    assert notes[0] in Path("plan.yaml").read_text(encoding="utf-8").replace("\n# ", " ")


def test_missing_data_shows_before_anything_is_timed(plan: Callable[..., Result], machine: Machine) -> None:
    pytest.importorskip("torch")
    assert "digits/train" in complaint(plan("--target", "speedup=1.4", "--engine", "torch"), 1)
    assert machine.opened == 0 and listing() == ["googlenet28"]


@pytest.mark.usefixtures("judged")
@pytest.mark.parametrize("speedup", [40, 400])
def test_an_impossible_speedup(plan: Callable[..., Result], machine: Machine, speedup: float) -> None:
    said = plan("--target", f"speedup={speedup}")
    assert said.code == 3 and said.out == "" and listing() == ["googlenet28"]
    (line,) = [line for line in said.err.splitlines() if line.startswith("error: ")]
    assert f"--target speedup={speedup} cannot be reached: all merges together make the net " in line
    assert "times as fast (caffe, local)" in line and not Path("plan.yaml").exists()


@pytest.mark.usefixtures("judged")
def test_an_engine_without_layers(plan: Callable[..., Result], machine: Machine) -> None:
    machine.says_layers = False
    result = plan("--target", "speedup=1.5", "--time-with", "mnn", "--json")
    assert result.code == 0, result.err
    jsondocs.check(result.data, "plan")
    target = result.data["target"]
    assert target["stages_ms"] == {} and target["reached_speedup"] >= 1.5
    # conv1 and conv2 can lose LRN, pool or both; each is a net.
    assert len(target["candidates"]) == 3 + 6


@pytest.mark.usefixtures("judged")
def test_ctrl_c_while_timing(plan: Callable[..., Result], machine: Machine) -> None:
    machine.stops = True
    assert plan("--target", "speedup=1.5").code == 130
    assert not Path("plan.yaml").exists()


LOST = {"conv1": 9.0, "conv2": 2.0, "inception_3a": 1.0, "inception_3b": 0.0, "inception_4a": 5.0}
"""Points, just merged and refitted."""


@pytest.fixture
def tested(machine: Machine, judged: None, monkeypatch: pytest.MonkeyPatch) -> None:
    """Accuracies that are known: 90 % as it is, and without what `LOST` says of each merged stage."""

    def test(options: Any, say: object, show: object) -> Scored:
        manifest = options.net.parent / "manifest.json"
        merged = json.loads(manifest.read_text(encoding="utf-8"))["rewrites"] if manifest.exists() else []
        top1 = 0.9 - sum(LOST[stage] for stage in {one["stage"] for one in merged}) / 100
        found = Scored(engine="torch", net=options.net, weights=options.weights, iterations=1, outputs={})
        return replace(found, images=100, top1=top1, top5=1.0)

    monkeypatch.setattr("deeprebirth_caffe.commands.test.test", test)


@pytest.mark.usefixtures("tested")
def test_an_accuracy(plan: Callable[..., Result]) -> None:
    result = plan("--target", "accuracy=0.7", "--recovery", 0.8, "--json")
    assert result.code == 0, result.err
    jsondocs.check(result.data, "plan")
    target = result.data["target"]
    # A fifth of what they lose at first: 0.4 + 0.2 + 0.
    assert stages() == ["conv2", "inception_3a", "inception_3b"]
    assert target["expected_points"] == pytest.approx(0.6) and target["base"] == pytest.approx(90)
    found = schedule()
    assert all(step.budget.total == 0.7 and step.budget.then == "rollback" for step in found.steps)
    assert found.joint.budget.total == 0.7
    assert "0.60 points" in Path("plan.yaml").read_text(encoding="utf-8")


@pytest.mark.usefixtures("tested")
def test_an_impossible_accuracy(plan: Callable[..., Result]) -> None:
    said = plan("--target", "accuracy=0.1", "--only", "conv?")
    assert said.code == 3 and not Path("plan.yaml").exists()
    assert "the cheapest is conv2 (" in said.err and "with 0.40 points" in said.err


@pytest.mark.usefixtures("tested")
def test_a_speedup_within_an_accuracy(plan: Callable[..., Result]) -> None:
    assert plan("--target", "speedup=1.2", "--target", "accuracy=0.5").code == 0
    assert "conv1" not in stages()
    Path("plan.yaml").unlink()
    said = plan("--target", "speedup=3", "--target", "accuracy=0.5")
    assert said.code == 3 and not Path("plan.yaml").exists()
    assert "speedup=3 and accuracy=0.5 cannot be reached: what pays, at 0." in said.err
    assert "--nearest writes the plan that comes nearest" in said.err and "--recovery" in said.err
    # What can be had: faster and dearer from line to line.
    rows = re.findall(r"^  ([\d.]+) times as fast, ([\d.]+) points expected to be lost", said.err, re.MULTILINE)
    assert len(rows) > 1 and rows == sorted(rows, key=lambda row: [float(one) for one in row])
    nearest = plan("--target", "speedup=3", "--target", "accuracy=0.5", "--nearest", "--json")
    assert nearest.code == 3 and "error: --target speedup=3 and accuracy=0.5 cannot be reached" in nearest.err
    jsondocs.check(nearest.data, "plan")
    target = nearest.data["target"]
    assert target["unmet"] in nearest.err and target["expected_points"] <= 0.5 and target["reached_speedup"] < 3
    assert stages() == [one["stage"] for one in target["candidates"] if one["chosen"]]
    text = Path("plan.yaml").read_text(encoding="utf-8").replace("\n# ", " ")
    assert "This does not meet its target, and comes nearest to it." in text


@pytest.mark.usefixtures("tested")
def test_the_nearest_to_what_is_too_fast_or_too_dear(plan: Callable[..., Result]) -> None:
    fast = plan("--target", "speedup=400", "--nearest", "--json")
    assert fast.code == 3 and stages() == ALL and 1 < fast.data["target"]["reached_speedup"] < 400
    Path("plan.yaml").unlink()
    dear = plan("--target", "accuracy=0.1", "--only", "conv?", "--nearest", "--json")
    assert dear.code == 3 and stages() == ["conv2"]


def test_refits_for_real(cli: Cli, net28: SmallNet, machine: Machine) -> None:
    """Real merges, fits and scores; the times alone are made up."""
    pytest.importorskip("lmdb")
    pytest.importorskip("torch")
    random = np.random.default_rng(3)
    Path("googlenet28/digits").mkdir()
    for name in ("train", "test"):
        pictures = [random.integers(0, 256, 28 * 28).astype(np.uint8).tobytes() for _ in range(16)]
        values = [pb.Datum(channels=1, height=28, width=28, data=pixels, label=3) for pixels in pictures]
        write_lmdb(Path("googlenet28/digits") / name, [value.SerializeToString() for value in values])
    common = ("plan", net28.train_val, "-w", net28.weights, "-o", "plan.yaml", "--engine", "torch")
    some = ("--only", "conv1", "--only", "inception_3b", "--samples", 8, "--test-batches", 1)
    result = cli(*common, *some, "--target", "accuracy=100", "--json")
    assert result.code == 0, result.err
    jsondocs.check(result.data, "plan")
    found = {(one["stage"], tuple(one["passes"])): one for one in result.data["target"]["candidates"]}
    assert len(found) == 3 + 1 and all(0 < one["error"] < 10 for one in found.values())
    # The paths of the net's data start beside it, which is not where we are.
    assert result.data["target"]["base"] is not None and stages() == ["conv1", "inception_3b"]
    # A net whose LRN alone goes is closer to what it was than one that loses its pool too.
    assert found["conv1", ("remove-lrn",)]["error"] != found["conv1", ("remove-lrn", "pool-to-stride")]["error"]
