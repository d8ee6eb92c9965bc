"""What `--portable` writes, in real Caffe: it loads, and computes what the forks' own code would."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import pytest
from closeness import assert_within, between

from deeprebirth_caffe.commands.convert import convert
from deeprebirth_caffe.engines import engine
from deeprebirth_caffe.engines.caffe.locate import CaffeInstall
from deeprebirth_caffe.engines.random_weights import random_weights
from deeprebirth_caffe.errors import RefusedError
from deeprebirth_caffe.formats.caffemodel import read_caffemodel
from deeprebirth_caffe.ir import Net
from deeprebirth_caffe.ir.probe import save_weights
from deeprebirth_caffe.options.convert import ConvertOptions

if TYPE_CHECKING:
    from deeprebirth_caffe.engines.caffe.client import CaffeWorker

Array = npt.NDArray[Any]
GOLDEN = Path(__file__).parents[1] / "golden" / "portable"
DATA = 'layer { name: "data" type: "Input" top: "data" input_param { shape { dim: 2 dim: 4 dim: 11 dim: 10 } } }\n'


def layer(kind: str, fields: str) -> str:
    return DATA + f'layer {{ name: "x" type: "{kind}" bottom: "data" top: "x" {fields} }}\n'


def pooled(image: Array, kernel: int, stride: int, pad: int, reduce: Callable[[Array], Any]) -> Array:
    """Pooling that rounds down, as a fork's ceil_mode: false does it; averages count the padding."""
    batch, channels, *size = image.shape
    out = [(length + 2 * pad - kernel) // stride + 1 for length in size]
    result = np.empty((batch, channels, *out), image.dtype)
    for row in range(out[0]):
        for column in range(out[1]):
            top, left = row * stride - pad, column * stride - pad
            window = image[:, :, max(top, 0) : top + kernel, max(left, 0) : left + kernel]
            result[:, :, row, column] = reduce(window.reshape(batch, channels, -1))
            if reduce is MEAN:
                # Caffe divides by the window as far as it lies in the padded image.
                whole = (min(top + kernel, size[0] + pad) - top) * (min(left + kernel, size[1] + pad) - left)
                result[:, :, row, column] = window.sum(axis=(2, 3)) / whole
    return result


def convolved(image: Array, weight: Array, bias: Array, pad: int, dilation: int = 1) -> Array:
    """Each channel with its own filter."""
    wide = np.pad(image, ((0, 0), (0, 0), (pad, pad), (pad, pad)))
    reach = dilation * (weight.shape[-1] - 1)
    rows, columns = wide.shape[2] - reach, wide.shape[3] - reach
    result = np.zeros((*image.shape[:2], rows, columns)) + bias.reshape(1, -1, 1, 1)
    for row in range(weight.shape[2]):
        for column in range(weight.shape[3]):
            top, left = row * dilation, column * dilation
            result += (
                weight[:, 0, row, column].reshape(1, -1, 1, 1) * wide[:, :, top : top + rows, left : left + columns]
            )
    return result


def largest(window: Array) -> Array:
    return np.asarray(window.max(axis=-1))


def mean(window: Array) -> Array:
    return np.asarray(window.mean(axis=-1))


MEAN = mean


def run(caffe: CaffeWorker, tmp_path: Path, text: str) -> tuple[Array, Array, list[Array]]:
    """Converts a fork's net with its weights, runs the result in real Caffe: input, output, the fork's weights."""
    path, weights = tmp_path / "fork.prototxt", tmp_path / "fork.caffemodel"
    path.write_text(text)
    net = Net.parse(text)
    net.weights = random_weights(net)
    blobs = [np.array(blob) for blob in net.weights["x"]] if "x" in net.weights else []
    options = ConvertOptions(path, out=tmp_path / "out", portable=True, exact=True, skip_passes=("fold-batchnorm",))
    if blobs:
        with weights.open("wb") as file:
            save_weights(file, net, net.weights)
        options = ConvertOptions(**{**options.__dict__, "weights": weights})
    converted = convert(options)
    assert not converted.outcome.refusals, converted.outcome.refusals
    image = (4 * np.random.default_rng(1).standard_normal((2, 4, 11, 10))).astype(np.float32)
    loaded = caffe.load(
        tmp_path / "out" / "fork.prototxt", weights=tmp_path / "out" / "init.caffemodel" if blobs else None
    )
    out = caffe.forward(loaded, {"data": image})["x"]
    value = net.view().blob("x")
    assert value is not None and value.shape == out.shape == loaded.blobs["x"]
    caffe.close(loaded)
    return image, out, blobs


@pytest.mark.parametrize("kernel, stride, pad", [(2, 2, 0), (3, 2, 0), (3, 2, 1), (3, 3, 1), (5, 4, 2), (2, 1, 0)])
@pytest.mark.parametrize("method, reduce", [("MAX", largest), ("AVE", mean)])
def test_ceil_mode(
    caffe: CaffeWorker, tmp_path: Path, kernel: int, stride: int, pad: int, method: str, reduce: Callable[[Array], Any]
) -> None:
    own = f"pool: {method} kernel_size: {kernel} stride: {stride} pad: {pad} ceil_mode: false"
    image, out, _ = run(caffe, tmp_path, layer("Pooling", f"pooling_param {{ {own} }}"))
    assert_within("x", pooled(image, kernel, stride, pad, reduce), out, between(kernel**2))


@pytest.mark.parametrize("kind", ["ConvolutionDepthwise", "DepthwiseConvolution"])
@pytest.mark.parametrize("group", ["", "group: 4"])
def test_depthwise(caffe: CaffeWorker, tmp_path: Path, kind: str, group: str) -> None:
    own = f"convolution_param {{ num_output: 4 kernel_size: 3 pad: 1 {group} }}"
    image, out, (weight, bias) = run(caffe, tmp_path, layer(kind, own))
    assert_within("x", convolved(image, weight, bias, 1), out, between(9))


def test_hole(caffe: CaffeWorker, tmp_path: Path) -> None:
    own = "convolution_param { num_output: 4 group: 4 kernel_size: 3 pad: 2 hole: 2 }"
    image, out, (weight, bias) = run(caffe, tmp_path, layer("Convolution", own))
    assert_within("x", convolved(image, weight, bias, 2, 2), out, between(9))


def test_relu6(caffe: CaffeWorker, tmp_path: Path) -> None:
    image, out, _ = run(caffe, tmp_path, layer("ReLU6", ""))
    assert out.min() == 0 and out.max() == 6
    np.testing.assert_array_equal(out, np.clip(image, 0, 6))


def test_segnet_s_folded_bn(caffe: CaffeWorker, tmp_path: Path) -> None:
    image, out, (scale, shift) = run(caffe, tmp_path, layer("BN", "bn_param { bn_mode: INFERENCE }"))
    assert scale.shape == shift.shape == (1, 4, 1, 1)
    assert_within("x", image * scale + shift, out, between())


@pytest.mark.parametrize("eps", [1e-3, 1e-8])
def test_nvcaffe_s_batch_norm(caffe: CaffeWorker, tmp_path: Path, eps: float) -> None:
    own = f"batch_norm_param {{ eps: {eps} use_global_stats: false scale_filler {{ value: 1 }} }}"
    image, out, (mean, variance, _, scale, bias) = run(caffe, tmp_path, layer("BatchNorm", own))
    mean, variance, scale, bias = (blob.reshape(1, -1, 1, 1) for blob in (mean, variance, scale, bias))
    wanted = (image - mean) / np.sqrt(variance + max(eps, 1e-5)) * scale + bias
    assert_within("x", wanted, out, between(4))


@pytest.mark.parametrize("case", ["depthwise", "rounding", "quiet"])
def test_golden_files_load(caffe: CaffeWorker, case: str) -> None:
    loaded = caffe.load(GOLDEN / case / "plain.prototxt")
    view = Net.read(GOLDEN / case / "fork.prototxt").view()
    assert {name: value.shape for name, value in view.blobs.items()} == {
        name: shape for name, shape in loaded.blobs.items() if name in view.blobs
    }
    caffe.close(loaded)


NET = (
    DATA + 'layer { name: "dw" type: "DepthwiseConvolution" bottom: "data" top: "dw"'
    " convolution_param { num_output: 4 group: 4 kernel_size: 3 bias_term: false } }\n"
    'layer { name: "bn" type: "BatchNorm" bottom: "dw" top: "dw" batch_norm_param { engine: CUDNN } }\n'
    'layer { name: "scale" type: "Scale" bottom: "dw" top: "dw" scale_param { bias_term: true } }\n'
    'layer { name: "relu" type: "ReLU6" bottom: "dw" top: "dw" }\n'
    'layer { name: "pool" type: "Pooling" bottom: "dw" top: "pool"'
    " pooling_param { kernel_size: 2 stride: 2 ceil_mode: false } }\n"
)


@pytest.mark.parametrize("portable", [False, True])
def test_a_fork_s_net_is_checked_in_plain_caffe(caffe_install: CaffeInstall, tmp_path: Path, portable: bool) -> None:
    path = tmp_path / "fork.prototxt"
    path.write_text(NET)
    real = engine("caffe")
    done = convert(ConvertOptions(path, out=tmp_path / "out", portable=portable, exact=True), real)
    assert done.manifest.check[0].passes == ("fold-batchnorm",)
    text = (tmp_path / "out" / "fork.prototxt").read_text()
    assert ("DepthwiseConvolution" in text) == ("ceil_mode" in text) == (not portable)


def test_what_plain_caffe_cannot_run_is_not_checked(caffe_install: CaffeInstall, tmp_path: Path) -> None:
    path = tmp_path / "fork.prototxt"
    path.write_text(NET + 'layer { name: "n" type: "Normalize" bottom: "pool" top: "n" }\n')
    real = engine("caffe")
    with pytest.raises(RefusedError, match="plain Caffe has no layer type Normalize"):
        convert(ConvertOptions(path, out=tmp_path / "out", exact=True), real)
    assert not (tmp_path / "out").exists()


def test_the_weights_go_along(caffe: CaffeWorker, tmp_path: Path) -> None:
    run(caffe, tmp_path, layer("BN", "bn_param { bn_mode: INFERENCE }"))
    [scale] = [one for one in read_caffemodel(tmp_path / "out" / "init.caffemodel").layers if one.blobs]
    assert (scale.name, scale.type) == ("x_fold", "Scale")
    assert [blob.shape for blob in scale.blobs] == [(4,), (4,)]
