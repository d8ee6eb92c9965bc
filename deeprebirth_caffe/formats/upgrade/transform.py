"""Scaling, mean, cropping and mirroring once lay in each data layer's own message; now in ``transform_param``."""

from __future__ import annotations

from typing import Any

from deeprebirth_caffe.proto import caffe_pb2 as pb

FIELDS = ("scale", "mean_file", "crop_size", "mirror")
HOMES = {
    pb.V1LayerParameter.DATA: "data_param",
    pb.V1LayerParameter.IMAGE_DATA: "image_data_param",
    pb.V1LayerParameter.WINDOW_DATA: "window_data_param",
}
"""V1 types of the layers that had them, and in which message."""


def needs_upgrade(net: pb.NetParameter) -> bool:
    """Whether a V1 data layer sets one of the fields in its own message.

    Today's ``layer`` may say them there, too, but Caffe neither reads nor upgrades that.
    """
    return any(
        getattr(layer, HOMES[layer.type]).HasField(field)
        for layer in net.layers
        if layer.type in HOMES
        for field in FIELDS
    )


def upgrade(net: pb.NetParameter) -> None:
    """Moves the fields to ``transform_param``, where they win over what stands there.

    As in Caffe, each layer of the three types comes out with both messages, empty ones if need be.
    """
    for layer in net.layers:
        if layer.type not in HOMES:
            continue
        home: Any = getattr(layer, HOMES[layer.type])
        home.SetInParent()
        layer.transform_param.SetInParent()
        for field in FIELDS:
            if home.HasField(field):
                setattr(layer.transform_param, field, getattr(home, field))
                home.ClearField(field)
