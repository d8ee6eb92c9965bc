"""ResNets with bottleneck blocks and the names of the published models, and a ResNet for 64 x 64 pictures."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from deeprebirth_caffe.zoo.builder import AVE, Defaults, NetBuilder, msra
from deeprebirth_caffe.zoo.design import Data, NetDesign, Solver
from deeprebirth_caffe.zoo.small import SMALL_PICTURES, small_machine_solver, small_net_defaults

PAPER = "He et al., Deep Residual Learning for Image Recognition, CVPR 2016, arXiv:1512.03385"


def _block_names(count: int, numbered: bool) -> Iterator[str]:
    """a, b, c, … or, in the deep nets' long stages, a, b1, b2, …"""
    for index in range(count):
        yield chr(ord("a") + index) if not (numbered and index) else f"b{index}"


def _conv_bn(
    net: NetBuilder, name: str, bottom: str, channels: int, kernel: int, *, stride: int = 1, relu: bool = True
) -> str:
    """res<block>_<branch>, then its BatchNorm and Scale in place, then perhaps a ReLU."""
    blob = net.conv(f"res{name}", bottom, channels, kernel, stride=stride, pad=kernel // 2, bias_term=False)
    net.bn_scale(blob, f"bn{name}", f"scale{name}")
    return net.relu(f"res{name}_relu", blob) if relu else blob


def bottleneck(net: NetBuilder, name: str, bottom: str, width: int, *, stride: int, project: bool) -> str:
    """1x1, 3x3, 1x1 to four times `width`, added to the shortcut; as published, the first 1x1 has the stride."""
    shortcut = bottom
    if project:
        shortcut = _conv_bn(net, f"{name}_branch1", bottom, 4 * width, 1, stride=stride, relu=False)
    blob = _conv_bn(net, f"{name}_branch2a", bottom, width, 1, stride=stride)
    blob = _conv_bn(net, f"{name}_branch2b", blob, width, 3)
    blob = _conv_bn(net, f"{name}_branch2c", blob, 4 * width, 1, relu=False)
    return net.relu(f"res{name}_relu", net.add(f"res{name}", [shortcut, blob]))


def _body(
    depths: tuple[int, int, int, int], *, width: int = 64, window: int = 7, conv1_bias: bool = False
) -> Callable[[NetBuilder, str, int], None]:
    def body(net: NetBuilder, data: str, classes: int) -> None:
        blob = net.conv("conv1", data, width, 7, stride=2, pad=3, bias_term=conv1_bias)
        net.bn_scale(blob, "bn_conv1", "scale_conv1")
        blob = net.pool("pool1", net.relu("conv1_relu", blob), 3, 2)
        for stage, depth in enumerate(depths, start=2):
            # Published nets deeper than 50 layers number the blocks of their two long stages.
            numbered = sum(depths) > 16 and 2 < stage < 5
            for block in _block_names(depth, numbered):
                first = block == "a"
                blob = bottleneck(
                    net,
                    f"{stage}{block}",
                    blob,
                    width * 2 ** (stage - 2),
                    stride=2 if first and stage > 2 else 1,
                    project=first,
                )
        blob = net.pool("pool5", blob, window, 1, method=AVE)
        net.classify(net.dense(f"fc{classes}", blob, classes, filler=net.defaults.classifier))

    return body


def _imagenet(layers: int, depths: tuple[int, int, int, int], *, conv1_bias: bool = False) -> NetDesign:
    return NetDesign(
        name=f"resnet{layers}",
        title=f"ResNet-{layers}",
        description=f"ResNet-{layers} for ImageNet: bottleneck blocks, BatchNorm and Scale",
        source_paper=PAPER,
        body=_body(depths, conv1_bias=conv1_bias),
        data=Data(size=224, train_batch=32, test_batch=25),
        solver=Solver(
            base_lr=0.1,
            schedule="multistep",
            stepvalues=(150_000, 300_000, 450_000),
            gamma=0.1,
            max_iter=600_000,
            weight_decay=0.0001,
            test_iter=2000,
            test_interval=5000,
            iter_size=8,
        ),
        defaults=Defaults(conv=msra(), classifier=msra()),
    )


DESIGNS = (
    # Only the published 50-layer model has a bias in conv1: useless before BatchNorm, but stored.
    _imagenet(50, (3, 4, 6, 3), conv1_bias=True),
    _imagenet(101, (3, 4, 23, 3)),
    _imagenet(152, (3, 8, 36, 3)),
    NetDesign(
        name="resnet64",
        title="ResNet64",
        description="A ResNet of 26 layers at half the width for 64 x 64 pictures, stem as in the full nets",
        source_paper=PAPER,
        body=_body((2, 2, 2, 2), width=32, window=2),
        data=SMALL_PICTURES,
        solver=small_machine_solver(0.02, weight_decay=0.0001),
        classes=100,
        defaults=small_net_defaults(),
    ),
)
