"""What `--json` prints is what docs/json.md says: every field, its type, and no other."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import json_docs
import jsondocs
import pytest
from cli_tools import Cli, Echo, SmallNet

from deeprebirth_caffe.nets.exactness import EXACT_NAMES

MANIFEST = "convert, deploy: manifest.json"
ELSEWHERE = {
    *("distil", "finetune", "finetune --log", "test", "forward", "refit"),
    *("run", "run: result.json", "status", "report", "plan"),
    *("data", "export", "time", "device list", "device info", "caffe install, caffe info", "config list"),
}
"""Held against in the tests of those commands."""


@pytest.mark.parametrize(
    "more",
    [
        [],
        ["--exact"],
        ["--paper", "--batch", "3", "--kernel", "5", "--reduce", "0.25", "--reduce", "*/5x5_reduce=0.75"],
        ["--only", "conv1", "--skip", "conv2", "--dry-run"],
    ],
)
def test_manifest(cli: Cli, net28: SmallNet, more: list[str]) -> None:
    result = cli("convert", net28.train_val, "--json", "--input-shape", net28.shape, *more)
    assert (result.code, result.err) == (0, "")
    jsondocs.check(result.data, MANIFEST)
    written = Path("googlenet28/train_val-rebirth/manifest.json")
    assert written.exists() == ("--dry-run" not in more)
    if written.exists():
        assert written.read_text(encoding="utf-8") == result.out


def test_manifest_where_shapes_are_unknown(cli: Cli, net28: SmallNet) -> None:
    result = cli("convert", net28.train_val, "--json")
    jsondocs.check(result.data, MANIFEST)
    assert result.data["before"]["macs"] is None and "deploy" not in result.data["outputs"]
    assert "--input-shape data=" in result.data["notes"][0]


def test_manifest_with_weights(cli: Cli, small: Callable[[str], SmallNet]) -> None:
    net = small("resnet64")
    common = ("convert", net.deploy, "-w", net.weights, "--solver", net.solver, "--json")
    exact = cli(*common, "--exact", "-o", "exact").data
    jsondocs.check(exact, MANIFEST)
    assert exact["source"] == {"net": net.deploy, "weights": net.weights, "solver": net.solver}
    assert exact["ledger"]["folded"] > 20 and not exact["ledger"]["relearned"]
    assert {one["kind"] for one in exact["rewrites"]} == {"exact"}
    ledger = exact["ledger"]
    assert all(ledger[key] == len(names) for key, names in ledger["layers"].items())
    paper = cli(*common, "--paper", "-o", "paper").data
    jsondocs.check(paper, MANIFEST)
    assert not paper["ledger"]["folded"] and paper["ledger"]["relearned"] > 20


def test_manifest_of_deploy(cli: Cli, small: Callable[[str], SmallNet]) -> None:
    net = small("resnet64")
    result = cli("deploy", net.train_val, "-w", net.weights, "-o", "out", "--json", "--input-shape", net.shape)
    assert (result.code, result.err) == (0, "")
    jsondocs.check(result.data, MANIFEST)
    assert result.data["outputs"] == {
        "directory": "out",
        "deploy": "deploy.prototxt",
        "weights": "deploy.caffemodel",
        "manifest": "manifest.json",
    }
    passes = ["strip-training", *EXACT_NAMES]
    assert result.data["options"] == {"passes": passes, "batch": 1, "input_shapes": {"data": [3, 64, 64]}}
    assert Path("out/manifest.json").read_text(encoding="utf-8") == result.out


def test_manifest_of_a_check(cli: Cli, net28: SmallNet, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("deeprebirth_caffe.nets.check.engine", lambda _, caffe: Echo())
    result = cli("convert", net28.train_val, "--input-shape", net28.shape, "--check", "--json")
    jsondocs.check(result.data, MANIFEST)
    assert result.data["check"] == [{"passes": ["strip-training"], "blobs": 1, "worst": 0.0, "worst_blob": "echo"}]


def test_options_in_the_manifest(cli: Cli, net28: SmallNet) -> None:
    streamline = [
        "--no-branch",
        "--no-pass",
        "remove-lrn",
        "--only",
        "conv*",
        "--skip",
        "conv1",
        "--kernel",
        "5",
    ]
    branch = ["--reduce", "0.25", "--reduce", "*_reduce=1", "--force-merge"]
    learn = ["--init", "xavier", "--seed", "3", "--batch", "5", "--lr-factor", "4"]
    arguments = ["--input-shape", net28.shape, *streamline, *branch, *learn]
    found = cli("convert", net28.train_val, "--json", "--dry-run", *arguments).data["options"]
    assert found == {
        "passes": ["drop-identities", "fold-batchnorm", "sum-siblings", "fold-ahead", "pool-to-stride"],
        "only": ["conv*"],
        "skip": ["conv1"],
        "paper": False,
        "kernel": 5,
        "reduce": 0.25,
        "reduce_patterns": [{"pattern": "*_reduce", "ratio": 1.0}],
        "force_merge": True,
        "init": "xavier",
        "seed": 3,
        "calibrate": None,
        "samples": None,
        "reparam": None,
        "input_shapes": {"data": [1, 28, 28]},
        "batch": 5,
        "lr_factor": 4.0,
    }


@pytest.mark.parametrize("phase", ["TRAIN", "TEST"])
def test_inspect(cli: Cli, net28: SmallNet, phase: str) -> None:
    for more in ([], ["--input-shape", net28.shape], ["-w", net28.weights]):
        result = cli("inspect", net28.train_val, "--phase", phase, "--json", *more)
        assert (result.code, result.err) == (0, "")
        jsondocs.check(result.data, "inspect")
        assert bool(result.data["unknown"]) == (not more)


@pytest.mark.parametrize("phase", ["TRAIN", "TEST"])
def test_diff(cli: Cli, net28: SmallNet, phase: str) -> None:
    for more in ([], ["--input-shape", net28.shape]):
        result = cli("diff", net28.train_val, net28.deploy, "--phase", phase, "--json", *more)
        assert (result.code, result.err) == (0, "")
        jsondocs.check(result.data, "diff")
        assert result.data["removed"] and result.data["changed"]
        assert [layer["name"] for layer in result.data["new"]] == ["prob"]


def test_zoo(cli: Cli) -> None:
    jsondocs.check(cli("zoo", "list", "--json").data, "zoo list")
    jsondocs.check(cli("zoo", "alexnet64", "--json").data, "zoo NAME")


def test_doctor_without_caffe(cli: Cli) -> None:
    result = cli("doctor", "--caffe", "nowhere", "--json")
    assert (result.code, result.err) == (0, "")
    jsondocs.check(result.data, "doctor")


def test_doctor_of_a_net(cli: Cli, net28: SmallNet) -> None:
    text = Path(net28.deploy).read_text(encoding="utf-8")
    Path("fork.prototxt").write_text(text + 'layer { name: "n" type: "Normalize" bottom: "prob" top: "n" }\n')
    plain, fork = (cli("doctor", net, "--json").data for net in (net28.deploy, "fork.prototxt"))
    jsondocs.check(plain, "doctor NET")
    jsondocs.check(fork, "doctor NET")
    assert plain["plain"] and fork["dialects"]


def test_the_tables_are_made_of_the_classes() -> None:
    text = json_docs.PAGE.read_text(encoding="utf-8")
    assert text == json_docs.written(text), "python scripts/json_docs.py brings docs/json.md up to date"


def test_each_table_is_held_against_something() -> None:
    assert set(json_docs.RESULTS) == {
        MANIFEST,
        "inspect",
        "diff",
        "zoo list",
        "zoo NAME",
        "doctor",
        "doctor NET",
        *ELSEWHERE,
    }


@pytest.mark.parametrize(("heading", "text"), jsondocs.examples())
def test_examples(heading: str, text: str) -> None:
    data = json.loads(text)
    if '"…": "…"' not in text:
        jsondocs.check(data, heading)
    else:
        assert list(data) == list(json_docs.keys(json_docs.RESULTS[heading]))


def test_the_example_of_the_manifest_is_real(cli: Cli) -> None:
    cli("zoo", "alexnet")
    told = json.loads(next(text for heading, text in jsondocs.examples() if heading == MANIFEST))
    arguments = ("alexnet/train_val.prototxt", "--only", "conv1", "--kernel", "receptive", "--json")
    assert cli("convert", *arguments).data == told


def _spoil(data: Any, how: str) -> None:
    if how == "missing":
        del data["after"]["macs"]
    elif how == "new":
        data["rewrites"][0]["colour"] = "blue"
    elif how == "type":
        data["ledger"]["layers"]["copied"] = [1]
    elif how == "bool for int":
        data["version"] = True
    else:
        data["lr_mult"]["conv1/5x5_merge"] = [None]


@pytest.mark.parametrize("how", ["missing", "new", "type", "bool for int", "map"])
def test_the_checker_sees_what_is_wrong(cli: Cli, net28: SmallNet, how: str) -> None:
    data = cli("convert", net28.train_val, "--input-shape", net28.shape, "--json").data
    jsondocs.check(data, MANIFEST)
    spoilt = copy.deepcopy(data)
    _spoil(spoilt, how)
    with pytest.raises(AssertionError):
        jsondocs.check(spoilt, MANIFEST)
