"""Training through the worker against `caffe train`: the same losses, scores and files; and what goes wrong."""

from __future__ import annotations

import os
import random
import re
import resource
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from deeprebirth_caffe.engines import EngineError
from deeprebirth_caffe.engines.caffe import saving
from deeprebirth_caffe.engines.caffe.engine import CaffeEngine
from deeprebirth_caffe.engines.caffe.locate import CaffeInstall
from deeprebirth_caffe.engines.caffe.moving import Move, moves
from deeprebirth_caffe.engines.plan import read_plan
from deeprebirth_caffe.errors import RebirthError
from deeprebirth_caffe.formats.caffemodel import read_caffemodel
from deeprebirth_caffe.formats.hdf5 import read_hdf5_model
from deeprebirth_caffe.formats.solverstate import read_solverstate
from deeprebirth_caffe.proto import caffe_pb2 as pb

pytestmark = pytest.mark.caffe

RECORDS = 22
BODY = """
layer { name: "conv" type: "Convolution" bottom: "data" top: "conv" param { lr_mult: 1 } param { lr_mult: 2 }
  convolution_param { num_output: 3 kernel_size: 3 weight_filler { type: "xavier" } } }
layer { name: "norm" type: "BatchNorm" bottom: "conv" top: "conv" }
layer { name: "relu" type: "ReLU" bottom: "conv" top: "conv" }
layer { name: "ip" type: "InnerProduct" bottom: "conv" top: "ip"
  inner_product_param { num_output: 4 weight_filler { type: "gaussian" std: 0.1 } } }
layer { name: "accuracy" type: "Accuracy" bottom: "ip" bottom: "label" top: "accuracy" include { phase: TEST } }
layer { name: "scores" type: "Softmax" bottom: "ip" top: "scores" include { phase: TEST } }
layer { name: "loss" type: "SoftmaxWithLoss" bottom: "ip" bottom: "label" top: "loss" loss_weight: 0.5 }
"""


def records(seed: int) -> tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]:
    """Images and labels that have something to do with each other."""
    draw = np.random.default_rng(seed)
    labels = draw.integers(0, 4, RECORDS)
    images = draw.integers(0, 60, (RECORDS, 1, 6, 6)) + 40 * labels[:, None, None, None]
    return images.astype(np.uint8), labels


def make_lmdb(place: Path, seed: int) -> None:
    import lmdb

    images, labels = records(seed)
    with lmdb.open(str(place), map_size=1 << 20) as database, database.begin(write=True) as transaction:
        for n, (image, label) in enumerate(zip(images, labels, strict=True)):
            datum = pb.Datum(channels=1, height=6, width=6, data=image.tobytes(), label=int(label))
            transaction.put(b"%08d" % n, datum.SerializeToString())


def make_hdf5(place: Path, seed: int) -> None:
    import h5py

    images, labels = records(seed)
    names = []
    for part in range(2):
        half = slice(part * 10, 10 if part == 0 else RECORDS)
        names.append(f"{place.name}_{part}.h5")
        with h5py.File(place.with_name(names[-1]), "w") as file:
            file["data"] = images[half].astype(np.float32) / 100
            file["label"] = labels[half].astype(np.float32)
    place.write_text("".join(f"{name}\n" for name in names))


def make_images(place: Path, seed: int) -> None:
    import cv2

    images, labels = records(seed)
    lines = []
    for n, (image, label) in enumerate(zip(images, labels, strict=True)):
        name = f"{place.name}_{n}.png"
        assert cv2.imwrite(str(place.with_name(name)), image[0])
        lines.append(f"{name} {label}\n")
    place.write_text("".join(lines))


def data_layer(kind: str, phase: str, batch: int, transform: str = "", more: str = "") -> str:
    tops = f'name: "data" top: "data" top: "label" include {{ phase: {phase} }}'
    at = f"{phase.lower()}_{kind}"
    scale = f"transform_param {{ scale: 0.01 {transform} }}"
    if kind == "lmdb":
        return (
            f'layer {{ {tops} type: "Data" {scale}'
            f' data_param {{ source: "{at}" backend: LMDB batch_size: {batch} }} }}\n'
        )
    if kind == "hdf5":
        return f'layer {{ {tops} type: "HDF5Data" hdf5_data_param {{ source: "{at}" batch_size: {batch} {more} }} }}\n'
    if kind == "images":
        what = f'source: "{at}" batch_size: {batch} is_color: false {more}'
        return f'layer {{ {tops} type: "ImageData" {scale} image_data_param {{ {what} }} }}\n'
    return (
        f'layer {{ {tops} type: "DummyData" dummy_data_param {{'
        f" shape {{ dim: {batch} dim: 1 dim: 6 dim: 6 }} shape {{ dim: {batch} }}"
        ' data_filler { type: "constant" value: 0.5 } data_filler { type: "constant" value: 1 } } }\n'
    )


MAKERS: dict[str, Callable[[Path, int], None]] = {"lmdb": make_lmdb, "hdf5": make_hdf5, "images": make_images}
KINDS = [*MAKERS, "dummy"]

SOLVER = """
net: "net.prototxt" base_lr: 0.05 lr_policy: "multistep" stepvalue: 2 stepvalue: 4 gamma: 0.5 weight_decay: 0.001
max_iter: 7 random_seed: 5 display: 1 snapshot: 3 snapshot_prefix: "saved/run" test_iter: 3 test_interval: 2
"""


def project(root: Path, kind: str, solver: str = "", **layer: str) -> Path:
    """A solver, its net and its data; the paths in them start in `root`."""
    (root / "saved").mkdir(parents=True)
    if kind in MAKERS:
        for seed, phase in enumerate(("train", "test")):
            MAKERS[kind](root / f"{phase}_{kind}", seed)
    layers = data_layer(kind, "TRAIN", 4, **layer) + data_layer(kind, "TEST", 3)
    (root / "net.prototxt").write_text('name: "tiny"\n' + layers + BODY)
    path = root / "solver.prototxt"
    path.write_text(SOLVER + solver)
    return path


def run_caffe(install: CaffeInstall, root: Path, *arguments: str) -> str:
    """Gives the log of the real program."""
    done = subprocess.run(
        [str(install.need_binary()), *arguments],
        cwd=root,
        env={**os.environ, "OPENBLAS_NUM_THREADS": "1", "GLOG_logtostderr": "1"},
        capture_output=True,
        timeout=120,
        check=False,
    )
    log = done.stderr.decode()
    assert done.returncode == 0, log[-2000:]
    return log


def rates(log: str) -> dict[int, float]:
    return {int(n): float(x) for n, x in re.findall(r"Iteration (\d+), lr = (\S+)", log)}


def losses(log: str) -> dict[int, float]:
    return {int(n): float(x) for n, x in re.findall(r"Iteration (\d+) \(.*\), loss = (\S+)", log)}


def scores(log: str) -> list[dict[str, list[float]]]:
    """One for each test, in the order of the log."""
    found: list[dict[str, list[float]]] = []
    for line in log.splitlines():
        if "Testing net (#" in line:
            found.append({})
        match = re.search(r"Test net output #\d+: (\S+) = (\S+)", line)
        if match:
            found[-1].setdefault(match.group(1), []).append(float(match.group(2)))
    return found


def listed(score: Any) -> list[float]:
    return list(score) if isinstance(score, tuple) else [score]


@pytest.fixture
def caffe_engine(caffe_install: CaffeInstall) -> CaffeEngine:
    return CaffeEngine(caffe_install, threads=1, timeout=60)


def train(engine: CaffeEngine, solver: Path, until: int, resume: Path | None = None) -> dict[str, Any]:
    """Trains by Caffe's own timetable: tests every two iterations, saves every three and at the end."""
    done: dict[str, Any] = {"steps": [], "tests": [], "snapshots": [], "notes": []}
    with engine.trainer(solver, resume=resume, root=solver.parent) as trainer:
        done["notes"] = list(trainer.notes)
        while trainer.iteration < until:
            if trainer.iteration % 2 == 0 and trainer.tests:
                done["tests"].append(trainer.test(0))
            done["steps"].append(trainer.step())
            if trainer.iteration % 3 == 0 or trainer.iteration == until:
                done["snapshots"].append(trainer.snapshot())
    return done


@pytest.mark.parametrize(
    ("kind", "solver"),
    [
        ("lmdb", 'type: "SGD" momentum: 0.9'),
        ("lmdb", 'type: "Adam" momentum: 0.9 iter_size: 3'),
        ("hdf5", 'type: "Nesterov" momentum: 0.9 iter_size: 2 clip_gradients: 0.3'),
        ("images", 'type: "AdaDelta" momentum: 0.9 delta: 1e-6 snapshot_diff: true'),
        ("dummy", 'type: "RMSProp" rms_decay: 0.9 regularization_type: "L1"'),
        ("hdf5", 'type: "AdaGrad" snapshot_format: HDF5'),
        ("lmdb", "solver_type: ADAM momentum: 0.9 snapshot_format: HDF5"),
    ],
)
def test_it_does_what_caffe_train_does(
    caffe_install: CaffeInstall, caffe_engine: CaffeEngine, tmp_path: Path, kind: str, solver: str
) -> None:
    theirs = project(tmp_path / "theirs", kind, solver)
    mine = project(tmp_path / "mine", kind, solver)
    log = run_caffe(caffe_install, theirs.parent, "train", "-solver", "solver.prototxt")
    done = train(caffe_engine, mine, 7)
    assert [step.iteration for step in done["steps"]] == list(range(7))
    assert {s.iteration: s.lr for s in done["steps"]} == pytest.approx(rates(log), rel=1e-5)
    shown = losses(log)
    assert {s.iteration: s.loss for s in done["steps"]} == pytest.approx({n: shown[n] for n in range(7)}, rel=1e-5)
    tests = scores(log)
    assert len(tests) == len(done["tests"]) == 4
    for expected, found in zip(tests, done["tests"], strict=True):
        assert set(found) == {"accuracy", "scores", "loss"}
        assert len(found["scores"]) == 12
        for name, values in expected.items():
            assert listed(found[name]) == pytest.approx(values, rel=1e-5, abs=1e-7)
    # Losses without their weight, as Caffe shows a blob; records over all batches of an iteration.
    size = int((re.findall(r"iter_size: (\d)", solver) or ["1"])[0])
    assert done["steps"][0].images == 4 * size
    if size == 1:
        assert done["steps"][0].outputs["loss"] * 0.5 == pytest.approx(done["steps"][0].loss)
    names = sorted(path.name for path in (theirs.parent / "saved").iterdir())
    assert names == sorted(path.name for path in (mine.parent / "saved").iterdir())
    assert len(names) == 6
    for name in names:
        one, other = theirs.parent / "saved" / name, mine.parent / "saved" / name
        if not name.endswith(".h5"):
            assert one.read_bytes() == other.read_bytes()
        elif "caffemodel" in name:
            same_arrays(read_hdf5_model(one), read_hdf5_model(other))
        else:
            first, second = read_solverstate(one), read_solverstate(other)
            assert (first.iteration, first.learned_net, first.current_step) == (
                second.iteration,
                second.learned_net,
                second.current_step,
            )
            same_arrays({"h": first.history}, {"h": second.history})


def same_arrays(one: Any, other: Any) -> None:
    assert list(one) == list(other)
    for name in one:
        for a, b in zip(one[name], other[name], strict=True):
            np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("at", [1, 4, 6])
def test_a_resumed_run_is_the_run(caffe_engine: CaffeEngine, tmp_path: Path, kind: str, at: int) -> None:
    solver = project(tmp_path / "whole", kind, "momentum: 0.9 iter_size: 3")
    whole = train(caffe_engine, solver, 11)
    parts = project(tmp_path / "parts", kind, "momentum: 0.9 iter_size: 3")
    first = train(caffe_engine, parts, at)
    second = train(caffe_engine, parts, 11, first["snapshots"][-1].state)
    assert second["notes"] == []
    for key in ("loss", "outputs", "lr"):
        assert [getattr(s, key) for s in first["steps"] + second["steps"]] == [getattr(s, key) for s in whole["steps"]]
    assert first["tests"] + second["tests"] == whole["tests"]
    for a, b in zip(
        (whole["snapshots"][-1].model, whole["snapshots"][-1].state),
        (second["snapshots"][-1].model, second["snapshots"][-1].state),
        strict=True,
    ):
        assert a.read_bytes() == b.read_bytes()


@pytest.mark.parametrize("form", ["BINARYPROTO", "HDF5"])
def test_caffe_goes_on_from_our_snapshot_and_we_from_its(
    caffe_install: CaffeInstall, caffe_engine: CaffeEngine, tmp_path: Path, form: str
) -> None:
    end = ".h5" if form == "HDF5" else ""
    solver = project(tmp_path / "a", "dummy", f"momentum: 0.9 snapshot_format: {form}")
    snapshots = train(caffe_engine, solver, 3)["snapshots"]
    # What we saved names its weights as Caffe, started in the same directory, finds them.
    assert read_solverstate(snapshots[0].state).learned_net == f"saved/run_iter_3.caffemodel{end}"
    state = f"saved/run_iter_3.solverstate{end}"
    log = run_caffe(caffe_install, solver.parent, "train", "-solver", "solver.prototxt", "-snapshot", state)
    shown = losses(log)
    for source in (solver.parent / state, solver.parent / f"saved/run_iter_6.solverstate{end}"):
        steps = train(caffe_engine, solver, 7, source)["steps"]
        assert {s.iteration: s.loss for s in steps} == pytest.approx(
            {n: shown[n] for n in range(steps[0].iteration, 7)}, rel=1e-5
        )


def test_weights_beside_the_state(caffe_engine: CaffeEngine, tmp_path: Path) -> None:
    solver = project(tmp_path / "a", "dummy", "momentum: 0.9")
    whole = train(caffe_engine, solver, 5)
    moved = tmp_path / "moved"
    shutil.move(solver.parent / "saved", moved)
    (solver.parent / "saved").mkdir()
    resumed = train(caffe_engine, solver, 5, moved / "run_iter_3.solverstate")
    assert [s.loss for s in resumed["steps"]] == [s.loss for s in whole["steps"][3:]]
    assert len(resumed["notes"]) == 1
    assert f"weights are taken from {moved / 'run_iter_3.caffemodel'}" in resumed["notes"][0]
    (moved / "run_iter_3.caffemodel").unlink()
    with pytest.raises(RebirthError, match="weights are missing"):
        train(caffe_engine, solver, 5, moved / "run_iter_3.solverstate")
    with pytest.raises(RebirthError, match="weights, not a solverstate"):
        train(caffe_engine, solver, 5, moved / "run_iter_5.caffemodel")


def test_weights_to_start_from(caffe_install: CaffeInstall, caffe_engine: CaffeEngine, tmp_path: Path) -> None:
    solver = project(tmp_path / "a", "lmdb")
    # Not under the name that Caffe is about to write to.
    name = "start.caffemodel"
    model = train(caffe_engine, solver, 3)["snapshots"][-1].model.rename(solver.parent / name)
    log = run_caffe(caffe_install, solver.parent, "train", "-solver", "solver.prototxt", "-weights", name)
    with caffe_engine.trainer(solver, weights=[model], root=solver.parent) as trainer:
        given = trainer.step().loss
    assert given == pytest.approx(losses(log)[0], rel=1e-5)
    with caffe_engine.trainer(solver, root=solver.parent) as trainer:
        assert trainer.step().loss != given
    # The solver may name them itself.
    solver.write_text(solver.read_text() + f'weights: "{name}"\n')
    with caffe_engine.trainer(solver, root=solver.parent) as trainer:
        assert trainer.step().loss == given
    with (
        pytest.raises(EngineError, match="nowhere does not exist"),
        caffe_engine.trainer(solver, weights=[tmp_path / "nowhere"], root=solver.parent),
    ):
        pass


def test_an_inline_net_and_no_prefix(caffe_engine: CaffeEngine, tmp_path: Path) -> None:
    solver = project(tmp_path / "a", "lmdb")
    whole = train(caffe_engine, solver, 2)
    text = (solver.parent / "net.prototxt").read_text()
    inline = SOLVER.replace('net: "net.prototxt"', f"net_param {{ {text} }}").replace(
        'snapshot_prefix: "saved/run"', ""
    )
    solver.write_text(inline)
    again = train(caffe_engine, solver, 2)
    assert [s.loss for s in again["steps"]] == [s.loss for s in whole["steps"]]
    assert again["snapshots"][0].model == solver.parent / "solver_iter_2.caffemodel"
    assert sorted(p.name for p in (solver.parent / "saved").iterdir()) == [
        "run_iter_2.caffemodel",
        "run_iter_2.solverstate",
    ]


@pytest.mark.parametrize(
    ("kind", "layer", "words"),
    [
        ("lmdb", {"transform": "mirror: true crop_size: 6"}, ["mirror", "random crop"]),
        ("images", {"more": "shuffle: true rand_skip: 3"}, ["shuffle", "rand_skip"]),
        ("hdf5", {"more": "shuffle: true"}, ["shuffle"]),
        ("lmdb", {}, []),
    ],
)
def test_it_says_what_it_cannot_restore(
    caffe_engine: CaffeEngine, tmp_path: Path, kind: str, layer: dict[str, str], words: list[str]
) -> None:
    solver = project(tmp_path / "a", kind, **layer)
    first = train(caffe_engine, solver, 2)
    assert first["notes"] == []
    notes = train(caffe_engine, solver, 3, first["snapshots"][-1].state)["notes"]
    assert len(notes) == len(words)
    for word, note in zip(words, notes, strict=True):
        assert note.startswith(f"{word} in the training net cannot be restored")


def test_batches_average_to_what_caffe_test_shows(
    caffe_install: CaffeInstall, caffe_engine: CaffeEngine, tmp_path: Path
) -> None:
    for kind in ("lmdb", "hdf5", "images"):
        solver = project(tmp_path / kind, kind)
        model = train(caffe_engine, solver, 2)["snapshots"][-1].model
        name = os.path.relpath(model, solver.parent)
        log = run_caffe(
            caffe_install, solver.parent, "test", "-model", "net.prototxt", "-weights", name, "-iterations", "9"
        )
        found = list(caffe_engine.batches(solver.parent / "net.prototxt", model, 9, root=solver.parent))
        assert len(found) == 9
        assert set(found[0]) == {"accuracy", "scores", "loss"}
        assert any((a["scores"] != b["scores"]).any() for a, b in pairwise(found))
        for blob in ("accuracy", "loss"):
            shown = float(re.findall(rf"\] {blob} = (\S+)", log)[-1])
            assert np.mean([float(one[blob]) for one in found]) == pytest.approx(shown, rel=1e-4)
        one = next(caffe_engine.batches(solver.parent / "net.prototxt", model, 1, ["ip"], root=solver.parent))
        assert one["ip"].shape == (3, 4)


# ---------------------------------------------------------------- what goes wrong


def worker_pid(trainer: Any) -> int:
    pid = trainer._worker.pid
    assert isinstance(pid, int)
    return pid


def check_snapshots(folder: Path) -> list[int]:
    """Which snapshots there are; each must be whole, and nothing else may lie there."""
    found = []
    names = {path.name for path in folder.iterdir()}
    for name in sorted(n for n in names if n.endswith(".solverstate")):
        state = read_solverstate(folder / name)
        assert (folder.parent / state.learned_net).is_file()
        assert read_caffemodel(folder.parent / state.learned_net).layers
        names -= {name, Path(state.learned_net).name}
        found.append(state.iteration)
    assert not names
    return found


def test_a_worker_killed_at_any_moment(caffe_engine: CaffeEngine, tmp_path: Path) -> None:
    solver = project(tmp_path / "a", "lmdb", "momentum: 0.9")
    draw = random.Random(0)
    resume: Path | None = None
    done = 0
    for _ in range(8):
        with pytest.raises(EngineError) as caught, caffe_engine.trainer(solver, resume=resume, root=solver.parent) as t:
            assert t.iteration == done
            killer = subprocess.Popen(["/bin/sh", "-c", f"sleep {draw.uniform(0, 0.1):.3f}; kill -9 {worker_pid(t)}"])
            try:
                while True:
                    t.step()
                    done, resume = t.iteration, t.snapshot().state
            finally:
                killer.wait()
        assert "SIGKILL" in str(caught.value)
        assert "\n" not in str(caught.value)
        assert caught.value.fatal
        # A kill may come after the files have their names and before we know it.
        assert check_snapshots(solver.parent / "saved")
        done = max(check_snapshots(solver.parent / "saved"), default=0)
        resume = solver.parent / f"saved/run_iter_{done}.solverstate" if done else None
    assert done


def test_a_worker_that_hangs(caffe_engine: CaffeEngine, tmp_path: Path) -> None:
    solver = project(tmp_path / "a", "lmdb")
    with caffe_engine.trainer(solver, root=solver.parent) as trainer:
        trainer.step()
        trainer.snapshot()
        os.kill(worker_pid(trainer), signal.SIGSTOP)
        trainer._worker.timeout = 0.3
        with pytest.raises(EngineError, match="no answer in time"):
            trainer.step()
    assert check_snapshots(solver.parent / "saved") == [1]


@contextmanager
def file_size(limit: int) -> Iterator[None]:
    """No file may grow beyond it, which is what a full disk does."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_a_full_disk_while_we_write(caffe_engine: CaffeEngine, tmp_path: Path) -> None:
    solver = project(tmp_path / "a", "lmdb", "momentum: 0.9")
    with caffe_engine.trainer(solver, root=solver.parent) as trainer:
        trainer.step()
        kept = trainer.snapshot()
        before = kept.model.read_bytes(), kept.state.read_bytes()
        trainer.step()
        with file_size(100), pytest.raises(RebirthError, match="cannot write it") as caught:
            trainer.snapshot()
        assert not isinstance(caught.value, EngineError)
        assert check_snapshots(solver.parent / "saved") == [1]
        assert (kept.model.read_bytes(), kept.state.read_bytes()) == before
        # The run goes on, and can save when there is room again.
        trainer.step()
        trainer.snapshot()
    assert check_snapshots(solver.parent / "saved") == [1, 3]


def test_a_full_disk_seen_before_caffe_writes(
    caffe_engine: CaffeEngine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    solver = project(tmp_path / "a", "lmdb")
    with caffe_engine.trainer(solver, root=solver.parent) as trainer:
        trainer.step()
        with monkeypatch.context() as patch:
            real = shutil.disk_usage(tmp_path)
            patch.setattr(saving.shutil, "disk_usage", lambda _: real._replace(free=1000))
            with pytest.raises(RebirthError, match="the disk is full"):
                trainer.snapshot()
        assert check_snapshots(solver.parent / "saved") == []
        trainer.step()
        trainer.snapshot()
    assert check_snapshots(solver.parent / "saved") == [2]


def test_a_full_disk_while_caffe_writes(caffe_engine: CaffeEngine, tmp_path: Path) -> None:
    solver = project(tmp_path / "a", "lmdb")
    net = solver.parent / "net.prototxt"
    net.write_text(
        net.read_text().replace(
            '"ip"\n  inner_product_param { num_output: 4', '"ip"\n  inner_product_param { num_output: 4000'
        )
    )
    train(caffe_engine, solver, 1)
    # The worker inherits the limit.
    with file_size(400_000), pytest.raises(EngineError) as caught:
        train(caffe_engine, solver, 2)
    assert caught.value.fatal
    assert "\n" not in str(caught.value)
    assert check_snapshots(solver.parent / "saved") == [1]


def test_a_missing_database(caffe_engine: CaffeEngine, tmp_path: Path) -> None:
    solver = project(tmp_path / "a", "lmdb")
    shutil.rmtree(solver.parent / "train_lmdb")
    with pytest.raises(EngineError, match=r"open_solver: .*No such file") as caught:
        train(caffe_engine, solver, 1)
    assert "\n" not in str(caught.value)
    shutil.rmtree(solver.parent / "test_lmdb")
    with pytest.raises(EngineError, match="No such file"):
        list(caffe_engine.batches(solver.parent / "net.prototxt", None, 1, root=solver.parent))


@pytest.mark.parametrize("label", [4, 77, -1])
def test_a_label_out_of_range(caffe_engine: CaffeEngine, tmp_path: Path, label: int) -> None:
    import lmdb

    solver = project(tmp_path / "a", "lmdb")
    for phase in ("train", "test"):
        with (
            lmdb.open(str(solver.parent / f"{phase}_lmdb"), map_size=1 << 20) as database,
            database.begin(write=True) as transaction,
        ):
            datum = pb.Datum.FromString(transaction.get(b"00000009"))
            datum.label = label
            transaction.put(b"00000009", datum.SerializeToString())
    words = f"record {{}} of the batch has the label {label}, and there are 4 classes"
    with caffe_engine.trainer(solver, root=solver.parent) as trainer:
        trainer.step()
        trainer.step()
        with pytest.raises(EngineError, match=words.format(1)) as caught:
            trainer.step()
        assert not caught.value.fatal
        assert trainer.snapshot().model.is_file()  # what was learned is not lost
        with pytest.raises(EngineError, match="layer 'accuracy': " + words.format(0)):
            for _ in range(4):
                trainer.test(0)
    with pytest.raises(EngineError, match=words.format(0)):
        list(caffe_engine.batches(solver.parent / "net.prototxt", None, 4, root=solver.parent))
    # A label that means "none" may be any.
    net = solver.parent / "net.prototxt"
    text = net.read_text().replace(
        'type: "SoftmaxWithLoss"', f'type: "SoftmaxWithLoss" loss_param {{ ignore_label: {label} }}'
    )
    net.write_text(text.replace('type: "Accuracy"', f'type: "Accuracy" accuracy_param {{ ignore_label: {label} }}'))
    train(caffe_engine, solver, 4)


@pytest.mark.parametrize("kind", MAKERS)
def test_whole_rounds_are_left_out(tmp_path: Path, kind: str) -> None:
    plan = read_plan(project(tmp_path / "a", kind, "iter_size: 3"), tmp_path / "a")
    sources = [[("data", "Whatever", 4)], [("data", "Whatever", 3)]]
    # 22 records: 11 batches of 4, or 22 batches of 3, until the first record comes first again. 500 tests of 3 batches.
    assert list(moves(plan, 1000, sources)) == [Move(0, "data", 3000 % 11), Move(1, "data", 1500 % 22)]
    shutil.rmtree(tmp_path / "a" / "train_lmdb", ignore_errors=True)
    (tmp_path / "a" / f"train_{kind}").unlink(missing_ok=True)
    assert next(moves(plan, 1000, sources)) == Move(0, "data", 3000)


def test_what_caffe_would_abort_on_later(caffe_engine: CaffeEngine, tmp_path: Path) -> None:
    solver = project(tmp_path / "a", "dummy", "snapshot_format: HDF5")
    net = solver.parent / "net.prototxt"
    net.write_text(net.read_text().replace('name: "ip"', 'name: "group/ip"'))
    with pytest.raises(RebirthError, match="cannot keep layer 'group/ip' in HDF5"):
        train(caffe_engine, solver, 1)
    solver.write_text(SOLVER + "speed: 3")
    with pytest.raises(RebirthError, match="no field 'speed'"):
        train(caffe_engine, solver, 1)


def test_an_orphan_ends(tmp_path: Path, caffe_install: CaffeInstall) -> None:
    solver = project(tmp_path / "a", "lmdb")
    # A test that would take for ever.
    solver.write_text(solver.read_text().replace("test_iter: 3", "test_iter: 1000000000"))
    code = (
        "import sys\n"
        "from deeprebirth_caffe.engines.caffe.engine import CaffeEngine\n"
        "with CaffeEngine(sys.argv[1], threads=1).trainer(sys.argv[2], root=sys.argv[3]) as t:\n"
        "    print(t._worker.pid, flush=True)\n"
        "    t.test(0)\n"
    )
    parent = subprocess.Popen(
        [sys.executable, "-c", code, str(caffe_install.need_python()), str(solver), str(solver.parent)],
        env={**os.environ, "TMPDIR": str(tmp_path)},  # what is killed does not clean up
        stdout=subprocess.PIPE,
    )
    assert parent.stdout is not None
    pid = int(parent.stdout.readline())
    # Not in our process group: Ctrl-C in the terminal reaches the parent alone.
    assert os.getpgid(pid) not in (os.getpgid(0), os.getpgid(parent.pid))
    time.sleep(0.2)
    assert Path(f"/proc/{pid}").exists()
    parent.kill()
    parent.wait()
    parent.stdout.close()
    for _ in range(200):
        if not _alive(pid):
            return
        time.sleep(0.05)
    os.kill(pid, signal.SIGKILL)
    pytest.fail("the worker outlives its parent")


def _alive(pid: int) -> bool:
    """Whether a process runs; one that ended and that nobody has asked after does not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except FileNotFoundError:
        return False
