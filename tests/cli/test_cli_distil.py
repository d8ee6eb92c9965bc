"""`rebirth distil`: what it writes, prints and refuses."""

from __future__ import annotations

import json
import re
from pathlib import Path

import jsondocs
import numpy as np
import pytest
from cli_tools import Cli, SmallNet, complaint, listing
from distil_tools import NET, converted

from deeprebirth_caffe.ir import Net


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
    # The weights of the other net.
    teacher = complaint(cli("distil", folder, "--teacher-weights", f"{folder}/init.caffemodel"), 1)
    assert "has nothing for layer conv1/5x5 of" in teacher and "a teacher needs all its weights" in teacher
    student = complaint(cli("distil", folder, "-w", net28.weights), 1)
    assert "has nothing for layer conv1/5x5_merge of" in student and "give weights of the converted net" in student
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


def test_a_batch_that_no_data_layer_takes(cli: Cli) -> None:
    made = "dummy_data_param { shape { dim: 2 dim: 3 dim: 24 dim: 24 } shape { dim: 2 } }"
    text = re.sub(r'type: "Data"(.*?)\n.*?backend: LMDB }', rf'type: "DummyData"\1 {made}', NET)
    assert text.count("DummyData") == 2
    converted(Path(), net=text)
    assert "--batch: the net has no data layer in TRAIN" in complaint(cli("distil", "made", "--batch", "3"), 2)
    assert not Path("made/distil").exists()
    assert cli("distil", "made").code == 0


def test_the_cache_is_the_embedded_engines(cli: Cli) -> None:
    converted(Path())
    assert cli("distil", "made", "--max-iter", "6").code == 0
    done = cli("finetune", "made/distil/solver.prototxt", "--engine", "caffe", "--cache", "64")
    assert "--cache" in complaint(done, 2)


def test_pictures_without_labels_and_a_deploy_net(cli: Cli, net28: SmallNet) -> None:
    cv2 = pytest.importorskip("cv2")
    pytest.importorskip("torch")
    random = np.random.default_rng(0)
    Path("my photos").mkdir()
    for index in range(9):
        cv2.imwrite(f"my photos/{index}.png", random.integers(0, 255, (40, 30)).astype(np.uint8))
    assert cli("convert", net28.deploy, "-w", net28.weights, "-o", "out").code == 0
    assert "name pictures, which need no labels (--calibrate)" in complaint(cli("distil", "out"), 1)
    common = ("distil", "out", "--calibrate", "my photos", "--batch", 4, "--max-iter", 2)
    assert "no data layer of it says how pictures are prepared" in complaint(cli(*common), 2)
    assert "--calibrate's; give it too" in complaint(cli("distil", "out", "--scale", 2), 2)
    result = cli(*common, "--mean-value", 7, "--scale", 0.5, "--json")
    assert result.code == 0, result.err
    jsondocs.check(result.data, "distil")
    assert result.data["options"]["calibrate"] == "my photos"
    assert "pictures: gray; resized to 28x28; minus 7; times 0.5; 9 of them, without labels" in result.data["notes"]
    (reader,) = (layer for layer in Net.read("out/distil/distil.prototxt").layers if layer.type == "ImageData")
    read, transform = reader.param.image_data_param, reader.param.transform_param
    assert (read.batch_size, read.new_height, read.new_width, read.is_color) == (4, 28, 28, False)
    assert (list(transform.mean_value), transform.scale) == ([7], 0.5)
    assert (
        Path("out/distil/images.txt").read_text(encoding="utf-8").splitlines()[0] == f"{Path.cwd()}/my photos/0.png 0"
    )
    trained = cli("finetune", "out/distil/solver.prototxt", "--engine", "torch", "--threads", 1, "--json")
    assert trained.code == 0, trained.err
    deployed = cli("deploy", "out/deploy.prototxt", "-w", trained.data["model"], "-o", "phone")
    assert deployed.code == 0, deployed.err
    # Without pictures the list of an earlier result goes.
    again = cli(*common, "--raw-pixels", "--force")
    assert again.code == 0 and "distil_iter_2" in again.out
