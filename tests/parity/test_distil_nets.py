"""What `rebirth distil` writes trains alike in real Caffe and in the embedded engine."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from closeness import assert_within, trained
from distil_tools import BATCH, as_sgd, converted
from nets import without_switches
from solvers import far

from deeprebirth_caffe.commands.distil import distil
from deeprebirth_caffe.engines.base import Engine
from deeprebirth_caffe.engines.caffe.engine import CaffeEngine
from deeprebirth_caffe.engines.caffe.locate import CaffeInstall
from deeprebirth_caffe.engines.torch.engine import TorchEngine
from deeprebirth_caffe.formats.prototxt import format_message, parse_message
from deeprebirth_caffe.ir import Weights
from deeprebirth_caffe.options.distil import DistilOptions
from deeprebirth_caffe.proto import caffe_pb2 as pb

TERMS = 27 + 2 * (12 + 12 * 9 + 4 * 25) + 2 * 26 * 9 + 26 + 26 * 36 + BATCH * 24 * 24
"""What a path through the net adds up for a value, and a gradient of the first layer over its pixels."""


@pytest.mark.parametrize("kind", ["SGD", "Adam"])
def test_losses_and_updates_agree(
    kind: str, caffe_install: CaffeInstall, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Three steps and a test; the teacher's weights stay as they are in both."""
    monkeypatch.chdir(tmp_path)
    made = converted(tmp_path, reparam=kind == "SGD")
    distil(DistilOptions(made))
    path = made / "distil" / "distil.prototxt"
    net = parse_message(path.read_text(), pb.NetParameter)
    without_switches(net)
    path.write_text(format_message(net))
    start = made / "distil" / "init.caffemodel"
    if kind == "SGD":
        as_sgd(made / "distil" / "solver.prototxt", 1e-4)
    losses, tests, ends = [], [], []
    engines: list[Engine] = [CaffeEngine(caffe_install, threads=1), TorchEngine(seed=1)]
    for engine in engines:
        with engine.trainer(made / "distil" / "solver.prototxt", weights=[start]) as trainer:
            steps = [trainer.step() for _ in range(3)]
            losses.append([step.loss for step in steps])
            tests.append(trainer.test())
            ends.append(Weights.read(trainer.snapshot().model))
    assert_within("losses", *losses, trained(3, TERMS))
    assert set(tests[0]) == set(tests[1])
    for name, value in tests[0].items():
        assert_within(name, value, tests[1][name], trained(3, TERMS))
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
            step, largest = np.abs(steps_of[0][0]).max(), max(np.abs(values).max() for values in before[name])
            if step:
                limit = trained(3, TERMS) * (1 + largest / step)
                assert_within(f"step of {name}", steps_of[0][0], steps_of[1][0], limit)
            else:
                assert not steps_of[1][0].any()
        else:
            # Adam makes a whole step of a gradient that is all but zero, whatever its sign.
            assert far(ends[1][name], ends[0][name]) < 0.05, name
