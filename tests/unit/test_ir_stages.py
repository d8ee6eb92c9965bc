"""Stages: what the paper's tables call the parts of a net."""

from __future__ import annotations

import pytest
from nets import conv, data, layer, parse, pool, relu

from deeprebirth_caffe import zoo
from deeprebirth_caffe.ir import Net


def stages(text: str) -> dict[str, str]:
    return {one.name: one.stage for one in parse(text).layers}


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        (
            "googlenet",
            "conv1 conv2 inception_3a inception_3b inception_4a loss1 inception_4b inception_4c inception_4d loss2 "
            "inception_4e inception_5a inception_5b loss3",
        ),
        ("alexnet", "conv1 conv2 conv3 conv4 conv5 fc6 fc7 fc8"),
        ("squeezenet1.0", "conv1 fire2 fire3 fire4 fire5 fire6 fire7 fire8 fire9 conv10"),
    ],
)
def test_the_papers_rows(name: str, expected: str) -> None:
    found = dict.fromkeys(one.stage for one in Net.parse(zoo.build(name).train_val).layers)
    assert [stage for stage in found if stage != "data"] == expected.split()


def test_resnet_has_a_stage_for_each_convolution() -> None:
    found = {one.name: one.stage for one in Net.parse(zoo.build("resnet50").train_val).layers}
    assert found["res2a_branch1"] == found["bn2a_branch1"] == found["scale2a_branch1"] == "res2a_branch1"
    assert found["conv1"] == found["pool1"] == "conv1"


def test_layers_without_weights_belong_to_what_they_read() -> None:
    text = data(1, 3, 8, 8) + conv("conv1", "data") + relu("relu1", "conv1") + pool("pool1/3x3", "conv1")
    assert stages(text) == {"data": "data", "conv1": "conv1", "relu1": "conv1", "pool1/3x3": "conv1"}


def test_a_pool_named_like_its_module_belongs_to_it() -> None:
    text = data(1, 3, 8, 8) + conv("a/x", "data") + pool("b/pool", "a/x") + conv("b/y", "b/pool")
    assert stages(text)["b/pool"] == "b"


def test_branches_that_meet_share_a_stage() -> None:
    """Names without a slash: what their words share."""
    text = (
        data(1, 3, 8, 8)
        + conv("inception_a1_1x1", "data", kernel=1)
        + conv("inception_a1_3x3", "data", kernel=1)
        + layer("Concat", "out", ("inception_a1_1x1", "inception_a1_3x3"))
    )
    assert set(stages(text).values()) == {"data", "inception_a1"}
    text = data(1, 3, 8, 8) + conv("conv1", "data") + conv("conv2", "data") + layer("Concat", "o", ("conv1", "conv2"))
    assert stages(text) == {"data": "data", "conv1": "conv1", "conv2": "conv2", "o": "conv1"}


def test_merged_layers_stay_in_their_stage() -> None:
    text = data(1, 3, 8, 8) + conv("conv1_merge", "data") + conv("conv2_fold2", "conv1_merge")
    assert stages(text) == {"data": "data", "conv1_merge": "conv1", "conv2_fold2": "conv2"}
