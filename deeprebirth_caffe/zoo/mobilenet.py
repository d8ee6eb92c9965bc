"""MobileNet v1 with the names of the published Caffe model; depthwise convolutions are grouped convolutions."""

from __future__ import annotations

from deeprebirth_caffe.zoo.builder import Defaults, NetBuilder, msra
from deeprebirth_caffe.zoo.design import Data, NetDesign, Solver

PAPER = "Howard et al., MobileNets: Efficient CNNs for Mobile Vision Applications, 2017, arXiv:1704.04861"

#: Block -> stride of the depthwise convolution, channels of the pointwise convolution.
BLOCKS = {
    "2_1": (1, 64),
    "2_2": (2, 128),
    "3_1": (1, 128),
    "3_2": (2, 256),
    "4_1": (1, 256),
    "4_2": (2, 512),
    "5_1": (1, 512),
    "5_2": (1, 512),
    "5_3": (1, 512),
    "5_4": (1, 512),
    "5_5": (1, 512),
    "5_6": (2, 1024),
    "6": (1, 1024),
}


def _conv_bn(
    net: NetBuilder, name: str, bottom: str, channels: int, kernel: int, *, stride: int = 1, group: int = 1
) -> str:
    """conv<name> without bias, BatchNorm, Scale and ReLU in place."""
    blob = net.conv(
        f"conv{name}", bottom, channels, kernel, stride=stride, pad=kernel // 2, group=group, bias_term=False
    )
    net.bn_scale(blob, f"conv{name}/bn", f"conv{name}/scale")
    return net.relu(f"relu{name}", blob)


def _body(net: NetBuilder, data: str, classes: int) -> None:
    channels = 32
    blob = _conv_bn(net, "1", data, channels, 3, stride=2)
    for name, (stride, widened) in BLOCKS.items():
        blob = _conv_bn(net, f"{name}/dw", blob, channels, 3, stride=stride, group=channels)
        channels = widened
        blob = _conv_bn(net, f"{name}/sep", blob, channels, 1)
    blob = net.global_average("pool6", blob)
    # The published model classifies with a 1x1 convolution on the 1 x 1 map.
    net.classify(net.conv("fc7", blob, classes, 1))


DESIGNS = (
    NetDesign(
        name="mobilenet",
        title="MobileNet",
        description="MobileNet v1 for ImageNet: depthwise (grouped) and pointwise convolutions",
        source_paper=PAPER,
        body=_body,
        data=Data(size=224, train_batch=64, test_batch=50, mean=(103.94, 116.78, 123.68), scale=0.017),
        solver=Solver(
            base_lr=0.1,
            schedule="poly",
            power=1.0,
            max_iter=500_000,
            weight_decay=0.00004,
            test_iter=1000,
            test_interval=5000,
            iter_size=4,
        ),
        defaults=Defaults(conv=msra(), scale_decay=0.0),
    ),
)
