"""GoogLeNet, with the layers and names of the published Caffe model, and two small versions.

The names matter: Caffe loads weights by layer name, so published weights load into `googlenet`.
"""

from __future__ import annotations

from dataclasses import dataclass

from deeprebirth_caffe.zoo.builder import AVE, Defaults, NetBuilder
from deeprebirth_caffe.zoo.design import Data, NetDesign, Solver
from deeprebirth_caffe.zoo.small import SMALL_PICTURES, small_machine_solver, small_net_defaults

PAPER = "Szegedy et al., Going Deeper with Convolutions, CVPR 2015, arXiv:1409.4842"


@dataclass(frozen=True)
class Widths:
    """Output channels of the six convolutions of an inception module, in the order of the paper's Table 1."""

    one: int
    three_reduce: int
    three: int
    five_reduce: int
    five: int
    pool_proj: int


FULL = {
    "3a": Widths(64, 96, 128, 16, 32, 32),
    "3b": Widths(128, 128, 192, 32, 96, 64),
    "4a": Widths(192, 96, 208, 16, 48, 64),
    "4b": Widths(160, 112, 224, 24, 64, 64),
    "4c": Widths(128, 128, 256, 24, 64, 64),
    "4d": Widths(112, 144, 288, 32, 64, 64),
    "4e": Widths(256, 160, 320, 32, 128, 128),
    "5a": Widths(256, 160, 320, 32, 128, 128),
    "5b": Widths(384, 192, 384, 48, 128, 128),
}


@dataclass(frozen=True)
class AuxiliaryHead:
    """An auxiliary classifier: average pooling, a 1x1 convolution, two inner products, a loss."""

    pool_kernel: int
    pool_stride: int
    channels: int
    hidden: int


def inception(net: NetBuilder, name: str, bottom: str, widths: Widths) -> str:
    """An inception module: four branches from `bottom`, joined in the order 1x1, 3x3, 5x5, pool."""

    def conv(part: str, source: str, channels: int, kernel: int) -> str:
        blob = net.conv(f"{name}/{part}", source, channels, kernel, pad=kernel // 2)
        return net.relu(f"{name}/relu_{part}", blob)

    direct = conv("1x1", bottom, widths.one, 1)
    three = conv("3x3", conv("3x3_reduce", bottom, widths.three_reduce, 1), widths.three, 3)
    five = conv("5x5", conv("5x5_reduce", bottom, widths.five_reduce, 1), widths.five, 5)
    pooled = conv("pool_proj", net.pool(f"{name}/pool", bottom, 3, 1, pad=1), widths.pool_proj, 1)
    return net.concat(f"{name}/output", [direct, three, five, pooled])


def auxiliary(net: NetBuilder, name: str, bottom: str, head: AuxiliaryHead, classes: int) -> None:
    """An auxiliary classifier, which only training nets have."""
    if not net.training:
        return
    blob = net.pool(f"{name}/ave_pool", bottom, head.pool_kernel, head.pool_stride, method=AVE)
    blob = net.relu(f"{name}/relu_conv", net.conv(f"{name}/conv", blob, head.channels, 1))
    blob = net.relu(f"{name}/relu_fc", net.dense(f"{name}/fc", blob, head.hidden))
    blob = net.dropout(f"{name}/drop_fc", blob, 0.7)
    logits = net.dense(f"{name}/classifier", blob, classes, filler=net.defaults.classifier, bias=0.0)
    net.loss(f"{name}/loss", logits, top=f"{name}/{name}", weight=0.3)
    net.accuracy(f"{name}/top-1", logits)
    net.accuracy(f"{name}/top-5", logits, 5)


def stem(net: NetBuilder, data: str, first: int, reduced: int, second: int, *, kernel: int = 7, stride: int = 2) -> str:
    """Two convolution stages with max-pooling and LRN: the first pools first, the second has LRN first."""
    shape = f"{kernel}x{kernel}" + (f"_s{stride}" if stride != 1 else "")
    blob = net.conv(f"conv1/{shape}", data, first, kernel, stride=stride, pad=kernel // 2)
    blob = net.relu(f"conv1/relu_{kernel}x{kernel}", blob)
    blob = net.lrn("pool1/norm1", net.pool("pool1/3x3_s2", blob, 3, 2))
    blob = net.relu("conv2/relu_3x3_reduce", net.conv("conv2/3x3_reduce", blob, reduced, 1))
    blob = net.relu("conv2/relu_3x3", net.conv("conv2/3x3", blob, second, 3, pad=1))
    return net.pool("pool2/3x3_s2", net.lrn("conv2/norm2", blob), 3, 2)


def classifier(net: NetBuilder, blob: str, window: int, classes: int, *, dropout: float = 0.4) -> None:
    """Average the last `window` x `window` map, then an inner product."""
    size = f"{window}x{window}_s1"
    blob = net.pool(f"pool5/{size}", blob, window, 1, method=AVE)
    blob = net.dropout(f"pool5/drop_{size}", blob, dropout)
    logits = net.dense("loss3/classifier", blob, classes, filler=net.defaults.classifier, bias=0.0)
    net.classify(logits, loss="loss3/loss3", top1="loss3/top-1", top5="loss3/top-5")


def _nine_modules(net: NetBuilder, data: str, classes: int, *, divisor: int, head: AuxiliaryHead, window: int) -> None:
    """The whole net with every width divided by `divisor`; the auxiliary heads are behind 4a and 4d."""
    blob = stem(net, data, 64 // divisor, 64 // divisor, 192 // divisor)
    for module, full in FULL.items():
        if module in ("4a", "5a"):
            blob = net.pool(f"pool{int(module[0]) - 1}/3x3_s2", blob, 3, 2)
        widths = Widths(*(width // divisor for width in vars(full).values()))
        blob = inception(net, f"inception_{module}", blob, widths)
        if module == "4a":
            auxiliary(net, "loss1", blob, head, classes)
        elif module == "4d":
            auxiliary(net, "loss2", blob, head, classes)
    classifier(net, blob, window, classes)


def _googlenet(net: NetBuilder, data: str, classes: int) -> None:
    _nine_modules(net, data, classes, divisor=1, head=AuxiliaryHead(5, 3, 128, 1024), window=7)


def _googlenet64(net: NetBuilder, data: str, classes: int) -> None:
    # The heads see 4 x 4 maps where the full net has 14 x 14: windows of 3 at stride 1 leave 2 x 2.
    _nine_modules(net, data, classes, divisor=2, head=AuxiliaryHead(3, 1, 64, 512), window=2)


def _googlenet28(net: NetBuilder, data: str, classes: int) -> None:
    blob = stem(net, data, 24, 24, 64, kernel=5, stride=1)
    blob = inception(net, "inception_3a", blob, Widths(32, 32, 48, 8, 16, 16))
    blob = inception(net, "inception_3b", blob, Widths(48, 40, 64, 12, 24, 24))
    auxiliary(net, "loss1", blob, AuxiliaryHead(3, 2, 32, 64), classes)
    blob = net.pool("pool3/3x3_s2", blob, 3, 2)
    blob = inception(net, "inception_4a", blob, Widths(64, 40, 80, 12, 32, 32))
    classifier(net, blob, 3, classes)


DESIGNS = (
    NetDesign(
        name="googlenet",
        title="GoogLeNet",
        description="GoogLeNet for ImageNet: nine inception modules, two auxiliary heads",
        source_paper=PAPER,
        body=_googlenet,
        data=Data(size=224, train_batch=32, test_batch=50),
        solver=Solver(
            base_lr=0.01,
            schedule="poly",
            power=0.5,
            max_iter=2_400_000,
            weight_decay=0.0002,
            test_iter=1000,
            test_interval=4000,
            snapshot=40000,
        ),
        defaults=Defaults(bias=0.2),
    ),
    NetDesign(
        name="googlenet64",
        title="GoogLeNet64",
        description="GoogLeNet at half the width for 64 x 64 pictures: every layer of the full net",
        source_paper=PAPER,
        body=_googlenet64,
        data=SMALL_PICTURES,
        solver=small_machine_solver(0.02, weight_decay=0.0002),
        classes=100,
        defaults=small_net_defaults(),
    ),
    NetDesign(
        name="googlenet28",
        title="GoogLeNet28",
        description="GoogLeNet's parts for 28 x 28 grey digits: three inception modules, one auxiliary head",
        source_paper=PAPER,
        body=_googlenet28,
        # scikit-learn's digits, as `rebirth data digits -o digits` makes them: 1,442 to learn, 355 to test.
        data=Data(
            size=28,
            train_batch=64,
            test_batch=71,
            channels=1,
            mean=(78.0,),
            scale=0.0125,
            mirror=False,
            train_source="digits/train",
            test_source="digits/test",
        ),
        solver=Solver(
            base_lr=0.02,
            schedule="poly",
            power=1.0,
            max_iter=1000,
            weight_decay=0.0005,
            test_iter=5,
            test_interval=250,
            snapshot=500,
        ),
        classes=10,
        defaults=small_net_defaults(lrn_alpha=0.64),
    ),
)
