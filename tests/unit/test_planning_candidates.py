"""What can be merged stage by stage, and what is learned together."""

from __future__ import annotations

from functools import cache
from pathlib import Path

import pytest

from deeprebirth_caffe import zoo
from deeprebirth_caffe.commands.convert import passes_of
from deeprebirth_caffe.ir import Net
from deeprebirth_caffe.nets.selection import Selection, names_stage
from deeprebirth_caffe.options.convert import ConvertOptions
from deeprebirth_caffe.rewrite import Kind
from deeprebirth_caffe.runs.planning.candidates import (
    Merge,
    exactly,
    find_merges,
    find_variants,
    step_name,
    together,
)

PAPER = passes_of(ConvertOptions(Path("net"), paper=True))
BEST = passes_of(ConvertOptions(Path("net")))


@cache
def net(name: str) -> Net:
    return Net.parse(zoo.build(name).deploy)


def groups(name: str, paper: bool = True, only: tuple[str, ...] = ()) -> list[list[str]]:
    merges = find_merges(net(name), PAPER if paper else BEST, Selection(only)).merges
    return [[merge.stage for merge in group] for group in together(net(name), merges)]


def test_googlenet_goes_as_in_the_paper() -> None:
    stages = ["conv1", "conv2", "3a", "3b", "4a", "4b-4d", "4e", "5a", "5b"]
    found = groups("googlenet")
    assert [step_name(group, group).removeprefix("inception_") for group in found] == stages
    assert found[5] == ["inception_4b", "inception_4c", "inception_4d"]
    assert groups("googlenet", paper=False) == found


@pytest.mark.parametrize("name", ["googlenet", "googlenet64"])
def test_the_configs_say_the_same(name: str) -> None:
    pytest.importorskip("pydantic")
    pytest.importorskip("yaml")
    from deeprebirth_caffe.runs.schedule.files import read_schedule

    found = read_schedule(Path(__file__).parents[2] / "configs" / f"{name}.yaml")
    assert [(step.name, list(step.stages)) for step in found.steps] == [
        (step_name(group, group), group) for group in groups(name)
    ]


def test_a_branch_of_a_residual_block_is_one_step() -> None:
    found = groups("resnet50", only=("conv1", "res2a"))
    assert found == [["conv1"], ["res2a_branch1"], ["res2a_branch2a", "res2a_branch2b", "res2a_branch2c"]]
    assert len(groups("resnet50")) == 1 + 16 + 4
    # The branches of neighbouring blocks stay apart.
    assert all(len({stage.split("_")[0] for stage in group}) == 1 for group in groups("resnet50"))


def test_layers_in_a_row_are_steps_of_their_own() -> None:
    assert groups("alexnet64") == [["conv1"], ["conv2"]]
    assert groups("alexnet64", paper=False) == [["conv1"], ["conv2"], ["conv5"]]


def test_merges_tell_what_goes_and_what_it_saves() -> None:
    found = find_merges(net("googlenet"), BEST, Selection())
    by = {merge.stage: merge for merge in found.merges}
    assert by["conv1"].passes == ("remove-lrn", "pool-to-stride")
    assert by["conv1"].removed == ("pool1/norm1", "pool1/3x3_s2")
    assert by["conv1"].rebirth == ("conv1/7x7_s2_merge",)
    assert by["conv1"].macs_before == 118_013_952 and by["conv1"].macs_after == 118_013_952 // 4
    assert by["inception_3b"].passes == ("merge-branches", "pool-to-stride")
    assert "pool3/3x3_s2" in by["inception_3b"].removed and "inception_3b/5x5" not in by["inception_3b"].removed
    assert [layer for layer, _ in found.left] == ["pool5/7x7_s1"]
    paper = {merge.stage: merge for merge in find_merges(net("googlenet"), PAPER, Selection()).merges}
    assert paper["inception_3b"].passes == ("merge-branches",)


def test_finding_changes_nothing() -> None:
    before = net("googlenet").text()
    find_merges(net("googlenet"), BEST, Selection())
    assert net("googlenet").text() == before


def test_variants_hold_every_choice_of_passes() -> None:
    merges = find_merges(net("googlenet"), BEST, Selection()).merges
    found = find_variants(net("googlenet"), BEST, Selection(), merges)
    relearn = [one.name for one in BEST if one.kind is Kind.RELEARN]
    assert len(found) == 2 ** len(relearn) - 1 and found[0] == list(merges)
    conv1 = {merge.passes for some in found for merge in some if merge.stage == "conv1"}
    assert conv1 == {("remove-lrn", "pool-to-stride"), ("remove-lrn",), ("pool-to-stride",)}
    module = {merge.passes for some in found for merge in some if merge.stage == "inception_4e"}
    assert module == {("merge-branches", "pool-to-stride"), ("merge-branches",), ("pool-to-stride",)}
    assert {merge.passes for some in found for merge in some if merge.stage == "inception_4b"} == {("merge-branches",)}


@pytest.mark.parametrize(
    ("stages", "group", "name"),
    [
        (["conv1"], ["conv1"], "conv1"),
        (["m_4b", "m_4c", "m_4d"], ["m_4b", "m_4c", "m_4d"], "m_4b-4d"),
        (["m_4c", "m_4d"], ["m_4b", "m_4c", "m_4d"], "m_4c-4d"),
        (["m_4b", "m_4d"], ["m_4b", "m_4c", "m_4d"], "m_4b+4d"),
        (["res2a_branch2a", "res2a_branch2c"], ["res2a_branch2a", "res2a_branch2c"], "res2a_branch2a-branch2c"),
        (["one", "two"], ["one", "two"], "one-two"),
    ],
)
def test_names_of_steps(stages: list[str], group: list[str], name: str) -> None:
    assert step_name(stages, group) == name


@pytest.mark.parametrize(
    ("stage", "stages"),
    [("conv1", ["conv1", "conv2"]), ("conv1", ["conv1", "conv1_1"]), ("a[0]*", ["a[0]*", "a0b"]), ("[", ["["])],
)
def test_patterns_that_mean_one_stage(stage: str, stages: list[str]) -> None:
    assert [one for one in stages if names_stage(exactly(stage, stages), one)] == [stage]


def test_unknown_shapes_leave_groups_out() -> None:
    bare = Net.parse(zoo.build("googlenet28").train_val)
    merges = [Merge(stage, ("merge-branches",), (), (), None, None) for stage in ("inception_3a", "inception_3b")]
    assert [len(group) for group in together(bare, merges)] == [1, 1]
