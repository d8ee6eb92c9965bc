"""The training loop around a trainer that only counts: logs, signals, full disks, losses that go wrong."""

from __future__ import annotations

import json
import os
import signal
from pathlib import Path
from typing import Any

import pytest
from training_fakes import FakeTrainer, Notebook

from deeprebirth_caffe.engines.base import DivergedError, EngineError, Snapshot
from deeprebirth_caffe.errors import RebirthError
from deeprebirth_caffe.training.divergence import PATIENCE, DivergenceWatch
from deeprebirth_caffe.training.loop import Training
from deeprebirth_caffe.training.runlog import RunLog
from deeprebirth_caffe.training.schedule import Schedule, Smoothed


def lines(path: Path) -> list[dict[str, Any]]:
    """A log."""
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def test_every_iteration_is_a_line_of_the_log(tmp_path: Path) -> None:
    path = tmp_path / "run.jsonl"
    log = RunLog(path)
    trainer, seen = FakeTrainer(tests=2), Notebook()
    schedule = Schedule(0, 7, test_interval=3, snapshot=4, display=2, average_loss=2)
    course = Training(trainer, schedule, seen, log).run()
    log.close()
    found = lines(path)
    assert [one["iteration"] for one in found] == list(range(7))
    assert [one["iteration"] for one in found if "test" in one] == [0, 3, 6]
    assert found[1] == {
        "iteration": 1,
        "lr": 0.01,
        "loss": 0.5,
        "outputs": {"loss": 0.5},
        "images_per_second": 8.0,
    }
    assert found[3]["test"] == {"accuracy": 0.5, "each": [0.25, 0.75]}
    assert [(one["iteration"], one["net"], one["outputs"]["accuracy"]) for one in found[3]["tests"]] == [
        (3, 0, 0.5),
        (3, 1, 1.5),
    ]
    # Caffe's smoothed loss: the mean of the last two.
    assert seen.shown == [(0, 1.0), (2, (1 / 2 + 1 / 3) / 2), (4, (1 / 4 + 1 / 5) / 2), (6, (1 / 6 + 1 / 7) / 2)]
    assert (course.iteration, course.signal, course.images, course.seconds) == (7, None, 28, 3.5)
    assert [one.model.name for one in course.snapshots] == ["net_iter_4.caffemodel", "net_iter_7.caffemodel"]
    assert seen.ended == 1


def test_the_time_left_and_the_iteration_of_the_last_test() -> None:
    seen = Notebook()
    course = Training(FakeTrainer(), Schedule(0, 7, test_interval=3), seen).run()
    assert seen.left == [None, None, None, 1.5, 1.0, 0.5, 0.0]  # half a second an iteration, whatever came between
    assert course.tests[0].iteration == 6 and course.tests[0].outputs["accuracy"] == 0.5


def test_the_last_test_is_in_the_last_line(tmp_path: Path) -> None:
    path = tmp_path / "run.jsonl"
    log = RunLog(path)
    Training(FakeTrainer(), Schedule(0, 2, test_interval=1), Notebook(), log).run()
    log.close()
    assert [[test["iteration"] for test in one["tests"]] for one in lines(path)] == [[0], [1, 2]]


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_finishes_the_iteration_and_saves(number: signal.Signals) -> None:
    before = signal.getsignal(number)
    trainer, seen = FakeTrainer(), Notebook()
    trainer.before_step = lambda iteration: os.kill(os.getpid(), number) if iteration == 3 else None
    course = Training(trainer, Schedule(0, 10, snapshot=5), seen).run()
    assert (course.iteration, course.signal) == (4, number.name)
    assert trainer.happened("snapshot") == [("snapshot", 4)]
    assert seen.lines[0] == f"stopping: {number.name}"
    assert signal.getsignal(number) is before


def test_a_signal_right_behind_a_snapshot_does_not_save_twice() -> None:
    trainer = FakeTrainer()
    trainer.before_step = lambda iteration: os.kill(os.getpid(), signal.SIGINT) if iteration == 4 else None
    course = Training(trainer, Schedule(0, 10, snapshot=5), Notebook()).run()
    assert course.iteration == 5 and trainer.happened("snapshot") == [("snapshot", 5)]


def test_a_second_signal_stops_at_once() -> None:
    trainer = FakeTrainer()

    def twice(iteration: int) -> None:
        if iteration == 3:
            os.kill(os.getpid(), signal.SIGINT)
            os.kill(os.getpid(), signal.SIGINT)

    trainer.before_step = twice
    seen = Notebook()
    with pytest.raises(KeyboardInterrupt):
        Training(trainer, Schedule(0, 10, snapshot=5), seen).run()
    assert trainer.told[-1] == ("step", 2) and not trainer.happened("snapshot") and seen.ended == 1


def test_a_signal_ends_a_test_too(tmp_path: Path) -> None:
    """Between two batches; what is saved are the iterations before it, and the log has no half of a test."""
    log = RunLog(tmp_path / "run.jsonl")
    trainer = FakeTrainer(tests=2)
    trainer.before_batch = lambda iteration, batch: (
        os.kill(os.getpid(), signal.SIGINT) if (iteration, batch) == (6, 1) else None
    )
    course = Training(trainer, Schedule(0, 10, test_interval=3, snapshot=5), Notebook(), log).run()
    log.close()
    assert (course.iteration, course.signal) == (6, "SIGINT")
    assert trainer.happened("test") == [("test", 0)] * 2 + [("test", 3)] * 2
    assert trainer.happened("snapshot") == [("snapshot", 5), ("snapshot", 6)]
    assert [one["iteration"] for one in lines(tmp_path / "run.jsonl")] == list(range(6))


def test_a_signal_in_the_last_test_ends_a_whole_run(tmp_path: Path) -> None:
    log = RunLog(tmp_path / "run.jsonl")
    trainer, seen = FakeTrainer(), Notebook()
    trainer.before_batch = lambda iteration, batch: (
        os.kill(os.getpid(), signal.SIGTERM) if (iteration, batch) == (4, 0) else None
    )
    course = Training(trainer, Schedule(0, 4, test_interval=2), seen, log).run()
    log.close()
    assert (course.iteration, course.signal, len(course.snapshots)) == (4, None, 1)
    assert seen.lines[-1] == "the last test is left out; rebirth test runs it"
    assert [one["iteration"] for one in lines(tmp_path / "run.jsonl")] == [0, 1, 2, 3]


def test_weights_that_are_no_numbers_end_the_run() -> None:
    trainer = FakeTrainer()
    trainer.before_step = lambda iteration: setattr(trainer, "broken", iteration == 6)
    with pytest.raises(DivergedError, match=r"^iteration 7: the weights of layer ip have diverged$"):
        Training(trainer, Schedule(0, 7, snapshot=2), Notebook()).run()
    assert trainer.happened("snapshot") == [("snapshot", 2), ("snapshot", 4), ("snapshot", 6)]


@pytest.mark.parametrize("loss", [float("nan"), float("inf"), float("-inf")])
def test_a_loss_that_is_no_number_stops_without_a_snapshot(tmp_path: Path, loss: float) -> None:
    log = RunLog(tmp_path / "run.jsonl")
    trainer = FakeTrainer()
    trainer.losses = lambda iteration: loss if iteration == 5 else 1.0
    training = Training(trainer, Schedule(0, 10, snapshot=2), Notebook(), log)
    with pytest.raises(DivergedError, match="iteration 5: the loss is no number any more"):
        training.run()
    log.close()
    assert trainer.happened("snapshot") == [("snapshot", 2), ("snapshot", 4)]
    assert training.course.good == Snapshot(Path("net_iter_4.caffemodel"), Path("net_iter_4.solverstate"))
    assert lines(tmp_path / "run.jsonl")[-1]["loss"] is None


def test_a_loss_that_stays_high_stops_and_names_the_snapshot_from_before() -> None:
    trainer = FakeTrainer()
    trainer.losses = lambda iteration: 2.0 if iteration < 30 else 87.3
    training = Training(trainer, Schedule(0, 1000, snapshot=25), Notebook())
    with pytest.raises(DivergedError, match=f"iteration {29 + PATIENCE}: the loss has been above 20 for {PATIENCE} it"):
        training.run()
    assert training.course.good is not None and training.course.good.state.name == "net_iter_25.solverstate"


def test_spikes_and_small_losses_are_no_divergence() -> None:
    watch = DivergenceWatch()
    assert not any(watch.look(1000.0 if iteration % PATIENCE == 30 else 1.0) for iteration in range(400))
    watch = DivergenceWatch()
    # A fine-tuned net starts near 0, and a loss of 2 is that of chance.
    assert not any(watch.look(0.001 if iteration < 20 else 2.0) for iteration in range(400))


def test_a_full_disk_is_a_warning_until_there_is_room() -> None:
    trainer, seen = FakeTrainer(), Notebook()
    trainer.full = frozenset({2, 4})
    course = Training(trainer, Schedule(0, 7, snapshot=2), seen).run()
    assert [one.state.name for one in course.snapshots] == ["net_iter_6.solverstate", "net_iter_7.solverstate"]
    assert [line for line in seen.lines if "No space" in line] == [
        f"no snapshot at iteration {number}: net_iter.caffemodel: cannot write it: No space left on device"
        for number in (2, 4)
    ]


@pytest.mark.parametrize("schedule", [Schedule(0, 6, snapshot=3), Schedule(0, 6), Schedule(0, 7, snapshot=3)])
def test_a_full_disk_at_the_end_fails(schedule: Schedule) -> None:
    trainer = FakeTrainer()
    trainer.full = frozenset({6, 7})
    with pytest.raises(RebirthError, match=f"iteration {schedule.max_iter} is not saved: .*No space left"):
        Training(trainer, schedule, Notebook()).run()


def test_the_last_snapshot_is_tried_again() -> None:
    trainer = FakeTrainer()
    attempts = []

    def snapshot() -> Snapshot:
        attempts.append(trainer.iteration)
        if len(attempts) == 1:
            raise RebirthError("no room")
        return Snapshot(Path("a"), Path("b"))

    trainer.snapshot = snapshot  # type: ignore[method-assign]
    course = Training(trainer, Schedule(0, 4, snapshot=4), Notebook()).run()
    assert attempts == [4, 4] and len(course.snapshots) == 1


def test_an_engine_that_dies_ends_the_run() -> None:
    trainer, seen = FakeTrainer(), Notebook()

    def die(iteration: int) -> None:
        if iteration == 3:
            raise EngineError("gone", fatal=True)

    trainer.before_step = die
    training = Training(trainer, Schedule(0, 10, snapshot=2), seen)
    with pytest.raises(EngineError, match="gone"):
        training.run()
    assert training.course.iteration == 3 and seen.ended == 1


def test_the_smoothed_loss_is_the_mean_of_the_last() -> None:
    smoothed = Smoothed(3)
    assert [smoothed.add(loss) for loss in (3.0, 1.0, 2.0, 6.0)] == [3.0, 2.0, 2.0, 3.0]


# ------------------------------------------------------------ the log


def write(path: Path, *iterations: int, torn: str = "") -> None:
    """A log of some iterations."""
    text = "".join(f'{{"iteration": {number}, "loss": 1.0}}\n' for number in iterations)
    path.write_text(text + torn, encoding="utf-8")


def test_a_log_that_goes_on_loses_what_comes_again(tmp_path: Path) -> None:
    path = tmp_path / "run.jsonl"
    write(path, *range(8), torn='{"iteration": 8, "lo')
    log = RunLog(path, start=5)
    log.write({"iteration": 5, "loss": 2.0})
    log.close()
    assert [(one["iteration"], one["loss"]) for one in lines(path)] == [*((n, 1.0) for n in range(5)), (5, 2.0)]


@pytest.mark.parametrize("torn", ['{"iter', '{"iteration": 3}', "{"])
def test_a_torn_line_goes(tmp_path: Path, torn: str) -> None:
    path = tmp_path / "run.jsonl"
    write(path, 0, 1, 2, torn=torn)
    log = RunLog(path, start=3)
    log.write({"iteration": 3})
    log.close()
    assert [one["iteration"] for one in lines(path)] == [0, 1, 2, 3]


def test_a_torn_line_alone_is_no_older_run(tmp_path: Path) -> None:
    path = tmp_path / "run.jsonl"
    write(path, torn='{"itera')
    RunLog(path).close()
    assert path.read_bytes() == b""


def test_an_older_log_is_not_lost(tmp_path: Path) -> None:
    path = tmp_path / "run.jsonl"
    write(path, 0, 1)
    before = path.read_bytes()
    with pytest.raises(RebirthError, match="an older run's log; choose another file, --resume"):
        RunLog(path)
    assert path.read_bytes() == before
    RunLog(path, force=True).close()
    assert path.read_bytes() == b""


@pytest.mark.parametrize("text", ['net: "a"\nbase_lr: 1\n', "[1]\n", '{"a": 1}\n', "solver", '{"iteration": "x"}\n'])
def test_another_file_is_not_touched(tmp_path: Path, text: str) -> None:
    path = tmp_path / "solver.prototxt"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(RebirthError, match="choose another file"):
        RunLog(path, start=3)
    assert path.read_text(encoding="utf-8") == text


def test_a_log_in_no_directory(tmp_path: Path) -> None:
    with pytest.raises(RebirthError, match="cannot write it: No such file"):
        RunLog(tmp_path / "no" / "run.jsonl")


def test_a_full_disk_keeps_lines_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "run.jsonl"
    log = RunLog(path)
    real, room = os.write, [100]

    def short(file: int, data: bytes) -> int:
        done = real(file, data[: room[0]])
        room[0] -= done
        if not done:
            raise OSError(28, "No space left on device")
        return done

    monkeypatch.setattr(os, "write", short)
    said = [log.write({"iteration": number, "loss": 1.0, "note": "x" * 20}) for number in range(4)]
    assert said[0] == "" and all("lines wait" in text for text in said[1:])
    assert [one["iteration"] for one in lines(path)] == [0]
    monkeypatch.setattr(os, "write", real)
    assert log.flush() == ""
    log.close()
    assert [one["iteration"] for one in lines(path)] == [0, 1, 2, 3]
