"""BatchNorm's three blobs are statistics; old nets had to say themselves that no solver may learn them."""

from __future__ import annotations

from deeprebirth_caffe.proto import caffe_pb2 as pb

BLOBS = 3


def needs_upgrade(net: pb.NetParameter) -> bool:
    """Whether a BatchNorm layer has a `param` for each of its blobs."""
    return any(_has_params(layer) for layer in net.layer)


def upgrade(net: pb.NetParameter) -> None:
    """Sets the rates of those to zero, in place; names of shared blobs stay."""
    for layer in net.layer:
        if _has_params(layer):
            for param in layer.param:
                param.lr_mult = param.decay_mult = 0


def _has_params(layer: pb.LayerParameter) -> bool:
    return layer.type == "BatchNorm" and len(layer.param) == BLOBS
