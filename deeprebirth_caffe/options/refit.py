"""What `rebirth refit` may be told."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from deeprebirth_caffe.options.fields import OUTPUT, START, TEACHER, argument, group, option
from deeprebirth_caffe.options.kinds import FILE, OUT_FILE, POSITIVE, SEED, THERE, Whole
from deeprebirth_caffe.options.shared import (
    CalibrationOptions,
    EngineOptions,
    calibration,
    only_option,
    replace_option,
    skip_option,
)


@dataclass(frozen=True)
class ConversionOptions:
    """What the commands are told that go on with what `rebirth convert` wrote."""

    directory: Path = argument("directory", THERE, metavar="DIR")
    weights: Path | None = option(
        None, "-w", "--weights", kind=FILE, help="Weights to start from. [default: DIR/init.caffemodel]"
    )
    teacher: Path | None = option(
        None, "--teacher", kind=FILE, title=TEACHER, help="The original net. [default: as DIR/manifest.json says]"
    )
    teacher_weights: Path | None = option(
        None, "--teacher-weights", kind=FILE, title=TEACHER, help="Its weights. [default: likewise]"
    )


@dataclass(frozen=True)
class RefitOptions(ConversionOptions):
    """What `rebirth refit` is told; see its help."""

    calibrate: CalibrationOptions = calibration(
        "Pictures without labels", missing="a fit needs pictures; name some: --calibrate SOURCE"
    )
    out: Path | None = option(
        None, "-o", "--out", kind=OUT_FILE, title=OUTPUT, help="The model. [default: DIR/refit.caffemodel]"
    )
    ridge: float = option(
        1e-2, "--ridge", kind=POSITIVE, title=START, shown=True, help="How strongly weights hold their start."
    )
    rounds: int = option(
        20, "--rounds", kind=Whole(0, 1000), title=START, shown=True, help="Rounds of the fit of a layer with a ReLU."
    )
    positions: int = option(
        64, "--positions", kind=Whole(1, 1_000_000), title=START, shown=True, help="Places of an image that count."
    )
    seed: int = option(0, "--seed", kind=SEED, title=START, shown=True, help="Seed of the choice of places.")
    only: tuple[str, ...] = only_option()
    skip: tuple[str, ...] = skip_option()
    engine: EngineOptions = group(EngineOptions)
    force: bool = replace_option()
