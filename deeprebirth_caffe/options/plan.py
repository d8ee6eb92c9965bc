"""What `rebirth plan` may be told."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from deeprebirth_caffe.errors import UsageError
from deeprebirth_caffe.options.convert import ConvertOptions
from deeprebirth_caffe.options.fields import LEARN, MEASURE, OUTPUT, argument, group, needed, option
from deeprebirth_caffe.options.kinds import COUNT, FILE, FLAG, OUT, POSITIVE, OneOf, Real, Whole
from deeprebirth_caffe.options.shared import (
    OWN,
    REFIT_SAMPLES,
    CalibrationOptions,
    EngineOptions,
    calibration,
    only_option,
    passes_option,
    replace_option,
    shapes_option,
    skip_option,
)
from deeprebirth_caffe.options.time import ENGINES, Plan, TimingOptions

RECOVERY = 0.8
"""What part of the points lost at first is taken to come back: short relearning of single stages gave 0.5 to 0.9."""
TARGETS = ("speedup", "accuracy")


@dataclass(frozen=True)
class Target:
    """What is wanted.

    Attributes:
        speedup: how many times as fast; None: as fast as accuracy allows.
        accuracy: points that may be lost; None: any.
    """

    speedup: float | None = None
    accuracy: float | None = None

    def __str__(self) -> str:
        return " and ".join(self.texts())

    def texts(self) -> tuple[str, ...]:
        """As `--target` says it."""
        return tuple(f"{kind}={getattr(self, kind):g}" for kind in TARGETS if getattr(self, kind) is not None)


def parse_targets(texts: Sequence[str]) -> Target | None:
    """What `--target` says, once or twice; None where it is not given.

    Raises:
        UsageError: it is no target.
    """
    found: dict[str, float] = {}
    for text in texts:
        kind, _, value = text.partition("=")
        try:
            number = float(value)
        except ValueError:
            number = -1.0
        if kind not in TARGETS or not 0 <= number < 1e6:
            raise UsageError(f"--target {text}: write speedup=3 (times as fast) or accuracy=0.4 (points lost at most)")
        if kind in found:
            raise UsageError(f"--target {kind} is given twice")
        if kind == "speedup" and number <= 1:
            raise UsageError(f"--target {text}: a speed-up is more than 1")
        found[kind] = number
    return Target(**found) if found else None


@dataclass(frozen=True)
class PlanOptions:
    """What `rebirth plan` is told; see its help.

    Attributes:
        time_with: what runs them then.
        time_threads: with how many threads.
        passes: passes in a turn.
    """

    net: Path = argument("net", FILE)
    weights: Path = needed("-w", "--weights", kind=FILE, help="Learned weights.")
    out: Path = needed("-o", "--out", kind=OUT, title=OUTPUT, metavar="FILE", help="The schedule to write (YAML).")
    recipe: str = option(
        "best",
        "--recipe",
        kind=OneOf(("paper", "best")),
        title=LEARN,
        shown=True,
        help="How steps relearn: as in the paper, or the best way known.",
    )
    solver: Path | None = option(
        None, "--solver", kind=FILE, title=LEARN, help="A solver that lends what the schedule does not say."
    )
    only: tuple[str, ...] = only_option()
    skip: tuple[str, ...] = skip_option()
    skip_passes: tuple[str, ...] = passes_option()
    epochs: float | None = option(
        None, "--epochs", kind=POSITIVE, title=LEARN, help="Epochs of each step. [default: 2, as the paper says]"
    )
    iterations: int | None = option(
        None, "--max-iter", kind=COUNT, title=LEARN, help="Iterations of each step, in place of --epochs."
    )
    tucker: bool | None = option(
        None,
        "--tucker/--no-tucker",
        kind=FLAG,
        title=LEARN,
        help="Whether Tucker comes at the end. [default: yes, and no with --target]",
    )
    metric: str | None = option(
        None,
        "--metric",
        title=MEASURE,
        help="What budgets go by: top1, top5 or an output. [default: top5; top1 with few classes]",
    )
    images: CalibrationOptions = calibration(
        "Images for the refit [default: own]", usual=CalibrationOptions(OWN, REFIT_SAMPLES)
    )
    target: Target | None = option(
        None,
        "--target",
        title=MEASURE,
        many=True,
        takes=parse_targets,
        says=lambda target: () if target is None else target.texts(),
        metavar="KIND=X",
        help="speedup=3: so many times as fast; accuracy=0.4: points lost at most. Once, or one of each.",
    )
    on: str = option(
        "local", "--on", title=MEASURE, shown=True, metavar="WHERE", help="Where --target times: as rebirth time --on."
    )
    time_with: str = option(
        "caffe", "--time-with", kind=OneOf(ENGINES), title=MEASURE, shown=True, help="What runs the nets then."
    )
    time_threads: int = option(
        1, "--time-threads", kind=Whole(1, 1024), title=MEASURE, shown=True, help="Its threads, for --target."
    )
    runs: int = option(10, "--runs", kind=Whole(1, 10**5), title=MEASURE, shown=True, help="Turns of each net.")
    passes: int = option(50, "--iterations", kind=Whole(1, 10**6), title=MEASURE, shown=True, help="Passes in a turn.")
    test_iterations: int = option(
        0, "--test-batches", kind=Whole(0), title=MEASURE, help="Batches of each test. [default: each record once]"
    )
    recovery: float = option(
        RECOVERY,
        "--recovery",
        kind=Real(0, 1),
        title=MEASURE,
        shown=True,
        help="For accuracy: what part of the points lost at first relearning is expected to bring back.",
    )
    nearest: bool = option(
        False, "--nearest", title=MEASURE, help="Where --target cannot be met, write what comes nearest (exit code 3)."
    )
    input_shapes: Mapping[str, tuple[int, ...]] = shapes_option()
    engine: EngineOptions = group(EngineOptions, kw_only=True)
    force: bool = replace_option()

    def verify(self, given: Collection[str]) -> None:
        """Raises UsageError for two lengths."""
        if self.epochs is not None and self.iterations is not None:
            raise UsageError("--epochs and --max-iter exclude each other")

    @property
    def timing(self) -> TimingOptions:
        """How nets are timed."""
        plan = Plan(self.runs, self.passes)
        return TimingOptions(self.time_with, self.on, plan, self.time_threads, caffe=self.engine.caffe)

    @property
    def calibration(self) -> CalibrationOptions:
        """The images that candidates are refitted on."""
        return replace(self.images, engine=self.engine)

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
