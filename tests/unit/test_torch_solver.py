"""The embedded engine's trainer: resuming to the bit, snapshots that are whole or not there, one clear error each."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from closeness import assert_within, between
from solvers import HISTORIES, NET, TERMS, torch_trainer, write_net, write_state

from deeprebirth_caffe.engines.base import DivergedError, Snapshot, Step
from deeprebirth_caffe.engines.plan import Plan, net_state, read_plan, unrestorable
from deeprebirth_caffe.engines.snapshots import held, remove_leftovers, workspace
from deeprebirth_caffe.engines.torch.engine import TorchEngine
from deeprebirth_caffe.errors import RebirthError
from deeprebirth_caffe.formats.caffemodel import read_caffemodel, write_caffemodel
from deeprebirth_caffe.formats.solverstate import read_solverstate
from deeprebirth_caffe.ir import NetState
from deeprebirth_caffe.proto import caffe_pb2 as pb

BASE = 'net: "net.prototxt" base_lr: 0.05 lr_policy: "fixed" max_iter: 100 momentum: 0.9 snapshot_prefix: "s"\n'

PICTURES = """
name: "pictures"
layer { name: "data" type: "ImageData" top: "data" top: "label" include { phase: TRAIN }
  image_data_param { source: "list.txt" batch_size: 3 shuffle: true rand_skip: 5 }
  transform_param { crop_size: 6 mirror: true } }
layer { name: "data" type: "ImageData" top: "data" top: "label" include { phase: TEST }
  image_data_param { source: "list.txt" batch_size: 2 } transform_param { crop_size: 6 } }
layer { name: "conv" type: "Convolution" bottom: "data" top: "conv"
  convolution_param { num_output: 4 kernel_size: 3 weight_filler { type: "xavier" } } }
layer { name: "bn" type: "BatchNorm" bottom: "conv" top: "conv" }
layer { name: "pool" type: "Pooling" bottom: "conv" top: "pool" include { phase: TRAIN }
  pooling_param { pool: STOCHASTIC kernel_size: 2 stride: 2 } }
layer { name: "pool" type: "Pooling" bottom: "conv" top: "pool" include { phase: TEST }
  pooling_param { pool: AVE kernel_size: 2 stride: 2 } }
layer { name: "drop" type: "Dropout" bottom: "pool" top: "drop" dropout_param { dropout_ratio: 0.4 } }
layer { name: "noise" type: "DummyData" top: "noise" include { phase: TRAIN }
  dummy_data_param { shape { dim: 3 dim: 4 dim: 2 dim: 2 } data_filler { type: "gaussian" std: 0.1 } } }
layer { name: "sum" type: "Eltwise" bottom: "drop" bottom: "noise" top: "sum" include { phase: TRAIN } }
layer { name: "sum" type: "Power" bottom: "drop" top: "sum" include { phase: TEST } }
layer { name: "ip" type: "InnerProduct" bottom: "sum" top: "ip"
  inner_product_param { num_output: 3 weight_filler { type: "xavier" } } }
layer { name: "loss" type: "SoftmaxWithLoss" bottom: "ip" bottom: "label" top: "loss" }
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A directory with a small net, its data and a solver."""
    write_net(tmp_path)
    (tmp_path / "solver.prototxt").write_text(BASE)
    return tmp_path


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    """A directory with a net in which everything random there is happens, and its pictures."""
    import cv2

    random = np.random.default_rng(5)
    for number in range(11):
        cv2.imwrite(str(tmp_path / f"{number}.png"), random.integers(0, 255, (8, 8, 3), dtype=np.uint8))
    (tmp_path / "list.txt").write_text("".join(f"{tmp_path}/{number}.png {number % 3}\n" for number in range(11)))
    (tmp_path / "net.prototxt").write_text(PICTURES)
    return tmp_path


def _seconds_aside(step: Step) -> tuple[object, ...]:
    return (step.iteration, step.lr, step.loss, dict(step.outputs), step.images)


def _bits(snapshot: Snapshot) -> tuple[list[bytes], list[bytes]]:
    weights = [array.tobytes() for layer in read_caffemodel(snapshot.model).layers for array in layer.blobs]
    return weights, [array.tobytes() for array in read_solverstate(snapshot.state).history]


def _files(folder: Path) -> set[str]:
    return {one.name for one in folder.iterdir()}


def read_plan_text(text: str, net: str = NET) -> Plan:
    """The plan of a solver written inline."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "net.prototxt").write_text(net)
        (folder / "solver.prototxt").write_text(BASE + text)
        return read_plan(folder / "solver.prototxt", folder)


# Resuming.


@pytest.mark.parametrize("kind", HISTORIES)
def test_resuming_changes_no_bit(kind: str, pictures: Path) -> None:
    """Shuffling, cropping, mirroring, dropout, stochastic pooling, random DummyData, iter_size, a test net."""
    momentum = "" if kind in ("AdaGrad", "RMSProp") else "momentum: 0.9"
    (pictures / "solver.prototxt").write_text(
        f'net: "net.prototxt" type: "{kind}" base_lr: 0.001 {momentum} lr_policy: "multistep" gamma: 0.5 stepvalue: 2 '
        'stepvalue: 6 max_iter: 9 iter_size: 2 test_iter: 3 test_interval: 4 weight_decay: 0.01 snapshot_prefix: "s"\n'
    )
    with torch_trainer(pictures) as trainer:
        whole: list[object] = []
        for iteration in range(9):
            if iteration in (0, 4, 8):
                whole.append(trainer.test())
            if iteration == 5:
                trainer.snapshot()
            whole.append(_seconds_aside(trainer.step()))
        end = _bits(trainer.snapshot())
    (pictures / "s_iter_9.caffemodel").unlink()
    with torch_trainer(pictures, resume=pictures / "s_iter_5.solverstate") as trainer:
        assert trainer.iteration == 5
        assert not trainer.notes
        parts: list[object] = []
        for iteration in range(5, 9):
            if iteration == 8:
                parts.append(trainer.test())
            parts.append(_seconds_aside(trainer.step()))
        again = _bits(trainer.snapshot())
    assert parts == whole[-5:]
    assert again == end


def test_snapshots_disturb_nothing(pictures: Path) -> None:
    """With and without them the numbers are the same, and a second one has the same files."""
    (pictures / "solver.prototxt").write_text(BASE + "random_seed: 3\n")
    runs = []
    for saves in (False, True):
        with torch_trainer(pictures) as trainer:
            steps = []
            for _ in range(4):
                steps.append(_seconds_aside(trainer.step()))
                if saves:
                    first = trainer.snapshot()
                    contents = [one.read_bytes() for one in sorted(pictures.glob("s_iter_*"))]
                    assert trainer.snapshot() == first
                    assert contents == [one.read_bytes() for one in sorted(pictures.glob("s_iter_*"))]
            runs.append(steps)
    assert runs[0] == runs[1]


def test_random_seed_decides(pictures: Path) -> None:
    losses = []
    for seed in (3, 3, 4):
        (pictures / "solver.prototxt").write_text(BASE + f"random_seed: {seed}\n")
        with torch_trainer(pictures) as trainer:
            losses.append([trainer.step().loss for _ in range(2)])
    assert losses[0] == losses[1] != losses[2]


def test_without_the_resume_file_data_moves_forward(folder: Path) -> None:
    """As after Caffe's own snapshot: the same numbers where nothing is random, and nothing to say."""
    with torch_trainer(folder) as trainer:
        for _ in range(3):
            trainer.step()
        trainer.snapshot()
        wanted = [trainer.step().loss for _ in range(3)]
    (folder / "s_iter_3.solverstate.resume").unlink()
    with torch_trainer(folder, resume=folder / "s_iter_3.solverstate") as trainer:
        assert [trainer.step().loss for _ in range(3)] == wanted
        assert not trainer.notes


def test_without_the_resume_file_test_data_moves_forward(pictures: Path) -> None:
    """By the tests that Caffe would have run: before iterations 0, 2 and 4."""
    (pictures / "solver.prototxt").write_text(BASE + "test_iter: 2 test_interval: 2\n")
    with torch_trainer(pictures) as trainer:
        for iteration in range(5):
            if iteration % 2 == 0:
                trainer.test()
            trainer.step()
        trainer.snapshot()
        wanted = trainer.test()
    (pictures / "s_iter_5.solverstate.resume").unlink()
    with torch_trainer(pictures, resume=pictures / "s_iter_5.solverstate") as trainer:
        (note,) = trainer.notes
        assert trainer.test() == wanted
    for word in ("shuffle", "rand_skip", "mirror", "random crop", "dropout", "stochastic pooling", "random DummyData"):
        assert word in note


def test_tests_before() -> None:
    """How often Caffe tests before an iteration."""

    def count(iteration: int, text: str = "") -> int:
        return read_plan_text(f"test_iter: 1 test_interval: 4 {text}").tests_before(iteration)

    assert [count(n) for n in (0, 1, 4, 5, 8, 9)] == [0, 1, 1, 2, 2, 3]
    assert [count(n, "test_initialization: false") for n in (0, 1, 4, 5, 8, 9)] == [0, 0, 0, 1, 1, 2]


def test_what_is_random_is_named_only_where_it_is() -> None:
    plan = read_plan_text("test_iter: 1 test_interval: 4", PICTURES)
    assert unrestorable(plan.train) == [
        "shuffle",
        "rand_skip",
        "mirror",
        "random crop",
        "stochastic pooling",
        "dropout",
        "random DummyData",
    ]
    assert unrestorable(plan.tests[0]) == []


def test_a_resume_file_of_another_run_is_not_believed(folder: Path) -> None:
    """Caffe wrote over both files: they count, and the note says why the third does not."""
    with torch_trainer(folder) as trainer:
        trainer.step()
        trainer.snapshot()
    kept = (folder / "s_iter_1.solverstate.resume").read_bytes()
    (folder / "solver.prototxt").write_text(BASE + "random_seed: 99 weight_decay: 0.1\n")
    with torch_trainer(folder) as trainer:
        trainer.step()
        trainer.snapshot()
    (folder / "s_iter_1.solverstate.resume").write_bytes(kept)
    with torch_trainer(folder, resume=folder / "s_iter_1.solverstate") as trainer:
        assert trainer.iteration == 1
        assert [re.sub(r".*/", "", note) for note in trainer.notes] == [
            "s_iter_1.solverstate.resume: not used, for it is of another solverstate"
        ]


@pytest.mark.parametrize(
    "content", [b"", b"{}", b'{"version": 99}', b'{"version": 1, "train": 3}', b"\xff\x00", b"[" * 10**5]
)
def test_a_damaged_resume_file_is_said(content: bytes, folder: Path) -> None:
    with torch_trainer(folder) as trainer:
        trainer.step()
        trainer.snapshot()
    (folder / "s_iter_1.solverstate.resume").write_bytes(content)
    with torch_trainer(folder, resume=folder / "s_iter_1.solverstate") as trainer:
        assert len(trainer.notes) == 1
        assert "not used, for" in trainer.notes[0]


def test_a_resume_file_of_another_net_is_an_error(folder: Path) -> None:
    """Its checksums fit, what is in it does not."""
    with torch_trainer(folder) as trainer:
        trainer.step()
        trainer.snapshot()
    path = folder / "s_iter_1.solverstate.resume"
    content = json.loads(path.read_bytes())
    bad = {"data": {"batch": 10**40, "next": "00000000"}}
    for key, value in (
        *(("generator", "AAAA"), ("generator", None), ("data", {"data": {"nothing": 1}}), ("data", 3), ("data", bad)),
        *(("carried", None), ("carried", {"one": None}), ("carried", {"one": [[]]})),
    ):
        path.write_text(json.dumps({**content, "train": {**content["train"], key: value}}))
        with (
            pytest.raises(RebirthError, match=r"damaged, or of another net|damaged or another layer's"),
            torch_trainer(folder, resume=folder / "s_iter_1.solverstate"),
        ):
            pass
    path.write_text(json.dumps({**content, "tests": [{}]}))
    with (
        pytest.raises(RebirthError, match="saved with 1 test nets, the solver has 0"),
        torch_trainer(folder, resume=folder / "s_iter_1.solverstate"),
    ):
        pass


def test_another_device_has_other_random_numbers(folder: Path) -> None:
    """Data goes on where it was; the generator's state, which only its own kind of device knows, is left."""
    with torch_trainer(folder) as trainer:
        trainer.step()
        trainer.snapshot()
        wanted = trainer.step().loss
    path = folder / "s_iter_1.solverstate.resume"
    content = json.loads(path.read_bytes())
    content["train"]["generator"] = "AAAA"
    path.write_text(json.dumps({**content, "device": "cuda"}))
    with torch_trainer(folder, resume=folder / "s_iter_1.solverstate") as trainer:
        assert trainer.notes == ["saved on cuda: dropout and the like go on with other numbers on cpu"]
        assert trainer.step().loss == wanted


def test_files_of_two_snapshots_are_not_mixed(folder: Path) -> None:
    """A run that writes over an older one's snapshot and is killed between the renames."""
    with torch_trainer(folder) as trainer:
        trainer.step()
        trainer.snapshot()
    old = (folder / "s_iter_1.solverstate").read_bytes()
    (folder / "solver.prototxt").write_text(BASE + "weight_decay: 0.1\n")
    with torch_trainer(folder) as trainer:
        trainer.step()
        trainer.snapshot()
    (folder / "s_iter_1.solverstate").write_bytes(old)
    with (
        pytest.raises(RebirthError, match=r"s_iter_1\.solverstate: of another snapshot than s_iter_1\.solv"),
        torch_trainer(folder, resume=folder / "s_iter_1.solverstate"),
    ):
        pass


# Snapshots.


def test_a_snapshot_has_caffes_names_and_contents(folder: Path) -> None:
    with torch_trainer(folder) as trainer:
        for _ in range(12):
            trainer.step()
        saved = trainer.snapshot()
    assert saved == Snapshot(folder / "s_iter_12.caffemodel", folder / "s_iter_12.solverstate")
    model, state = read_caffemodel(saved.model), read_solverstate(saved.state)
    assert [layer.name for layer in model.layers] == re.findall(r'layer { name: "(\w+)"', NET)
    assert model.name == "small"
    assert (state.iteration, state.learned_net) == (12, "s_iter_12.caffemodel")
    content = json.loads((folder / "s_iter_12.solverstate.resume").read_text())
    assert content["iteration"] == 12


@pytest.mark.parametrize(
    ("prefix", "folders", "wanted"),
    [
        ('snapshot_prefix: "a/b/x"', (), "a/b/x_iter_0.caffemodel"),
        ('snapshot_prefix: "dir"', ("dir",), "dir/solver_iter_0.caffemodel"),
        ("", (), "solver_iter_0.caffemodel"),
    ],
)
def test_snapshot_prefix(prefix: str, folders: tuple[str, ...], wanted: str, folder: Path) -> None:
    """As Caffe: a directory, or none at all, gets the solver's own name; missing directories are made."""
    for name in folders:
        (folder / name).mkdir()
    (folder / "solver.prototxt").write_text(BASE.replace('snapshot_prefix: "s"', prefix))
    with torch_trainer(folder) as trainer:
        saved = trainer.snapshot()
    assert saved.model == folder / wanted
    assert read_solverstate(saved.state).learned_net == wanted


def test_weights_are_found_beside_a_moved_solverstate(folder: Path) -> None:
    with torch_trainer(folder) as trainer:
        trainer.step()
        trainer.snapshot()
        wanted = trainer.step().loss
    (folder / "else").mkdir()
    for one in folder.glob("s_iter_1.*"):
        one.rename(folder / "else" / one.name)
    with torch_trainer(folder, resume=folder / "else/s_iter_1.solverstate") as trainer:
        assert trainer.step().loss == wanted


LIMIT = """
import resource, signal, sys
from pathlib import Path
from deeprebirth_caffe.engines.torch.engine import TorchEngine
from deeprebirth_caffe.errors import RebirthError
folder = Path(sys.argv[1])
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
with TorchEngine(seed=1).trainer(folder / "solver.prototxt", root=folder) as trainer:
    trainer.step()
    trainer.snapshot()
    trainer.step()
    for size in map(int, sys.argv[2:]):
        resource.setrlimit(resource.RLIMIT_FSIZE, (size, resource.RLIM_INFINITY))
        try:
            trainer.snapshot()
        except RebirthError as error:
            print(error)
        else:
            print("saved")
"""


@pytest.mark.skipif(sys.platform == "win32", reason="needs limits on the size of files")
@pytest.mark.parametrize("form", ["BINARYPROTO", "HDF5"])
def test_a_full_disk_leaves_the_last_snapshot(form: str, folder: Path) -> None:
    """Wherever it strikes: no file of the new snapshot, no temporary one, the old one as it was; then it goes on."""
    (folder / "solver.prototxt").write_text(BASE + f"snapshot_format: {form}\n")
    sizes = [100, 1000, 1500, 4000] if form == "BINARYPROTO" else [100, 5000, 9000]
    done = subprocess.run(
        [sys.executable, "-c", LIMIT, str(folder), *map(str, sizes)],
        capture_output=True,
        text=True,
        check=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        timeout=120,
    )
    lines = done.stdout.splitlines()
    assert len(lines) == len(sizes)
    assert all(re.search(r"s_iter_2\.\S+: cannot write it: ", line) for line in lines), lines
    end = ".h5" if form == "HDF5" else ""
    ours = {name for name in _files(folder) if "iter" in name or name.startswith(".")}
    assert ours == {f"s_iter_1.{kind}{end}" for kind in ("caffemodel", "solverstate")} | {
        f"s_iter_1.solverstate{end}.resume"
    }
    with torch_trainer(folder, resume=folder / f"s_iter_1.solverstate{end}") as trainer:
        trainer.step()
        assert trainer.snapshot().state.exists()


class _Killed(BaseException):
    """What a kill is to the test: nothing behind it runs."""


@pytest.mark.parametrize("renames", range(4))
def test_a_kill_between_files_loses_nothing(renames: int, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """After any number of renames: the older snapshot is whole, and the new one is whole or not there."""
    with torch_trainer(folder) as trainer:
        trainer.step()
        trainer.snapshot()
        trainer.step()
        left = [renames]
        real = Path.replace

        def replace(self: Path, target: Path) -> Path:
            if not left[0]:
                raise _Killed
            left[0] -= 1
            return real(self, target)

        monkeypatch.setattr(Path, "replace", replace)
        if renames < 3:
            with pytest.raises(_Killed):
                trainer.snapshot()
        else:
            trainer.snapshot()
    monkeypatch.undo()
    states = sorted(folder.glob("*.solverstate"))
    assert len(states) == 1 + (renames == 3)
    for number, state in enumerate(states, 1):
        with torch_trainer(folder, resume=state) as trainer:
            assert trainer.iteration == number
            assert not trainer.notes


FOREVER = """
import sys
from pathlib import Path
from deeprebirth_caffe.engines.torch.engine import TorchEngine
folder = Path(sys.argv[1])
states = sorted(folder.glob("*.solverstate"), key=lambda path: int(path.stem.rsplit("_", 1)[1]))
resume = states[-1] if states else None
with TorchEngine(seed=1).trainer(folder / "solver.prototxt", resume=resume, root=folder) as trainer:
    while True:
        trainer.step()
        trainer.snapshot()
        print("saved", *trainer.notes, flush=True)
"""

KILLS = int(os.environ.get("REBIRTH_KILLS", "3"))
"""How many a run of the tests tries; more take long."""


def test_kills_at_any_moment_lose_nothing(folder: Path) -> None:
    """Snapshots without end, kill -9, resume; at the end the numbers are those of a run nobody killed."""
    random = np.random.default_rng()
    steady = BASE.replace("base_lr: 0.05", "base_lr: 0.001")  # however often it steps, it does not diverge
    (folder / "solver.prototxt").write_text(steady)
    for _ in range(KILLS):
        with subprocess.Popen(
            [sys.executable, "-c", FOREVER, str(folder)],
            stdout=subprocess.PIPE,
            text=True,
            env={**os.environ, "OMP_NUM_THREADS": "1"},
        ) as running:
            assert running.stdout is not None
            assert running.stdout.readline() == "saved\n"
            time.sleep(float(random.uniform(0.02, 0.4)))
            running.kill()
    states = {one.name for one in folder.glob("*.solverstate")}
    count = len(states)
    assert states == {f"s_iter_{number}.solverstate" for number in range(1, count + 1)}
    with torch_trainer(folder, resume=folder / "s_iter_1.solverstate") as trainer:
        trainer.snapshot()
    assert not list(folder.glob(".*.tmp"))
    (folder / "whole").mkdir()
    (folder / "solver.prototxt").write_text(steady.replace('prefix: "s"', 'prefix: "whole/s"'))
    before = torch.get_num_threads()  # those that were killed had one: more add up in another order
    torch.set_num_threads(1)
    try:
        with torch_trainer(folder, resume=folder / "s_iter_1.solverstate") as trainer:
            for _ in range(1, count):
                trainer.step()
            whole = trainer.snapshot()
    finally:
        torch.set_num_threads(before)
    assert _bits(whole) == _bits(
        Snapshot(folder / f"s_iter_{count}.caffemodel", folder / f"s_iter_{count}.solverstate")
    )


def test_only_leftovers_of_the_own_prefix_go(folder: Path) -> None:
    """Files of this engine, and folders of the other one that no process holds."""
    stale, held_now, elses = workspace(folder / "s"), workspace(folder / "s"), workspace(folder / "other_s")
    for one in (stale, elses):
        one.mkdir()
        (one / "caffe_iter_1.caffemodel").write_text("half")
    with held(held_now):
        remove_leftovers(folder / "s")
        assert held_now.is_dir() and not stale.exists() and elses.is_dir()
    assert not held_now.exists()
    shutil.rmtree(elses)
    mine = [".s_iter_7.caffemodel.0123abcd.tmp", ".s_iter_7.solverstate.h5.resume.0123abcd.tmp"]
    others = [".other_s_iter_7.caffemodel.0123abcd.tmp", ".s_iter_7.txt.0123abcd.tmp", ".s_iter_x.caffemodel.0.tmp"]
    for name in (*mine, *others):
        (folder / name).write_text("")
    with torch_trainer(folder) as trainer:
        trainer.snapshot()
    assert {one.name for one in folder.glob(".*.tmp")} == set(others)


def test_what_is_read_back_wrong_is_not_kept(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A disk that gives other bytes than it was given."""
    from deeprebirth_caffe.engines.torch import snapshots

    real = snapshots.stream_caffemodel

    def broken(file: object, name: str, layers: snapshots.Layers, path: str) -> None:
        real(file, name, [(one, kind, [array + 1 for array in arrays]) for one, kind, arrays in layers], path)  # type: ignore[arg-type]

    monkeypatch.setattr(snapshots, "stream_caffemodel", broken)
    before = _files(folder)
    with torch_trainer(folder) as trainer, pytest.raises(RebirthError, match="read back, it is not what was written"):
        trainer.snapshot()
    assert _files(folder) == before


@pytest.mark.parametrize("form", ["BINARYPROTO", "HDF5"])
@pytest.mark.parametrize("number", [np.nan, np.inf, -np.inf])
def test_weights_that_are_no_numbers_are_not_saved(form: str, number: float, folder: Path) -> None:
    """Not even for a moment: what has these names already stays as it was."""
    (folder / "solver.prototxt").write_text(BASE + f"snapshot_format: {form}\n")
    with torch_trainer(folder) as trainer:
        trainer.step()
        trainer.snapshot()
        before = {one.name: (one.read_bytes(), one.stat().st_ino) for one in folder.iterdir()}
        with torch.no_grad():
            trainer.net.blobs_of["one"][1][2] = number
        with pytest.raises(DivergedError, match="the weights of layer one have diverged"):
            trainer.snapshot()
    assert {one.name: (one.read_bytes(), one.stat().st_ino) for one in folder.iterdir()} == before


class _EnoughError(Exception):
    """What ends a test."""


def test_a_test_that_is_broken_off_is_run_again_on_the_same_data(pictures: Path) -> None:
    """Of two test nets the first has run, the second not to its end."""
    (pictures / "solver.prototxt").write_text(BASE + "test_iter: 2 test_iter: 3 test_interval: 2\n")
    with torch_trainer(pictures) as trainer:
        for _ in range(2):
            trainer.test(0)
            trainer.test(1)
            trainer.step()
        trainer.snapshot()
        wanted = [trainer.test(0), trainer.test(1), trainer.step().loss, trainer.test(0)]
    with torch_trainer(pictures, resume=pictures / "s_iter_2.solverstate") as trainer:
        called: list[int] = []

        def between() -> None:
            called.append(len(called))
            if len(called) == 3:
                raise _EnoughError

        assert trainer.test(0, between) == wanted[0]
        with pytest.raises(_EnoughError):
            trainer.test(1, between)
        assert called == [0, 1, 2]  # once between the first net's two batches, then twice
        trainer.snapshot()
    with torch_trainer(pictures, resume=pictures / "s_iter_2.solverstate") as trainer:
        assert [trainer.test(0), trainer.test(1), trainer.step().loss, trainer.test(0)] == wanted


# Setting up.


def test_weights_in_hdf5_hold_shared_parameters_once(folder: Path) -> None:
    """Whatever reads them gives each layer that shares its own."""
    pytest.importorskip("h5py")
    for form in (False, True):
        write_state(folder, 1, hdf5=form, seed=3)
    (folder / "deploy.prototxt").write_text(
        'layer { name: "in" type: "Input" top: "data" top: "label" input_param {'
        " shape { dim: 2 dim: 3 dim: 6 dim: 6 } shape { dim: 2 } } }\n" + NET[NET.index('layer { name: "conv"') :]
    )
    engine = TorchEngine()
    images = np.random.default_rng(0).normal(size=(2, 3, 6, 6)).astype(np.float32)
    found = []
    for end in ("", ".h5"):
        weights = folder / f"begin_iter_1.caffemodel{end}"
        (batch,) = engine.batches(folder / "net.prototxt", weights, 1, ["three"], root=folder)
        found.append((batch["three"], engine.forward(folder / "deploy.prototxt", weights, images, ["three"])["three"]))
    for one, other in zip(*found, strict=True):
        assert np.array_equal(one, other) and one.any()


def test_weights_given_count_instead_of_the_solvers_own(folder: Path) -> None:
    """As `caffe train --weights`; the solver's are not even looked at."""
    for name, value in (("one", 1), ("two", 2), ("three", 3)):
        arrays = [np.full((4, 32), value, np.float32), np.zeros(4, np.float32)]
        write_caffemodel(folder / f"{name}.caffemodel", "", [("one", "InnerProduct", arrays)])
    (folder / "solver.prototxt").write_text(BASE + 'weights: "one.caffemodel, two.caffemodel"\n')
    for given, wanted in (([], 2), ([folder / "three.caffemodel"], 3)):
        if given:
            (folder / "two.caffemodel").unlink()
        with torch_trainer(folder, weights=given) as trainer:
            assert set(trainer.net.blobs_of["one"][0].detach().flatten().tolist()) == {wanted}


@pytest.fixture
def wrong(folder: Path) -> Iterator[Path]:
    """A directory with a snapshot of another kind of everything."""
    write_state(folder, 10, "Adam")
    yield folder


@pytest.mark.parametrize(
    ("solver", "words"),
    [
        ("base_lr: 0.1", "names no net; add net"),
        (BASE + 'train_net: "x"', "has net and train_net; keep one"),
        (BASE.replace("net.prototxt", "none.prototxt"), "net names none.prototxt, which is not there"),
        (BASE + "test_iter: 3", "test_iter without a test_interval above 0"),
        (BASE + 'test_net: "net.prototxt"', "0 test_iter for 1 test nets"),
        (BASE.replace("net:", "train_net:") + "test_iter: 1", "1 test_iter for 0 test nets"),
        (
            BASE + "test_iter: 1 test_interval: 5 test_state { level: 1 } test_state { level: 2 }",
            "2 test_state for 1 test nets",
        ),
        (BASE + 'type: "LBFGS"', 'unknown solver type "LBFGS"; there is AdaDelta, AdaGrad, Adam'),
        (BASE + 'type: "AdaGrad"', "solver type AdaGrad takes no momentum"),
        (BASE.replace("momentum: 0.9", "rms_decay: 1") + 'type: "RMSProp"', "rms_decay must be at least 0 and below 1"),
        (BASE.replace('"fixed"', '"cosine"'), 'unknown lr_policy "cosine"'),
        (BASE + "speed: 3", "Caffe 1.0 does not know speed; correct or remove it"),
        (BASE + "test_state { speed: 3 }", "Caffe 1.0 does not know test_state.speed; correct or remove it"),
        (BASE + "iter_size: 0", "iter_size must be at least 1"),
        (BASE + 'weight_decay: 1 regularization_type: "L3"', 'unknown regularization_type "L3"'),
        (BASE.replace('prefix: "s"', 'prefix: "net.prototxt/x"'), "cannot write snapshots to net.prototxt/x"),
    ],
)
def test_a_wrong_solver_is_told(solver: str, words: str, folder: Path) -> None:
    (folder / "solver.prototxt").write_text(solver)
    with pytest.raises(RebirthError) as caught, torch_trainer(folder):
        pass
    assert words in str(caught.value)
    assert str(folder / "solver.prototxt") in str(caught.value)


def test_what_is_not_done_is_said(folder: Path) -> None:
    (folder / "solver.prototxt").write_text(BASE + "snapshot_diff: true\n")
    with torch_trainer(folder) as trainer:
        assert len(trainer.notes) == 1
        assert trainer.notes[0].startswith("snapshot_diff is not done")


def test_names_with_a_slash_are_refused_before_hours_of_work(folder: Path) -> None:
    (folder / "net.prototxt").write_text(NET.replace('name: "one"', 'name: "in/one"'))
    (folder / "solver.prototxt").write_text(BASE + "snapshot_format: HDF5\n")
    with pytest.raises(RebirthError, match="set snapshot_format: BINARYPROTO"), torch_trainer(folder):
        pass


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("begin_iter_10.solverstate", "holds 16 arrays of history where this solver \\(SGD\\) has 8"),
        ("begin_iter_10.caffemodel", "these are weights, not a solverstate"),
        ("none.solverstate", "cannot read it: No such file"),
        ("solver.prototxt", "damaged, or not a solverstate"),
        ("cut.solverstate", "cut off"),
        ("other.solverstate", 'history of blob 0 of layer "conv" is 3x3x2x2, the net wants 3x3x3x3'),
        ("lost.solverstate", "its weights are missing \\(looked at "),
    ],
)
def test_a_wrong_solverstate_is_told(name: str, words: str, wrong: Path) -> None:
    whole = write_state(wrong, 4)
    (wrong / "cut.solverstate").write_bytes(whole.read_bytes()[:-100])
    message = pb.SolverState.FromString(whole.read_bytes())
    message.learned_net = "nowhere.caffemodel"
    (wrong / "lost.solverstate").write_bytes(message.SerializeToString())
    message.learned_net = "begin_iter_4.caffemodel"
    message.history[0].shape.dim[:] = [3, 3, 2, 2]
    del message.history[0].data[36:]
    (wrong / "other.solverstate").write_bytes(message.SerializeToString())
    with pytest.raises(RebirthError, match=words), torch_trainer(wrong, resume=wrong / name):
        pass


def test_states_merge_as_in_caffe() -> None:
    """The solver's word counts over the net's; stages add up."""
    own = pb.NetState(level=2, stage=["a"])
    assert net_state("TEST", own, pb.NetState(stage=["b"])) == NetState("TEST", 2, frozenset("ab"))
    assert net_state("TEST", own, pb.NetState(level=3)) == NetState("TEST", 3, frozenset("a"))


def test_test_nets_come_in_caffes_order(folder: Path) -> None:
    """Inline ones, then files, then the training net's own file as often as test_iter is left."""
    (folder / "other.prototxt").write_text(NET.replace('"small"', '"other"'))
    inline = NET.replace('"small"', '"inline"')
    (folder / "solver.prototxt").write_text(
        BASE + f'test_net: "other.prototxt" test_net_param {{ {inline} }} test_interval: 5\n'
        "test_iter: 1 test_iter: 2 test_iter: 3 test_iter: 4\n"
        'test_state {} test_state { stage: "x" } test_state {} test_state { level: 7 }\n'
    )
    plan = read_plan(folder / "solver.prototxt", folder)
    assert [(one.net.header.name, one.iterations) for one in plan.tests] == [
        ("inline", 1),
        ("other", 2),
        ("small", 3),
        ("small", 4),
    ]
    assert [str(one.state) for one in plan.tests] == ["TEST", "TEST x", "TEST", "TEST level 7"]


def test_a_test_gives_one_number_an_element(folder: Path) -> None:
    """A blob of one element is a number, any other a tuple; the mean is over the batches."""
    (folder / "net.prototxt").write_text(NET + 'layer { name: "prob" type: "Softmax" bottom: "three" top: "prob" }\n')
    (folder / "solver.prototxt").write_text(BASE + "test_iter: 2 test_interval: 1\n")
    with torch_trainer(folder) as trainer:
        assert trainer.tests == 1
        net = trainer.test_nets[0]
        batches = [{name: value.clone() for name, value in net.forward().items()} for _ in range(2)]
        scores = trainer.test()
    assert isinstance(scores["loss"], float)
    assert scores["loss"] == pytest.approx(float(sum(one["loss"] for one in batches)) / 2)
    prob = scores["prob"]
    assert isinstance(prob, tuple)
    np.testing.assert_allclose(prob, (sum(one["prob"].reshape(-1) for one in batches) / 2).tolist(), rtol=1e-6)


def test_iter_size_takes_more_batches_for_one_step(folder: Path) -> None:
    """The loss is the mean over them, and the step that of one batch with all their records."""
    seen = []
    for size, batch in ((2, 2), (1, 4)):
        text = NET.replace("batch_size: 2", f"batch_size: {batch}")
        (folder / "net.prototxt").write_text(text)
        (folder / "solver.prototxt").write_text(BASE + f"iter_size: {size}\n")
        with torch_trainer(folder, resume=write_state(folder, 0)) as trainer:
            step = trainer.step()
            assert step.images == 4
            seen.append((step.loss, trainer.net.blobs_of["conv"][0].detach().numpy().copy()))
    for index, what in enumerate(("loss", "weights")):
        assert_within(what, seen[1][index], seen[0][index], between(TERMS))
