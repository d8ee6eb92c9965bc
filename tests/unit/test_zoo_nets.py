"""The zoo's texts: parameter counts as published, names as published, shapes, and what each form contains."""

from __future__ import annotations

import math
from functools import cache
from pathlib import Path

import pytest

from deeprebirth_caffe import ops, zoo
from deeprebirth_caffe.errors import RebirthError
from deeprebirth_caffe.formats.prototxt import parse_message
from deeprebirth_caffe.proto import caffe_pb2 as pb

NAMES = [
    "googlenet",
    "googlenet64",
    "googlenet28",
    "alexnet",
    "caffenet",
    "alexnet64",
    "resnet50",
    "resnet101",
    "resnet152",
    "resnet64",
    "squeezenet1.0",
    "squeezenet1.1",
    "vgg16",
    "mobilenet",
]

Shapes = dict[str, tuple[int, ...]]


@cache
def built(name: str) -> zoo.ZooNet:
    return zoo.build(name)


@cache
def parsed(name: str, form: str) -> pb.NetParameter:
    return parse_message(getattr(built(name), form), pb.NetParameter, f"{name}/{form}")


@cache
def solver_of(name: str) -> pb.SolverParameter:
    return parse_message(built(name).solver, pb.SolverParameter, f"{name}/solver")


def in_phase(net: pb.NetParameter, phase: int) -> list[pb.LayerParameter]:
    return [layer for layer in net.layer if not layer.include or layer.include[0].phase == phase]


@cache
def walked(name: str, form: str, phase: int = pb.TEST) -> tuple[Shapes, dict[str, list[tuple[int, ...]]]]:
    """Shapes of all blobs, and of all parameters by layer name, by the rules of `ops`."""
    blobs: Shapes = {}
    params: dict[str, list[tuple[int, ...]]] = {}
    for layer in in_phase(parsed(name, form), phase):
        op = ops.op(layer.type)
        assert op is not None, layer.type
        bottoms = [blobs[bottom] for bottom in layer.bottom]
        tops = op.shapes(layer, bottoms, datum=(built(name).input_shape[0], 256, 256))
        blobs.update(zip(layer.top, tops, strict=True))
        shapes = op.params(layer, bottoms)
        if shapes:
            params[layer.name] = shapes
    return blobs, params


def total(params: dict[str, list[tuple[int, ...]]], without: frozenset[str] = frozenset()) -> int:
    return sum(math.prod(shape) for name, shapes in params.items() if name not in without for shape in shapes)


def of_type(name: str, form: str, kind: str) -> frozenset[str]:
    return frozenset(layer.name for layer in parsed(name, form).layer if layer.type == kind)


def test_names() -> None:
    assert zoo.names() == NAMES


def test_unknown_name_says_which_there_are() -> None:
    with pytest.raises(zoo.ZooError, match=r"'lenet'.*googlenet.*mobilenet") as caught:
        zoo.build("lenet")
    assert isinstance(caught.value, RebirthError)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", NAMES)
def test_texts_are_the_same_every_time_and_end_in_a_newline(name: str) -> None:
    first, second = zoo.build(name), zoo.build(name)
    assert first == second
    for text in (first.train_val, first.deploy, first.solver):
        assert text.startswith(f"# {first.description}\n# {first.source_paper}\n")
        assert text.endswith("}\n") or text.endswith("CPU\n")
        assert text.isascii()


# ---------------------------------------------------------------- published sizes


@pytest.mark.parametrize(
    ("name", "parameters"),
    [
        ("googlenet", 6_998_552),
        ("alexnet", 60_965_224),
        ("caffenet", 60_965_224),
        ("squeezenet1.0", 1_248_424),
        ("squeezenet1.1", 1_235_496),
        ("vgg16", 138_357_544),
    ],
)
def test_parameters_as_published(name: str, parameters: int) -> None:
    assert total(walked(name, "deploy")[1]) == parameters


@pytest.mark.parametrize(
    ("name", "parameters"),
    [
        # Counts without BatchNorm's statistics: convolutions, classifier, and Scale's gamma and beta.
        ("resnet50", 25_557_032 + 64),  # the published Caffe model adds conv1's bias
        ("resnet101", 44_549_160),
        ("resnet152", 60_192_808),
        ("mobilenet", 4_231_976),
    ],
)
def test_learned_parameters_of_nets_with_batchnorm_as_published(name: str, parameters: int) -> None:
    statistics = of_type(name, "deploy", "BatchNorm")
    assert total(walked(name, "deploy")[1], without=statistics) == parameters


def test_batchnorm_has_three_statistics_blobs() -> None:
    assert walked("resnet50", "deploy")[1]["bn2a_branch1"] == [(256,), (256,), (1,)]


def test_googlenet_with_its_heads() -> None:
    assert total(walked("googlenet", "train_val")[1]) == 13_378_280


@pytest.mark.parametrize(
    ("name", "low", "high"),
    [
        ("googlenet64", 5.85, 5.95),
        ("googlenet28", 0.3, 1.0),
        ("alexnet64", 10, 16),
        ("resnet64", 10, 16),
    ],
)
def test_small_nets_are_small(name: str, low: float, high: float) -> None:
    assert low <= total(walked(name, "deploy")[1]) * 4 / 2**20 <= high


def test_digits_net_is_below_a_quarter_million_parameters_with_its_head() -> None:
    assert total(walked("googlenet28", "train_val")[1]) < 250_000


# ---------------------------------------------------------------- names


@pytest.mark.parametrize(
    ("name", "layers"),
    [
        (
            "googlenet",
            "conv1/7x7_s2 conv1/relu_7x7 pool1/3x3_s2 pool1/norm1 conv2/3x3_reduce conv2/3x3 conv2/norm2 "
            "pool2/3x3_s2 inception_3a/1x1 inception_3a/relu_1x1 inception_3a/3x3_reduce inception_3a/3x3 "
            "inception_3a/5x5_reduce inception_3a/5x5 inception_3a/pool inception_3a/pool_proj "
            "inception_3a/relu_pool_proj inception_3a/output pool3/3x3_s2 loss1/ave_pool loss1/conv loss1/fc "
            "loss1/drop_fc loss1/classifier loss1/loss loss1/top-1 loss1/top-5 loss2/classifier "
            "inception_4e/output pool4/3x3_s2 inception_5b/output pool5/7x7_s1 "
            "pool5/drop_7x7_s1 loss3/classifier loss3/loss3 loss3/top-1 loss3/top-5",
        ),
        (
            "alexnet",
            "conv1 relu1 norm1 pool1 conv2 norm2 pool2 conv3 conv4 conv5 pool5 fc6 drop6 fc7 fc8 accuracy",
        ),
        (
            "caffenet",
            "conv1 relu1 pool1 norm1 conv2 pool2 norm2 conv3 conv4 conv5 pool5 fc6 drop6 fc7 fc8 loss",
        ),
        (
            "resnet50",
            "conv1 bn_conv1 scale_conv1 conv1_relu pool1 res2a_branch1 bn2a_branch1 scale2a_branch1 "
            "res2a_branch2a bn2a_branch2a scale2a_branch2a res2a_branch2a_relu res2a_branch2c "
            "scale2a_branch2c res2a res2a_relu res2b_branch2a res3d res4f_branch2c res4f res5c pool5 fc1000",
        ),
        (
            "resnet101",
            "res2c res3a res3b1_branch2a bn3b3_branch2c res3b3 res4b1 scale4b22_branch2b res5a res5c",
        ),
        ("resnet152", "res2c res3a bn3b7_branch2a res3b7 res4a res4b35_branch2b_relu res4b35 res5b res5c"),
        (
            "squeezenet1.0",
            "conv1 relu_conv1 pool1 fire2/squeeze1x1 fire2/relu_squeeze1x1 fire2/expand1x1 fire2/expand3x3 "
            "fire2/concat pool4 pool8 fire9/concat drop9 conv10 relu_conv10 pool10 accuracy_top5",
        ),
        ("squeezenet1.1", "pool3 pool5 fire9/expand3x3 conv10"),
        ("vgg16", "conv1_1 relu1_1 conv1_2 pool1 conv3_3 conv5_3 relu5_3 pool5 fc6 relu6 drop6 fc7 fc8"),
        (
            "mobilenet",
            "conv1 conv1/bn conv1/scale relu1 conv2_1/dw conv2_1/dw/bn conv2_1/dw/scale relu2_1/dw "
            "conv2_1/sep conv2_1/sep/bn relu2_1/sep conv5_6/dw conv5_6/sep conv6/dw conv6/sep "
            "relu6/sep pool6 fc7",
        ),
    ],
)
def test_layer_names_of_the_published_models(name: str, layers: str) -> None:
    present = [layer.name for layer in parsed(name, "train_val").layer]
    wanted = layers.split()
    assert [layer for layer in wanted if layer not in present] == []
    positions = [present.index(layer) for layer in wanted]
    assert positions == sorted(positions)


@pytest.mark.parametrize(
    ("name", "counts"),
    [
        (
            "googlenet",
            {"Convolution": 57, "LRN": 2, "Pooling": 14, "Concat": 9, "ReLU": 57, "InnerProduct": 1},
        ),
        (
            "googlenet64",
            {"Convolution": 57, "LRN": 2, "Pooling": 14, "Concat": 9, "ReLU": 57, "InnerProduct": 1},
        ),
        ("alexnet", {"Convolution": 5, "LRN": 2, "Pooling": 3, "InnerProduct": 3, "ReLU": 7}),
        ("alexnet64", {"Convolution": 5, "LRN": 2, "Pooling": 3, "InnerProduct": 3, "ReLU": 7}),
        ("resnet50", {"Convolution": 53, "BatchNorm": 53, "Scale": 53, "Eltwise": 16, "ReLU": 49}),
        ("resnet101", {"Convolution": 104, "BatchNorm": 104, "Scale": 104, "Eltwise": 33, "ReLU": 100}),
        ("resnet152", {"Convolution": 155, "BatchNorm": 155, "Scale": 155, "Eltwise": 50, "ReLU": 151}),
        ("resnet64", {"Convolution": 29, "BatchNorm": 29, "Scale": 29, "Eltwise": 8, "ReLU": 25}),
        ("mobilenet", {"Convolution": 28, "BatchNorm": 27, "Scale": 27, "ReLU": 27, "Pooling": 1}),
    ],
)
def test_layer_counts(name: str, counts: dict[str, int]) -> None:
    for kind, number in counts.items():
        assert len(of_type(name, "deploy", kind)) == number, kind


def test_googlenet64_is_googlenet_at_half_the_width() -> None:
    """Layer by layer the same types and, but for pool5's window, the same names."""

    def rows(name: str) -> list[tuple[str, str]]:
        return [(layer.name, layer.type) for layer in parsed(name, "train_val").layer if "pool5" not in layer.name]

    assert rows("googlenet64") == rows("googlenet")
    full, half = walked("googlenet", "train_val")[0], walked("googlenet64", "train_val")[0]
    widths = {blob: shape[1] for blob, shape in full.items() if len(shape) == 4 and blob != "data"}
    assert all(half[blob][1] * 2 == width for blob, width in widths.items() if "pool5" not in blob)


# ---------------------------------------------------------------- shapes


@pytest.mark.parametrize(
    ("name", "blob", "shape"),
    [
        ("googlenet", "conv1/7x7_s2", (1, 64, 112, 112)),
        ("googlenet", "pool1/norm1", (1, 64, 56, 56)),
        ("googlenet", "pool2/3x3_s2", (1, 192, 28, 28)),
        ("googlenet", "inception_3b/output", (1, 480, 28, 28)),
        ("googlenet", "inception_4d/output", (1, 528, 14, 14)),
        ("googlenet", "inception_5b/output", (1, 1024, 7, 7)),
        ("googlenet64", "pool1/norm1", (1, 32, 16, 16)),
        ("googlenet64", "inception_3b/output", (1, 240, 8, 8)),
        ("googlenet64", "inception_4e/output", (1, 416, 4, 4)),
        ("googlenet64", "inception_5b/output", (1, 512, 2, 2)),
        ("googlenet28", "pool2/3x3_s2", (1, 64, 7, 7)),
        ("googlenet28", "inception_4a/output", (1, 208, 3, 3)),
        ("alexnet", "conv1", (1, 96, 55, 55)),
        ("alexnet", "pool5", (1, 256, 6, 6)),
        ("caffenet", "norm1", (1, 96, 27, 27)),
        ("alexnet64", "pool1", (1, 48, 16, 16)),
        ("alexnet64", "pool5", (1, 128, 4, 4)),
        ("resnet50", "pool1", (1, 64, 56, 56)),
        ("resnet50", "res3d", (1, 512, 28, 28)),
        ("resnet50", "res5c", (1, 2048, 7, 7)),
        ("resnet64", "res2b", (1, 128, 16, 16)),
        ("resnet64", "res5b", (1, 1024, 2, 2)),
        ("squeezenet1.0", "pool1", (1, 96, 55, 55)),
        ("squeezenet1.0", "conv10", (1, 1000, 15, 15)),
        ("squeezenet1.1", "conv10", (1, 1000, 14, 14)),
        ("vgg16", "pool5", (1, 512, 7, 7)),
        ("mobilenet", "conv2_1/sep", (1, 64, 112, 112)),
        ("mobilenet", "conv6/sep", (1, 1024, 7, 7)),
    ],
)
def test_shapes(name: str, blob: str, shape: tuple[int, ...]) -> None:
    assert walked(name, "deploy")[0][blob] == shape


@pytest.mark.parametrize("name", NAMES)
def test_the_last_map_is_averaged_whole(name: str) -> None:
    """One value a class comes out, whatever the picture's size."""
    shape = walked(name, "deploy")[0]["prob"]
    assert shape[:2] == (1, built(name).classes)
    assert math.prod(shape[2:]) == 1


# ---------------------------------------------------------------- the deploy form


@pytest.mark.parametrize("name", NAMES)
def test_deploy_reads_one_picture_and_ends_in_a_softmax(name: str) -> None:
    net = parsed(name, "deploy")
    first, last = net.layer[0], net.layer[-1]
    assert (first.name, first.type, list(first.top)) == ("data", "Input", ["data"])
    assert list(first.input_param.shape[0].dim) == [1, *built(name).input_shape]
    assert (last.type, list(last.top)) == ("Softmax", ["prob"])


@pytest.mark.parametrize("name", NAMES)
def test_deploy_has_nothing_of_training(name: str) -> None:
    for layer in parsed(name, "deploy").layer:
        assert layer.type not in {"Data", "Dropout", "SoftmaxWithLoss", "Accuracy"}
        assert not layer.param
        assert not layer.include
        assert not layer.name.startswith(("loss1", "loss2"))
        if layer.type == "BatchNorm":
            assert layer.batch_norm_param.use_global_stats


@pytest.mark.parametrize("name", NAMES)
def test_weights_of_the_training_net_fit_the_deploy_net(name: str) -> None:
    deploy, train_val = walked(name, "deploy")[1], walked(name, "train_val")[1]
    assert {layer: train_val.get(layer) for layer in deploy} == deploy
    dropped = set(train_val) - set(deploy)
    assert all(layer.startswith(("loss1/", "loss2/")) for layer in dropped)


# ---------------------------------------------------------------- the training form


@pytest.mark.parametrize("name", NAMES)
def test_train_val_has_a_data_layer_for_each_phase(name: str) -> None:
    channels, size, _ = built(name).input_shape
    data = [layer for layer in parsed(name, "train_val").layer if layer.type == "Data"]
    assert [layer.include[0].phase for layer in data] == [pb.TRAIN, pb.TEST]
    for layer in data:
        assert layer.name == "data"
        assert list(layer.top) == ["data", "label"]
        assert layer.transform_param.crop_size == size
        assert len(layer.transform_param.mean_value) == channels
        assert layer.data_param.backend == pb.DataParameter.LMDB
        assert layer.data_param.batch_size > 0
    sources = ["digits/train", "digits/test"] if name == "googlenet28" else ["data/train_lmdb", "data/val_lmdb"]
    assert [layer.data_param.source for layer in data] == sources
    assert not data[1].transform_param.mirror


@pytest.mark.parametrize("name", NAMES)
def test_train_val_scores_top_1_and_top_5_in_test_only(name: str) -> None:
    layers = parsed(name, "train_val").layer
    final = [layer for layer in layers if layer.type == "SoftmaxWithLoss"][-1].bottom[0]
    scores = [layer for layer in layers if layer.type == "Accuracy" and layer.bottom[0] == final]
    assert [layer.accuracy_param.top_k for layer in scores] == [1, 5]
    for layer in layers:
        if layer.type == "Accuracy":
            assert [rule.phase for rule in layer.include] == [pb.TEST]


def test_auxiliary_losses_weigh_three_tenths() -> None:
    losses = [layer for layer in parsed("googlenet", "train_val").layer if layer.type == "SoftmaxWithLoss"]
    assert [(layer.name, *layer.top, *layer.loss_weight) for layer in losses] == [
        ("loss1/loss", "loss1/loss1", pytest.approx(0.3)),
        ("loss2/loss", "loss2/loss2", pytest.approx(0.3)),
        ("loss3/loss3", "loss3/loss3"),
    ]


@pytest.mark.parametrize("name", NAMES)
def test_learning_rates(name: str) -> None:
    """Weights 1, biases 2, BatchNorm's statistics 0; every learnable blob says so itself."""
    expected = {"Convolution": [1, 2], "InnerProduct": [1, 2], "Scale": [1, 1], "BatchNorm": [0, 0, 0]}
    params = walked(name, "train_val")[1]
    for layer in parsed(name, "train_val").layer:
        if layer.name in params:
            rates = [param.lr_mult for param in layer.param]
            assert rates == expected[layer.type][: len(params[layer.name])], layer.name
        else:
            assert not layer.param


@pytest.mark.parametrize("phase", [pb.TRAIN, pb.TEST])
@pytest.mark.parametrize("form", ["train_val", "deploy"])
@pytest.mark.parametrize("name", NAMES)
def test_wiring(name: str, form: str, phase: int) -> None:
    """Names are unique, every bottom has a producer, and nothing in place overwrites what was read."""
    layers = in_phase(parsed(name, form), phase)
    assert len({layer.name for layer in layers}) == len(layers)
    readers: dict[str, int] = {}
    for layer in layers:
        for bottom in layer.bottom:
            assert bottom in readers, f"{layer.name} reads {bottom}"
        for top in layer.top:
            in_place = top in layer.bottom
            assert in_place or top not in readers, f"{layer.name} writes {top} again"
            if in_place:
                assert readers[top] == 0, f"{layer.name} overwrites {top}"
            readers[top] = 0
        for bottom in layer.bottom:
            if bottom not in layer.top:
                readers[bottom] += 1
    ends = {blob for blob, count in readers.items() if count == 0}
    outputs = {top for layer in layers if layer.type in {"SoftmaxWithLoss", "Accuracy", "Softmax"} for top in layer.top}
    assert ends - {"label"} == outputs


# ---------------------------------------------------------------- the solver


@pytest.mark.parametrize("name", NAMES)
def test_solver(name: str) -> None:
    solver = solver_of(name)
    assert solver.net == "train_val.prototxt"
    assert solver.snapshot_prefix == name
    assert solver.solver_mode == pb.SolverParameter.CPU
    assert solver.momentum == pytest.approx(0.9)
    assert 0 < solver.base_lr < 0.11
    assert len(solver.test_iter) == 1
    test = next(
        layer for layer in parsed(name, "train_val").layer if layer.type == "Data" and layer.include[0].phase == pb.TEST
    )
    validation = {1000: 50_000, 100: 5_000, 10: 355}[built(name).classes]
    assert solver.test_iter[0] * test.data_param.batch_size == validation
    needed = {"step": ["stepsize", "gamma"], "poly": ["power"], "multistep": ["gamma"]}[solver.lr_policy]
    assert all(solver.HasField(field) for field in needed)
    if solver.lr_policy == "multistep":
        assert list(solver.stepvalue) == sorted(solver.stepvalue)
        assert solver.stepvalue[-1] < solver.max_iter


# ---------------------------------------------------------------- writing


def test_write_makes_the_three_files(tmp_path: Path) -> None:
    net = zoo.write("squeezenet1.1", tmp_path / "new" / "directory")
    written = {path.name: path.read_text() for path in (tmp_path / "new" / "directory").iterdir()}
    assert written == net.files()
    assert sorted(written) == ["deploy.prototxt", "solver.prototxt", "train_val.prototxt"]


def test_write_leaves_a_full_directory_alone_unless_forced(tmp_path: Path) -> None:
    (tmp_path / "deploy.prototxt").write_text("mine")
    with pytest.raises(RebirthError, match="not empty"):
        zoo.write("googlenet28", tmp_path)
    assert [path.read_text() for path in tmp_path.iterdir()] == ["mine"]
    zoo.write("googlenet28", tmp_path, force=True)
    assert (tmp_path / "deploy.prototxt").read_text() == built("googlenet28").deploy


def test_write_of_an_unknown_net_makes_nothing(tmp_path: Path) -> None:
    with pytest.raises(zoo.ZooError):
        zoo.write("lenet", tmp_path / "there")
    assert not (tmp_path / "there").exists()
