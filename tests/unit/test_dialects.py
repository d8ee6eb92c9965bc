"""The table of forks: every entry, by the shapes, blobs and costs of a small net."""

from __future__ import annotations

import pytest

from deeprebirth_caffe.ir import Layer, Net, summarize
from deeprebirth_caffe.ops import Shape, count
from deeprebirth_caffe.ops.forks import DEPTHWISE, FORKS, Effect, field_entry, forks_with_field, forks_with_type
from deeprebirth_caffe.passes.exact.portable import Portable
from deeprebirth_caffe.passes.patterns import strange
from deeprebirth_caffe.rewrite import Rewriter
from deeprebirth_caffe.rewrite.pipeline import run

CASES: dict[str, tuple[str, list[Shape], str, list[Shape] | None]] = {
    # type: (its fields, the shapes it reads, the shapes it makes "a x b, …", its blobs)
    "Permute": ("permute_param { order: 0 order: 2 order: 3 order: 1 }", [(2, 6, 5, 4)], "2x5x4x6", []),
    "Normalize": (
        'norm_param { across_spatial: false scale_filler { type: "constant" value: 20 } channel_shared: false }',
        [(2, 6, 5, 4)],
        "2x6x5x4",
        [(6,)],
    ),
    "PriorBox": (
        "prior_box_param { min_size: 30 max_size: 60 aspect_ratio: [2, 3] flip: true variance: 0.1 step: 8 }",
        [(1, 8, 3, 2), (1, 3, 24, 16)],
        f"1x2x{3 * 2 * 6 * 4}",
        [],
    ),
    "DetectionOutput": (
        "detection_output_param { num_classes: 2 nms_param { nms_threshold: 0.45 } keep_top_k: 200 }",
        [(1, 24), (1, 12), (1, 2, 24)],
        "?",
        None,
    ),
    "DetectionEvaluate": ("detection_evaluate_param { num_classes: 2 }", [(1, 1, 1, 7), (1, 1, 1, 8)], "?", None),
    "MultiBoxLoss": (
        "multibox_loss_param { loc_loss_type: SMOOTH_L1 num_classes: 2 }",
        [(1, 24), (1, 12), (1, 2, 24), (1, 1, 3, 8)],
        "",
        [],
    ),
    "SmoothL1Loss": ("smooth_l1_loss_param { sigma: 3 }", [(4, 8), (4, 8), (4, 8), (4, 8)], "", []),
    "SmoothL1LossOHEM": ("", [(4, 8), (4, 8)], "", []),
    "SoftmaxWithLossOHEM": ("", [(4, 8), (4,)], "", []),
    "ROIPooling": (
        "roi_pooling_param { pooled_h: 7 pooled_w: 6 spatial_scale: 0.0625 }",
        [(1, 16, 14, 14), (300, 5)],
        "300x16x7x6",
        [],
    ),
    "PSROIPooling": (
        "psroi_pooling_param { spatial_scale: 0.0625 output_dim: 21 group_size: 7 }",
        [(1, 21 * 49, 14, 14), (300, 5, 1, 1)],
        "300x21x7x7",
        [],
    ),
    "Upsample": ("upsample_param { scale: 2 pad_out_h: true }", [(1, 4, 5, 6), (1, 4, 5, 6)], "1x4x9x12", []),
    "BN": ("bn_param { bn_mode: INFERENCE }", [(2, 6, 5, 4)], "2x6x5x4", [(1, 6, 1, 1)] * 2),
    "Interp": ("interp_param { zoom_factor: 8 }", [(1, 3, 9, 5)], "1x3x65x33", []),
    "SegAccuracy": ("seg_accuracy_param { ignore_label: 255 }", [(1, 3, 4, 4), (1, 1, 4, 4)], "1x1x1x3", []),
    "ReLU6": ("", [(2, 6, 5, 4)], "2x6x5x4", []),
    "ShuffleChannel": ("shuffle_channel_param { group: 3 }", [(2, 6, 5, 4)], "2x6x5x4", []),
    "Axpy": ("", [(2, 6, 1, 1), (2, 6, 5, 4), (2, 6, 5, 4)], "2x6x5x4", []),
    "ConvolutionRistretto": (
        "convolution_param { num_output: 5 kernel_size: 3 }",
        [(2, 6, 8, 8)],
        "2x5x6x6",
        [(5, 6, 3, 3), (5,)],
    ),
    "DeconvolutionRistretto": (
        "convolution_param { num_output: 5 kernel_size: 3 }",
        [(2, 6, 8, 8)],
        "2x5x10x10",
        [(6, 5, 3, 3), (5,)],
    ),
    "FcRistretto": ("inner_product_param { num_output: 5 }", [(2, 6, 2, 2)], "2x5", [(5, 24), (5,)]),
    "LRNRistretto": ("lrn_param { local_size: 3 }", [(2, 6, 8, 8)], "2x6x8x8", []),
    "ConvolutionDepthwise": (
        "convolution_param { num_output: 6 kernel_size: 3 pad: 1 stride: 2 }",
        [(2, 6, 8, 8)],
        "2x6x4x4",
        [(6, 1, 3, 3), (6,)],
    ),
    "DepthwiseConvolution": (
        "convolution_param { num_output: 6 group: 6 kernel_size: 3 bias_term: false }",
        [(2, 6, 8, 8)],
        "2x6x6x6",
        [(6, 1, 3, 3)],
    ),
    "AnnotatedData": (
        "transform_param { force_color: true resize_param { resize_mode: WARP height: 300 width: 200 }"
        " emit_constraint { emit_type: CENTER } } data_param { batch_size: 4 source: 'x' }"
        " annotated_data_param { batch_sampler { max_sample: 1 } }",
        [],
        "4x3x300x200",
        None,
    ),
    "DenseImageData": (
        "dense_image_data_param { source: 'x' batch_size: 4 new_height: 36 new_width: 48 }",
        [],
        "4x3x36x48",
        [],
    ),
    "ImageSegData": (
        "transform_param { crop_size: 33 } image_data_param { source: 'x' batch_size: 4 label_type: PIXEL }",
        [],
        "4x3x33x33",
        [],
    ),
}


def one_layer(kind: str, fields: str, bottoms: list[Shape], tops: int = 1, rest: str = "") -> tuple[Net, Layer]:
    """A net of one layer that reads blobs of those shapes."""
    lines = []
    for index, shape in enumerate(bottoms):
        dims = " ".join(f"dim: {dim}" for dim in shape)
        lines.append(
            f'layer {{ name: "in{index}" type: "Input" top: "in{index}" input_param {{ shape {{ {dims} }} }} }}'
        )
    reads = " ".join(f'bottom: "in{index}"' for index in range(len(bottoms)))
    writes = " ".join(f'top: "out{index}"' for index in range(tops))
    lines.append(f'layer {{ name: "one" type: "{kind}" {reads} {writes} {fields} }}')
    net = Net.parse("\n".join([*lines, rest]) + "\n")
    return net, net.layer_named("one")[0]


def spell(shape: Shape | None) -> str:
    return "?" if shape is None else "x".join(map(str, shape))


def test_every_type_of_the_table_has_a_case() -> None:
    assert {kind.type for fork in FORKS for kind in fork.types} == set(CASES)


@pytest.mark.parametrize("kind", CASES)
def test_shapes_blobs_and_costs(kind: str) -> None:
    fields, bottoms, tops, blobs = CASES[kind]
    net, layer = one_layer(kind, fields, bottoms)
    assert layer.unknown == ()
    assert layer.op is not None and layer.op.type == kind
    assert [spell(value.shape) for value in net.view().outs[layer]] == [tops]
    row = summarize(net.view()).layers[-1]
    if blobs is not None:
        assert list(row.param_shapes or ()) == blobs
        assert row.params == sum(map(count, blobs))
        assert row.cost is not None and row.cost >= 0
    assert net.text() == Net.parse(net.text()).text()


@pytest.mark.parametrize("kind", CASES)
def test_a_field_that_nobody_knows_makes_it_strange(kind: str) -> None:
    fields, bottoms, _, _ = CASES[kind]
    net, layer = one_layer(kind, f"{fields} odd_param {{ twist: 2 }}", bottoms)
    assert layer.unknown == ("odd_param",)
    value = net.view().outs[layer][0]
    assert value.shape is None and "odd_param" in value.unknown


@pytest.mark.parametrize(
    "kind, fields, bottoms",
    [
        ("Permute", "permute_param { order: 0 order: 0 }", [(2, 6, 5, 4)]),
        ("Permute", 'permute_param { order: "zero" }', [(2, 6, 5, 4)]),
        ("PriorBox", "prior_box_param { }", [(1, 8, 3, 2), (1, 3, 24, 16)]),
        ("ROIPooling", "roi_pooling_param { pooled_h: 7 }", [(1, 16, 14, 14), (300, 5)]),
        ("ROIPooling", "roi_pooling_param { pooled_h: 7 pooled_w: 7 }", [(1, 16, 14, 14), (300, 4)]),
        ("PSROIPooling", "psroi_pooling_param { output_dim: 2 group_size: 7 }", [(1, 16, 14, 14), (300, 5)]),
        ("Interp", "interp_param { pad_beg: 1 zoom_factor: 2 }", [(1, 3, 9, 5)]),
        ("Interp", "", [(1, 3, 9, 5)]),
        ("Upsample", "upsample_param { scale: 2 }", [(1, 4, 5, 6), (1, 4, 5, 5)]),
        ("Axpy", "", [(2, 5), (2, 6, 5, 4), (2, 6, 5, 4)]),
        ("ShuffleChannel", "shuffle_channel_param { group: 4 }", [(2, 6, 5, 4)]),
        ("ConvolutionDepthwise", "convolution_param { num_output: 12 kernel_size: 3 }", [(2, 6, 8, 8)]),
        ("Pooling", "pooling_param { kernel_size: 2 ceil_mode: 7 }", [(2, 6, 8, 8)]),
        ("AnnotatedData", "data_param { batch_size: 4 }", []),
        ("DenseImageData", "", []),
        ("ImageSegData", "", []),
    ],
)
def test_what_does_not_fit_is_not_known_rather_than_wrong(kind: str, fields: str, bottoms: list[Shape]) -> None:
    net, layer = one_layer(kind, fields, bottoms)
    value = net.view().outs[layer][0]
    assert value.shape is None and '"one"' in value.unknown


def test_a_type_that_nobody_knows_goes_through() -> None:
    net, layer = one_layer("Hologram", "hologram_param { depth: 3 } # kept\n", [(2, 6, 8, 8)])
    assert layer.op is None
    assert "type Hologram" in net.view().outs[layer][0].unknown
    assert "hologram_param { depth: 3 } # kept" in net.text()


def test_python_layers_go_through() -> None:
    net, layer = one_layer("Python", "python_param { module: 'rpn.proposal' layer: 'Proposal' }", [(2, 6, 8, 8)])
    assert "rpn.proposal.Proposal" in net.view().outs[layer][0].unknown


@pytest.mark.parametrize("flag, size", [("", 5), ("ceil_mode: true", 5), ("ceil_mode: false", 4), ("ceil_mode: t", 5)])
def test_ceil_mode(flag: str, size: int) -> None:
    net, layer = one_layer("Pooling", f"pooling_param {{ kernel_size: 3 stride: 2 {flag} }}", [(1, 4, 10, 10)])
    assert net.view().outs[layer][0].shape == (1, 4, size, size)
    assert layer.unknown == layer.understood.fixed == ()


@pytest.mark.parametrize("fields", ["hole: 2", "hole_h: 2 hole_w: 2"])
def test_hole_is_dilation(fields: str) -> None:
    net, layer = one_layer(
        "Convolution", f"convolution_param {{ num_output: 2 kernel_size: 3 {fields} }}", [(1, 1, 9, 9)]
    )
    assert net.view().outs[layer][0].shape == (1, 2, 5, 5)
    assert layer.understood.fixed


@pytest.mark.parametrize("field", ["scale_bias: true", "scale_filler { value: 1 }", "bias_filler { }"])
def test_batch_norm_with_five_blobs(field: str) -> None:
    net, layer = one_layer("BatchNorm", f"batch_norm_param {{ {field} }}", [(1, 4, 9, 9)])
    row = summarize(net.view()).layers[-1]
    assert row.param_shapes == ((4,), (4,), (1,), (4,), (4,))
    assert layer.understood.fixed


def test_batch_norm_without_a_scale_has_three() -> None:
    net, _ = one_layer("BatchNorm", "batch_norm_param { scale_bias: false }", [(1, 4, 9, 9)])
    assert summarize(net.view()).layers[-1].param_shapes == ((4,), (4,), (1,))


@pytest.mark.parametrize(
    "fields, blobs",
    [
        ("bn_param { slope_filler { value: 1 } bias_filler { } frozen: true }", 4),
        ("bn_param { scale_filler { value: 1 } shift_filler { } moving_average: true }", 4),
        ("bn_param { bn_mode: LEARN scale_filler { value: 1 } }", 2),
        ("bn_param { scale_filler { value: 1 } }", None),
        ("", None),
    ],
)
def test_whose_bn(fields: str, blobs: int | None) -> None:
    net, layer = one_layer("BN", fields, [(1, 4, 9, 9)])
    assert net.view().outs[layer][0].shape == (1, 4, 9, 9)
    shapes = summarize(net.view()).layers[-1].param_shapes
    assert (None if shapes is None else list(shapes)) == (None if blobs is None else [(1, 4, 1, 1)] * blobs)


QUIET = [
    ("Convolution", 'engine: "MKLDNN" convolution_param { num_output: 2 kernel_size: 3 engine: MKL2017 }'),
    ("Convolution", "forward_type: FLOAT16 backward_math: FLOAT convolution_param { num_output: 2 kernel_size: 3 }"),
    ("Convolution", "convolution_param { num_output: 2 kernel_size: 3 cudnn_convolution_algo_seeker: GET }"),
    ("BatchNorm", "batch_norm_param { engine: CUDNN }"),
    ("Pooling", "pooling_param { kernel_size: 2 engine: MKLDNN }"),
    ("LRN", "lrn_param { engine: MKL2017 }"),
    ("ReLU", "relu_param { engine: MKLDNN negative_slope: 0.1 }"),
    ("InnerProduct", "inner_product_param { num_output: 2 engine: MKLDNN }"),
]


@pytest.mark.parametrize("kind, fields", QUIET)
def test_what_changes_nothing_changes_nothing(kind: str, fields: str) -> None:
    net, layer = one_layer(kind, fields, [(1, 4, 9, 9)])
    assert layer.unknown == layer.understood.fixed == ()
    assert layer.understood.fork
    assert net.view().outs[layer][0].shape is not None
    assert fields in net.text()


@pytest.mark.parametrize(
    "kind, fields",
    [
        ("Pooling", "pooling_param { pool: AVE kernel_size: 2 avg_include_pad: false }"),
        ("InnerProduct", "inner_product_param { num_output: 2 normalize: true }"),
    ],
)
def test_what_changes_the_sums_keeps_passes_away(kind: str, fields: str) -> None:
    net, layer = one_layer(kind, fields, [(1, 4, 9, 9)])
    assert net.view().outs[layer][0].shape is not None
    assert layer.unknown == () and layer.understood.fixed


VALUES = [
    ("Pooling", "pooling_param { kernel_size: 2 engine: MIOPEN }", "pooling_param.engine", True, ()),
    ("TanH", "tanh_param { engine: LIBDNN }", "tanh_param.engine", True, ("opencl",)),
    ("ReLU", "relu_param { engine: MKLDNN }", "relu_param.engine", True, ("intel",)),
    ("Eltwise", "eltwise_param { operation: MIN }", "eltwise_param.operation", True, ()),
    ("Eltwise", "eltwise_param { operation: SUB }", "eltwise_param.operation", True, ()),
    ("Reduction", "reduction_param { operation: 9 }", "reduction_param.operation", True, ()),
    ("Pooling", "pooling_param { pool: FRACTIONAL kernel_size: 2 }", "pooling_param.pool", False, ()),
    ("Pooling", "pooling_param { kernel_size: 2 round_mode: TORCH }", "pooling_param.round_mode", False, ()),
    ("SoftmaxWithLoss", "loss_param { normalization: PRE_FIXED }", "loss_param.normalization", True, ("rcnn",)),
    ("SoftmaxWithLoss", "loss_param { normalization: BATCHES_ALL }", "loss_param.normalization", True, ()),
]


@pytest.mark.parametrize("kind, fields, path, known, forks", VALUES)
def test_a_forks_value_of_a_plain_enum(kind: str, fields: str, path: str, known: bool, forks: tuple[str, ...]) -> None:
    """It is kept like a fork's field; shapes are known where they do not depend on the value."""
    shapes = [(2, 4, 9, 9), (2,)] if kind == "SoftmaxWithLoss" else [(2, 4, 9, 9)] * (1 + (kind == "Eltwise"))
    if kind == "SoftmaxWithLoss":
        shapes[0] = (2, 4)
    net, layer = one_layer(kind, fields, shapes)
    assert layer.source is not None and layer.source.unknown == [path]
    assert (net.view().outs[layer][0].shape is not None) == known
    assert (layer.unknown == ()) == known
    quiet = path.endswith("engine")
    assert layer.understood.loud != quiet
    assert bool(strange(layer)) != quiet
    assert fields in net.text()
    assert tuple(one.name for one in forks_with_field(path, kind, layer.source.extra[path][0])) == forks


def test_the_table_is_sound() -> None:
    names = [fork.name for fork in FORKS]
    assert len(set(names)) == len(names)
    for fork in FORKS:
        for kind in fork.types:
            assert (kind.make is None) != (kind.like == "")
            assert fork in forks_with_type(kind.type)
        for entry in fork.fields:
            path = entry.path.removesuffix(".*")
            for layer_type in entry.types or ("Convolution",):
                assert field_entry(path, layer_type) is not None
                assert fork in forks_with_field(path, layer_type)
            assert entry.plain is None or entry.effect is Effect.PLAIN
        for name in fork.header:
            assert fork in forks_with_field(name, "")


def test_depthwise_layers_cost_what_the_grouped_convolution_costs() -> None:
    fields = "convolution_param { num_output: 6 kernel_size: 3 pad: 1 }"
    rows = [
        summarize(one_layer(kind, text, [(2, 6, 8, 8)])[0].view()).layers[-1]
        for kind, text in [(kind, fields) for kind in DEPTHWISE]
        + [("Convolution", fields.replace("kernel", "group: 6 kernel"))]
    ]
    assert len({row.macs for row in rows}) == len({row.cost for row in rows}) == 1
    assert rows[0].macs == 6 * 64 * 9


INTEL = """layer { name: "data" type: "Data" top: "data" top: "label" include { phase: TEST }
  transform_param { crop_size: 24 mean_value: [104, 117, 123] random_resize_param { min_size: 32 max_size: 32 } }
  data_param { source: "nowhere" batch_size: 1 backend: LMDB shuffle: true } }
layer { name: "conv" type: "Convolution" bottom: "data" top: "conv"
  quantization_param { bw_params: 8 scale_params: 3.5 } convolution_param { num_output: 4 kernel_size: 3 relu: true } }
layer { name: "bn" type: "BatchNorm" bottom: "conv" top: "conv" batch_norm_param { filler { value: 1.0 } } }
layer { name: "loss" type: "SoftmaxWithLoss" bottom: "conv" bottom: "label" top: "loss"
  loss_param { label_smoothing: 0.1 } }
"""


def test_a_net_as_intel_publishes_them() -> None:
    net = Net.parse(INTEL)
    [view] = net.views
    assert str(view.state) == "TEST"
    value = view.blob("conv")
    assert value is None or not value.unknown.startswith('layer "data" has fields')
    assert [layer.unknown for layer in net.layers] == [()] * 4
    assert [layer.understood.fixed for layer in net.layers] == [
        ("transform_param.random_resize_param",),
        ("quantization_param", "convolution_param.relu"),
        (),
        ("loss_param.label_smoothing",),
    ]


@pytest.mark.parametrize(
    ("kind", "like", "fields"),
    [
        ("ConvolutionRistretto", "Convolution", "convolution_param { num_output: 6 kernel_size: 3 stride: 2 }"),
        ("FcRistretto", "InnerProduct", "inner_product_param { num_output: 6 }"),
        ("LRNRistretto", "LRN", "lrn_param { local_size: 3 }"),
    ],
)
def test_ristretto_is_the_plain_type_with_few_bits(kind: str, like: str, fields: str) -> None:
    quantized = f"{fields} quantization_param {{ precision: DYNAMIC_FIXED_POINT bw_layer_in: 8 fl_params: 6 }}"
    (mine, layer), (plain, other) = one_layer(kind, quantized, [(2, 4, 9, 9)]), one_layer(like, fields, [(2, 4, 9, 9)])
    rows = [summarize(net.view()).layers[-1] for net in (mine, plain)]
    assert mine.view().outs[layer][0].shape == plain.view().outs[other][0].shape
    assert (rows[0].param_shapes, rows[0].macs) == (rows[1].param_shapes, rows[1].macs)
    assert strange(layer)
    run(Rewriter(mine), [Portable()])
    assert [one.type for one in mine.layers][-1] == like and "quantization" not in mine.text()
