"""The solver that relearns a converted net: the paper's settings, the rest lent from the user's own solver."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from deeprebirth_caffe.formats.prototxt import format_message
from deeprebirth_caffe.formats.solver import read_solver
from deeprebirth_caffe.proto import caffe_pb2 as pb

# What the paper does not say either and a solver without a source still needs: bvlc_googlenet's.
WEIGHT_DECAY = 0.0002
DISPLAY = 40
SNAPSHOT = 10_000


@dataclass(frozen=True)
class SolverOptions:
    """The paper's settings for one step of relearning.

    Attributes:
        base_lr: learning rate; rebirth layers learn at ten times that.
        stepsize, gamma: the rate is multiplied by gamma every stepsize iterations.
        momentum: of SGD.
        max_iter: where a step ends.
        lr_factor: what a rebirth layer's lr_mult is multiplied by.
    """

    base_lr: float = 0.001
    stepsize: int = 40_000
    gamma: float = 0.1
    momentum: float = 0.9
    max_iter: int = 90_000
    lr_factor: float = 10.0


def make_solver(options: SolverOptions, net: str, prefix: str, source: Path | None = None) -> str:
    """The text of a solver.

    Args:
        options: what is fixed.
        net: the path of the net, as Caffe will look it up: from the directory it is started in.
        prefix: of the snapshots, likewise.
        source: a solver that lends all else: test_iter, display, weight_decay, type, ….
    """
    if source is None:
        message = pb.SolverParameter(weight_decay=WEIGHT_DECAY, display=DISPLAY, snapshot=SNAPSHOT, solver_mode="CPU")
        _fix(message, options, net, prefix)
        note = "# Relearns the rebirth layers. Paths are looked up from the directory that caffe is started in.\n"
        return note + format_message(message)
    lent = read_solver(source)
    message = pb.SolverParameter()
    message.CopyFrom(lent.message)
    _fix(message, options, net, prefix)
    return lent.render(message)


def _fix(message: pb.SolverParameter, options: SolverOptions, net: str, prefix: str) -> None:
    if message.HasField("train_net"):
        message.train_net = net
    else:
        message.net = net
    for name in ("net_param", "train_net_param", "stepvalue", "power"):
        message.ClearField(name)
    message.base_lr = options.base_lr
    message.lr_policy = "step"
    message.stepsize = options.stepsize
    message.gamma = options.gamma
    message.momentum = options.momentum
    message.max_iter = options.max_iter
    message.snapshot_prefix = prefix
