"""Caffe's old forms of nets and solvers, upgraded to today's the way Caffe does it on loading.

The functions here work on messages and give, message for message, what Caffe's own ``upgrade_net_proto_text``,
``upgrade_net_proto_binary`` and ``upgrade_solver_proto_text`` give; where those abort, an `UpgradeError` says
why. Two cases Caffe takes without noticing are errors here: a V0 net that also has today's ``layer`` (which Caffe
drops), and inputs with too few dimensions (which Caffe makes up from what lies in memory).

`formats.upgrade.text` does the same to a file's text.
"""

from __future__ import annotations

from deeprebirth_caffe.formats.upgrade import batchnorm, inputs, transform, v0, v1
from deeprebirth_caffe.formats.upgrade.notes import BATCHNORM, INPUT, TRANSFORM, V0, V1, Note, Upgrade, UpgradeError
from deeprebirth_caffe.formats.upgrade.solver import solver_needs_upgrade, upgrade_solver
from deeprebirth_caffe.formats.upgrade.unknown import note_unknown
from deeprebirth_caffe.proto import caffe_pb2 as pb

__all__ = [
    "Note",
    "Upgrade",
    "UpgradeError",
    "needs_upgrade",
    "solver_needs_upgrade",
    "upgrade_net",
    "upgrade_net_binary",
    "upgrade_solver",
]


def needs_upgrade(net: pb.NetParameter) -> bool:
    """Whether Caffe would change this message on loading it."""
    return (
        v1.needs_upgrade(net)  # V0 layers and old transformation fields lie inside V1's
        or inputs.needs_upgrade(net)
        or batchnorm.needs_upgrade(net)
    )


def upgrade_net(net: pb.NetParameter) -> Upgrade:
    """Upgrades a net in place, whatever its form.

    Returns:
        What was done, and what could not be carried over.

    Raises:
        UpgradeError: no upgrade can carry it over; the message may be half done then.
    """
    report = Upgrade(places=list(range(len(net.layers) + len(net.layer))))
    v1.refuse_mixture(net)
    note_unknown(net, report)
    if v0.needs_upgrade(net):
        report.forms.append(V0)
        v0.upgrade(net, report)
    if transform.needs_upgrade(net):
        report.forms.append(TRANSFORM)
        transform.upgrade(net)
    if v1.needs_upgrade(net):
        report.forms.append(V1)
        v1.upgrade(net, report)
    if inputs.needs_upgrade(net):
        report.forms.append(INPUT)
        inputs.upgrade(net, report)
    if batchnorm.needs_upgrade(net):
        report.forms.append(BATCHNORM)
        batchnorm.upgrade(net)
    return report


def upgrade_net_binary(data: bytes) -> tuple[bytes, Upgrade]:
    """Upgrades a whole binary file (a net, or a caffemodel with its weights) held in memory.

    For weights, `formats.caffemodel` reads every form without a copy in memory; this is for the rest of the net.

    Raises:
        UpgradeError: it is no such file, or cannot be carried over.
    """
    from google.protobuf.message import DecodeError

    try:
        net = pb.NetParameter.FromString(data)
    except DecodeError as error:
        raise UpgradeError("these bytes are not a net; give a .caffemodel or a binary net file") from error
    report = upgrade_net(net)
    return net.SerializePartialToString(), report
