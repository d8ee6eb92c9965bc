"""Costs of a view, by hand."""

from __future__ import annotations

from nets import conv, data, fc, layer, parse, pool, relu

from deeprebirth_caffe.ir import summarize

FLOAT = 4


def test_figures_of_a_small_net() -> None:
    text = data(2, 3, 8, 8) + conv("a", "data", 4, 3) + relu("r", "a") + pool("p", "a") + fc("f", "p", 5)
    cost = summarize(parse(text).views[0])
    by_name = {row.layer.name: row for row in cost.layers}
    assert by_name["a"].param_shapes == ((4, 3, 3, 3), (4,))
    assert by_name["a"].params == 4 * 27 + 4
    assert by_name["a"].macs == 4 * 27 * 36
    assert by_name["p"].top_shapes == ((2, 4, 3, 3),)
    assert by_name["f"].params == 5 * 36 + 5
    assert cost.params == 4 * 27 + 4 + 5 * 36 + 5
    assert (cost.batch, cost.macs) == (2, 4 * 27 * 36 + 5 * 36)
    blobs = 2 * 3 * 64 + 2 * 4 * 36 + 2 * 36 + 2 * 5
    # beside the blobs, the pool's mask and the bias's factor of the InnerProduct
    assert by_name["p"].buffers == 2 * 36 and by_name["f"].buffers == 2
    assert cost.memory_bytes == FLOAT * (blobs + 2 * 36 + 2) // 2
    assert cost.workspace_bytes == FLOAT * (27 * 36 + 36)
    assert cost.memory_required_for_data == FLOAT * (blobs + 2 * 4 * 36)  # Caffe counts the ReLU's top again


def test_copies_are_no_memory_of_their_own() -> None:
    text = data(1, 3, 8, 8) + conv("a", "data", 4, 1) + conv("b", "a", 4, 1) + conv("c", "a", 4, 1)
    cost = summarize(parse(text).views[0])
    assert cost.memory_bytes == FLOAT * (3 * 64 + 3 * 256)
    assert cost.memory_required_for_data == FLOAT * (3 * 64 + 3 * 256 + 2 * 256)


def test_views_of_a_blob_are_no_memory_of_their_own() -> None:
    own = summarize(parse(data(1, 3, 8, 8) + layer("ReLU", "a", "data")).views[0]).memory_bytes
    assert own == FLOAT * 2 * 3 * 64
    for kind, fields in (("Flatten", ""), ("Reshape", "reshape_param { shape { dim: 0 dim: -1 } }"), ("Concat", "")):
        text = data(1, 3, 8, 8) + layer("ReLU", "a", "data") + layer(kind, "b", "a", fields=fields)
        assert summarize(parse(text).views[0]).memory_bytes == own


def test_a_loss_keeps_its_gradient() -> None:
    text = data(2, 5) + data(2, name="label") + layer("SoftmaxWithLoss", "loss", ("data", "label"))
    # data, labels, probabilities and their gradient, the loss and its weight
    assert summarize(parse(text).view("TRAIN")).memory_bytes == FLOAT * (10 + 2 + 2 * 10 + 2) // 2


def test_the_batch_is_that_of_the_first_input() -> None:
    assert summarize(parse(data(3, 2, 8, 8) + data(7, 5, name="boxes") + conv("a", "data")).views[0]).batch == 3
    constant = layer("Parameter", "w", fields="parameter_param { shape { dim: 4 } }")
    assert summarize(parse(constant).views[0]).batch == 1


def test_shared_parameters_count_once() -> None:
    shared = 'param { name: "w" } param { name: "b" }'
    text = data(1, 4, 8, 8) + conv("a", "data", 4, 3, rest=shared) + conv("b", "a", 4, 3, rest=shared)
    cost = summarize(parse(text).views[0])
    assert cost.params == 4 * 36 + 4
    assert cost.layers[1].params == cost.layers[2].params == 4 * 36 + 4


DETECTION = (
    data(1, 3, 8, 8)
    + conv("a", "data", 4, 1)
    + layer("Flatten", "loc", "a")
    + layer("Flatten", "conf", "a")
    + layer("PriorBox", "prior", ("a", "data"), "prior", "prior_box_param { min_size: 4 }")
    + layer("DetectionOutput", "det", ("loc", "conf", "prior"), "det", "detection_output_param { num_classes: 2 }")
)


def test_sums_do_without_what_is_not_known() -> None:
    """How many boxes are found depends on the data; all else is as it was without."""
    cost, rest = (summarize(parse(text).views[0]) for text in (DETECTION, DETECTION[: DETECTION.rindex("layer {")]))
    assert (cost.params, cost.macs, cost.memory_bytes) == (rest.params, rest.macs, rest.memory_bytes)
    assert cost.params == 16 and cost.macs == 3 * 4 * 64
    assert [one.name for one in cost.uncounted] == ["det"] and not rest.uncounted
    assert (cost.layers[-1].params, cost.layers[-1].macs, cost.layers[-1].cost) == (0, None, None)


def test_a_layer_of_a_type_that_nobody_knows_is_not_counted() -> None:
    text = DETECTION + layer("Hologram", "h", "a") + conv("end", "h")
    cost = summarize(parse(text).views[0])
    assert cost.params == 16 and [one.name for one in cost.uncounted] == ["det", "h", "end"]


def test_what_is_not_known_is_none() -> None:
    text = layer("Data", "data", (), "data", "data_param { batch_size: 1 }") + conv("a", "data")
    cost = summarize(parse(text).views[0])
    assert (cost.params, cost.macs, cost.memory_bytes, cost.memory_required_for_data) == (None,) * 4
    assert cost.layers[1].param_shapes is None
    cost = summarize(parse(data(1, 3, 8, 8) + pool("p", "data", fields="twist_mode: true")).views[0])
    assert cost.layers[1].macs is None
