"""The solverstate a training run goes on from, checked before anything starts."""

from __future__ import annotations

import shlex
from pathlib import Path

from deeprebirth_caffe.engines.plan import find_model
from deeprebirth_caffe.engines.snapshots import TWO_HISTORIES
from deeprebirth_caffe.errors import RebirthError
from deeprebirth_caffe.formats.caffemodel import matches_shape
from deeprebirth_caffe.formats.solverstate import SolverState, read_solverstate
from deeprebirth_caffe.ir import View, Weights, param_shapes
from deeprebirth_caffe.nets.load import check_weights, unnamed_layers
from deeprebirth_caffe.ops import Shape
from deeprebirth_caffe.ops.base import by
from deeprebirth_caffe.proto import caffe_pb2 as pb
from deeprebirth_caffe.training.solver_nets import SolverNet
from deeprebirth_caffe.wording import counted


def check_resume(path: Path, solver: pb.SolverParameter, train: SolverNet, root: Path) -> int:
    """Looks whether a state belongs to the solver and its net.

    Args:
        path: of the solverstate.
        solver: with the `max_iter` that counts.
        train: the training net.
        root: where the path of the state's weights starts.

    Returns:
        How many iterations are done in it.

    Raises:
        RebirthError: it is no solverstate, does not fit, or its weights are not there.
    """
    state = read_solverstate(path)
    if state.iteration >= solver.max_iter:
        raise RebirthError(
            f"{path}: {counted(state.iteration, 'iteration')} done, and max_iter is {solver.max_iter}; raise it "
            "(--max-iter)"
        )
    _check_history(path, state, solver.type or "SGD", train.view)
    model = find_model(state.learned_net, path, root)
    weights = Weights.read(model, [layer.param for layer in train.net.layers])
    check_weights(train.net, weights)
    if missing := unnamed_layers((train.view,), weights):
        raise RebirthError(
            f"{model}: has nothing for {counted(len(missing), 'layer')} of the training net ({missing[0]}), so Caffe "
            "would go on at random there; was the net changed? Resume with the net as it was, or start anew with "
            f"{shlex.join(['-w', str(model)])}"
        )
    return state.iteration


def _check_history(path: Path, state: SolverState, kind: str, view: View) -> None:
    wanted = _learnable(view)
    if wanted is None:
        return
    wanted = wanted * (2 if kind in TWO_HISTORIES else 1)
    if len(state.history) != len(wanted):
        raise RebirthError(
            f"{path}: holds {len(state.history)} arrays where a {kind} solver of this net has {len(wanted)}; is it "
            "another net's, or another solver type's?"
        )
    legacy = state.legacy or [False] * len(wanted)
    for index, (array, shape, old) in enumerate(zip(state.history, wanted, legacy, strict=True)):
        if not matches_shape(array.shape, shape, old):
            raise RebirthError(
                f"{path}: array {index} of its history is {by(array.shape)} where this net has {by(shape)}; is it "
                "another net's?"
            )


def _learnable(view: View) -> list[Shape] | None:
    """The shapes of the net's learnable blobs, shared ones once, in Caffe's order; None where one is not known."""
    shapes: list[Shape] = []
    owned: set[str] = set()
    for layer in view.layers:
        found = param_shapes(view, layer)
        if found is None:
            return None
        for index, shape in enumerate(found):
            name = layer.param.param[index].name if index < len(layer.param.param) else ""
            if name not in owned:
                shapes.append(shape)
            if name:
                owned.add(name)
    return shapes
