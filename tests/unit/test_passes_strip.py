"""Deploy nets: what goes, what stays, what is made."""

from __future__ import annotations

import pytest
from nets import by_name, conv, data, fc, layer, names, parse, relu, rewrite

from deeprebirth_caffe.ir import Net
from deeprebirth_caffe.passes.exact.strip_training import StripTraining

SOURCE = layer("Data", "data", (), ("data", "label"), "data_param { batch_size: 16 }")
TRAIN = "include { phase: TRAIN }"
TEST = "include { phase: TEST }"
SCORE = fc("score", "data")
LOSS = layer("SoftmaxWithLoss", "loss", ("score", "label"), "loss")
ACC = layer("Accuracy", "acc", ("score", "label"), "acc", TEST)


def strip(text: str, *, weights: bool = False, batch: int | None = None) -> Net:
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


FEW = "input_shape { dim: 10 dim: 3 dim: 8 dim: 8 }"


@pytest.mark.parametrize(
    "text",
    [
        f'input: "data" {FEW} ',
        'input: "data" input_dim: 10 input_dim: 3 input_dim: 8 input_dim: 8 ',
        data(10, 3, 8, 8),
        layer("DummyData", "data", fields="dummy_data_param { shape { dim: 10 dim: 3 dim: 8 dim: 8 } }"),
        layer(
            "MemoryData",
            "data",
            tops=("data", "label"),
            fields="memory_data_param { batch_size: 10 channels: 3 height: 8 width: 8 }",
        ),
    ],
)
def test_the_batch_asked_for_wherever_images_come_from(text: str) -> None:
    net = strip(text + SCORE, batch=4)
    assert net.view("TEST").batch == 4 and net.view("TEST").blobs["data"].shape == (4, 3, 8, 8)
    assert net.view("TEST").blobs["score"].shape == (4, 5)
    again = Net.parse(net.text()).view("TEST")
    assert again.blobs["score"].shape == (4, 5)


def test_inputs_keep_their_batch_where_none_is_asked_for() -> None:
    net = strip(data(10, 3, 8, 8) + data(300, 5, name="boxes") + SCORE, batch=None)
    assert net.view("TEST").blobs["data"].shape == (10, 3, 8, 8)
    assert strip(SOURCE + SCORE + LOSS, batch=None).view("TEST").batch == 1


def test_other_inputs_are_no_images() -> None:
    text = data(1, 3, 8, 8) + data(1, 3, name="info") + data(300, 5, name="boxes")
    text += SCORE + fc("a", "info") + fc("b", "boxes")
    blobs = strip(text, batch=2).view("TEST").blobs
    assert [blobs[name].shape for name in ("data", "info", "boxes")] == [(2, 3, 8, 8), (2, 3), (300, 5)]


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


def test_an_unnamed_loss_of_a_fork_is_a_loss() -> None:
    text = SOURCE + SCORE + layer("CenterLoss", "center", ("score", "label"), "center")
    assert names(strip(text)) == ["data", "score"]


BOX = fc("box", "data")


@pytest.mark.parametrize(
    "loss",
    [
        layer("Python", "loss", ("score", "box", "label"), "loss", "loss_weight: 1"),
        layer("Python", "loss", ("label", "box", "score"), "loss", "loss_weight: 1"),
        layer("EuclideanLoss", "loss", ("score", "box"), "loss"),
        layer("SmoothL1Loss", "loss", ("score", "box"), "loss"),
        layer("ContrastiveLoss", "loss", ("score", "box", "label"), "loss"),
        layer("MyLoss", "loss", ("box", "score", "label"), "loss"),
    ],
)
def test_every_blob_that_a_loss_judges_stays(loss: str) -> None:
    net = strip(SOURCE + SCORE + BOX + loss)
    assert names(net) == ["data", "score", "box"]
    assert {"score", "box"} <= set(outputs(net)) and "label" not in net.names()


def test_all_that_boxes_are_decoded_from_stays() -> None:
    heads = conv("loc", "data", 8, 1) + conv("conf", "data", 4, 1)
    prior = layer("PriorBox", "prior", ("loc", "data"), "prior", "prior_box_param { min_size: 4 }")
    loss = layer("MultiBoxLoss", "loss", ("loc", "conf", "prior", "label"), "loss", "multibox_loss_param { }")
    assert names(strip(SOURCE + heads + prior + loss)) == ["data", "loc", "conf", "prior"]


DUMMY = "dummy_data_param { shape { dim: 2 dim: 3 } shape { dim: 2 dim: 3 } shape { dim: 2 } }"


def test_both_sides_of_a_siamese_net_stay() -> None:
    both = layer("DummyData", "data", (), ("data", "data_p", "label"), DUMMY)
    shared = 'param { name: "w" } param { name: "b" }'
    sides = fc("feat", "data", rest=shared) + fc("feat_p", "data_p", rest=shared)
    net = strip(both + sides + layer("ContrastiveLoss", "loss", ("feat", "feat_p", "label"), "loss"))
    assert names(net) == ["data", "feat", "feat_p"] and list(by_name(net, "data").tops) == ["data", "data_p"]


@pytest.mark.parametrize(
    "loss",
    [
        layer("InfogainLoss", "loss", ("score", "label", "H"), "loss"),
        layer("SigmoidCrossEntropyLoss", "loss", ("score", "box"), "loss"),
        layer("SoftmaxWithLoss", "loss", ("score", "box"), "loss", "propagate_down: true propagate_down: false"),
    ],
)
def test_targets_and_matrices_are_not_judged(loss: str) -> None:
    matrix = layer("DummyData", "H", (), "H", "dummy_data_param { shape { dim: 5 dim: 5 } }")
    targets = layer("ArgMax", "box", "score") if "Softmax" in loss else BOX
    net = strip(SOURCE + matrix + SCORE + targets + loss)
    assert names(net) == ["data", "score", "prob"]


def test_the_label_may_come_first() -> None:
    assert names(
        strip(SOURCE + fc("score", "data", 1) + layer("EuclideanLoss", "loss", ("label", "score"), "loss"))
    ) == [
        "data",
        "score",
    ]


def test_targets_made_from_labels_with_the_help_of_scores_are_none_of_the_results() -> None:
    target = layer("Python", "target", ("score", "label"), ("target", "inside"))
    net = strip(
        SOURCE + SCORE + target + layer("SmoothL1Loss", "loss", ("score", "target", "inside", "inside"), "loss")
    )
    assert names(net) == ["data", "score"]


def test_two_losses_without_labels_are_not_auxiliary_to_each_other() -> None:
    text = SOURCE + "".join(fc(name, "data") for name in "abcd")
    for pair, weight in (("ab", 1), ("cd", 0.5)):
        text += layer("EuclideanLoss", f"loss_{pair}", tuple(pair), f"loss_{pair}", f"loss_weight: {weight}")
    assert names(strip(text)) == ["data", "a", "b", "c", "d"]


def test_losses_of_different_code_are_not_auxiliary_to_each_other() -> None:
    text = SOURCE + SCORE + BOX
    for name, weight in (("score", 1), ("box", 0.5)):
        fields = f'loss_weight: {weight} python_param {{ module: "m" layer: "{name}" }}'
        text += layer("Python", f"loss_{name}", (name, "label"), f"loss_{name}", fields)
    assert names(strip(text)) == ["data", "score", "box"]


def test_a_branch_that_only_an_accuracy_reads_goes() -> None:
    text = SOURCE + SCORE + LOSS + BOX + layer("Accuracy", "acc_box", ("box", "label"), "acc_box", TEST)
    assert names(strip(text)) == ["data", "score", "prob"]


def test_a_judged_blob_keeps_its_name_beside_a_dropout() -> None:
    """Without care the Dropout's readers would take the name of what they read, or give it theirs."""
    text = SOURCE + fc("x", "data") + layer("Dropout", "d", "x") + fc("y", "d")
    text += layer("Python", "loss", ("x", "y", "label"), "loss", "loss_weight: 1")
    assert {"x", "y"} <= strip(text).names()
    text = text.replace('bottom: "x" bottom: "y"', 'bottom: "x" bottom: "d" bottom: "y"')
    assert {"x", "d", "y"} <= strip(text).names()


def test_a_net_whose_only_result_is_silenced_has_it_as_output() -> None:
    text = data(1, 3, 8, 8) + fc("x", "data") + fc("ab", "x") + layer("Silence", "s", "ab", ())
    net = strip(text)
    assert names(net) == ["data", "x", "ab"] and outputs(net) == ["ab"]


SLICE = layer("Slice", "cut", "x", ("a", "b", "c"), "slice_param { slice_point: 1 slice_point: 2 }")


def test_a_silence_stays_where_its_blob_would_be_an_output() -> None:
    text = data(1, 3, 8, 8) + fc("x", "data", 6) + SLICE + fc("y", "a") + fc("z", "data")
    text += layer("Silence", "s", ("b", "z", "c"), ())
    net = strip(text)
    assert names(net) == ["data", "x", "cut", "y", "s"] and outputs(net) == ["y"]
    assert list(by_name(net, "s").bottoms) == ["b", "c"]


def test_a_silenced_blob_that_was_overwritten_has_another_name() -> None:
    """Without the ReLU, b is not what it was."""
    net = strip(SOURCE + fc("x", "data", 6) + SLICE + relu("r", "b") + fc("score", "a") + LOSS)
    assert outputs(net) == ["c", "prob"] and "b" not in net.names() and "b_fold" in net.names()


def test_what_only_an_auxiliary_head_read_is_silenced() -> None:
    text = SOURCE + fc("x", "data", 6) + SLICE + fc("score", "a") + LOSS
    text += fc("aux", "b") + layer("SoftmaxWithLoss", "aux/loss", ("aux", "label"), "aux/loss", "loss_weight: 0.3")
    net = strip(text + layer("Silence", "s", "c", (), TEST))
    assert outputs(net) == ["prob"] and not net.trains


def test_an_input_that_only_the_loss_reads_goes() -> None:
    source = layer("Input", "in", (), ("data", "label"), "input_param { shape { dim: 4 dim: 3 } shape { dim: 4 } }")
    net = strip(source + SCORE + LOSS)
    assert list(by_name(net, "in").tops) == ["data"]
    assert by_name(net, "in").param.input_param.shape[0].dim == [4, 3]


def test_a_net_that_computes_nothing_is_refused() -> None:
    net = parse(data(1, 3, 8, 8) + layer("Silence", "s", "data", ()))
    (refused,) = rewrite(net, StripTraining()).refusals
    assert "no output" in refused.reason


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
