"""`rebirth tucker`: what it writes, what it says, what it refuses."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jsondocs
import numpy as np
import pytest
from cli_tools import Cli, SmallNet, complaint, listing, lr_mults
from tiny import make_tiny

from deeprebirth_caffe.engines.random_weights import random_weights
from deeprebirth_caffe.ir import Net, Weights, summarize
from deeprebirth_caffe.ir.probe import save_weights
from deeprebirth_caffe.nets.load import load_net

MANIFEST = "convert, deploy: manifest.json"


def common(net: SmallNet) -> list[str]:
    return ["tucker", net.train_val, "-w", net.weights, "--input-shape", net.shape]


def stored(path: str | Path) -> int:
    total = summarize(Net.read(path).view("TEST")).params
    assert total is not None
    return total


def test_it_writes_what_convert_writes(cli: Cli, net28: SmallNet) -> None:
    result = cli(*common(net28), "--solver", net28.solver)
    assert (result.code, result.err) == (0, "")
    folder = Path("googlenet28/train_val-tucker")
    assert listing(folder) == [
        "deploy.prototxt",
        "init.caffemodel",
        "manifest.json",
        "solver.prototxt",
        "train_val.prototxt",
    ]
    assert "relearn inception_3a: tucker: " in result.out and "inception_3a/3x3_merge_core" in result.out
    assert "50.0 % of what they were" in result.out and "only training needs it" in result.out
    manifest = json.loads((folder / "manifest.json").read_text())
    jsondocs.check(manifest, MANIFEST)
    assert 0.48 < stored(folder / "deploy.prototxt") / stored(net28.deploy) <= 0.5
    net = load_net(folder / "train_val.prototxt", folder / "init.caffemodel", {"data": (1, 28, 28)})
    assert net.weights is not None and set(net.weights) == set(
        manifest["ledger"]["layers"]["copied"] + manifest["ledger"]["layers"]["relearned"]
    )
    rates = lr_mults(folder / "train_val.prototxt")
    for name, before in manifest["lr_mult"].items():
        assert rates[name] == [10 * value for value in before]


@pytest.mark.parametrize(
    "more", [[], ["--ratio", "0.3", "--only", "inception_3a"], ["--ranks", "vbmf", "--batch", "4"]]
)
def test_json(cli: Cli, net28: SmallNet, more: list[str]) -> None:
    result = cli(*common(net28), "--json", "--dry-run", *more)
    assert (result.code, result.err) == (0, "")
    jsondocs.check(result.data, MANIFEST)
    assert not Path("googlenet28/train_val-tucker").exists()
    assert result.data["options"] == {
        "passes": ["tucker"],
        "only": ["inception_3a"] if "--only" in more else [],
        "skip": [],
        "ratio": None if "--ranks" in more else 0.3 if more else 0.5,
        "ranks": "vbmf" if "--ranks" in more else None,
        "calibrate": None,
        "samples": None,
        "input_shapes": {"data": [1, 28, 28]},
        "batch": 4 if "--batch" in more else None,
        "lr_factor": 10.0,
    }
    for rewrite in result.data["rewrites"]:
        assert 1 <= len(rewrite["ranks"]) <= 2 and 0 <= rewrite["error"] <= 1
        assert rewrite["macs_after"] < rewrite["macs_before"]


def test_only_and_skip(cli: Cli, net28: SmallNet) -> None:
    def stages(*more: str) -> set[str]:
        return {one["stage"] for one in cli(*common(net28), "--json", "--dry-run", *more).data["rewrites"]}

    assert stages("--only", "inception_3a") == {"inception_3a"}
    skipped = stages("--ratio", "0.3", "--skip", "inception_*")
    assert skipped and not any("inception" in one for one in skipped)
    assert "no stage" in complaint(cli(*common(net28), "--only", "nowhere"), 2)


def test_a_merged_net_keeps_its_first_rates(cli: Cli, net28: SmallNet) -> None:
    """Ten times as fast never becomes a hundred times, and a second decomposition finds its factors."""
    arguments = ("-w", net28.weights, "--input-shape", net28.shape, "-o", "merged")
    assert cli("convert", net28.train_val, *arguments).code == 0
    given = ("--input-shape", net28.shape, "--json")
    first = cli("tucker", "merged/train_val.prototxt", "-w", "merged/init.caffemodel", "-o", "thin", *given).data
    rates = lr_mults("thin/train_val.prototxt")
    for name, before in first["lr_mult"].items():
        assert rates[name] == [10 * value for value in before] and max(before) <= 2
    assert not any(value > 2 for name, values in rates.items() if name not in first["lr_mult"] for value in values)
    made = [name for one in first["rewrites"] for name in one["rebirth"]]
    assert any("_merge2_core" in name for name in made)
    again = cli("tucker", "thin/train_val.prototxt", "-w", "thin/init.caffemodel", "-o", "again", *given).data
    assert not {name for one in again["rewrites"] for name in one["removed"]} & set(made)
    reasons = {one["layer"]: one["reason"] for one in again["refusals"]}
    assert {reasons[name] for name in made} == {"it is a factor of an earlier decomposition"}
    assert not {"_in", "_core", "_out"} & {one["stage"][-5:] for one in again["rewrites"]}


def test_nothing_to_do(cli: Cli, net28: SmallNet) -> None:
    result = cli(*common(net28), "--ratio", "1")
    assert result.code == 0 and "nothing to decompose" in result.out
    data = json.loads(Path("googlenet28/train_val-tucker/manifest.json").read_text())
    assert data["rewrites"] == [] and data["ledger"]["relearned"] == 0


def test_a_ratio_that_cannot_be_reached_is_said(cli: Cli, net28: SmallNet) -> None:
    notes = cli(*common(net28), "--ratio", "0.001", "--json", "--dry-run").data["notes"]
    assert any(note.startswith("even at rank 1 ") and "0.001 cannot be reached" in note for note in notes)


def test_ranks_of_a_file(cli: Cli, net28: SmallNet) -> None:
    Path("ranks.json").write_text('{"inception_3a/3x3": [8, 6], "loss3/classifier": 4, "conv2/3x3": [999, 1]}')
    data = cli(*common(net28), "--ranks", "ranks.json", "--json").data
    jsondocs.check(data, MANIFEST)
    assert {one["removed"][0]: one["ranks"] for one in data["rewrites"]} == {
        "inception_3a/3x3": [8, 6],
        "loss3/classifier": [4],
    }
    (refused,) = [one for one in data["refusals"] if one["layer"] == "conv2/3x3"]
    assert refused["reason"].startswith("the core's inputs, 999: from 1 to ")
    blobs = Weights.read("googlenet28/train_val-tucker/init.caffemodel")
    assert blobs["inception_3a/3x3_merge_core"][0].shape == (6, 8, 3, 3)


@pytest.mark.parametrize(
    ("text", "code", "said"),
    [
        ("{", 1, "this is no JSON"),
        ("[3]", 1, "ranks are an object"),
        ('{"conv2/3x3": "many"}', 1, 'conv2/3x3: "many" is no rank'),
        ('{"conv2/3x3": [true, 2]}', 1, "is no rank"),
        ('{"conv2/3x3": 0}', 1, "is no rank"),
        ('{"nothing": 3}', 2, 'no convolution or InnerProduct "nothing"'),
    ],
)
def test_bad_ranks(cli: Cli, net28: SmallNet, text: str, code: int, said: str) -> None:
    Path("ranks.json").write_text(text)
    assert said in complaint(cli(*common(net28), "--ranks", "ranks.json"), code)


@pytest.mark.parametrize(
    ("more", "code", "said"),
    [
        (["--ratio", "0"], 2, "--ratio"),
        (["--ratio", "1.5"], 2, "--ratio"),
        (["--ratio", "0.5", "--ranks", "vbmf"], 2, "--ratio and --ranks exclude each other"),
        (["--ranks", "nowhere.json"], 1, "nowhere.json: cannot read these ranks"),
        (["--only", "loss1"], 3, "only training needs it"),
        (["--transform-from", "googlenet28/deploy.prototxt"], 2, "--calibrate"),
        (["--samples", "256"], 2, "--samples needs --calibrate; give it too"),
        (["--calibrate", "nowhere"], 2, "nowhere: there is no such picture"),
        (["--calibrate", "own"], 1, "digits/train: not found"),
    ],
)
def test_what_is_refused(cli: Cli, net28: SmallNet, more: list[str], code: int, said: str) -> None:
    assert said in complaint(cli(*common(net28), *more), code)
    assert not Path("googlenet28/train_val-tucker").exists()


def test_weights_are_needed(cli: Cli, net28: SmallNet) -> None:
    assert "--weights" in complaint(cli("tucker", net28.train_val), 2)


def test_a_full_directory_is_left_alone(cli: Cli, net28: SmallNet) -> None:
    assert cli(*common(net28), "-o", "out").code == 0
    assert "out" in complaint(cli(*common(net28), "-o", "out"), 1)
    assert cli(*common(net28), "-o", "out", "--force").code == 0


# Calibration.


@pytest.fixture
def tiny() -> None:
    """A net with data, whose pictures are dark but for two rows."""
    make_tiny(Path())
    net = load_net("net.prototxt")
    save_weights(Path("w.caffemodel"), net, random_weights(net))


def calibrated(cli: Cli, *more: str) -> Any:
    pytest.importorskip("torch")
    pytest.importorskip("lmdb")
    Path("ranks.json").write_text('{"fc1": 3}')
    given = ("tucker", "net.prototxt", "-w", "w.caffemodel", "--ranks", "ranks.json", "--engine", "torch", "--json")
    result = cli(*given, "-o", "out", "--force", *more)
    assert (result.code, result.err) == (0, ""), result
    jsondocs.check(result.data, MANIFEST)
    return result.data


def outputs() -> Any:
    """How far the decomposed net is off, on its test data."""
    from deeprebirth_caffe.engines import engine

    runs = []
    for net, weights in (("net.prototxt", "w.caffemodel"), ("out/net.prototxt", "out/init.caffemodel")):
        (batch,) = engine("torch", threads=1).batches(net, weights, 1, ["fc2"])
        runs.append(batch["fc2"])
    return np.linalg.norm(runs[1] - runs[0]) / np.linalg.norm(runs[0])


@pytest.mark.parametrize("source", ["own", "train_lmdb"])
def test_calibration_makes_the_net_better_on_such_data(cli: Cli, tiny: None, source: str) -> None:
    calibrated(cli)
    blind = outputs()
    data = calibrated(cli, "--calibrate", source, "--samples", "16")
    assert outputs() < 0.7 * blind
    assert f"calibrated on 16 images of {source}" in data["notes"]
    assert data["options"]["calibrate"] == source and data["options"]["samples"] == 16


def test_calibration_on_fewer_records_than_asked_for(cli: Cli, tiny: None) -> None:
    notes = calibrated(cli, "--calibrate", "own")["notes"]
    assert "own has 40 images, and 256 were asked for; each counts once" in notes
    assert "calibrated on 40 images of own" in notes


def test_calibration_on_pictures(cli: Cli, tiny: None) -> None:
    cv2 = pytest.importorskip("cv2")
    Path("pictures").mkdir()
    rng = np.random.default_rng(0)
    for index in range(5):
        cv2.imwrite(f"pictures/{index}.png", rng.integers(0, 255, (8, 8)).astype(np.uint8))
    Path("list.txt").write_text("pictures/0.png 1\npictures/3.png 0\n")
    notes = calibrated(cli, "--calibrate", "pictures", "--samples", "4")["notes"]
    assert "calibrated on 4 images of pictures" in notes and any(note.startswith("pictures: gray") for note in notes)
    assert "calibrated on 2 images of list.txt" in calibrated(cli, "--calibrate", "list.txt")["notes"]
    assert any("are few" in note for note in notes)


def test_calibration_on_black_pictures_counts_for_nothing(cli: Cli, tiny: None) -> None:
    cv2 = pytest.importorskip("cv2")
    cv2.imwrite("black.png", np.zeros((8, 8), np.uint8))
    notes = calibrated(cli, "--calibrate", "black.png")["notes"]
    assert any('fc1: "data" is all zero' in note for note in notes)
    assert np.isfinite(outputs())


def test_a_deploy_net_is_calibrated_on_a_database(cli: Cli, tiny: None, small: Callable[[str], SmallNet]) -> None:
    pytest.importorskip("torch")
    pytest.importorskip("lmdb")
    text = Path("net.prototxt").read_text().splitlines()
    body = [line for line in text if "data_param" not in line and '"data"' not in line.split("bottom")[0]]
    body = [line for line in body if "accuracy" not in line and "loss" not in line]
    shape = 'layer { name: "data" type: "Input" top: "data" input_param { shape { dim: 1 dim: 1 dim: 8 dim: 8 } } }'
    Path("deployed.prototxt").write_text("\n".join([body[0], shape, *body[1:]]) + "\n")
    given = ("tucker", "deployed.prototxt", "-w", "w.caffemodel", "--engine", "torch", "--json", "--dry-run")
    refused = cli(*given, "--calibrate", "train_lmdb", "--samples", "8")
    assert "no data layer of it says how pictures are prepared; say it: --mean-value" in complaint(refused, 2)
    notes = cli(*given, "--raw-pixels", "--calibrate", "train_lmdb", "--samples", "8").data["notes"]
    assert "calibrated on 8 images of train_lmdb" in notes and "records of train_lmdb: no mean, no scale" in notes
