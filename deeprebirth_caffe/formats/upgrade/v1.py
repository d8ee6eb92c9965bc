"""V1, Caffe's form of 2014: ``layers`` with types in capitals and ``blobs_lr``. It becomes today's ``layer``."""

from __future__ import annotations

from google.protobuf.message import Message

from deeprebirth_caffe.formats.legacy import V1_TYPES
from deeprebirth_caffe.formats.upgrade.notes import Note, Upgrade, UpgradeError
from deeprebirth_caffe.proto import caffe_pb2 as pb

PARAM_FIELDS = {"param": "name", "blob_share_mode": "share_mode", "blobs_lr": "lr_mult", "weight_decay": "decay_mult"}
"""V1's lists over a layer's parameter blobs -> the field of today's `param` that holds one item."""


def needs_upgrade(net: pb.NetParameter) -> bool:
    """Whether a net has a V1 (or V0) layer."""
    return len(net.layers) > 0


def upgrade(net: pb.NetParameter, report: Upgrade) -> None:
    """Turns a V1 net into one of today's form, in place.

    Raises:
        UpgradeError: it has layers of both forms.
    """
    refuse_mixture(net)
    for index, layer in enumerate(net.layers):
        net.layer.append(upgrade_layer(layer, index, report))
    net.ClearField("layers")


def refuse_mixture(net: pb.NetParameter) -> None:
    """Raises UpgradeError for a net with layers of both forms: nothing says in which order they run."""
    if net.layers and net.layer:
        raise UpgradeError("this net has both 'layer' and 'layers'; write all layers in one form, best as 'layer'", 0)


def upgrade_layer(old: pb.V1LayerParameter, index: int, report: Upgrade) -> pb.LayerParameter:
    """Today's form of one layer."""
    new = pb.LayerParameter()
    for field, value in old.ListFields():
        name = field.name
        if name == "type":
            new.type = V1_TYPES[value]
        elif name in PARAM_FIELDS:
            for number, item in enumerate(value):
                while len(new.param) <= number:
                    new.param.add()
                setattr(new.param[number], PARAM_FIELDS[name], item)
        elif name == "layer":
            report.complete = False
            report.notes.append(Note("a V0 layer inside a V1 layer; left out", index, old.name))
        elif isinstance(value, str):
            setattr(new, name, value)
        elif isinstance(value, Message):
            getattr(new, name).CopyFrom(value)
        else:
            getattr(new, name).extend(value)
    return new
