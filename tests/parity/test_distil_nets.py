"""What `rebirth distil` writes trains alike in real Caffe and in the embedded engine."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from distil_tools import as_sgd, converted
from solvers import far

from deeprebirth_caffe.engines.base import Engine
from deeprebirth_caffe.engines.caffe.engine import CaffeEngine
from deeprebirth_caffe.engines.caffe.locate import CaffeInstall
from deeprebirth_caffe.engines.torch.engine import TorchEngine
from deeprebirth_caffe.ir import Weights
from deeprebirth_caffe.workflows.distil import DistilOptions, distil


@pytest.mark.parametrize("kind", ["SGD", "Adam"])
def test_losses_and_updates_agree(
    kind: str, caffe_install: CaffeInstall, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Three steps and a test; the teacher's weights stay as they are in both."""
    monkeypatch.chdir(tmp_path)
    made = converted(tmp_path, reparam=kind == "SGD")
    distil(DistilOptions(made))
    start = made / "distil" / "init.caffemodel"
    if kind == "SGD":
        as_sgd(made / "distil" / "solver.prototxt", 0.01)
    losses, tests, ends = [], [], []
    engines: list[Engine] = [CaffeEngine(caffe_install, threads=1), TorchEngine(seed=1)]
    for engine in engines:
        with engine.trainer(made / "distil" / "solver.prototxt", weights=[start]) as trainer:
            steps = [trainer.step() for _ in range(3)]
            losses.append([step.loss for step in steps])
            tests.append(trainer.test())
            ends.append(Weights.read(trainer.snapshot().model))
    assert losses[1] == pytest.approx(losses[0], rel=1e-4)
    assert set(tests[0]) == set(tests[1])
    assert all(tests[1][name] == pytest.approx(value, rel=1e-3) for name, value in tests[0].items())
    before = Weights.read(start)
    for name in before:
        # All blobs of a layer at once: the bias in front of a BatchNorm has no gradient but rounding.
        steps_of = [
            [np.concatenate([(new - old).ravel() for new, old in zip(end[name], before[name], strict=True)])]
            for end in ends
        ]
        if name.startswith("teacher/"):
            assert not any(array.any() for arrays in steps_of for array in arrays)
        elif kind == "SGD":
            # Steps are compared, which are far smaller than what they change.
            assert far(steps_of[1], steps_of[0]) < 5e-3, name
        else:
            # Adam makes a whole step of a gradient that is all but zero, whatever its sign.
            assert far(ends[1][name], ends[0][name]) < 0.05, name
