"""One step of every kind of solver, from the same state, in real Caffe and in the embedded engine."""

from __future__ import annotations

from dataclasses import dataclass, fields
from itertools import combinations, product
from pathlib import Path

import numpy as np
import pytest
from closeness import assert_within, between
from solvers import TERMS, assert_as_far, caffe_train, far, snapshot_arrays, torch_trainer, write_net, write_state

from deeprebirth_caffe.engines.caffe.locate import CaffeInstall
from deeprebirth_caffe.engines.policy import learning_rate
from deeprebirth_caffe.formats.solver import parse_solver
from deeprebirth_caffe.formats.solverstate import read_solverstate

TYPES = {
    "SGD": "momentum: 0.9",
    "Nesterov": "momentum: 0.8",
    "AdaGrad": "delta: 1e-4",
    "RMSProp": "rms_decay: 0.9 delta: 1e-5",
    "AdaDelta": "momentum: 0.95 delta: 1e-6",
    "Adam": "momentum: 0.9 momentum2: 0.99 delta: 1e-7",
}
POLICIES = {
    "fixed": "",
    "step": "gamma: 0.95 stepsize: 4",
    "exp": "gamma: 0.99",
    "inv": "gamma: 0.01 power: 0.75",
    "multistep": "gamma: 0.5 stepvalue: 3 stepvalue: 10 stepvalue: 60",
    "poly": "power: 0.6",
    "sigmoid": "gamma: 0.05 stepsize: 20",
}
DECAYS = {
    "none": "",
    "L2": "weight_decay: 0.02",
    "L1": 'weight_decay: 0.01 regularization_type: "L1"',
}
CLIPS = {"free": "", "clipped": "clip_gradients: 0.2", "wide": "clip_gradients: 1000"}
SIZES = (1, 2, 3)
ITERATIONS = (0, 10, 100)
FORMATS = ("BINARYPROTO", "HDF5")


@dataclass(frozen=True)
class Case:
    """One solver."""

    type: str
    policy: str
    decay: str
    clip: str
    size: int
    iteration: int
    format: str

    @property
    def steps_done(self) -> int:
        """The current_step that belongs to the iteration."""
        return sum(value <= max(self.iteration - 1, 0) for value in (3, 10, 60)) if self.policy == "multistep" else 0

    def text(self) -> str:
        """The solver file."""
        # Rates that move the weights by about their own size, so that a step cannot hide behind them.
        base = {"AdaDelta": 20, "SGD": 0.5, "Nesterov": 0.5}.get(self.type, 0.05)
        return (
            f'net: "net.prototxt" type: "{self.type}" {TYPES[self.type]} base_lr: {base} lr_policy: "{self.policy}" '
            f"{POLICIES[self.policy]} {DECAYS[self.decay]} {CLIPS[self.clip]} iter_size: {self.size} "
            f'max_iter: {self.iteration + 1} snapshot_format: {self.format} solver_mode: CPU snapshot_prefix: "PREFIX"'
        )

    def __str__(self) -> str:
        return "-".join(str(getattr(self, one.name)) for one in fields(self))


def _cases() -> list[Case]:
    """Every type with every policy at every iteration; the rest in turn, so that every pair of values comes up."""
    cases = []
    for (t, kind), (p, policy), (n, iteration) in product(enumerate(TYPES), enumerate(POLICIES), enumerate(ITERATIONS)):
        cases.append(
            Case(
                kind,
                policy,
                list(DECAYS)[(t + p + n) % 3],
                list(CLIPS)[(t + 2 * p + n + p // 3) % 3],
                SIZES[(2 * t + p // 2 + n + t // 2) % 3],
                iteration,
                FORMATS[(t + p + n // 2 + t * n) % 2],
            )
        )
    return cases


CASES = _cases()


def test_the_grid_has_every_pair_of_values() -> None:
    """Each solver type with each decay, each clip with each iter_size, and so on."""
    names = [one.name for one in fields(Case)]
    assert len(CASES) >= 100
    for first, second in combinations(names, 2):
        have = {(getattr(case, first), getattr(case, second)) for case in CASES}
        values = [{getattr(case, name) for case in CASES} for name in (first, second)]
        assert have == set(product(*values)), (first, second)


@pytest.mark.parametrize("case", CASES, ids=str)
def test_one_step_is_caffes(case: Case, caffe_install: CaffeInstall, tmp_path: Path) -> None:
    """Weights, history, iteration and current_step after one step from the same snapshot."""
    hdf5 = case.format == "HDF5"
    write_net(tmp_path)
    state = write_state(tmp_path, case.iteration, case.type, hdf5=hdf5, step=case.steps_done)
    for prefix in ("caffe", "torch"):
        (tmp_path / f"{prefix}.prototxt").write_text(case.text().replace("PREFIX", prefix))
    caffe_train(caffe_install, tmp_path, "caffe.prototxt", "--snapshot", state.name)
    with torch_trainer(tmp_path, "torch.prototxt", resume=state) as trainer:
        trainer.step()
        trainer.snapshot()
    end = ".h5" if hdf5 else ""
    mine = snapshot_arrays(tmp_path, "torch", case.iteration + 1, end)
    caffes = snapshot_arrays(tmp_path, "caffe", case.iteration + 1, end)
    begin = snapshot_arrays(tmp_path, "begin", case.iteration, end)
    assert_as_far(mine, caffes, case.size)
    for index, (before, one, other) in enumerate(zip(begin[0], mine[0], caffes[0], strict=True)):
        step, theirs = one.astype(np.float64) - before, other.astype(np.float64) - before
        # Weights are rounded by their own size, which the step may be small against.
        size, largest = np.abs(theirs).max(), max(np.abs(before).max(), np.abs(other).max())
        if size:
            limit = between(case.size * TERMS) * (1 + largest / size)
            assert_within(f"step of weights[{index}]", theirs, step, limit)
            assert limit < 0.1
        else:
            assert not step.any()
    assert far(begin[0], caffes[0]) > 1e-3  # there was a step to speak of
    states = [
        read_solverstate(tmp_path / f"{name}_iter_{case.iteration + 1}.solverstate{end}") for name in ("torch", "caffe")
    ]
    assert states[0].current_step == states[1].current_step
    assert states[0].learned_net.replace("torch", "caffe") == states[1].learned_net


@pytest.mark.parametrize("policy", POLICIES)
def test_rates_are_those_that_caffe_logs(policy: str, caffe_install: CaffeInstall, tmp_path: Path) -> None:
    """Over 70 iterations, to the digits that Caffe prints."""
    write_net(tmp_path)
    text = (
        f'net: "net.prototxt" base_lr: 0.01 lr_policy: "{policy}" {POLICIES[policy]} max_iter: 70 '
        "display: 1 solver_mode: CPU snapshot_after_train: false\n"
    )
    (tmp_path / "solver.prototxt").write_text(text)
    log = caffe_train(caffe_install, tmp_path, "solver.prototxt")
    logged = [float(line.rsplit(" ", 1)[1]) for line in log.splitlines() if ", lr = " in line]
    param, step, rates = parse_solver(text).message, 0, []
    for iteration in range(70):
        rate, step = learning_rate(param, iteration, step)
        rates.append(rate)
    assert len(logged) == 70
    assert rates == pytest.approx(logged, rel=6e-6)
