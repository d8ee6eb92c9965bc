"""`rebirth run` and `rebirth status`: a whole run, stopped and changed in every way, on GoogLeNet for digits."""

from __future__ import annotations

import hashlib
import json
import os
import random
import signal
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jsondocs
import numpy as np
import pytest
from cli_tools import Cli, Result, SmallNet, complaint, listing
from tiny import write_lmdb

from deeprebirth_caffe.errors import RebirthError
from deeprebirth_caffe.formats.files import atomic_write
from deeprebirth_caffe.ir import Net
from deeprebirth_caffe.proto import caffe_pb2 as pb
from deeprebirth_caffe.runs.schedule.lock import holder, is_locked, locked
from deeprebirth_caffe.training.loop import Training

for library in ("torch", "lmdb", "pydantic", "yaml"):
    pytest.importorskip(library)

SCHEDULE = """
net: googlenet28/train_val.prototxt
weights: googlenet28/random.caffemodel
solver: googlenet28/solver.prototxt
engine: {name: torch, threads: 1}
defaults:
  finetune: {iterations: 9, batch: 4, snapshot: 2}
steps:
  - stages: conv1
    finetune: {tests: 2}
  - stages: [inception_3a]
joint: {finetune: {iterations: 3}}
"""
ONE = SCHEDULE[: SCHEDULE.index("  - stages: [inc")]
TIMED = ("seconds", "images_per_second")


@pytest.fixture(autouse=True)
def _data(_folder: None, net28: SmallNet) -> None:
    """Two classes of noise, and a schedule; data start in the net's folder."""
    noise = np.random.default_rng(1)
    for name, count in (("train", 24), ("test", 20)):
        folder = Path("googlenet28/digits") / name
        folder.parent.mkdir(exist_ok=True)
        records = []
        for index in range(count):
            label = index % 2
            pixels = noise.integers(90 * label, 90 * label + 160, (28, 28)).astype(np.uint8)
            datum = pb.Datum(channels=1, height=28, width=28, data=pixels.tobytes(), label=label)
            records.append(datum.SerializeToString())
        write_lmdb(folder, records)
    write(SCHEDULE)


def write(text: str) -> None:
    """Changes the schedule."""
    atomic_write("s.yaml", text)


def result(step: str, out: str = "s-run") -> dict[str, Any]:
    """What a step says of itself."""
    found: dict[str, Any] = json.loads((Path(out) / step / "result.json").read_text(encoding="utf-8"))
    jsondocs.check(found, "run: result.json")
    return found


def made(out: str = "s-run") -> dict[str, str]:
    """All files of a run, but for what holds times."""
    found = {}
    for path in sorted(Path(out).rglob("*")):
        data = path.read_bytes() if path.is_file() else b""
        if path.name in ("run.json", "lock", "step.json"):
            continue
        if path.name == "result.json":
            data = json.dumps(_untimed(json.loads(data))).encode()
        elif path.name == "log.jsonl":
            data = json.dumps([_untimed(json.loads(line)) for line in data.splitlines()]).encode()
        found[str(path)] = hashlib.sha256(data).hexdigest()
    return found


def _untimed(data: Any) -> Any:
    if isinstance(data, Mapping):
        return {key: _untimed(value) for key, value in data.items() if key not in TIMED}
    return [_untimed(one) for one in data] if isinstance(data, list) else data


def run(cli: Cli, *more: object, code: int = 0) -> Result:
    """Runs the schedule."""
    found = cli("run", "s.yaml", "--json", *more)
    assert found.code == code, found
    if code == 0:
        jsondocs.check(found.data, "run")
    return found


def test_a_whole_run(cli: Cli) -> None:
    found = run(cli).data
    assert (found["status"], found["steps"]) == ("done", ["base", "conv1", "inception_3a", "joint", "deploy"])
    assert listing("s-run") == [
        *("00-base", "01-conv1", "02-inception_3a", "03-joint", "04-deploy", "lock", "run.json", "schedule.yaml")
    ]
    base, first, second, joint, deployed = map(result, listing("s-run")[:5])
    assert base["test"]["images"] == 20 and base["net"].endswith("googlenet28/train_val.prototxt")
    assert Path("s-run/00-base/train_val.prototxt").read_bytes() == Path(base["net"]).read_bytes()
    assert first["net"] == "01-conv1/convert/train_val.prototxt" and first["iterations"] == 9
    assert first["drop"]["top1"] == pytest.approx(100 * (base["test"]["top1"] - first["test"]["top1"]))
    assert np.load("s-run/01-conv1/test.npy").mean(0).tolist() == [first["test"]["top1"], first["test"]["top5"]]
    log = [json.loads(line) for line in Path("s-run/01-conv1", first["losses"]).read_text().splitlines()]
    assert [line["iteration"] for line in log] == list(range(9)) and sum("test" in line for line in log) == 2
    assert listing("s-run/01-conv1/train") == ["final.caffemodel", "log.jsonl", "solver.prototxt"]
    # Rebirth layers learn ten times as fast while their step lasts.
    rates = {name: _rates(f"s-run/{one['net']}") for name, one in (("1", first), ("2", second), ("joint", joint))}
    assert rates["1"]["conv1/5x5_merge"] == [10, 20]
    assert (rates["2"]["conv1/5x5_merge"], rates["2"]["inception_3a/3x3_merge"]) == ([1, 2], [10, 20])
    assert rates["joint"]["inception_3a/3x3_merge"] == [1, 2]
    assert (deployed["net"], listing("s-run/04-deploy/base")[:1]) == (
        "04-deploy/deploy.prototxt",
        ["deploy.caffemodel"],
    )
    assert not is_locked(Path("s-run"))
    shown = cli("status", "s-run", "--json").data
    jsondocs.check(shown, "status")
    assert (shown["done"], shown["running"]) == (5, False)
    assert "5 of 5 steps done, not running" in cli("status", "s-run").out


def _rates(net: str) -> dict[str, list[float]]:
    return {layer.name: [one.lr_mult for one in layer.param.param] for layer in Net.read(net).layers}


def start(*more: str) -> subprocess.Popen[bytes]:
    """Runs the schedule in a process of its own."""
    command = [sys.executable, "-m", "deeprebirth_caffe.cli", "run", "s.yaml", *more]
    return subprocess.Popen(
        command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, env={**os.environ, "OMP_NUM_THREADS": "1"}
    )


def test_stopped_anywhere_it_ends_in_the_same_files(process: Cli) -> None:
    """Each moment is a line that it prints, and a random one after it; so all parts are hit on any machine."""
    write(ONE)
    process("run", "s.yaml")
    whole = made()
    Path("s-run").rename("whole-run")
    chance = random.Random(5)
    codes = []
    for number, marker in enumerate(("step 1 of", "step 2 of", "training:", "training:", "iteration 4, test")):
        sent = (signal.SIGKILL, signal.SIGINT, signal.SIGTERM)[number % 3]
        codes.append(_stop(marker, chance.uniform(0, 0.25), sent))
    assert any(code != 0 for code in codes) and set(codes) <= {0, -9, 130, 143}
    ended = process("run", "s.yaml")
    assert ended.code == 0, ended.err
    assert made() == whole


def _stop(marker: str, after: float, sent: signal.Signals) -> int:
    """Starts the run, and sends it a signal some time after it printed a line."""
    with start() as child:
        assert child.stderr is not None
        for line in child.stderr:
            if line.startswith(marker.encode()):
                break
        try:
            child.wait(after)
        except subprocess.TimeoutExpired:
            child.send_signal(sent)
        child.stderr.read()
        return child.wait()


@pytest.mark.parametrize(("sent", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_behind_the_last_iteration_ends_the_run_too(
    cli: Cli, monkeypatch: pytest.MonkeyPatch, sent: signal.Signals, code: int
) -> None:
    write(ONE)
    save = Training._save

    def saved(self: Training) -> None:
        save(self)
        if self.course.iteration == 9:
            os.kill(os.getpid(), sent)

    with monkeypatch.context() as patched:
        patched.setattr(Training, "_save", saved)
        found = cli("run", "s.yaml", "--json")
    assert (found.code, found.data["status"], found.data["stopped"]) == (code, "stopped", sent.name), found
    assert listing("s-run/01-conv1/train") == ["final.caffemodel", "log.jsonl", "solver.prototxt"]
    assert cli("status", "s-run", "--json").data["done"] == 1
    # Killed before it said that the training is done, it does not train again.
    step = Path("s-run/01-conv1/step.json")
    data = json.loads(step.read_text())
    data["parts"]["train"]["done"] = False
    atomic_write(step, json.dumps(data))
    with monkeypatch.context() as patched:
        patched.setattr("deeprebirth_caffe.runs.schedule.learning.finetune", None)
        run(cli)
    assert result("01-conv1")["iterations"] == 9


def test_it_says_how_to_go_on(process: Cli) -> None:
    write(ONE.replace("iterations: 9", "iterations: 100000"))
    with start() as child:
        assert child.stderr is not None
        for line in child.stderr:
            if line.startswith(b"iteration 0:"):
                break
        taken = process("run", "s.yaml")
        assert "another run works here" in complaint(taken, 1)
        shown = process("status", "s-run", "--json").data
        assert shown["running"] and shown["steps"][1]["status"] == "running"
        assert shown["steps"][1]["part"]["iterations"] == 100_000
        child.send_signal(signal.SIGINT)
        said = child.stderr.read().decode()
        assert child.wait() == 130
    assert "stopped by SIGINT in 01-conv1; the same command goes on: rebirth run s.yaml" in said
    assert "rebirth finetune" not in said
    assert process("status", "s-run", "--json").data["steps"][1]["status"] == "stopped"


def test_a_change_does_again_what_depends_on_it(cli: Cli) -> None:
    run(cli)
    before = made()
    run(cli)
    write(SCHEDULE.replace("snapshot: 2", "snapshot: 5"))
    run(cli)
    changed = {path for path, one in made().items() if before.get(path) != one}
    # The file itself, and nothing that was trained.
    assert changed == {"s-run/schedule.yaml"}
    stamps = {path: path.stat().st_mtime_ns for path in Path("s-run").rglob("*.caffemodel")}
    write(SCHEDULE.replace("stages: [inception_3a]", "stages: [inception_3a]\n    finetune: {base_lr: 0.002}"))
    run(cli)
    again = {str(path.parent) for path, stamp in stamps.items() if path.exists() and path.stat().st_mtime_ns != stamp}
    assert not any(
        "00-" in path or "01-" in path or path.endswith(("02-inception_3a/convert", "base")) for path in again
    )
    assert {"s-run/02-inception_3a/train", "s-run/03-joint/train", "s-run/04-deploy"} <= again


def test_results_of_another_schedule_are_not_shown(cli: Cli) -> None:
    def shown() -> list[str]:
        return [one["status"] for one in cli("status", "s-run", "--json").data["steps"]]

    write(SCHEDULE.replace("iterations: 9", "iterations: 2"))
    run(cli)
    whole = made()
    assert len(run(cli, "--until", "base").data["results"]) == 5 and shown() == ["done"] * 5
    changed = "stages: [inception_3a]\n    finetune: {base_lr: 0.002}"
    write(Path("s.yaml").read_text().replace("stages: [inception_3a]", changed))
    assert [one["step"] for one in run(cli, "--until", "base").data["results"]] == ["00-base", "01-conv1"]
    assert shown() == ["done", "done", "waiting", "waiting", "waiting"]
    # What the steps made is still there, and counts again.
    stamp = Path("s-run/02-inception_3a/train/final.caffemodel").stat().st_mtime_ns
    write(SCHEDULE.replace("iterations: 9", "iterations: 2"))
    run(cli)
    assert made() == whole and Path("s-run/02-inception_3a/train/final.caffemodel").stat().st_mtime_ns == stamp


def test_from_and_until(cli: Cli) -> None:
    found = run(cli, "--until", "conv1").data
    assert (found["status"], [one["step"] for one in found["results"]]) == ("partial", ["00-base", "01-conv1"])
    assert "step inception_3a in front of it is not done" in complaint(cli("run", "s.yaml", "--from", "joint"), 1)
    run(cli)
    whole = made()
    stamp = Path("s-run/01-conv1/result.caffemodel").stat().st_mtime_ns
    joint = Path("s-run/03-joint/train/final.caffemodel").stat().st_ino
    assert run(cli, "--from", "inception_3a").data["status"] == "done"
    assert made() == whole and Path("s-run/01-conv1/result.caffemodel").stat().st_mtime_ns == stamp
    assert Path("s-run/03-joint/train/final.caffemodel").stat().st_ino != joint
    assert "comes before" in complaint(cli("run", "s.yaml", "--from", "joint", "--until", "conv1"), 2)


def test_a_refit_is_told_while_it_works(cli: Cli) -> None:
    write(ONE.replace("defaults:\n", "defaults:\n  init: refit\n  calibrate: {samples: 8}\n").replace("conv1", "conv2"))
    found = cli("run", "s.yaml", "--until", "conv2")
    assert found.code == 0 and "refit: conv2/3x3_merge: relative error" in found.err


@pytest.mark.parametrize(("then", "code"), [("stop", 3), ("rollback", 0), ("continue", 0)])
def test_the_budget(cli: Cli, then: str, code: int) -> None:
    # Noise instead of weights, and no rate to speak of: what is lost at first stays lost.
    budget = f"{{metric: loss3/top-1, total: 0, step: 0, retries: 1, factor: 3, then: {then}}}"
    step = f"    init: xavier\n    finetune: {{iterations: 2, base_lr: 1e-9}}\n    budget: {budget}\n"
    write(_trained(cli) + "steps:\n  - stages: conv1\n" + step + "deploy: null\n")
    found = cli("run", "s.yaml", "--json")
    assert found.code == code, found
    first = result("01-conv1")
    assert [one["iterations"] for one in first["attempts"]] == [2, 6]
    assert all("points under that of the" in one["over_budget"] for one in first["attempts"])
    assert first["status"] == {"stop": "over budget", "rollback": "rolled back", "continue": "done"}[then]
    if then == "stop":
        assert "give it more iterations or a larger budget" in complaint_of(found)
        write(Path("s.yaml").read_text().replace("total: 0, step: 0", "total: 100"))
        stamp = Path("s-run/01-conv1/train/final.caffemodel").stat().st_mtime_ns
        assert cli("run", "s.yaml").code == 0
        # Another budget retrains nothing.
        assert Path("s-run/01-conv1/train/final.caffemodel").stat().st_mtime_ns == stamp
        assert [one["iterations"] for one in result("01-conv1")["attempts"]] == [2]


def _trained(cli: Cli) -> str:
    """The head of a schedule whose metric falls when conv1 is noise: the weights are learned a little first."""
    write(SCHEDULE[: SCHEDULE.index("defaults:")] + "joint: {finetune: {iterations: 60, batch: 8, base_lr: 0.01}}\n")
    assert cli("run", "s.yaml", "-o", "learned").code == 0
    head = SCHEDULE[: SCHEDULE.index("defaults:")]
    best = result("01-joint", "learned")
    assert best["test"]["top1"] == 1.0, best["test"]
    return head.replace("googlenet28/random.caffemodel", "learned/01-joint/result.caffemodel")


def test_a_step_that_is_rolled_back_is_not_in_the_next_one(cli: Cli) -> None:
    head = _trained(cli)
    lossy = "    init: xavier\n    finetune: {iterations: 1, base_lr: 1e-9}\n    budget: {step: 0, then: rollback}\n"
    write(f"{head}steps:\n  - stages: conv1\n{lossy}  - stages: conv2\n  - {{stages: inception_3a, skip: true}}\n")
    run(cli)
    names = [layer.name for layer in Net.read("s-run/02-conv2/convert/train_val.prototxt").layers]
    assert result("01-conv1")["status"] == "rolled back"
    assert "conv1/5x5" in names and "conv2/3x3_merge" in names
    assert result("03-inception_3a")["status"] == "skipped"
    assert result("04-deploy")["test"] == result("02-conv2")["test"]


def test_a_training_that_diverges_is_told(cli: Cli) -> None:
    write(ONE.replace("snapshot: 2", "base_lr: 1e9"))
    said = complaint_of(run(cli, code=3))
    assert "01-conv1: it diverged: iteration" in said and "s.yaml" in said
    write(ONE.replace("snapshot: 2", "base_lr: 1e-5"))
    run(cli)


def complaint_of(found: Result) -> str:
    """The last line: what came before tells how far it was."""
    return found.err.splitlines()[-1]


@pytest.mark.parametrize(
    ("old", "new", "words", "code"),
    [
        ("stages: conv1", "stages: convv1", 'step convv1: --only: this net has no stage "convv1"', 2),
        ("stages: conv1", "stages: loss3", "step loss3: there is nothing to merge in loss3", 1),
        ("snapshot: 2", "snapshoot: 2", "defaults.finetune.snapshoot: there is no such key; did you mean snapshot?", 1),
        ("random.caffemodel", "none.caffemodel", "weights: there is no file", 1),
        ("train_val.prototxt", "deploy.prototxt", "has no loss and no data to train with", 1),
        ("engine: {name: torch,", "test: {metric: top9}\nengine: {name: torch,", "the net has no metric top9", 1),
        ("snapshot: 2", "snapshot: 2, teacher: {net: a, weights: b}", "the teacher's", 1),
        ("snapshot: 2", "snapshot: 2, type: Adagrad", 'step conv1: unknown solver type "Adagrad"', 1),
        ("name: torch, threads: 1", "name: caffe", None, 1),
        ("joint:", "time: {on: 'ssh:a b'}\njoint:", "time.on: a schedule does not choose what is connected to", 2),
        ("threads: 1}", "threads: 1, caffe: ./prog}", "look at it, then add --caffe ./prog", 2),
        ("snapshot: 2", "snapshot: 2}\n  budget: {step: 0, retries: 20, factor: 9", "its last retry: that is ", 1),
        ("googlenet28/random.caffemodel", "googlenet28", "weights: there is a folder, and no file", 1),
    ],
)
def test_what_is_wrong_is_found_before_anything_runs(
    cli: Cli, old: str, new: str, words: str | None, code: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert old in SCHEDULE
    write(SCHEDULE.replace(old, new, 1))
    if words is None:
        write(SCHEDULE.replace(old, new, 1).replace("snapshot: 2", "teacher: true"))
        monkeypatch.setattr("deeprebirth_caffe.runs.schedule.checks.choose", lambda options, views: None)
        words = "step conv1: a teacher needs the embedded engine"
    assert words in complaint(cli("run", "s.yaml"), code)
    assert not Path("s-run").exists()


@pytest.mark.parametrize("more", [(), ("--dry-run",), ("--caffe", "nowhere")])
def test_a_schedule_starts_no_program(cli: Cli, more: tuple[str, ...]) -> None:
    """Neither in a dry run nor where the command line names another one; with the user's word it is started."""
    Path("python3").write_text('#!/bin/sh\ntouch "$0.ran"\nexit 1\n', encoding="utf-8")
    Path("python3").chmod(0o755)
    write(SCHEDULE.replace("threads: 1}", "threads: 1, caffe: python3}\ndeploy: {check: true}", 1))
    said = complaint(cli("run", "s.yaml", *more), 1 if "nowhere" in more else 2)
    assert ("nowhere does not exist" if "nowhere" in more else "then add --caffe python3") in said
    assert not Path("python3.ran").exists() and not Path("s-run").exists()
    assert "python3 has no pycaffe" in complaint(cli("run", "s.yaml", "--caffe", "./python3"), 1)
    assert Path("python3.ran").exists()


def test_the_command_line_names_where_it_times(cli: Cli) -> None:
    write(SCHEDULE.replace("joint:", "time: {engines: torch, on: adb}\njoint:", 1))
    assert "look at it, then add --on adb" in complaint(cli("run", "s.yaml", "--dry-run"), 2)
    assert "--on moon: there is no such place" in complaint(cli("run", "s.yaml", "--on", "moon"), 2)
    assert cli("run", "s.yaml", "--on", "local", "--dry-run").code == 0
    write(SCHEDULE)
    assert "s.yaml times none" in complaint(cli("run", "s.yaml", "--on", "local"), 2)


def test_a_missing_database(cli: Cli) -> None:
    Path("googlenet28/digits/test").rename("elsewhere")
    assert 'layer "data" (Data): digits/test: not found' in complaint(cli("run", "s.yaml"), 1)
    assert not Path("s-run").exists()


def test_dry_run_and_other_files(cli: Cli) -> None:
    write(SCHEDULE.replace("googlenet28/", "nowhere/"))
    given = ("--net", "googlenet28/train_val.prototxt", "-w", "googlenet28/random.caffemodel")
    found = cli("run", "s.yaml", *given, "--solver", "googlenet28/solver.prototxt", "--dry-run")
    assert found.out == "nothing is wrong with it: base, conv1, inception_3a, joint, deploy\n", found
    assert not Path("s-run").exists()


def test_folders_that_are_something_else(cli: Cli) -> None:
    Path("s-run").mkdir()
    Path("s-run/mine").touch()
    assert "this directory is not empty" in complaint(cli("run", "s.yaml"), 1)
    assert "there is no run here" in complaint(cli("status", "s-run"), 1)
    Path("s-run/run.json").write_text('{"steps": [{}]}', encoding="utf-8")
    assert "run.json: cannot be read (it lacks steps[0].folder); remove it" in complaint(cli("status", "s-run"), 1)
    Path("s-run/run.json").unlink()
    assert cli("run", "s.yaml", "--force", "--until", "base").code == 0


def test_a_run_writes_into_its_own_files_alone(tmp_path: Path) -> None:
    """A folder of somebody else's may hold links; the folder itself may be one."""
    precious = tmp_path / "precious"
    precious.write_text("mine")
    folder = tmp_path / "run"
    (folder / "01-conv1").mkdir(parents=True)
    for link in (folder / "lock", folder / "run.json", folder / "01-conv1" / "result.json", folder / "02-x"):
        link.symlink_to(precious if "." in link.name or link.name == "lock" else tmp_path)
        said = f"{link}: this is a link, and a run writes into its own files alone"
        with pytest.raises(RebirthError, match=said), locked(folder):
            pass
        assert not is_locked(folder)
        link.unlink()
    os.mkfifo(folder / "lock")
    with pytest.raises(RebirthError, match="lock: this is no file, and"), locked(folder):
        pass
    assert holder(folder) == "it does not say which"
    (folder / "lock").unlink()
    (tmp_path / "link").symlink_to(folder)
    with locked(tmp_path / "link"):
        assert is_locked(folder)
    assert precious.read_text() == "mine"


def test_the_lock_goes_with_its_holder(tmp_path: Path) -> None:
    with locked(tmp_path):
        assert is_locked(tmp_path)
    assert not is_locked(tmp_path)
