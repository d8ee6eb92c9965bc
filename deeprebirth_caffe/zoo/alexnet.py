"""AlexNet and CaffeNet under the names of the published Caffe models, and AlexNet for 64 x 64 pictures."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from deeprebirth_caffe.zoo.builder import Defaults, NetBuilder, gaussian
from deeprebirth_caffe.zoo.design import Data, NetDesign, Solver
from deeprebirth_caffe.zoo.small import SMALL_PICTURES, small_machine_solver, small_net_defaults

PAPER = "Krizhevsky et al., ImageNet Classification with Deep Convolutional Neural Networks, NIPS 2012"


@dataclass(frozen=True)
class Variant:
    """The differences between the members of the family.

    Attributes:
        lrn_first: LRN before max-pooling (the paper, AlexNet) or behind it (CaffeNet: cheaper, as good).
        kernel, stride, pad: of the first convolution.
        channels: of the five convolutions.
        hidden: of the two hidden inner products.
        bias: the start of the biases of conv2, conv4, conv5, fc6 and fc7; other biases start at 0.
    """

    lrn_first: bool
    kernel: int
    stride: int
    pad: int
    channels: tuple[int, int, int, int, int]
    hidden: int
    bias: float


def _body(variant: Variant) -> Callable[[NetBuilder, str, int], None]:
    def pooled(net: NetBuilder, stage: int, blob: str) -> str:
        if variant.lrn_first:
            return net.pool(f"pool{stage}", net.lrn(f"norm{stage}", blob), 3, 2)
        return net.lrn(f"norm{stage}", net.pool(f"pool{stage}", blob, 3, 2))

    def body(net: NetBuilder, data: str, classes: int) -> None:
        first, second, third, fourth, fifth = variant.channels
        blob = net.conv("conv1", data, first, variant.kernel, stride=variant.stride, pad=variant.pad)
        blob = pooled(net, 1, net.relu("relu1", blob))
        blob = net.conv("conv2", blob, second, 5, pad=2, group=2, bias=variant.bias)
        blob = pooled(net, 2, net.relu("relu2", blob))
        blob = net.relu("relu3", net.conv("conv3", blob, third, 3, pad=1))
        blob = net.relu("relu4", net.conv("conv4", blob, fourth, 3, pad=1, group=2, bias=variant.bias))
        blob = net.relu("relu5", net.conv("conv5", blob, fifth, 3, pad=1, group=2, bias=variant.bias))
        blob = net.pool("pool5", blob, 3, 2)
        for stage in (6, 7):
            blob = net.relu(f"relu{stage}", net.dense(f"fc{stage}", blob, variant.hidden, bias=variant.bias))
            blob = net.dropout(f"drop{stage}", blob, 0.5)
        net.classify(net.dense("fc8", blob, classes, filler=net.defaults.classifier))

    return body


_FULL = (96, 256, 384, 384, 256)
_DATA = Data(size=227, train_batch=256, test_batch=50)
_SOLVER = Solver(
    base_lr=0.01,
    schedule="step",
    stepsize=100_000,
    gamma=0.1,
    max_iter=450_000,
    weight_decay=0.0005,
    test_iter=1000,
    test_interval=1000,
    display=20,
)
_DEFAULTS = Defaults(conv=gaussian(0.01), dense=gaussian(0.005), classifier=gaussian(0.01))

DESIGNS = (
    NetDesign(
        name="alexnet",
        title="AlexNet",
        description="AlexNet for ImageNet: LRN before pooling, two groups",
        source_paper=PAPER,
        body=_body(Variant(True, 11, 4, 0, _FULL, 4096, 0.1)),
        data=_DATA,
        solver=_SOLVER,
        defaults=_DEFAULTS,
    ),
    NetDesign(
        name="caffenet",
        title="CaffeNet",
        description="CaffeNet for ImageNet: AlexNet with pooling before LRN",
        source_paper=PAPER,
        body=_body(Variant(False, 11, 4, 0, _FULL, 4096, 1.0)),
        data=_DATA,
        solver=_SOLVER,
        defaults=_DEFAULTS,
    ),
    NetDesign(
        name="alexnet64",
        title="AlexNet64",
        description="AlexNet at half the width for 64 x 64 pictures: every layer of the full net",
        source_paper=PAPER,
        body=_body(Variant(True, 7, 2, 3, (48, 128, 192, 192, 128), 1024, 0.1)),
        data=SMALL_PICTURES,
        solver=small_machine_solver(0.01),
        classes=100,
        defaults=small_net_defaults(),
    ),
)
