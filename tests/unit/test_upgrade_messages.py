"""Upgrading messages, without Caffe: the rules, what is said about them, and what is refused."""

from __future__ import annotations

import re

import pytest
import upgrade_corpus as corpus

from deeprebirth_caffe.formats import wire
from deeprebirth_caffe.formats.legacy import V0_TYPES, V1_TYPES, fork_type, v0_type
from deeprebirth_caffe.formats.upgrade import UpgradeError, needs_upgrade, upgrade_net, upgrade_net_binary, v0
from deeprebirth_caffe.ops import all_ops
from deeprebirth_caffe.proto import caffe_pb2 as pb

V1 = pb.V1LayerParameter


@pytest.mark.parametrize("name", corpus.coverage())
def test_the_corpus_covers(name: str) -> None:
    have, want = corpus.coverage()[name]
    assert not want - have


def test_every_v0_field_has_a_rule() -> None:
    plain = {"name", "type", "blobs", "blobs_lr", "weight_decay", "new_num", "new_channels"}
    assert plain | set(v0.RULES) == set(corpus.V0_FIELDS)
    for target, homes in v0.RULES.values():
        for kind, home in homes.items():
            assert not kind or kind in V0_TYPES
            inner = V1.DESCRIPTOR.fields_by_name[home].message_type if home else V1.DESCRIPTOR
            assert target in inner.fields_by_name


def test_every_v1_type_is_one_of_todays() -> None:
    today = {op.type for op in all_ops()}
    assert set(V1_TYPES) == set(V1.LayerType.values())
    assert {name for name in V1_TYPES.values() if name} <= today
    assert {v0_type(name) for name in V0_TYPES} <= today


def test_every_v1_field_but_the_lists_exists_today_with_the_same_type() -> None:
    today = pb.LayerParameter.DESCRIPTOR.fields_by_name
    for field in V1.DESCRIPTOR.fields:
        if field.name in ("layer", "type", "param", "blob_share_mode", "blobs_lr", "weight_decay"):
            continue
        assert today[field.name].type == field.type
        assert today[field.name].message_type is field.message_type


def test_v1_layer() -> None:
    net = pb.NetParameter()
    layer = net.layers.add(name="a", type=V1.CONVOLUTION, blobs_lr=[1, 2], weight_decay=[1, 0], param=["w"])
    layer.blob_share_mode.append(V1.PERMISSIVE)
    report = upgrade_net(net)
    [new] = net.layer
    assert new.type == "Convolution"
    assert [(one.name, one.lr_mult, one.decay_mult) for one in new.param] == [("w", 1, 1), ("", 2, 0)]
    assert new.param[0].share_mode == pb.ParamSpec.PERMISSIVE
    assert report.forms == ["V1"] and report.complete and not report.notes
    assert not needs_upgrade(net)


def test_transformation_fields_win_over_those_in_transform_param() -> None:
    net = pb.NetParameter()
    layer = net.layers.add(type=V1.DATA)
    layer.data_param.scale = 2
    layer.transform_param.scale = 3
    layer.transform_param.mirror = True
    upgrade_net(net)
    assert net.layer[0].transform_param == pb.TransformationParameter(scale=2, mirror=True)
    assert net.layer[0].HasField("data_param") and not net.layer[0].data_param.HasField("scale")


def test_input_becomes_the_first_layer() -> None:
    net = pb.NetParameter(input=["a", "b"], input_dim=range(1, 9))
    net.layer.add(name="x", type="ReLU")
    report = upgrade_net(net)
    assert [layer.type for layer in net.layer] == ["Input", "ReLU"]
    assert [list(shape.dim) for shape in net.layer[0].input_param.shape] == [[1, 2, 3, 4], [5, 6, 7, 8]]
    assert report.places == [None, 0]


def test_input_without_a_shape_is_left_out_with_a_note() -> None:
    net = pb.NetParameter(input=["a"])
    report = upgrade_net(net)
    assert not net.input and not net.layer
    assert "no shape is given for input a" in str(report.notes[0])


@pytest.mark.parametrize(
    ("net", "reason"),
    [
        (pb.NetParameter(input=["a", "b"], input_dim=[1, 2, 3, 4, 5]), "5 x input_dim"),
        (pb.NetParameter(input=["a", "b"], input_shape=[pb.BlobShape(dim=[1])]), "1 x input_shape"),
    ],
)
def test_input_with_too_few_shapes_is_refused(net: pb.NetParameter, reason: str) -> None:
    with pytest.raises(UpgradeError, match=reason):
        upgrade_net(net)


@pytest.mark.parametrize("name", corpus.refused_nets())
def test_refused(name: str) -> None:
    net, reason = corpus.refused_nets()[name]
    with pytest.raises(UpgradeError, match=re.escape(reason)):
        upgrade_net(net)


def test_a_v0_net_with_todays_layer_is_refused_where_caffe_drops_it() -> None:
    net = pb.NetParameter()
    net.layers.add().layer.type = "relu"
    net.layer.add(type="ReLU")
    with pytest.raises(UpgradeError, match="both 'layer' and 'layers'"):
        upgrade_net(net)


def test_what_v0_leaves_out_is_said() -> None:
    net = pb.NetParameter(debug_info=True)
    layer = net.layers.add(name="outer")
    layer.layer.CopyFrom(pb.V0LayerParameter(name="r", type="relu", num_output=3, new_num=4))
    report = upgrade_net(net)
    said = [str(note) for note in report.notes]
    assert not report.complete
    assert any("no debug_info" in note for note in said)
    for word in ("'num_output'", "'new_num'", "name left out"):
        assert any(note.startswith('layers[0] "r": ') and word in note for note in said)


def test_batchnorm_with_three_params_does_not_learn() -> None:
    net = pb.NetParameter()
    for count in (2, 3):
        layer = net.layer.add(type="BatchNorm")
        for _ in range(count):
            layer.param.add(name="n", lr_mult=1)
    assert upgrade_net(net).forms == ["BatchNorm"]
    assert [param.lr_mult for layer in net.layer for param in layer.param] == [1, 1, 0, 0, 0]
    assert [param.name for param in net.layer[1].param] == ["n"] * 3


def test_unknown_binary_fields_are_listed() -> None:
    net = pb.NetParameter()
    net.layers.add(name="a", type=V1.RELU)
    data = net.SerializeToString()
    stranger = bytes((0xF8, 0x3F, 5))  # field 1023, a number
    body = data[2:] + stranger
    new, report = upgrade_net_binary(bytes((data[0], len(body))) + body)
    assert pb.NetParameter.FromString(new).layer[0].type == "ReLU"
    assert [str(note) for note in report.notes] == [
        'layers[0] "a": binary fields that Caffe 1.0 does not have (1023); left out'
    ]


def test_bytes_that_are_no_net() -> None:
    with pytest.raises(UpgradeError, match="not a net"):
        upgrade_net_binary(b"\xff\xff\xff")


@pytest.mark.parametrize(
    ("word", "name"),
    [("UPSAMPLE", "Upsample"), ("BN", "BN"), ("BATCH_NORM", "BatchNorm"), ("PRELU", "PReLU"), ("MY_OWN", "MyOwn")],
)
def test_types_of_forks(word: str, name: str) -> None:
    assert fork_type(word) == name


def test_a_forks_value_of_an_enum_stays_in_a_binary_net() -> None:
    own = bytes([0x08, 9, 0x10, 3])  # pool: 9, which Caffe does not have, and pad: 3
    today = pb.LayerParameter(name="p", type="Pooling").SerializeToString()
    old = pb.V1LayerParameter(name="p", type=pb.V1LayerParameter.POOLING).SerializeToString()
    for plain, field, pooling in ((today, 100, 121), (old, 2, 19)):
        layer = plain + wire.encode_head(pooling, len(own)) + own
        upgraded, _ = upgrade_net_binary(wire.encode_head(field, len(layer)) + layer)
        [found] = pb.NetParameter.FromString(upgraded).layer
        assert not found.pooling_param.HasField("pool")
        assert own[:2] in found.pooling_param.SerializeToString()
