"""Deploy nets: what goes, what stays, what is made."""

from __future__ import annotations

import pytest
from nets import by_name, data, fc, layer, names, parse, relu, rewrite

from deeprebirth_caffe.ir import Net
from deeprebirth_caffe.passes.exact.strip_training import StripTraining

SOURCE = layer("Data", "data", (), ("data", "label"), "data_param { batch_size: 16 }")
TRAIN = "include { phase: TRAIN }"
TEST = "include { phase: TEST }"
SCORE = fc("score", "data")
LOSS = layer("SoftmaxWithLoss", "loss", ("score", "label"), "loss")
ACC = layer("Accuracy", "acc", ("score", "label"), "acc", TEST)


def strip(text: str, *, weights: bool = False, batch: int = 1) -> Net:
    net = parse(text, weights=weights, datum=(3, 8, 8))
    rewrite(net, StripTraining(batch=batch))
    return net


def outputs(net: Net) -> list[str]:
    return [value.name for value in net.view("TEST").outputs]


def test_data_becomes_an_input_of_the_batch_asked_for() -> None:
    net = strip(SOURCE + SCORE + LOSS + ACC, batch=5)
    assert names(net) == ["data", "score", "prob"]
    assert by_name(net, "data").type == "Input"
    assert [list(shape.dim) for shape in by_name(net, "data").param.input_param.shape] == [[5, 3, 8, 8]]
    assert net.view("TEST").blobs["prob"].shape == (5, 5)


def test_a_blob_that_the_net_needs_from_its_source_is_an_input_too() -> None:
    gate = layer("Reshape", "gate", "label", "gate", "reshape_param { shape { dim: 0 dim: 1 } }")
    net = strip(SOURCE + gate + SCORE.replace('bottom: "data"', 'bottom: "gate"') + LOSS)
    assert names(net) == ["data", "gate", "score", "prob"]
    assert list(by_name(net, "data").tops) == ["label"]


@pytest.mark.parametrize(
    ("losses", "made"),
    [
        (LOSS, ("Softmax", "prob")),
        (LOSS + ACC, ("Softmax", "prob")),
        (layer("SigmoidCrossEntropyLoss", "loss", ("score", "score"), "loss"), ("Sigmoid", "prob")),
        (layer("EuclideanLoss", "loss", ("score", "score"), "loss"), None),
        (layer("HingeLoss", "loss", ("score", "label"), "loss"), None),
        (ACC.replace(TEST, ""), None),
        (LOSS.replace('top: "loss"', f'top: "loss" {TRAIN}'), ("Softmax", "prob")),
        (LOSS + layer("SoftmaxWithLoss", "again", ("score", "label"), "again"), ("Softmax", "prob")),
    ],
)
def test_what_the_loss_leaves_behind(losses: str, made: tuple[str, str] | None) -> None:
    net = strip(SOURCE + SCORE + losses)
    if made is None:
        assert names(net) == ["data", "score"]
    else:
        assert names(net) == ["data", "score", "prob"]
        assert (by_name(net, "prob").type, outputs(net)) == (made[0], [made[1]])


def test_the_softmax_works_on_the_axis_of_the_loss() -> None:
    text = SOURCE + layer("DummyData", "dense", (), "dense", "dummy_data_param { shape { dim: 16 dim: 3 dim: 8 } }")
    text += layer("SoftmaxWithLoss", "loss", ("data", "dense"), "loss", "softmax_param { axis: 2 }")
    net = strip(text)
    assert names(net) == ["data", "prob"]
    assert by_name(net, "prob").param.softmax_param.axis == 2


def test_a_name_prob_that_is_taken_is_not_used() -> None:
    net = strip(SOURCE + fc("prob", "data") + layer("SoftmaxWithLoss", "loss", ("prob", "label"), "loss"))
    assert names(net) == ["data", "prob", "prob2"] and outputs(net) == ["prob2"]


def test_probabilities_that_test_makes_itself_stay() -> None:
    own = layer("Softmax", "mine", "score", "mine", TEST)
    net = strip(SOURCE + SCORE + LOSS.replace('top: "loss"', f'top: "loss" {TRAIN}') + own)
    assert names(net) == ["data", "score", "mine"] and outputs(net) == ["mine"]
    assert not by_name(net, "mine").param.include


def test_what_the_net_goes_on_with_is_no_end() -> None:
    """A loss on a blob that other layers read too: no probabilities are made of it."""
    text = SOURCE + SCORE + LOSS + layer("ArgMax", "best", "score", "best", TEST)
    net = strip(text)
    assert names(net) == ["data", "score", "best"]


AUX = fc("aux", "data") + layer("SoftmaxWithLoss", "aux/loss", ("aux", "label"), "aux/loss")


@pytest.mark.parametrize(
    ("aux_weight", "main_weight", "kept"),
    [(0.3, 1, False), (0.3, None, False), (1, 0.3, True), (None, None, True), (0.5, 0.5, True)],
)
def test_auxiliary_heads_have_the_smaller_weight(aux_weight: float, main_weight: float, kept: bool) -> None:
    def weigh(text: str, top: str, weight: float | None) -> str:
        return text if weight is None else text.replace(f'top: "{top}"', f'top: "{top}" loss_weight: {weight}')

    text = SOURCE + SCORE + weigh(AUX, "aux/loss", aux_weight) + weigh(LOSS, "loss", main_weight)
    assert ("aux" in names(strip(text))) == kept


def test_heads_of_other_labels_are_not_auxiliary() -> None:
    text = SOURCE + layer("DummyData", "other", (), "other", "dummy_data_param { shape { dim: 16 } }") + SCORE + LOSS
    text += AUX.replace('"label" top: "aux/loss"', '"other" top: "aux/loss" loss_weight: 0.1')
    assert names(strip(text)) == ["data", "score", "prob", "aux", "prob2"]


def test_dropout_goes_however_it_stands() -> None:
    drop = 'layer { name: "drop" type: "Dropout" bottom: "x" top: '
    for top in ("x", "d"):
        text = SOURCE + fc("x", "data") + drop + f'"{top}" }}\n' + fc("score", top) + LOSS
        net = strip(text)
        assert names(net) == ["data", "x", "score", "prob"]
        assert by_name(net, "score").bottoms == by_name(net, "x").tops


def test_dropout_on_the_data_leaves_the_data_its_name() -> None:
    net = strip(SOURCE + layer("Dropout", "drop", "data") + fc("score", "drop") + LOSS)
    assert names(net) == ["data", "score", "prob"]
    assert list(by_name(net, "data").tops) == list(by_name(net, "score").bottoms) == ["data"]


def test_dropout_beside_another_reader() -> None:
    text = SOURCE + fc("x", "data") + layer("Dropout", "drop", "x") + fc("y", "x") + fc("z", "drop")
    net = strip(text + layer("Eltwise", "score", ("y", "z")) + LOSS)
    assert names(net) == ["data", "x", "y", "z", "score", "prob"]
    assert by_name(net, "y").bottoms == by_name(net, "z").bottoms == ["x"]


def test_dropout_that_gives_an_in_place_layer_its_own_blob_stays() -> None:
    """Without it the ReLU would overwrite what y reads, which Caffe does not load."""
    text = SOURCE + fc("x", "data") + layer("Dropout", "drop", "x") + fc("y", "x") + relu("r", "drop")
    net = strip(text + layer("Eltwise", "score", ("y", "drop")) + LOSS)
    assert names(net) == ["data", "x", "drop", "y", "r", "score", "prob"]


def test_dropout_that_makes_an_output_others_do_not_read() -> None:
    text = SOURCE + fc("x", "data") + layer("Dropout", "score", "x")
    net = strip(text + LOSS.replace('type: "SoftmaxWithLoss"', 'type: "HingeLoss"'))
    assert names(net) == ["data", "x"] and outputs(net) == ["score"]
    net = strip(data(1, 3) + fc("x", "data") + layer("Dropout", "d", "x") + fc("y", "x"))
    assert names(net) == ["data", "x", "d", "y"] and outputs(net) == ["d", "y"]


def test_layers_of_train_alone_and_their_weights_go() -> None:
    text = SOURCE + SCORE + LOSS + fc("extra", "data", rest=TRAIN) + layer("Silence", "s", "extra", (), TRAIN)
    net = strip(text, weights=True)
    assert net.weights is not None
    assert names(net) == ["data", "score", "prob"] and list(net.weights) == ["score"]


def test_namesakes_of_two_phases_keep_their_weights() -> None:
    text = SOURCE + fc("score", "data", rest=TRAIN) + fc("score", "data", rest=TEST) + LOSS
    net = strip(text, weights=True)
    assert net.weights is not None
    assert names(net) == ["data", "score", "prob"] and "score" in net.weights


def test_unneeded_outputs_of_a_net_without_heads_stay() -> None:
    text = data(1, 3, 8, 8) + fc("x", "data") + fc("y", "data") + layer("Silence", "s", "x", ())
    assert names(strip(text)) == ["data", "y"]


def test_rules_go_with_the_phases() -> None:
    net = strip(SOURCE + SCORE + LOSS + ACC + relu("r", "score", "r", TEST) + relu("s", "score", "s", "exclude { }"))
    assert names(net) == ["data", "score", "r"] and not net.trains
    assert all(not one.param.include and not one.param.exclude for one in net.layers)
