"""Views: which layers live in which state, def-use through in-place layers, and the verifier's words."""

from __future__ import annotations

import pytest
from nets import by_name, conv, data, fc, layer, names, parse, pool, relu

from deeprebirth_caffe.ir import Net, NetError, NetState

TRAIN_VAL = (
    layer("Data", "data", (), ("data", "label"), "include { phase: TRAIN } data_param { batch_size: 8 }")
    + layer("Data", "data", (), ("data", "label"), "include { phase: TEST } data_param { batch_size: 2 }")
    + conv("conv", "data")
    + relu("relu", "conv")
    + layer("Dropout", "drop", "conv", "conv", "include { phase: TRAIN }")
    + fc("fc", "conv")
    + layer("SoftmaxWithLoss", "loss", ("fc", "label"), "loss", "exclude { phase: TEST }")
    + layer("Accuracy", "acc", ("fc", "label"), "acc", "include { phase: TEST }")
)


def alive(net: Net, phase: str, *stages: str) -> list[str]:
    return [one.name for one in net.view(phase, stages).layers]


def test_two_phases_in_one_file() -> None:
    net = parse(TRAIN_VAL, datum=(3, 8, 8))
    assert [view.state for view in net.views] == [NetState("TRAIN"), NetState("TEST")]
    assert alive(net, "TRAIN") == ["data", "conv", "relu", "drop", "fc", "loss"]
    assert alive(net, "TEST") == ["data", "conv", "relu", "fc", "acc"]
    assert [view.blobs["data"].shape for view in net.views] == [(8, 3, 8, 8), (2, 3, 8, 8)]
    assert net.blob_shapes()["data"] == {(8, 3, 8, 8), (2, 3, 8, 8)}


def test_values_are_ssa_through_in_place_layers() -> None:
    net = parse(TRAIN_VAL, datum=(3, 8, 8))
    train, test = net.views
    made, relued, dropped = (by_name(net, name) for name in ("conv", "relu", "drop"))
    read = by_name(net, "fc")
    assert train.ins[read][0].producer is dropped
    assert test.ins[read][0].producer is relued
    assert train.blobs["conv"] is train.outs[dropped][0]
    assert [use for use, _ in train.outs[made][0].uses] == [relued]
    assert net.producers(read) == [(dropped, 0), (relued, 0)]
    assert net.readers(relued) == [(dropped, 0), (read, 0)]
    assert net.alive_in(dropped) == {NetState("TRAIN")}


def test_outputs_are_what_nobody_reads() -> None:
    net = parse(TRAIN_VAL, datum=(3, 8, 8))
    assert [[value.name for value in view.outputs] for view in net.views] == [["loss"], ["acc"]]


def test_a_net_that_does_not_learn_only_has_test() -> None:
    net = parse(data(1, 3, 8, 8) + conv("conv", "data"))
    assert not net.trains
    assert [str(view.state) for view in net.views] == ["TEST"]


@pytest.mark.parametrize(
    "more",
    [
        conv("end", "data", rest="loss_weight: 1"),
        layer("EuclideanLoss", "end", ("data", "data"), "end"),
        layer("DummyData", "more", (), "more", "dummy_data_param { shape { dim: 1 } } exclude { phase: TEST }"),
        layer("Python", "more", (), "more", "exclude { phase: TEST }"),
    ],
)
def test_nets_that_learn(more: str) -> None:
    net = parse(data(1, 3, 8, 8) + conv("conv", "data") + more)
    assert net.trains
    assert [str(view.state) for view in net.views] == ["TRAIN", "TEST"]


def test_a_deploy_net_with_a_layer_for_test_alone_learns_nothing() -> None:
    net = parse(data(1, 3, 8, 8) + conv("conv", "data") + relu("end", "conv", "end", "include { phase: TEST }"))
    assert not net.learns
    assert parse(data(1, 3, 8, 8) + layer("EuclideanLoss", "end", ("data", "data"), "end")).learns


def test_a_deploy_net_stays_one_whatever_its_rules() -> None:
    """Published ones keep a stray `include` of the net that they were made from, which Caffe takes in TEST."""
    text = data(1, 3, 8, 8) + conv("conv", "data", rest="include { phase: TEST }") + relu("relu", "conv")
    net = parse(text)
    assert not net.trains
    assert [str(view.state) for view in net.views] == ["TEST"]


ONE_PHASE = (
    layer("DummyData", "data", (), "data", "dummy_data_param { shape { dim: 4 dim: 3 } } include { phase: PHASE }")
    + fc("fc", "data")
    + layer("EuclideanLoss", "loss", ("fc", "fc"), "loss")
)


@pytest.mark.parametrize(("there", "absent"), [("TRAIN", "TEST"), ("TEST", "TRAIN")])
def test_a_file_of_one_phase(there: str, absent: str) -> None:
    net = parse(ONE_PHASE.replace("PHASE", there))
    assert net.trains
    assert net.learns == (there == "TRAIN")
    assert [str(view.state) for view in net.views] == [there]
    assert list(net.absent) == [absent]
    reason = f'layer "fc" reads blob "data", which no layer produces in {absent}: the rules of layer "data"'
    assert reason in net.absent[absent]
    with pytest.raises(NetError, match=reason):
        net.view(absent, stand_in=False)


def test_train_stands_in_for_a_test_that_is_not_there() -> None:
    net = parse(ONE_PHASE.replace("PHASE", "TRAIN"))
    view = net.view("TEST")
    assert (str(view.state), alive(net, "TEST")) == ("TEST", ["data", "fc", "loss"])
    with pytest.raises(NetError, match="which no layer produces in TRAIN"):
        parse(ONE_PHASE.replace("PHASE", "TEST")).view("TRAIN")


def test_a_slip_in_one_phase_is_no_other_phase() -> None:
    with pytest.raises(NetError, match='reads blob "dota", which no layer produces in TEST; check the spelling'):
        _ = parse(TRAIN_VAL + fc("more", "dota", rest="include { phase: TEST }")).views


STAGED = (
    layer("Input", "data", (), "data", 'include { stage: "deploy" } input_param { shape { dim: 1 dim: 3 } }')
    + layer("DummyData", "data", (), "data", 'exclude { stage: "deploy" } dummy_data_param { shape { dim: 4 dim: 3 } }')
    + fc("fc", "data")
    + layer("Softmax", "prob", "fc", "prob", 'include { stage: "deploy" }')
    + layer("EuclideanLoss", "loss", ("fc", "fc"), "loss", 'include { phase: TRAIN not_stage: "deploy" }')
    + fc("deep", "fc", rest="include { min_level: 2 }")
)


def test_stages_and_levels_are_told_apart() -> None:
    net = parse(STAGED)
    states = {str(view.state): [one.name for one in view.layers] for view in net.views}
    assert states["TRAIN"] == ["data", "fc", "loss"]
    assert states["TEST"] == ["data", "fc"]
    assert states["TEST deploy"] == ["data", "fc", "prob"]
    assert states["TRAIN level 2"] == ["data", "fc", "loss", "deep"]
    assert alive(net, "TEST", "deploy") == ["data", "fc", "prob"]
    assert [one.name for one in net.view("TEST", level=2).layers] == ["data", "fc", "deep"]


def test_many_stages_at_levels_of_their_own() -> None:
    """Only the limits of rules whose stages fit are tried with a stage, and each gives a net of its own."""
    rules = [f'include {{ stage: "s{index}" min_level: {index} max_level: {index + 1} }}' for index in range(1, 200)]
    net = Net.parse(data(1, 3) + "".join(relu(f"r{i}", "data", f"x{i}", rule) for i, rule in enumerate(rules)))
    assert len(net.views) == 200  # nothing but the input, and each layer; a net without a loss or data has TEST alone
    assert sum(len(view.layers) for view in net.views) == 1 + 2 * 199


def test_more_nets_in_a_file_than_anybody_needs_are_refused() -> None:
    rules = [f'include {{ stage: "s{i}" }}' if i % 2 else f"include {{ min_level: {i} }}" for i in range(200)]
    net = Net.parse(data(1, 3) + "".join(relu(f"r{i}", "data", f"x{i}", rule) for i, rule in enumerate(rules)))
    with pytest.raises(NetError, match="more than 1,000 nets"):
        _ = net.views


def test_a_file_of_stages_may_be_unsound_without_them() -> None:
    """An all-in-one file: no stage at all is nothing it was written for."""
    text = (
        layer("Input", "a", (), "data", 'include { stage: "a" } input_param { shape { dim: 1 dim: 3 } }')
        + layer("Input", "b", (), "data", 'include { stage: "b" } input_param { shape { dim: 2 dim: 3 } }')
        + fc("fc", "data")
    )
    net = parse(text)
    assert {str(view.state) for view in net.views} == {"TEST a", "TEST b"}
    assert net.view("TEST").state.stages == {"a"}


def test_a_rule_that_never_holds_in_one_phase_is_no_excuse() -> None:
    with pytest.raises(NetError, match='reads blob "data", which no layer produces in TEST'):
        _ = parse(layer("Input", "data", (), "data", "include { phase: TRAIN }") + fc("fc", "data")).views


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (conv("a", "x"), 'layer "a" reads blob "x", which no layer produces in TEST; check the spelling'),
        (conv("a", "b") + data(1, 3, 8, 8) + conv("b", "data"), r'reads blob "b" before layer "b" .* put the'),
        (conv("a", "b") + conv("b", "a"), 'which layer "b" makes from what "a" puts out: a cycle'),
        (conv("a", "a"), "which only it produces: a cycle; give it another bottom"),
        (
            data(1, 3, 8, 8) + conv("a", "data") + layer("ReLU", "b", "data", "a"),
            r'layer "b" produces blob "a", which layer "a" \(net.prototxt:2:1\) already produces in TEST',
        ),
        (
            'input: "a" input_shape { dim: 1 } ' + data(1, 3, 8, 8, name="a"),
            'produces blob "a", which the net\'s header already has as an input; remove `input: "a"` there',
        ),
        ('input: "a" input: "a" ' + fc("b", "a"), 'the net input "a" is declared twice'),
        (
            data(1, 3, 8, 8) + conv("a", "data") + pool("p", "a") + relu("r", "a"),
            'layer "r" overwrites blob "a" in place, which layer "p" reads before that in TEST',
        ),
        (
            data(1, 3, 8, 8) + conv("a", "data") + layer("Eltwise", "e", ("a", "a"), "a"),
            'layer "e" overwrites blob "a" in place, which is read more than once in TEST',
        ),
        (
            data(1, 3, 8, 8) + layer("Split", "s", "data", ("x", "x")),
            r'layer "s" produces blob "x", which layer "s" .* already produces',
        ),
        (data(1, 3, 8, 8) + conv("a", "data", kernel=9), r"net.prototxt:2:1: .*a"),
    ],
)
def test_the_verifier_says_what_is_wrong(text: str, message: str) -> None:
    with pytest.raises(NetError, match=message):
        _ = parse(text).views


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('name: "empty"', "there is no layer in this file; is it a net"),
        ('layer { name: "a" top: "a" }', 'layer "a" has no type'),
        (
            layer("ReLU", "a", (), "a", "include { phase: TRAIN } exclude { phase: TEST }"),
            "both include and exclude rules",
        ),
        (layer("ReLU", "../x y", (), "a"), 'layer name "../x y" climbs out of a folder'),
        (layer("ReLU", "a", (), "b\\\\..\\\\c"), "blob name .* climbs out of a folder"),
        ('layer { name: "a\\n" type: "ReLU" }', "layer name 'a.n' holds a control character"),
    ],
)
def test_files_that_are_no_nets(text: str, message: str) -> None:
    with pytest.raises(NetError, match=message):
        parse(text)


def test_in_place_after_a_reader_of_what_it_made_is_sound() -> None:
    net = parse(data(1, 3, 8, 8) + conv("a", "data") + relu("r", "a") + pool("p", "a") + relu("q", "p"))
    assert [value.name for value in net.views[0].outputs] == ["p"]


def test_header_inputs_have_shapes() -> None:
    net = parse('input: "a" input: "b" input_dim: [1, 3, 8, 8, 2, 4, 6, 6] ' + conv("c", "a") + conv("d", "b"))
    assert [value.shape for value in net.views[0].inputs] == [(1, 3, 8, 8), (2, 4, 6, 6)]
    net = parse('input: "a" input_shape { dim: 5 dim: 7 } ' + fc("c", "a"))
    assert net.views[0].blobs["c"].shape == (5, 5)
    net = parse('input: "a" ' + fc("c", "a"))
    assert net.views[0].blobs["c"].unknown == (
        'the net input "a" has no shape; give --input-shape a=CHANNELS,HEIGHT,WIDTH'
    )


def test_unknown_shapes_say_why() -> None:
    source = layer("Data", "data", (), "data", "data_param { batch_size: 1 }")
    view = parse(source + conv("a", "data") + relu("r", "a")).views[0]
    assert view.blobs["a"].shape is None and "data" in view.blobs["a"].unknown
    view = parse(data(1, 3, 8, 8) + layer("Quux", "q", "data") + conv("a", "q")).views[0]
    assert view.blobs["a"].unknown == 'layer "q" has type Quux, which Caffe 1.0 does not have'
    view = parse(data(1, 3, 8, 8) + pool("p", "data", fields="twist_mode: false")).views[0]
    assert view.blobs["p"].unknown == ('layer "p" has fields that Caffe 1.0 does not have: pooling_param.twist_mode')


def test_a_copy_is_its_own() -> None:
    net = parse(TRAIN_VAL, weights=True, datum=(3, 8, 8))
    twin = net.copy()
    assert twin.views[0].blobs["data"].shape == (8, 3, 8, 8)
    by_name(twin, "conv").param.name = "other"
    assert twin.weights is not None and net.weights is not None
    twin.weights.drop("fc")
    assert names(net)[2] == "conv" and "fc" in net.weights
    assert net.text() == TRAIN_VAL


@pytest.mark.parametrize("top", ["a", "b"])
def test_an_input_without_a_shape_and_a_layer_that_makes_the_blob(top: str) -> None:
    """Caffe drops inputs of the header that have no shape; those that nothing else makes are kept, to be given one."""
    net = parse('input: "a" input: "b" ' + data(2, 3, 8, 8, name=top) + relu("r", top))
    other = "b" if top == "a" else "a"
    assert list(net.header.input) == [other]
    assert [value.shape for value in net.view().values if value.name == top] == [(2, 3, 8, 8)] * 2
    assert f'input: "{top}"' not in net.text()
    assert f'input: "{other}"' in net.text()
