"""Solvers: ``solver_type: ADAM`` is now ``type: "Adam"``."""

from __future__ import annotations

from deeprebirth_caffe.formats.upgrade.notes import Upgrade, UpgradeError
from deeprebirth_caffe.proto import caffe_pb2 as pb

TYPES = {
    pb.SolverParameter.SGD: "SGD",
    pb.SolverParameter.NESTEROV: "Nesterov",
    pb.SolverParameter.ADAGRAD: "AdaGrad",
    pb.SolverParameter.RMSPROP: "RMSProp",
    pb.SolverParameter.ADADELTA: "AdaDelta",
    pb.SolverParameter.ADAM: "Adam",
}


def solver_needs_upgrade(solver: pb.SolverParameter) -> bool:
    """Whether a solver says its type in the old way."""
    return solver.HasField("solver_type")


def upgrade_solver(solver: pb.SolverParameter) -> Upgrade:
    """Upgrades a solver in place. Nets written into it stay as they are, as in Caffe.

    Raises:
        UpgradeError: it says its type in both ways.
    """
    report = Upgrade()
    if solver_needs_upgrade(solver):
        if solver.HasField("type"):
            raise UpgradeError("this solver has both 'type' and 'solver_type'; remove 'solver_type'")
        solver.type = TYPES[solver.solver_type]
        solver.ClearField("solver_type")
        report.forms.append("solver_type")
    return report
