"""Which layers take labels for indices. Caffe does not check them: it reads and writes beyond its arrays."""

from __future__ import annotations

from deeprebirth_caffe.ir import Net
from deeprebirth_caffe.ir.state import NetState
from deeprebirth_caffe.proto import caffe_pb2 as pb

Rule = tuple[int | None, int | None]
"""The axis of the classes (None: all axes behind the first), and the label that means none."""


def label_rules(net: Net, state: NetState) -> dict[str, Rule]:
    """The rules for each layer of a net, in one state, that takes labels."""
    layers = net.view(state.phase, state.stages, state.level).layers
    return {layer.name: _rule(layer.param) for layer in layers if layer.traits.class_labels and len(layer.bottoms) > 1}


def _rule(param: pb.LayerParameter) -> Rule:
    loss = param.loss_param
    ignored = loss.ignore_label if loss.HasField("ignore_label") else None
    if param.type == "SoftmaxWithLoss":
        return param.softmax_param.axis, ignored
    if param.type == "InfogainLoss":
        return param.infogain_loss_param.axis, ignored
    if param.type == "Accuracy":
        accuracy = param.accuracy_param
        return accuracy.axis, accuracy.ignore_label if accuracy.HasField("ignore_label") else None
    return None, None
