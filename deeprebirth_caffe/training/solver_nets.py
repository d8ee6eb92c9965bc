"""The nets that a solver names, each in its own state, with the shapes of their data."""

from __future__ import annotations

from dataclasses import dataclass

from deeprebirth_caffe.engines.plan import Plan, PlannedNet
from deeprebirth_caffe.errors import RebirthError
from deeprebirth_caffe.inputs.sources import read_shapes
from deeprebirth_caffe.ir import Net, NetError, View


@dataclass(frozen=True)
class SolverNet:
    """One net as a solver runs it.

    Attributes:
        net: all layers of its file.
        view: those alive.
    """

    net: Net
    view: View


@dataclass(frozen=True)
class SolverNets:
    """All nets of a solver."""

    train: SolverNet
    tests: tuple[SolverNet, ...]

    @property
    def views(self) -> list[View]:
        """Of the training net, then of the test nets."""
        return [one.view for one in (self.train, *self.tests)]


def solver_nets(plan: Plan) -> SolverNets:
    """Builds the nets of a solver, with the shapes of their data where those can be found.

    Raises:
        RebirthError: one is not sound in its state.
    """
    for net in {id(one.net): one.net for one in (plan.train, *plan.tests)}.values():
        read_shapes(net, plan.root)
    return SolverNets(_made(plan.train), tuple(map(_made, plan.tests)))


def _made(planned: PlannedNet) -> SolverNet:
    net = planned.net
    try:
        view = View(planned.state, net.header, net.layers, net.data)
    except NetError as error:
        raise RebirthError(f"{planned.source} in {planned.state}: {error}") from error
    if not view.layers:
        raise RebirthError(f"{planned.source}: no layer of it is alive in {planned.state}; check its include rules")
    return SolverNet(net, view)
