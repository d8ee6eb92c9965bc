"""VGG-16 with the names of the published model."""

from __future__ import annotations

from deeprebirth_caffe.zoo.builder import NetBuilder
from deeprebirth_caffe.zoo.design import Data, NetDesign, Solver

PAPER = "Simonyan and Zisserman, Very Deep Convolutional Networks, ICLR 2015, arXiv:1409.1556"

#: Channels and number of 3x3 convolutions of each stage.
STAGES = ((64, 2), (128, 2), (256, 3), (512, 3), (512, 3))


def _body(net: NetBuilder, data: str, classes: int) -> None:
    blob = data
    for stage, (channels, depth) in enumerate(STAGES, start=1):
        for index in range(1, depth + 1):
            blob = net.conv(f"conv{stage}_{index}", blob, channels, 3, pad=1)
            blob = net.relu(f"relu{stage}_{index}", blob)
        blob = net.pool(f"pool{stage}", blob, 2, 2)
    for number in (6, 7):
        blob = net.relu(f"relu{number}", net.dense(f"fc{number}", blob, 4096))
        blob = net.dropout(f"drop{number}", blob, 0.5)
    net.classify(net.dense("fc8", blob, classes, filler=net.defaults.classifier))


DESIGNS = (
    NetDesign(
        name="vgg16",
        title="VGG-16",
        description="VGG-16 for ImageNet: thirteen 3x3 convolutions",
        source_paper=PAPER,
        body=_body,
        data=Data(size=224, train_batch=32, test_batch=25, mean=(103.939, 116.779, 123.68)),
        solver=Solver(
            base_lr=0.01,
            schedule="step",
            stepsize=100_000,
            gamma=0.1,
            max_iter=370_000,
            weight_decay=0.0005,
            test_iter=2000,
            test_interval=5000,
            iter_size=8,
        ),
    ),
)
