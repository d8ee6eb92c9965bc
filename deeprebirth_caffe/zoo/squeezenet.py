"""SqueezeNet 1.0 and 1.1 with the names of the published models."""

from __future__ import annotations

from collections.abc import Callable

from deeprebirth_caffe.zoo.builder import Defaults, NetBuilder, gaussian
from deeprebirth_caffe.zoo.design import Data, NetDesign, Solver

PAPER = "Iandola et al., SqueezeNet: AlexNet-level accuracy with 50x fewer parameters, 2016, arXiv:1602.07360"

#: Fire module -> channels of the squeeze and of each of the two expand convolutions.
FIRES = {
    2: (16, 64),
    3: (16, 64),
    4: (32, 128),
    5: (32, 128),
    6: (48, 192),
    7: (48, 192),
    8: (64, 256),
    9: (64, 256),
}


def fire(net: NetBuilder, name: str, bottom: str, squeeze: int, expand: int) -> str:
    """A fire module: a 1x1 convolution, then a 1x1 and a 3x3 side by side, joined."""

    def conv(part: str, source: str, channels: int, kernel: int) -> str:
        blob = net.conv(f"{name}/{part}", source, channels, kernel, pad=kernel // 2)
        return net.relu(f"{name}/relu_{part}", blob)

    squeezed = conv("squeeze1x1", bottom, squeeze, 1)
    small = conv("expand1x1", squeezed, expand, 1)
    large = conv("expand3x3", squeezed, expand, 3)
    return net.concat(f"{name}/concat", [small, large])


def _body(channels: int, kernel: int, pools: tuple[int, ...], last_pad: int) -> Callable[[NetBuilder, str, int], None]:
    """`channels` and `kernel` of conv1; the fire modules with max-pooling behind them; conv10's padding."""

    def body(net: NetBuilder, data: str, classes: int) -> None:
        blob = net.relu("relu_conv1", net.conv("conv1", data, channels, kernel, stride=2))
        blob = net.pool("pool1", blob, 3, 2)
        for number, widths in FIRES.items():
            blob = fire(net, f"fire{number}", blob, *widths)
            if number in pools:
                blob = net.pool(f"pool{number}", blob, 3, 2)
        blob = net.dropout("drop9", blob, 0.5)
        blob = net.conv("conv10", blob, classes, 1, pad=last_pad, filler=gaussian(0.01))
        net.classify(net.global_average("pool10", net.relu("relu_conv10", blob)))

    return body


def _design(version: str, description: str, body: Callable[[NetBuilder, str, int], None]) -> NetDesign:
    return NetDesign(
        name=f"squeezenet{version}",
        title=f"SqueezeNet {version}",
        description=description,
        source_paper=PAPER,
        body=body,
        data=Data(size=227, train_batch=32, test_batch=25),
        solver=Solver(
            base_lr=0.04,
            schedule="poly",
            power=1.0,
            max_iter=170_000,
            weight_decay=0.0002,
            test_iter=2000,
            test_interval=1000,
            iter_size=16,
            snapshot=1000,
        ),
        defaults=Defaults(),
    )


DESIGNS = (
    _design("1.0", "SqueezeNet 1.0 for ImageNet: eight fire modules, 7x7 stem", _body(96, 7, (4, 8), 1)),
    _design(
        "1.1",
        "SqueezeNet 1.1 for ImageNet: as good as 1.0 at 2.4 times fewer operations",
        _body(64, 3, (3, 5), 0),
    ),
)
