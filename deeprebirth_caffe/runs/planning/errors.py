"""How far a candidate's scores are off once it is refitted: |student - teacher| / |teacher| over calibration images.

The scores are those of the net's main head. The error of blocks would be at hand too, but does not tell accuracy.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from deeprebirth_caffe.commands.refit import refit
from deeprebirth_caffe.engines.choose import choose
from deeprebirth_caffe.errors import RebirthError
from deeprebirth_caffe.inputs.feeding import through
from deeprebirth_caffe.ir import View
from deeprebirth_caffe.nets.load import load_net
from deeprebirth_caffe.nets.ranking import find_classifier
from deeprebirth_caffe.options.refit import RefitOptions
from deeprebirth_caffe.options.shared import CalibrationOptions
from deeprebirth_caffe.relearn.calibration import calibration_inputs
from deeprebirth_caffe.runs.planning.trials import Candidate, Made, Trials

if TYPE_CHECKING:
    from deeprebirth_caffe.engines.base import FloatArray

WORST = 1e3
"""Stands for an error that is no number: scores that are not finite."""


class Fidelity:
    """Compares candidates with the net as it is.

    Attributes:
        trials: make them.
        calibrate: the images.
    """

    def __init__(self, trials: Trials, calibrate: CalibrationOptions) -> None:
        self.trials = trials
        self.calibrate = calibrate
        self._teacher: FloatArray | None = None

    def begin(self) -> None:
        """Runs the net as it is.

        Raises:
            RebirthError: the images cannot be read.
        """
        self._teacher = self._scores(Made(*self.trials.start))

    @contextmanager
    def refitted(self, candidate: Candidate) -> Iterator[Made]:
        """Merges one stage and refits it; the files go away with the block.

        Raises:
            RebirthError: as convert and refit do.
        """
        net, weights = self.trials.start
        with self.trials.made(dict([candidate])) as made:
            folder = made.net.parent
            model = folder / "refit.caffemodel"
            how = RefitOptions(folder, calibrate=self.calibrate, teacher=net, teacher_weights=weights, out=model)
            refit(how, lambda text: None)
            yield replace(made, weights=model)

    def error(self, made: Made) -> float:
        """The relative error of a candidate's scores; `begin` comes first."""
        assert self._teacher is not None
        scores = self._scores(made)
        size = float(np.linalg.norm(self._teacher))
        error = float(np.linalg.norm(scores - self._teacher)) / size if size else 0.0
        return error if np.isfinite(error) else WORST

    def _scores(self, made: Made) -> FloatArray:
        """(images, classes), in double precision."""
        net = load_net(made.net, made.weights, self.trials.options.input_shapes)
        view = net.view("TEST")
        blob = main_scores(view)
        batches = calibration_inputs(made.net, net, self.calibrate, [])
        engine = choose(self.calibrate.engine, [view]).engine
        runs = through(engine, net, view, batches, [blob], made.weights)
        found = [blobs[blob].reshape(len(blobs[blob]), -1) for _, blobs in runs]
        if not found:
            raise RebirthError(f"{self.calibrate.source}: there is no image to refit on")
        return np.concatenate(found).astype(np.float64)


def main_scores(view: View) -> str:
    """The blob with the scores of the main head: what its Accuracy or loss reads, else the net's last output."""
    classifier = find_classifier(view)
    if classifier is not None:
        return classifier.scores
    value = view.results[-1]
    maker = value.producer
    return view.ins[maker][0].name if maker is not None and maker.traits.loss else value.name
