"""`rebirth distil`: what it writes, prints and refuses."""

from __future__ import annotations

import json
from pathlib import Path

import jsondocs
from cli_tools import Cli, SmallNet, complaint, listing
from distil_tools import converted


def _converted(cli: Cli, net: SmallNet) -> str:
    done = cli("convert", net.train_val, "-w", net.weights, "--input-shape", net.shape, "--solver", net.solver)
    assert done.code == 0, done.err
    return "googlenet28/train_val-rebirth"


def test_it_writes_a_net_its_solver_and_its_start(cli: Cli, net28: SmallNet) -> None:
    folder = _converted(cli, net28)
    done = cli("distil", folder, "--batch", "8", "--max-iter", "30")
    assert (done.code, done.err) == (0, "")
    assert listing(Path(folder) / "distil") == [
        "distil.prototxt",
        "init.caffemodel",
        "manifest.json",
        "solver.prototxt",
    ]
    assert "compared  inception_3a/output with teacher/inception_3a/output/joined (inception_3a/3x3_merge" in done.out
    assert "compared  loss3/classifier with teacher/loss3/classifier (what the net puts out)" in done.out
    assert "left      inception_3a/3x3_reduce_merge: it puts out" in done.out
    assert done.out.endswith(f"then: rebirth finetune {folder}/distil/solver.prototxt\n")
    text = (Path(folder) / "distil/distil.prototxt").read_text()
    assert "loss1" not in text and "Dropout" not in text and "label" not in text
    again = cli("distil", folder)
    assert "not empty" in complaint(again, 1)
    assert cli("distil", folder, "--force").code == 0


def test_json(cli: Cli, net28: SmallNet) -> None:
    folder = _converted(cli, net28)
    done = cli("distil", folder, "--json", "-o", "there")
    assert (done.code, done.err) == (0, "")
    jsondocs.check(done.data, "distil")
    assert json.loads(Path("there/manifest.json").read_text()) == done.data


def test_errors(cli: Cli, net28: SmallNet) -> None:
    Path("empty").mkdir()
    done = cli("distil", "empty")
    assert "manifest" in complaint(done, 1)
    assert cli("distil", "nowhere").code == 2
    folder = _converted(cli, net28)
    assert cli("distil", folder, "--base-lr", "0").code == 2
    Path(net28.weights).unlink()
    done = cli("distil", folder)
    assert "--teacher-weights" in complaint(done, 1)
    assert not (Path(folder) / "distil").exists()


def test_it_learns_and_the_converted_net_goes_on_from_there(cli: Cli) -> None:
    converted(Path())
    assert cli("distil", "made", "--max-iter", "6").code == 0
    done = cli("finetune", "made/distil/solver.prototxt", "--engine", "torch", "--cache", "64", "--json")
    assert done.code == 0, done.err
    model = done.data["model"]
    assert model == "made/distil/distil_iter_6.caffemodel"
    assert done.data["test"].keys() == {f"distil/{name}" for name in ("conv1_merge", "m/output", "r/sum", "fc")}
    words = ("finetune", "made/solver.prototxt", "--engine", "torch", "--max-iter", "2", "--json")
    after = cli(*words, "-w", "made/init.caffemodel", "-w", model)
    assert after.code == 0, after.err
    assert after.data["ledger"]["left"] == []


def test_the_cache_is_the_embedded_engines(cli: Cli) -> None:
    converted(Path())
    assert cli("distil", "made", "--max-iter", "6").code == 0
    done = cli("finetune", "made/distil/solver.prototxt", "--engine", "caffe", "--cache", "64")
    assert "--cache" in complaint(done, 2)
