"""Every reason for which a pass leaves a place alone, by its words."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from nets import conv, data, fc, layer, names, parse, pool, reasons, relu, rewrite

from deeprebirth_caffe import zoo
from deeprebirth_caffe.commands.convert import passes_of
from deeprebirth_caffe.ops import conv_geometry
from deeprebirth_caffe.options.convert import ConvertOptions
from deeprebirth_caffe.passes.exact.fold_batchnorm import FoldBatchNorm
from deeprebirth_caffe.passes.exact.strip_training import StripTraining
from deeprebirth_caffe.passes.relearn import inception
from deeprebirth_caffe.passes.relearn.merge_branches import MergeBranches
from deeprebirth_caffe.passes.relearn.pool_to_stride import PAPER_KEEPS, PoolToStride
from deeprebirth_caffe.passes.relearn.prune_batchnorm import PruneBatchNorm
from deeprebirth_caffe.passes.relearn.remove_lrn import RemoveLrn
from deeprebirth_caffe.rewrite import AnyPass

D = data(1, 4, 16, 16)
SOURCE = layer("Data", "data", (), ("data", "label"), "data_param { batch_size: 2 }")
CONV = conv("conv", "data")
POOL = pool("pool", "conv")
LRN = layer("LRN", "norm", "conv")
BN = layer("BatchNorm", "bn", "conv", "conv")
SCALE = layer("Scale", "scale", "conv", "conv")
CONV_OF_TWO = layer(
    "Convolution", "conv", ("data", "more"), ("conv", "x"), "convolution_param { num_output: 4 kernel_size: 3 }"
)
SHARED = 'param { name: "w" }'


def join(name: str, *bottoms: str, fields: str = "") -> str:
    return layer("Concat", name, bottoms, name, fields)


def only(text: str, one: AnyPass, name: str, *, weights: bool = False) -> str:
    """The reason for one layer, of a net that must not change at all."""
    net = parse(text, weights=weights)
    found = reasons(net, one)
    assert net.text() == text
    return found[name]


# What stands in front, asked the same way by all passes that streamline.

IN_FRONT = [
    (D + pool("pool", "data"), "pool reads the data layer's data"),
    ('input: "data" input_dim: [1, 4, 16, 16] ' + pool("pool", "data"), "pool reads the net's input data"),
    (D + CONV + POOL + fc("fc", "conv"), "another layer (fc) reads conv"),
    (D + CONV + relu("r", "conv", "r") + pool("pool", "r") + fc("fc", "conv"), "another layer (fc) reads conv"),
    (
        D + CONV + POOL + layer("Silence", "s", "conv", (), "include { phase: TRAIN }"),
        "another layer (s) reads conv",
    ),
    (
        D
        + conv("a", "data", rest="include { phase: TRAIN }").replace('top: "a"', 'top: "conv"')
        + conv("b", "data", rest="include { phase: TEST }").replace('top: "b"', 'top: "conv"')
        + POOL,
        "pool reads conv from different layers in different phases",
    ),
    (
        D + CONV + relu("r", "conv", rest="include { phase: TRAIN }") + POOL,
        "pool reads conv from different layers in different phases",
    ),
    (
        D + CONV + pool("pool", "conv", rest="include { phase: TRAIN }"),
        "conv and pool are alive in different phases",
    ),
    (
        D + layer("Softmax", "soft", "data") + pool("pool", "soft"),
        "no convolution in front: soft (Softmax) stands between",
    ),
    (
        D + layer("Slice", "cut", "data", ("x", "y")) + pool("pool", "x") + layer("Silence", "s", "y", ()),
        "cut has 2 tops",
    ),
    (
        D + CONV + layer("Quux", "q", "conv") + pool("pool", "q"),
        "q has type Quux, which Caffe 1.0 does not have",
    ),
    (
        D + CONV + layer("ReLU", "r", "conv", "conv", "relu_param { slope: 1 }") + POOL,
        "r has fields that Caffe 1.0 does not have (relu_param.slope)",
    ),
    (
        D + conv("conv", "data", fields="kernel_depth: 1") + POOL,
        "conv has fields that Caffe 1.0 does not have (convolution_param.kernel_depth)",
    ),
    (
        D + conv("conv", "data", rest=SHARED) + POOL + conv("twin", "data", rest=SHARED),
        'conv shares its weights "w" with another layer',
    ),
    (
        D
        + conv("conv", "data")
        + POOL
        + layer("Convolution", "conv", "data", "x", "convolution_param { num_output: 4 kernel_size: 3 }"),
        "another layer is also named conv, so they share weights",
    ),
    (
        D + data(1, 4, 16, 16, name="more") + CONV_OF_TWO + POOL,
        "conv has 2 tops",
    ),
    (
        D + CONV + layer("Scale", "s", "conv", "conv", "scale_param { axis: 2 }") + POOL,
        "s does not work by channel (axis 2, num_axes 1)",
    ),
    (
        D + CONV + layer("Bias", "s", "conv", "conv", "bias_param { num_axes: 3 }") + POOL,
        "s does not work by channel (axis 1, num_axes 3)",
    ),
    (
        D
        + CONV
        + conv("b", "data")
        + join("pair", "conv", "b", fields="concat_param { axis: 2 }")
        + pool("pool", "pair"),
        "pair does not join channels",
    ),
    (
        D + conv("a", "data", 4, 1) + join("pair", "a", "data") + pool("pool", "pair"),
        "pair reads the data layer's data",
    ),
]


@pytest.mark.parametrize(("text", "reason"), IN_FRONT)
def test_pool_without_a_host(text: str, reason: str) -> None:
    assert only(text, PoolToStride(), "pool") == reason


@pytest.mark.parametrize(("text", "reason"), IN_FRONT)
def test_lrn_without_a_host(text: str, reason: str) -> None:
    text = text.replace('name: "pool" type: "Pooling"', 'name: "norm" type: "LRN"')
    text = text.replace("pooling_param { kernel_size: 2 stride: 2 }", "lrn_param { local_size: 5 }")
    reason = reason.replace("pool ", "norm ").replace("and pool", "and norm")
    assert only(text, RemoveLrn(), "norm") == reason


@pytest.mark.parametrize("kind", ["Concat", "Eltwise"])
def test_joins_are_left_alone_where_the_paper_does(kind: str) -> None:
    text = D + CONV + conv("b", "data") + layer(kind, "both", ("conv", "b")) + pool("pool", "both")
    reason = f"left alone by --paper: no convolution directly in front, both ({kind}) stands between"
    assert only(text, PoolToStride(paper=True), "pool") == (reason if kind == "Concat" else PAPER_KEEPS.text)
    text = text.replace('type: "Pooling"', 'type: "LRN"').replace("pooling_param { kernel_size: 2 stride: 2 }", "")
    assert only(text, RemoveLrn(joins=False), "pool") == reason


MODULE = conv("c", "pool") + conv("d", "pool") + layer("Concat", "both", ("c", "d"))


@pytest.mark.parametrize(
    ("behind", "folds"),
    [
        ("", False),
        (conv("c", "pool") + conv("d", "pool") + layer("Eltwise", "both", ("c", "d")), False),
        (
            conv("c", "pool", 4, 1) + layer("Concat", "both", ("pool", "c")),
            False,
        ),
        (MODULE, True),
    ],
)
def test_pools_that_the_paper_folds(behind: str, folds: bool) -> None:
    text = D + CONV + POOL + behind
    assert reasons(text, PoolToStride(paper=True)) == ({} if folds else {"pool": PAPER_KEEPS.text})
    assert reasons(text, PoolToStride()) == {}


@pytest.mark.parametrize(
    ("name", "folded"),
    [
        ("googlenet", ["pool1/3x3_s2", "pool2/3x3_s2"]),
        ("alexnet", []),
        ("resnet50", []),
    ],
)
def test_the_papers_nets(name: str, folded: list[str]) -> None:
    net = parse(zoo.build(name).deploy)
    found = rewrite(net, passes_of(ConvertOptions(Path(name), paper=True))).rewrites
    assert [one.applied.removed[0] for one in found if one.pass_name == "pool-to-stride"] == folded


def test_pooling_behind_other_linear_layers() -> None:
    text = D + layer("Deconvolution", "up", "data", "up", "convolution_param { num_output: 2 kernel_size: 2 }")
    reason = "no convolution in front: up (Deconvolution) stands between"
    assert only(text + pool("pool", "up"), PoolToStride(), "pool") == reason


# Pooling itself.


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        (
            D + CONV + pool("pool", "conv", fields="twist_mode: false"),
            "pool has fields that Caffe 1.0 does not have (pooling_param.twist_mode)",
        ),
        (
            D + CONV + layer("Pooling", "pool", "conv", ("pool", "mask"), "pooling_param { kernel_size: 2 stride: 2 }"),
            "somebody may read the mask mask",
        ),
        (
            D + CONV + layer("Pooling", "pool", "conv", "pool", "pooling_param { global_pooling: true }"),
            "global pooling: its averages are what the layers behind it need",
        ),
        (
            D + CONV + pool("pool", "conv", 14, 1),
            "global pooling: its window covers the whole image, and the layers behind it need its averages",
        ),
        (
            D + CONV + pool("pool", "conv", 2, 1),
            "its predicted cost rises 1.5x (28,224 to 43,264 multiply-adds); --force-merge",
        ),
        (
            data(1, 3, 227, 227) + conv("conv", "data", 4, 11, "stride: 4") + pool("pool", "conv", 3, 2),
            "geometry: 28x28 where pooling gave 27x27, whatever the pad (conv with stride 8x8); try another --kernel",
        ),
        (
            data(1, 3, 227, 227)
            + conv("conv", "data", 4, 11, "stride: 4")
            + layer(
                "Pooling", "pool", "conv", "pool", "pooling_param { kernel_h: 3 kernel_w: 1 stride_h: 2 stride_w: 1 }"
            ),
            "geometry: 28x55 where pooling gave 27x55, whatever the pad (conv with stride 8x4); try another --kernel",
        ),
        (
            D + conv("conv", "data", 4, 3, "axis: 2") + POOL,
            "conv is not a 2-d convolution over channels",
        ),
    ],
)
def test_pool_that_stays(text: str, reason: str) -> None:
    one = PoolToStride(kernel=4) if "cost rises" in reason else PoolToStride()
    assert only(text, one, "pool") == reason


def test_forced_merges_may_cost_more() -> None:
    net = parse(D + CONV + pool("pool", "conv", 2, 1))
    assert not rewrite(net, PoolToStride(kernel=4, force=True)).refusals
    assert names(net) == ["data", "conv_merge"]


@pytest.mark.parametrize("between", ["", relu("r", "conv")])
def test_unknown_shape_names_the_flag(between: str) -> None:
    text = SOURCE + CONV + between + POOL + layer("Silence", "s", "label", ())
    reason = only(text, PoolToStride(), "pool")
    assert reason.startswith("shape unknown: ")
    assert reason.count("--input-shape") == 1
    text = 'input: "data" ' + CONV + between + POOL
    assert only(text, PoolToStride(), "pool") == (
        'shape unknown: the net input "data" has no shape; give --input-shape data=CHANNELS,HEIGHT,WIDTH'
    )


def test_phases_with_images_of_different_sizes() -> None:
    """One convolution has one pad: it must fit in every phase."""
    sizes = {"TRAIN": 17, "TEST": 16}
    text = "".join(
        layer(
            "DummyData",
            "data",
            (),
            "data",
            f"dummy_data_param {{ shape {{ dim: 1 dim: 3 dim: {size} dim: {size} }} }} include {{ phase: {phase} }}",
        )
        for phase, size in sizes.items()
    )
    text += conv("conv", "data", 4, 3, "pad: 1") + pool("pool", "conv", 3, 2)
    found = reasons(text, PoolToStride())["pool"]
    assert found == "geometry: the phases have images of different sizes, and no one pad fits conv in all"


# LRN.


def test_lrn_of_a_fork() -> None:
    text = D + CONV + layer("LRN", "norm", "conv", "norm", "lrn_param { k2: 1 }")
    assert only(text, RemoveLrn(), "norm") == "norm has fields that Caffe 1.0 does not have (lrn_param.k2)"


# BatchNorm and Scale.

NORMS = [
    (D + layer("BatchNorm", "bn", "data"), "bn", "bn reads the data layer's data"),
    (
        D + CONV + POOL + layer("Scale", "scale", "pool"),
        "scale",
        "no convolution directly in front: pool (Pooling) stands between",
    ),
    (D + CONV + layer("BatchNorm", "bn", "conv") + fc("fc", "conv"), "bn", "another layer (fc) reads conv"),
    (
        D + conv("conv", "data", rest=SHARED) + BN + conv("twin", "data", rest=SHARED),
        "bn",
        'conv shares its weights "w" with another layer',
    ),
    (
        D
        + CONV
        + layer("BatchNorm", "bn", "conv", "conv", 'param { name: "m" lr_mult: 0 }')
        + layer("BatchNorm", "twin", "data", "twin", 'param { name: "m" lr_mult: 0 }'),
        "bn",
        'bn shares its weights "m" with another layer',
    ),
    (
        D + CONV + layer("BatchNorm", "bn", "conv", "conv", "batch_norm_param { decay: 1 }"),
        "bn",
        "bn has fields that Caffe 1.0 does not have (batch_norm_param.decay)",
    ),
    (
        D + CONV + layer("Scale", "scale", "conv", "conv", "scale_param { axis: 2 }"),
        "scale",
        "scale does not work by channel (axis 2, num_axes 1)",
    ),
    (
        D + CONV + layer("Scale", "scale", "conv", "conv", "scale_param { num_axes: -1 }"),
        "scale",
        "scale does not work by channel (axis 1, num_axes -1)",
    ),
    (
        data(2, 3, 6) + fc("fc", "data", 4, "axis: 2") + layer("BatchNorm", "bn", "fc", "fc"),
        "bn",
        "fc does not put its outputs on the channel axis (axis 2)",
    ),
    (
        D + data(1, 4, 16, 16, name="more") + CONV_OF_TWO + BN,
        "bn",
        "conv has 2 tops",
    ),
]


@pytest.mark.parametrize("one", [FoldBatchNorm(), PruneBatchNorm()], ids=lambda one: one.name)
@pytest.mark.parametrize(("text", "name", "reason"), NORMS)
def test_norm_that_stays(one: AnyPass, text: str, name: str, reason: str) -> None:
    assert only(text, one, name, weights=True) == reason


def test_a_scale_that_is_odd_keeps_only_itself_from_the_fold() -> None:
    net = parse(D + CONV + BN + layer("Scale", "scale", "conv", "conv", "scale_param { axis: 2 }"), weights=True)
    assert reasons(net, FoldBatchNorm()) == {"scale": "scale does not work by channel (axis 2, num_axes 1)"}
    assert names(net) == ["data", "conv_fold", "scale"]


def test_scale_of_two_blobs_is_no_normalisation() -> None:
    text = (
        D + CONV + fc("gate", "data", 4) + layer("Scale", "scale", ("conv", "gate"), "conv", "scale_param { axis: 0 }")
    )
    assert reasons(text, FoldBatchNorm(), weights=True) == {}


def test_batch_statistics_are_not_folded() -> None:
    text = D + CONV + BN + SCALE + fc("fc", "conv") + layer("EuclideanLoss", "loss", ("fc", "fc"), "loss")
    reason = "it uses batch statistics in TRAIN: relearn with it, and `rebirth deploy` folds it (or --bn prune)"
    assert only(text, FoldBatchNorm(), "bn", weights=True) == reason
    never = text.replace(
        'top: "conv" }\n' + SCALE, 'top: "conv" batch_norm_param { use_global_stats: false } }\n' + SCALE
    )
    test_only = never.replace(layer("EuclideanLoss", "loss", ("fc", "fc"), "loss"), "")
    assert "in TEST" in only(test_only, FoldBatchNorm(), "bn", weights=True)
    frozen = never.replace("false", "true")
    assert reasons(frozen, FoldBatchNorm(), weights=True) == {}


def test_folding_needs_all_weights() -> None:
    text = D + CONV + BN + SCALE
    assert only(text, FoldBatchNorm(), "bn") == "folding needs weights: give -w"
    for one in (FoldBatchNorm(), PruneBatchNorm()):
        for missing in ("conv", "bn", "scale"):
            net = parse(text, weights=True)
            assert net.weights is not None
            net.weights.drop(missing)
            assert reasons(net, one) == {"bn": f"the weights hold nothing for {missing}"}
            net = parse(text, weights=True)
            assert net.weights is not None
            arrays = [array.copy() for array in net.weights[missing]]
            arrays[0].flat[0] = np.inf
            net.weights.set(missing, arrays)
            assert reasons(net, one) == {"bn": f"the weights of {missing} are not finite"}
            assert net.text() == text


def test_pruning_needs_no_weights() -> None:
    net = parse(D + CONV + BN + SCALE)
    assert reasons(net, PruneBatchNorm()) == {} and names(net) == ["data", "conv_merge"]


# Branches.


def module(*branches: str, order: tuple[str, ...] = (), channels: int = 64, size: int = 7, after: str = "") -> str:
    """An input, branches that read it, and a Concat of blobs named a, b, c, ….

    By default it joins as many blobs as there are branches.
    """
    blobs = order or tuple("abcdef"[: len(branches)])
    return data(1, channels, size, size) + "".join(branches) + join("out", *blobs) + after


ONE = conv("a", "data", 8, 1)
THREE = conv("b_reduce", "data", 8, 1) + conv("b", "b_reduce", 8, 3, "pad: 1")
POOLED = pool("c_pool", "data", 3, 1, "pad: 1") + conv("c", "c_pool", 8, 1)


def test_the_module_of_these_tests_merges() -> None:
    net = parse(module(ONE, THREE, POOLED))
    assert reasons(net, MergeBranches()) == {}
    assert names(net) == ["data", "b_reduce_merge", "b_merge", "out"]


@pytest.mark.parametrize(
    ("text", "name", "reason"),
    [
        # pool branches
        (
            module(THREE.replace('"b', '"a'), pool("b", "data", 3, 1, "pad: 1")),
            "b",
            "b has no projection behind it",
        ),
        (
            module(
                conv("a", "data", 8, 3, "pad: 1 stride: 2"),
                pool("b_pool", "data", 3, 2) + conv("b", "b_pool", 8, 1),
                size=8,
            ),
            "b_pool",
            "b_pool changes the size of the image",
        ),
        (
            module(THREE.replace('"b', '"a'), pool("b_pool", "data", 5, 1, "pad: 2") + conv("b", "b_pool", 8, 1)),
            "b_pool",
            "no convolution branch with a kernel of at least 5x5 reads the same blob",
        ),
        (
            module(
                THREE.replace('"b', '"a'),
                pool("b_pool", "data", 3, 1, "pad: 1") + relu("b_relu", "b_pool") + conv("b", "b_pool", 8, 1),
            ),
            "b_pool",
            "b_relu (ReLU) stands in front of b",
        ),
        (
            module(
                THREE.replace('"b', '"a'),
                pool("b_pool", "data", 3, 1, "pad: 1") + conv("b_first", "b_pool", 8, 1) + conv("b", "b_first", 8, 1),
            ),
            "b_pool",
            "it is more than one convolution",
        ),
        # small branches
        (module(ONE, THREE + relu("r", "b")), "a", "what stands behind a is not what stands behind b"),
        (module(ONE, conv("b", "data", 8, 1)), "a", None),
        (module(ONE, layer("Softmax", "b", "data")), "a", "no branch has a larger kernel than a"),
        (module(ONE, layer("Softmax", "b", "data")), "b", "it has no convolution"),
        (
            module(relu("a_relu", "data", "a_relu") + conv("a", "a_relu", 8, 1), THREE),
            "a_relu",
            "a_relu (ReLU) stands in front of a",
        ),
        (module(conv("a", "data", 8, 1, "group: 2"), THREE), "a", "a has 2 groups"),
        (
            module(conv("a", "data", 8, 1, rest=SHARED), THREE, after=conv("twin", "out", 8, 1, rest=SHARED)),
            "a",
            'a shares its weights "w" with another layer',
        ),
        (
            module(ONE + layer("Softmax", "s", "a", "s"), THREE, order=("s", "b")),
            "a",
            "s (Softmax) stands between a and the Concat",
        ),
        (
            module(ONE + layer("Scale", "s", "a", "a", "scale_param { axis: 2 }"), THREE),
            "a",
            "s does not work by channel (axis 2, num_axes 1)",
        ),
        (
            module(ONE + layer("ReLU", "s", "a", "a", "relu_param { slope: 1 }"), THREE),
            "out",
            'shape unknown: layer "s" has fields that Caffe 1.0 does not have: relu_param.slope',
        ),
        (
            module(
                ONE + layer("PReLU", "s", "a", "a", 'param { name: "p" }'),
                THREE + layer("PReLU", "t", "b", "b", 'param { name: "p" }'),
            ),
            "a",
            's shares its weights "p" with another layer',
        ),
        # the Concat
        (
            SOURCE
            + conv("a", "data", 8, 1)
            + conv("b", "data", 8, 3, "pad: 1")
            + join("out", "a", "b")
            + layer("Silence", "s", "label", ()),
            "out",
            "shape unknown: ",
        ),
        (
            module(ONE, THREE).replace('top: "out"', 'top: "out" concat_param { dim: 1 }'),
            "out",
            "out has fields that Caffe 1.0 does not have (concat_param.dim)",
        ),
    ],
)
def test_branch_that_stays(text: str, name: str, reason: str | None) -> None:
    net = parse(text)
    found = reasons(net, MergeBranches())
    assert net.text() == text
    if reason is None:
        assert name not in found
    elif reason.endswith(": "):
        assert found[name].startswith(reason)
    else:
        assert found[name] == reason


@pytest.mark.parametrize(
    "text",
    [
        # not over channels; of one bottom; of two forks
        module(ONE, conv("b", "data", 8, 3, "pad: 1")).replace('top: "out"', 'top: "out" concat_param { axis: 2 }'),
        module(ONE),
        D + conv("x", "data", 4, 1) + conv("a", "x", 4, 1) + join("out", "a", "data"),
    ],
)
def test_what_is_no_module_is_no_refusal(text: str) -> None:
    net = parse(text)
    assert reasons(net, MergeBranches()) == {} and net.text() == text


def test_hosts_that_cannot_host() -> None:
    """A branch that pools, or whose convolution is special, takes nobody in."""
    for host in (
        pool("b_pool", "data", 3, 1, "pad: 1") + conv("b", "b_pool", 8, 3, "pad: 1"),
        conv("b", "data", 8, 3, "pad: 1 group: 2"),
    ):
        text = module(ONE, host)
        found = reasons(text, MergeBranches())
        assert found["a"] == "no branch has a larger kernel than a"


# The order of the channels.

LATER = conv("c_reduce", "data", 8, 1) + conv("c", "c_reduce", 8, 3, "pad: 1")
MIDDLE = conv("b_reduce", "data", 4, 1) + conv("b", "b_reduce", 8, 5, "pad: 2")
FIRST = conv("a", "data", 8, 1)


@pytest.mark.parametrize(
    ("after", "reason"),
    [
        ("", "the order of its channels would change, and out is an output of the net"),
        (layer("ReLU", "r", "out", "out"), "the order of its channels would change, and out is an output of the net"),
        (
            conv("next", "out", 8, 1, "group: 2"),
            "the order of the Concat's channels would change, and next reads them in groups",
        ),
        (
            layer("Softmax", "prob", "out"),
            "the order of the Concat's channels would change, and prob (Softmax) reads them in that order",
        ),
        (
            layer("LRN", "norm", "out") + conv("next", "norm"),
            "the order of the Concat's channels would change, and norm (LRN) reads them in that order",
        ),
        (
            relu("r", "out", "r") + join("more", "r", "data"),
            "the order of the Concat's channels would change, and more (Concat) reads them in that order",
        ),
        (
            fc("next", "out", 5, "axis: 2"),
            "the order of the Concat's channels would change, and next (InnerProduct) reads them in that order",
        ),
        (
            layer("Scale", "s", "out", "s", "scale_param { axis: 2 }") + fc("next", "s"),
            "the order of the Concat's channels would change, and s (Scale) reads them in that order",
        ),
        (
            conv("next", "out", 8, 1, rest=SHARED) + conv("twin", "out", 8, 1, rest=SHARED),
            'the order of the Concat\'s channels would change, and next shares its weights "w" with another layer',
        ),
        (
            conv("next", "out", 8, 1, "quux: 1"),
            "the order of the Concat's channels would change, and next has fields that Caffe 1.0 does not have "
            "(convolution_param.quux)",
        ),
        (
            fc("next", "out", rest="include { phase: TRAIN }"),
            "the order of its channels would change, and out is an output of the net",
        ),
    ],
)
def test_an_order_that_must_stay(after: str, reason: str) -> None:
    text = module(FIRST, MIDDLE, LATER, after=after)
    assert only(text, MergeBranches(), "a") == reason


def test_what_keeps_the_order_is_merged_all_the_same() -> None:
    proj = pool("d_pool", "data", 3, 1, "pad: 1") + conv("d", "d_pool", 8, 1)
    net = parse(module(FIRST, MIDDLE, LATER, proj, channels=128))
    outcome = rewrite(net, MergeBranches(reduce=1.0))
    assert [one.applied.removed for one in outcome.rewrites] == [["d_pool", "d", "c"]]
    assert {one.layer: one.reason for one in outcome.refusals} == {
        "a": "the order of its channels would change, and out is an output of the net"
    }


# The cost gate.


def fire(channels: int = 96, squeeze: int = 16, expand: int = 64) -> str:
    return (
        data(1, channels, 55, 55)
        + conv("fire2/squeeze1x1", "data", squeeze, 1)
        + relu("fire2/relu", "fire2/squeeze1x1")
        + conv("fire2/expand1x1", "fire2/squeeze1x1", expand, 1)
        + conv("fire2/expand3x3", "fire2/squeeze1x1", expand, 3, "pad: 1")
        + join("fire2/concat", "fire2/expand1x1", "fire2/expand3x3")
    )


def test_squeezenets_fire_modules_are_refused_unless_forced() -> None:
    pixels = 55 * 55
    before, after = pixels * 16 * 64 * 10, pixels * 16 * 128 * 9
    assert only(fire(), MergeBranches(), "fire2/expand1x1") == (
        f"merging it raises the predicted cost 1.8x ({before:,} to {after:,} multiply-adds); "
        "--force-merge merges it all the same"
    )
    net = parse(fire())
    assert reasons(net, MergeBranches(force=True)) == {}
    assert names(net) == ["data", "fire2/squeeze1x1", "fire2/relu", "fire2/expand3x3_merge", "fire2/concat"]


def test_fire_modules_pay_once_the_squeeze_layer_is_halved() -> None:
    net = parse(fire())
    assert reasons(net, MergeBranches(patterns=(("*/squeeze*", 0.5),))) == {}
    assert "fire2/squeeze1x1_merge" in names(net)


def test_the_gate_takes_what_pays_and_says_why_the_rest_stays() -> None:
    """The pool branch pays: the 5x5 branch reads two channels only. The small one would read 16 through 3x3."""
    text = module(
        conv("a", "data", 64, 1),
        conv("b_reduce", "data", 16, 1) + conv("b", "b_reduce", 8, 3, "pad: 1"),
        conv("c_reduce", "data", 2, 1) + conv("c", "c_reduce", 8, 5, "pad: 2"),
        pool("d_pool", "data", 3, 1, "pad: 1") + conv("d", "d_pool", 8, 1),
        channels=128,
    )
    net = parse(text)
    found = reasons(net, MergeBranches(reduce=1.0))
    assert names(net) == ["data", "a", "b_reduce", "b", "c_reduce", "c_merge", "out"]
    assert set(found) == {"a"}
    assert "raises the predicted cost" in found["a"]


# Deploy nets.


def test_a_deploy_net_needs_the_shape_of_its_data() -> None:
    text = SOURCE + conv("a", "data") + fc("fc", "a") + layer("SoftmaxWithLoss", "loss", ("fc", "label"), "loss")
    reason = only(text, StripTraining(), "data")
    assert reason.startswith("shape unknown: ") and reason.count("--input-shape") == 1


@pytest.mark.parametrize(
    ("size", "reason"),
    [
        (1, "nothing fixes it; give one with --input-shape"),
        (2, "global pooling: its window covers the whole image"),
    ],
)
def test_a_nominal_image_is_no_whole_image(size: int, reason: str) -> None:
    text = data(1, 3, size, size) + conv("conv", "data", 4, 1) + POOL
    assert reason in reasons(text, PoolToStride())["pool"]


@pytest.mark.parametrize("kernels", [(1,), (1, 3, 5)])
def test_a_wide_module_is_judged_branch_by_branch(monkeypatch: pytest.MonkeyPatch, kernels: tuple[int, ...]) -> None:
    """Nothing about a branch is worked out again for each of the others."""
    asked: list[str] = []
    count = 120
    monkeypatch.setattr(inception, "conv_geometry", lambda param: asked.append(param.name) or conv_geometry(param))
    branches = [f"c{index}" for index in range(count)]
    sizes = [kernels[index % len(kernels)] for index in range(count)]
    text = "".join(conv(name, "data", 4, size, f"pad: {size // 2}") for name, size in zip(branches, sizes, strict=True))
    list(MergeBranches().match(parse(D + text + layer("Concat", "out", branches))))
    assert set(asked) == set(branches) and len(asked) <= 2 * count
