"""Net inputs once were fields of the net (``input``, ``input_dim``, ``input_shape``); now an Input layer."""

from __future__ import annotations

from deeprebirth_caffe.formats.upgrade.notes import Note, Upgrade, UpgradeError
from deeprebirth_caffe.proto import caffe_pb2 as pb

FIELDS = ("input", "input_dim", "input_shape")
NO_SHAPE = "no shape is given for input"
DIMS = 4
"""How many `input_dim` each input has."""


def needs_upgrade(net: pb.NetParameter) -> bool:
    """Whether a net names inputs in its header."""
    return len(net.input) > 0


def input_layer(net: pb.NetParameter) -> pb.LayerParameter | None:
    """The Input layer that says what a net's header says; None where the header gives no shapes.

    Raises:
        UpgradeError: there are fewer shapes than inputs.
    """
    count = len(net.input)
    if not net.input_shape and not net.input_dim:
        return None
    if net.input_shape and len(net.input_shape) < count:
        raise UpgradeError(f"{count} x input, but {len(net.input_shape)} x input_shape; give each input its shape")
    if not net.input_shape and len(net.input_dim) < DIMS * count:
        raise UpgradeError(
            f"{count} x input, but {len(net.input_dim)} x input_dim; give each input four of them, or an input_shape"
        )
    layer = pb.LayerParameter(name="input", type="Input", top=net.input)
    for index in range(count):
        shape = layer.input_param.shape.add()
        if net.input_shape:
            shape.CopyFrom(net.input_shape[index])
        else:
            shape.dim.extend(net.input_dim[DIMS * index : DIMS * (index + 1)])
    return layer


def upgrade(net: pb.NetParameter, report: Upgrade) -> None:
    """Puts an Input layer in front of a net's layers and clears the fields, in place.

    Raises:
        UpgradeError: there are fewer shapes than inputs.
    """
    layer = input_layer(net)
    if layer is None:
        report.notes.append(Note(f"{NO_SHAPE} {', '.join(net.input)}; left out"))
    else:
        rest = list(net.layer)
        net.ClearField("layer")
        net.layer.append(layer)
        net.layer.extend(rest)
        report.places.insert(0, None)
    for name in FIELDS:
        net.ClearField(name)
