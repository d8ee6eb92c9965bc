"""When `rebirth finetune` tests and saves, against the log of real Caffe's `caffe train`, over a grid of solvers."""

from __future__ import annotations

import itertools
import random
import re
import subprocess
from pathlib import Path

import pytest
from training_fakes import FakeTrainer, Notebook

from deeprebirth_caffe.engines.caffe.locate import CaffeInstall
from deeprebirth_caffe.formats.prototxt.solver import parse_solver
from deeprebirth_caffe.training.loop import Training
from deeprebirth_caffe.training.schedule import Schedule

NET = """layer { name: "data" type: "DummyData" top: "data" dummy_data_param { shape { dim: 1 dim: 2 } } }
layer { name: "target" type: "DummyData" top: "target" dummy_data_param { shape { dim: 1 dim: 1 } } }
layer { name: "fc" type: "InnerProduct" bottom: "data" top: "fc" inner_product_param { num_output: 1 } }
layer { name: "loss" type: "EuclideanLoss" bottom: "fc" bottom: "target" top: "loss" }
"""

GRID = list(
    itertools.product(
        ((0, 0), (1, 1), (3, 1), (4, 2)),  # test_interval, test nets
        (True, False),  # test_initialization
        (0, 1, 3, 4),  # snapshot
        (True, False),  # snapshot_after_train
        (4, 6, 7),  # max_iter
        (0, 3),  # resumed after
    )
)
CASES = random.Random(4).sample(GRID, 30)


@pytest.mark.parametrize("case", CASES, ids=lambda case: "-".join(map(str, case)).replace(" ", ""))
def test_tests_and_snapshots(caffe_install: CaffeInstall, tmp_path: Path, case: tuple[object, ...]) -> None:
    (interval, nets), first, snapshot, after, max_iter, start = case  # type: ignore[misc]
    common = 'net: "net.prototxt" base_lr: 0 lr_policy: "fixed" solver_mode: CPU snapshot_prefix: "net" display: 0\n'
    text = common + f"test_interval: {interval} snapshot: {snapshot} max_iter: {max_iter}\n" + "test_iter: 1\n" * nets
    text += f"test_initialization: {first} snapshot_after_train: {after}\n".lower()
    (tmp_path / "net.prototxt").write_text(NET, encoding="utf-8")
    (tmp_path / "solver.prototxt").write_text(text, encoding="utf-8")
    arguments = ["-solver", "solver.prototxt"]
    if start:
        (tmp_path / "first.prototxt").write_text(common + f"max_iter: {start}\n", encoding="utf-8")
        _train(caffe_install, tmp_path, ["-solver", "first.prototxt"])
        arguments += ["-snapshot", f"net_iter_{start}.solverstate"]
    real = _train(caffe_install, tmp_path, arguments)

    trainer = FakeTrainer(start, nets)
    schedule = Schedule.of(parse_solver(text).message, start)
    Training(trainer, schedule, Notebook()).run()
    assert trainer.happened("test", "snapshot") == real
    assert [number for kind, number in real if kind == "snapshot"] == schedule.snapshots()


def _train(install: CaffeInstall, folder: Path, arguments: list[str]) -> list[tuple[str, int]]:
    """Tests and snapshots of `caffe train`, in order."""
    done = subprocess.run(
        [str(install.need_binary()), "train", *arguments], cwd=folder, capture_output=True, text=True, check=True
    )
    found = []
    for line in done.stderr.splitlines():
        test = re.search(r"Iteration (\d+), Testing net \(#\d+\)", line)
        saved = re.search(r"Snapshotting to binary proto file \S*_iter_(\d+)\.caffemodel", line)
        if test:
            found.append(("test", int(test.group(1))))
        elif saved:
            found.append(("snapshot", int(saved.group(1))))
    return found
