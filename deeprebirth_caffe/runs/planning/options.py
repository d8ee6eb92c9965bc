"""What `rebirth plan` is told, and what a step of its plan is."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from deeprebirth_caffe.commands.convert import ConvertOptions
from deeprebirth_caffe.commands.defaults import REFIT_SAMPLES
from deeprebirth_caffe.engines.choose import EngineOptions
from deeprebirth_caffe.inputs.pictures import PictureOptions
from deeprebirth_caffe.ops import Shape
from deeprebirth_caffe.relearn.calibration import CalibrationOptions

if TYPE_CHECKING:
    from deeprebirth_caffe.commands.time import TimeOptions
    from deeprebirth_caffe.runs.planning.candidates import Merge
    from deeprebirth_caffe.runs.planning.target import Target

RECOVERY = 0.8
"""What part of the points lost at first is taken to come back: short relearning of single stages gave 0.5 to 0.9."""


@dataclass(frozen=True)
class PlanOptions:
    """What `rebirth plan` is told; see its help.

    Attributes:
        out: the schedule to write.
        timing: how nets are timed; the nets in it do not count.
        recipe: one of `recipes.RECIPES`.
        skip_passes: that no step runs.
        iterations: of a step; None: `epochs`.
        epochs: of a step; None: the paper's.
        tucker: whether Tucker comes at the end; None: only in a plan without a target.
        metric: what budgets and targets go by; None: top5, or top1 with few classes.
        calibrate: a source of images without labels.
        samples: how many of them.
        pictures: how they are prepared; by default as the net's own data layer does it.
        engine: what tests and trains.
        target: what to reach; None: every merge is taken.
        test_iterations: batches of a test; 0: each record once.
        recovery: what part of the points lost at first is expected to come back (`target`).
        nearest: write the plan that comes nearest to a target that cannot be met.
    """

    net: Path
    weights: Path
    out: Path
    timing: TimeOptions
    recipe: str = "best"
    solver: Path | None = None
    only: tuple[str, ...] = ()
    skip: tuple[str, ...] = ()
    skip_passes: tuple[str, ...] = ()
    iterations: int | None = None
    epochs: float | None = None
    tucker: bool | None = None
    metric: str | None = None
    calibrate: str = "own"
    samples: int = REFIT_SAMPLES
    pictures: PictureOptions = field(default_factory=PictureOptions)
    engine: EngineOptions = field(default_factory=EngineOptions)
    input_shapes: Mapping[str, Shape] = field(default_factory=dict)
    target: Target | None = None
    test_iterations: int = 0
    recovery: float = RECOVERY
    nearest: bool = False
    force: bool = False

    @property
    def calibration(self) -> CalibrationOptions:
        """The images that candidates are refitted on."""
        return CalibrationOptions(self.calibrate, self.samples, self.pictures, self.engine)

    @property
    def conversion(self) -> ConvertOptions:
        """Of every stage."""
        return ConvertOptions(
            self.net,
            self.weights,
            paper=self.recipe == "paper",
            skip_passes=self.skip_passes,
            input_shapes=self.input_shapes,
        )


@dataclass(frozen=True)
class PlannedStep:
    """A step of a plan.

    Attributes:
        name: of the step.
        patterns: its stages as the schedule names them.
        merges: what it does, stage by stage.
        left_out: passes that would do something there too, and do not run.
    """

    name: str
    patterns: tuple[str, ...]
    merges: tuple[Merge, ...]
    left_out: tuple[str, ...] = ()
