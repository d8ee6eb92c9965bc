"""Whole nets as people write them for forks: read, inspected, converted, deployed; what is not merged stays."""

from __future__ import annotations

from pathlib import Path

import pytest

from deeprebirth_caffe.commands.convert import convert
from deeprebirth_caffe.commands.inspect import inspect
from deeprebirth_caffe.formats.prototxt import read_net
from deeprebirth_caffe.ir import Net
from deeprebirth_caffe.nets.strip import strip
from deeprebirth_caffe.options.convert import ConvertOptions


def conv(name: str, bottom: str, out: int, kernel: int = 3, kind: str = "Convolution", fields: str = "") -> str:
    """A convolution that keeps its size, and its ReLU."""
    return (
        f'layer {{\n  name: "{name}"\n  type: "{kind}"\n  bottom: "{bottom}"\n  top: "{name}"\n'
        f"  convolution_param {{ num_output: {out} kernel_size: {kernel} pad: {kernel // 2} {fields} }}\n}}\n"
        f'layer {{ name: "{name}_relu" type: "ReLU" bottom: "{name}" top: "{name}" }}\n'
    )


def pool(name: str, bottom: str, fields: str = "kernel_size: 2 stride: 2", tops: str = "") -> str:
    return (
        f'layer {{\n  name: "{name}"\n  type: "Pooling"\n  bottom: "{bottom}"\n  top: "{name}"{tops}\n'
        f"  pooling_param {{ pool: MAX {fields} }}\n}}\n"
    )


def head(source: str, index: int) -> str:
    """SSD's boxes, scores and anchors on one map."""
    parts = ""
    for what, each in (("loc", 4), ("conf", 3)):
        name = f"{what}{index}"
        parts += (
            f'layer {{ name: "{name}" type: "Convolution" bottom: "{source}" top: "{name}"'
            f" convolution_param {{ num_output: {4 * each} kernel_size: 3 pad: 1 }} }}\n"
            f'layer {{ name: "{name}_perm" type: "Permute" bottom: "{name}" top: "{name}_perm"'
            " permute_param { order: 0 order: 2 order: 3 order: 1 } } # last\n"
            f'layer {{ name: "{name}_flat" type: "Flatten" bottom: "{name}_perm" top: "{name}_flat" }}\n'
        )
    return parts + (
        f'layer {{ name: "prior{index}" type: "PriorBox" bottom: "{source}" bottom: "data" top: "prior{index}"\n'
        f"  prior_box_param {{ min_size: {20 * index} max_size: {30 * index} aspect_ratio: 2 flip: true }} }}\n"
    )


def concat(name: str, bottoms: list[str], axis: int) -> str:
    reads = " ".join(f'bottom: "{blob}"' for blob in bottoms)
    return f'layer {{ name: "{name}" type: "Concat" {reads} top: "{name}" concat_param {{ axis: {axis} }} }}\n'


INPUT = 'name: "n"\ninput: "data"\ninput_shape { dim: 1 dim: 3 dim: 64 dim: 64 }\n'

SSD = (
    INPUT
    + conv("conv1", "data", 8)
    + pool("pool1", "conv1")
    + conv("conv2", "pool1", 16)
    + 'layer { name: "norm" type: "Normalize" bottom: "conv2" top: "norm"\n'
    "  norm_param { across_spatial: false scale_filler { type: 'constant' value: 20 } channel_shared: false } }\n"
    + pool("pool2", "conv2")
    + conv("conv3", "pool2", 16, fields="dilation: 1")
    + head("norm", 1)
    + head("conv3", 2)
    + concat("loc", ["loc1_flat", "loc2_flat"], 1)
    + concat("conf", ["conf1_flat", "conf2_flat"], 1)
    + concat("prior", ["prior1", "prior2"], 2)
    + 'layer { name: "out" type: "DetectionOutput" bottom: "loc" bottom: "conf" bottom: "prior" top: "out"\n'
    "  include { phase: TEST }\n"
    "  detection_output_param { num_classes: 3 code_type: CENTER_SIZE keep_top_k: 200 } }\n"
)
RCNN = (
    INPUT
    + conv("conv1", "data", 8)
    + pool("pool1", "conv1")
    + conv("conv2", "pool1", 16)
    + 'layer { name: "rpn" type: "Python" bottom: "conv2" top: "rois"\n'
    "  python_param { module: 'rpn.proposal_layer' layer: 'ProposalLayer' param_str: \"'stride': 2\" } }\n"
    + 'layer { name: "roi" type: "ROIPooling" bottom: "conv2" bottom: "rois" top: "roi"\n'
    "  roi_pooling_param { pooled_w: 3 pooled_h: 3 spatial_scale: 0.5 } }\n"
    + 'layer { name: "fc" type: "InnerProduct" bottom: "roi" top: "fc" inner_product_param { num_output: 5 } }\n'
)
SEGNET = (
    INPUT
    + conv("conv1", "data", 8)
    + 'layer { name: "bn1" type: "BN" bottom: "conv1" top: "bn1" bn_param { bn_mode: INFERENCE } }\n'
    + pool("pool1", "bn1", tops='\n  top: "mask1"')
    + conv("conv2", "pool1", 8)
    + pool("pool2", "conv2")
    + conv("conv3", "pool2", 8)
    + 'layer { name: "deconv" type: "Deconvolution" bottom: "conv3" top: "deconv"'
    " convolution_param { num_output: 8 kernel_size: 2 stride: 2 } }\n"
    + 'layer { name: "up" type: "Upsample" bottom: "deconv" bottom: "mask1" top: "up" upsample_param { scale: 2 } }\n'
)
PSPNET = (
    INPUT
    + conv("conv1", "data", 8, fields="bias_term: false")
    + 'layer { name: "bn1" type: "BN" bottom: "conv1" top: "bn1" bn_param { frozen: true momentum: 0.95 } }\n'
    + pool("pool1", "bn1", "kernel_size: 3 stride: 2 ceil_mode: false")
    + conv("conv2", "pool1", 8)
    + pool("pool2", "conv2", "kernel_size: 2 stride: 2")
    + 'layer { name: "up" type: "Interp" bottom: "pool2" top: "up" interp_param { height: 64 width: 64 } }\n'
)
MOBILE = (
    INPUT
    + conv("conv1", "data", 8)
    + conv("dw2", "conv1", 8, kind="ConvolutionDepthwise").replace('type: "ReLU"', 'type: "ReLU6"')
    + pool("pool2", "dw2", "kernel_size: 3 stride: 2 ceil_mode: false")
    + conv("pw2", "pool2", 12, 1, fields="group: 2")
    + 'layer { name: "mix" type: "ShuffleChannel" bottom: "pw2" top: "mix" shuffle_channel_param { group: 2 } }\n'
    + conv("dw3", "mix", 12, kind="DepthwiseConvolution", fields="group: 12")
    + pool("pool3", "dw3")
    + 'layer { name: "all" type: "Pooling" bottom: "pool3" top: "all"'
    " pooling_param { pool: AVE global_pooling: true } }\n"
    + 'layer { name: "se" type: "Axpy" bottom: "all" bottom: "pool3" bottom: "pool3" top: "se" }\n'
)
NETS = {"ssd": SSD, "rcnn": RCNN, "segnet": SEGNET, "pspnet": PSPNET, "mobile": MOBILE}
MERGED = {
    "ssd": {"conv1", "pool1"},  # conv2 is read by Normalize too
    "rcnn": {"conv1", "pool1"},
    "segnet": {"conv2", "pool2"},  # pool1's mask is read
    "pspnet": {"conv2", "pool2"},  # BN stands in front of pool1
    "mobile": {"dw2", "pool2", "dw3", "pool3"},
}
DATA_DECIDE = {"ssd": {"out"}, "rcnn": {"rois", "roi", "fc"}}


@pytest.fixture(params=NETS)
def name(request: pytest.FixtureRequest) -> str:
    found: str = request.param
    return found


@pytest.fixture
def path(name: str, tmp_path: Path) -> Path:
    file = tmp_path / f"{name}.prototxt"
    file.write_text(NETS[name])
    return file


def test_it_is_read_and_written_to_the_byte(name: str, path: Path) -> None:
    assert Net.read(path).text() == NETS[name]


def test_its_shapes_are_known(name: str, path: Path) -> None:
    blobs = Net.read(path).view().blobs
    assert {blob for blob, value in blobs.items() if value.shape is None} == DATA_DECIDE.get(name, set())
    assert inspect(path).layers


def test_only_what_is_understood_is_merged(name: str, path: Path, tmp_path: Path) -> None:
    done = convert(ConvertOptions(path, out=tmp_path / "out", kernel=5))
    removed = {layer for rewrite in done.outcome.rewrites for layer in rewrite.applied.removed}
    assert removed == MERGED[name]
    before, after = read_net(path), read_net(tmp_path / "out" / path.name)
    texts = {layer.message.name: layer.render(layer.message) for layer in after.layers}
    for layer in before.layers:
        if layer.message.name in removed:
            continue
        same = {text.replace(old, new) for text in [layer.render(layer.message)] for old, new in _renamed(done)}
        assert texts[layer.message.name] in same | {layer.render(layer.message)}, layer.message.name


def _renamed(done: object) -> list[tuple[str, str]]:
    """What in the text of a layer changes with the blobs that got another name."""
    names = [(f'"{old}"', f'"{new}"') for old, new in done.manifest.renamed_blobs.items()]  # type: ignore[attr-defined]
    # A folded pool's blob keeps its name, so the layers between the convolution and the pool are on that one.
    return [*names, *((f'"{stage}{n}"', f'"pool{n}"') for stage in ("conv", "dw") for n in "123"), ("", "")]


def test_it_can_be_deployed(name: str, path: Path) -> None:
    made = strip(Net.read(path)).net
    assert {layer.name for layer in made.layers} == {layer.name for layer in Net.read(path).layers}
