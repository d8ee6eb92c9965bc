"""One conversion after another: the paper's steps. Rebirth layers of a step learn ten times as fast, and only then."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from cli_tools import Cli, Everything, SmallNet, complaint, lr_mults

NET = "train_val.prototxt"
Step = Callable[..., dict[str, Any]]


@pytest.fixture
def step(cli: Cli, net28: SmallNet) -> Step:
    """Converts a net into a folder; gives the manifest."""

    def run(net: str, out: str, *options: object) -> dict[str, Any]:
        result = cli("convert", net, "--input-shape", net28.shape, "-o", out, "--json", *options)
        assert result.code == 0, result
        found: dict[str, Any] = result.data
        return found

    return run


def test_three_steps(step: Step, net28: SmallNet) -> None:
    first = step(net28.train_val, "1", "--only", "conv1")
    assert first["lr_mult"] == {"conv1/5x5_merge": [1, 2]}
    assert lr_mults(f"1/{NET}")["conv1/5x5_merge"] == [10, 20]
    second = step(f"1/{NET}", "2", "--only", "inception_3a")
    assert set(second["lr_mult"]) == {f"inception_3a/{name}_merge" for name in ("3x3_reduce", "3x3", "5x5")}
    mults = lr_mults(f"2/{NET}")
    assert mults["conv1/5x5_merge"] == [1, 2]
    assert all(mults[name] == [10, 20] for name in second["lr_mult"])
    assert any("an earlier step is over" in note and "conv1/5x5_merge" in note for note in second["notes"])
    # A conversion that makes nothing new leaves the step as it is, and so does the next one.
    third = step(f"2/{NET}", "3", "--exact")
    assert third["lr_mult"] == second["lr_mult"] and lr_mults(f"3/{NET}") == mults
    assert any("nothing new relearns" in note for note in third["notes"])
    assert Path(f"3/{NET}").read_bytes() == Path(f"2/{NET}").read_bytes()
    assert step(f"3/{NET}", "4", "--step-over", "--exact")["lr_mult"] == {}
    assert {tuple(values) for values in lr_mults(f"4/{NET}").values()} == {(1, 2)}


def test_a_layer_that_is_reborn_twice_is_at_ten_times(step: Step, net28: SmallNet) -> None:
    step(net28.train_val, "1", "--only", "conv1", "--no-pass", "pool-to-stride")
    second = step(f"1/{NET}", "2", "--only", "conv1")
    (name,) = second["lr_mult"]
    assert name.startswith("conv1/5x5_merge") and name != "conv1/5x5_merge"  # old weights must not load into it
    assert second["lr_mult"][name] == [1, 2] and lr_mults(f"2/{NET}")[name] == [10, 20]


def test_a_factor_is_undone_too(step: Step, net28: SmallNet) -> None:
    step(net28.train_val, "1", "--only", "conv1", "--lr-factor", "3")
    assert lr_mults(f"1/{NET}")["conv1/5x5_merge"] == [3, 6]
    step(f"1/{NET}", "2", "--only", "conv2", "--lr-factor", "7")
    mults = lr_mults(f"2/{NET}")
    assert (mults["conv1/5x5_merge"], mults["conv2/3x3_merge"]) == ([1, 2], [7, 14])


def test_over_the_step_before(step: Step, cli: Cli, net28: SmallNet) -> None:
    step(net28.train_val, "1", "--only", "conv1")
    before = lr_mults(f"1/{NET}")
    again = cli("convert", f"1/{NET}", "--input-shape", net28.shape, "-o", "1", "--only", "conv2", "--force")
    assert f"this command reads 1/{NET}, and would replace or remove it" in complaint(again, 1)
    assert lr_mults(f"1/{NET}") == before


def test_step_by_step_is_all_at_once(step: Step, net28: SmallNet) -> None:
    whole = step(net28.train_val, "whole")
    step(net28.train_val, "1", "--only", "conv1", "--only", "conv2")
    last = step(f"1/{NET}", "2", "--only", "inception")
    assert last["after"] == whole["after"]


def test_weights_go_along(step: Step, net28: SmallNet) -> None:
    step(net28.train_val, "1", "-w", net28.weights, "--only", "conv1")
    second = step(f"1/{NET}", "2", "-w", "1/init.caffemodel", "--only", "conv2")
    assert "conv1/5x5_merge" in second["ledger"]["layers"]["copied"]
    assert second["ledger"]["layers"]["relearned"] == ["conv2/3x3_merge"]


def test_a_net_that_the_manifest_is_not_about(step: Step, net28: SmallNet) -> None:
    """A file that was put beside a conversion later keeps its multipliers."""
    step(net28.train_val, "1", "--only", "conv1")
    Path(f"1/{NET}").rename("1/other.prototxt")
    step("1/other.prototxt", "2", "--exact")
    assert lr_mults("2/other.prototxt")["conv1/5x5_merge"] == [10, 20]


@pytest.mark.parametrize(
    "text",
    [
        "",
        "{",
        "[]",
        "null",
        '{"version": 1}',
        '{"version": 1, "outputs": {"net": "train_val.prototxt"}}',
        '{"version": 1, "outputs": {"net": "train_val.prototxt"}, "lr_mult": {"conv1/5x5_merge": ["fast"]}}',
        '{"version": 1, "outputs": {"net": "train_val.prototxt"}, "lr_mult": [1]}',
        '{"version": 2, "outputs": {"net": "train_val.prototxt"}, "lr_mult": {}}',
        "\x00\xff",
    ],
)
def test_a_broken_manifest_beside_a_net(cli: Cli, net28: SmallNet, everything: Everything, text: str) -> None:
    Path("googlenet28/manifest.json").write_text(text, encoding="latin-1")
    before = everything()
    for more in ([], ["--dry-run"]):
        said = complaint(cli("convert", net28.train_val, "--input-shape", net28.shape, "-o", "out", *more), 1)
        assert said.startswith("googlenet28/manifest.json: cannot be read as a manifest of rebirth (")
        assert said.endswith("repair it or move it away")
    assert everything() == before


def test_unknown_fields_of_a_manifest_are_ignored(step: Step, net28: SmallNet) -> None:
    step(net28.train_val, "1", "--only", "conv1")
    manifest = json.loads(Path("1/manifest.json").read_text(encoding="utf-8"))
    manifest["colour"] = "blue"
    Path("1/manifest.json").write_text(json.dumps(manifest), encoding="utf-8")
    step(f"1/{NET}", "2", "--only", "conv2")
    assert lr_mults(f"2/{NET}")["conv1/5x5_merge"] == [1, 2]
