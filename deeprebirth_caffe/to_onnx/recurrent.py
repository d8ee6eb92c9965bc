"""LSTM and RNN, step by step, as Caffe unrolls them; LSTMUnit.

ONNX's own operators lack `cont`, with which Caffe restarts sequences in the middle of a batch. Every run starts
from zero states: the states that Caffe keeps between forward passes are not part of the net.
"""

from __future__ import annotations

from math import prod

import numpy as np

from deeprebirth_caffe.to_onnx.graph import Site, Tensor


def lstm(site: Site) -> list[str]:
    """Blobs: input weights, bias, weights of the static input (if there is one), recurrent weights."""
    steps, hidden, states = _start(site, 2)
    inputs = _from_input(site, 4 * hidden)
    recurrent = site.weight(len(site.blobs) - 1)
    state, cell = states
    outs = []
    for step in range(steps):
        cont = _cont(site, step)
        gates = site.op("Gemm", site.op("Mul", state, cont), recurrent, transB=1)
        gates = site.op("Add", gates, _step(site, inputs, step))
        cell, state = _unit(site, gates, cell, cont, hidden, axis=1)
        outs.append(state)
    return _joined(site, outs, [state, cell])


def rnn(site: Site) -> list[str]:
    """Blobs: input weights, bias, weights of the static input (if any), recurrent weights, output weights and bias."""
    steps, hidden, states = _start(site, 1)
    inputs = _from_input(site, hidden)
    recurrent, output, shift = (site.weight(len(site.blobs) - index) for index in (3, 2, 1))
    state = states[0]
    outs = []
    for step in range(steps):
        kept = site.op("Mul", state, _cont(site, step))
        state = site.op("Tanh", site.op("Add", site.op("Gemm", kept, recurrent, transB=1), _step(site, inputs, step)))
        outs.append(site.op("Tanh", site.op("Gemm", state, output, shift, transB=1)))
    return _joined(site, outs, [state])


def lstm_unit(site: Site) -> list[str]:
    """One step of an LSTM from its gates."""
    cell, gates, cont = site.ins
    hidden = site.dim(2, cell)
    column = site.op("Unsqueeze", cont.name, site.integers([2]))
    return list(_unit(site, gates.name, cell.name, column, hidden, axis=2))


def _unit(site: Site, gates: str, cell: str, cont: str, hidden: int, axis: int) -> tuple[str, str]:
    """The next cell and hidden state from the gates: input, forget, output, and the candidate."""
    parts = site.node("Split", [gates, site.integers([hidden] * 4)], 4, axis=axis)
    write, keep, show = (site.op("Sigmoid", part) for part in parts[:3])
    kept = site.op("Mul", site.op("Mul", keep, cont), cell)
    new = site.op("Add", kept, site.op("Mul", write, site.op("Tanh", parts[3])))
    return new, site.op("Mul", show, site.op("Tanh", new))


def _start(site: Site, states: int) -> tuple[int, int, list[str]]:
    """Steps, hidden size, and the states before the first step as batch x hidden."""
    steps, hidden = site.dim(0), site.param.recurrent_param.num_output
    batch = site.dim(1)
    if not site.param.recurrent_param.expose_hidden:
        return (
            steps,
            hidden,
            [site.array(f"state{index}", np.zeros((batch, hidden), np.float32)) for index in range(states)],
        )
    given = site.ins[len(site.ins) - states :]
    return steps, hidden, [site.reshape(tensor.name, tensor, (batch, hidden), (batch, hidden)) for tensor in given]


def _from_input(site: Site, rows: int) -> str:
    """The contribution of the input (and the static input) at all steps at once: steps x batch x rows."""
    steps, batch = site.dim(0), site.dim(1)
    features = prod(site.dim(axis) for axis in range(2, len(site.x.shape)))
    shape = (steps * batch, features)
    name = site.op("Gemm", site.reshape(site.x.name, site.x, shape, shape), site.weight(0), site.weight(1), transB=1)
    flat, whole = (steps * batch, rows), (steps, batch, rows)
    name = site.reshape(name, Tensor(name, flat, flat), whole, whole)
    exposed = len(site.tops) - 1
    if len(site.ins) > 2 + exposed:
        static = site.ins[2]
        inner = prod(site.dim(axis, static) for axis in range(1, len(static.shape)))
        shape = (batch, inner)
        more = site.op("Gemm", site.reshape(static.name, static, shape, shape), site.weight(2), transB=1)
        name = site.op("Add", name, more)
    return name


def _cont(site: Site, step: int) -> str:
    """Which sequences go on at a step, as batch x 1."""
    row = site.op("Gather", site.ins[1].name, site.integers([step]), axis=0)
    return site.reshape(row, Tensor(row, (1, site.dim(1)), (1, site.dim(1))), (site.dim(1), 1), (site.dim(1), 1))


def _step(site: Site, inputs: str, step: int) -> str:
    row = site.op("Gather", inputs, site.integers([step]), axis=0)
    return site.op("Squeeze", row, site.integers([0]))


def _joined(site: Site, outs: list[str], states: list[str]) -> list[str]:
    first = site.integers([0])
    steps = [site.op("Unsqueeze", name, first) for name in outs]
    whole = steps[0] if len(steps) == 1 else site.op("Concat", *steps, axis=0)
    return [whole, *(site.op("Unsqueeze", name, first) for name in states[: len(site.tops) - 1])]
