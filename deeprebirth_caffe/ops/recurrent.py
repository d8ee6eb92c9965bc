"""LSTM, RNN and LSTMUnit."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from .base import Datum, Op, Shape, by, fail
from .cost import SIGMOID
from .memory import count

if TYPE_CHECKING:
    from ..proto import caffe_pb2 as pb


def _states(layer: pb.LayerParameter) -> int:
    """How many hidden states go from step to step: h and c, or h."""
    return 2 if layer.type == "LSTM" else 1


def _static(layer: pb.LayerParameter, bottoms: Sequence[Shape]) -> Shape | None:
    """The shape of the input that is the same at every step, if there is one."""
    exposed = _states(layer) if layer.recurrent_param.expose_hidden else 0
    return bottoms[2] if len(bottoms) > 2 + exposed else None


def _check(layer: pb.LayerParameter, bottoms: Sequence[Shape]) -> tuple[int, int, int, int]:
    """Steps, batch, hidden size, number of exposed states."""
    p = layer.recurrent_param
    exposed = _states(layer) if p.expose_hidden else 0
    if p.num_output < 1:
        fail(layer, "num_output must be given and positive")
    if not 2 + exposed <= len(bottoms) <= 3 + exposed:
        fail(layer, f"takes {2 + exposed} or {3 + exposed} bottoms, has {len(bottoms)}")
    if len(layer.top) != 1 + exposed:
        fail(layer, f"takes {1 + exposed} top(s), has {len(layer.top)}")
    x = bottoms[0]
    if len(x) < 3:
        fail(layer, f"its input must be steps x batch x features, is {by(x)}")
    if bottoms[1] != x[:2]:
        fail(layer, f"its second input must be {by(x[:2])} (steps x batch), is {by(bottoms[1])}")
    static = _static(layer, bottoms)
    if static is not None and (len(static) < 2 or static[0] != x[1]):
        fail(layer, f"its static input must be batch x features with a batch of {x[1]}, is {by(static)}")
    hidden = (1, x[1], p.num_output)
    for state in bottoms[len(bottoms) - exposed :] if exposed else ():
        if state != hidden:
            fail(layer, f"its initial state must be {by(hidden)}, is {by(state)}")
    return x[0], x[1], p.num_output, exposed


def _shapes(layer: pb.LayerParameter, bottoms: Sequence[Shape], datum: Datum | None) -> list[Shape]:
    steps, batch, hidden, exposed = _check(layer, bottoms)
    return [(steps, batch, hidden), *[(1, batch, hidden)] * exposed]


def _lstm_params(layer: pb.LayerParameter, bottoms: Sequence[Shape]) -> list[Shape]:
    _, _, hidden, _ = _check(layer, bottoms)
    static = _static(layer, bottoms)
    gates = 4 * hidden
    middle = [] if static is None else [(gates, count(static, 1))]
    return [(gates, count(bottoms[0], 2)), (gates,), *middle, (gates, hidden)]


def _rnn_params(layer: pb.LayerParameter, bottoms: Sequence[Shape]) -> list[Shape]:
    _, _, hidden, _ = _check(layer, bottoms)
    static = _static(layer, bottoms)
    middle = [] if static is None else [(hidden, count(static, 1))]
    inner = (hidden, hidden)
    return [(hidden, count(bottoms[0], 2)), (hidden,), *middle, inner, inner, (hidden,)]


def _macs(layer: pb.LayerParameter, bottoms: Sequence[Shape], tops: Sequence[Shape]) -> int:
    steps, batch, hidden, _ = _check(layer, bottoms)
    rows, recurrent = (4 * hidden, 4 * hidden) if layer.type == "LSTM" else (hidden, 2 * hidden)
    static = _static(layer, bottoms)
    once = 0 if static is None else count(static) * rows
    return count(bottoms[0]) * rows + once + steps * batch * hidden * recurrent


def _buffers(layer: pb.LayerParameter, bottoms: Sequence[Shape], tops: Sequence[Shape]) -> int:
    """The blobs of the net of all steps that a recurrent layer builds inside.

    The input times its weights and, of several steps, its slices and those of the flags; in each step the flagged
    state, its product, the sum of both and what becomes of it; the states before the first step, and the gradients of
    those after the last. The outputs are joined into the top, which a single step is itself, and read by a loss that
    has a one for each of them.
    """
    steps, batch, hidden, exposed = _check(layer, bottoms)
    lstm, several = layer.type == "LSTM", steps > 1
    rows = (4 if lstm else 1) * hidden
    copies = (1 + several) * steps * batch * rows + (several + 1) * steps * batch  # flags, and ones for the bias
    products = batch * (hidden + 2 * rows)
    states = batch * hidden * (1 + several) if lstm else batch * (hidden * (2 + several) + 1)
    static = _static(layer, bottoms)
    once = 0 if static is None else batch * rows
    # Exposed states are the memory of bottoms and tops.
    ends = 0 if exposed else 2 * _states(layer) * batch * hidden
    return copies + steps * (products + states + batch * hidden) + once + ends


def _gates(layer: pb.LayerParameter, bottoms: Sequence[Shape], tops: Sequence[Shape]) -> float:
    return SIGMOID * (5 if layer.type == "LSTM" else 2) * (count(tops[0]) if tops else 0)


def _unit(layer: pb.LayerParameter, bottoms: Sequence[Shape], datum: Datum | None) -> list[Shape]:
    state, gates, cont = bottoms
    if len(state) != 3 or state[0] != 1:
        fail(layer, f"its first input must be 1 x batch x hidden, is {by(state)}")
    if gates != (1, state[1], 4 * state[2]):
        fail(layer, f"its second input must be {by((1, state[1], 4 * state[2]))}, is {by(gates)}")
    if cont != (1, state[1]):
        fail(layer, f"its third input must be {by((1, state[1]))}, is {by(cont)}")
    return [state, state]


def _unit_cost(layer: pb.LayerParameter, bottoms: Sequence[Shape], tops: Sequence[Shape]) -> float:
    return SIGMOID * 5 * count(bottoms[0])


OPS = [
    *(
        Op(
            name,
            _shapes,
            params,
            _macs,
            _gates,
            min_bottoms=2,
            max_bottoms=2 + states + 1,
            max_tops=1 + states,
            tensor=True,
            indices=True,
            block="recurrent_param",
            buffers_fn=_buffers,
        )
        for name, params, states in (("LSTM", _lstm_params, 2), ("RNN", _rnn_params, 1))
    ),
    Op("LSTMUnit", _unit, cost_fn=_unit_cost, min_bottoms=3, max_bottoms=3, min_tops=2, max_tops=2, indices=True),
]
