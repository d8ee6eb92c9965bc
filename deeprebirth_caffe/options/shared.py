"""Options that several commands take: what runs nets, how pictures are prepared, what a solver is told."""

from __future__ import annotations

import os
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from dataclasses import MISSING, dataclass
from pathlib import Path
from typing import Any, ClassVar

from deeprebirth_caffe.errors import UsageError
from deeprebirth_caffe.options.fields import ENGINE, LEARN, MEASURE, MERGE, OUTPUT, PICTURES, group, option
from deeprebirth_caffe.options.kinds import COUNT, FILE, MEANS, POSITIVE, SHAPE, SIZE, OneOf, Real, Whole

PYTHON_LAYERS = "REBIRTH_PYTHON_LAYERS"
"""The environment variable that says what `--python-layers` says."""
ENGINES = ("auto", "caffe", "torch")
PAPER_STEP = 4 / 9
"""The part of the iterations after which the rate falls, and falls again: the paper's 40,000 and 80,000 of 90,000."""
CLIP = 5.0
"""The norm that gradients are cut to where nobody says otherwise: a net that starts near what it has learned has first
gradients that, at the paper's rates, throw it far away or to infinity."""
OWN = "own"
OWN_PHASES = {OWN: "TRAIN", "own-test": "TEST"}
"""The sources that mean the net's own data layers, and in which phase. Nothing is fitted on test data by default."""
REFIT_SAMPLES = 512
"""Images of a fit."""


def shapes_option() -> Any:
    """`--input-shape`: (C, H, W) by blob."""
    return option(
        {},
        "--input-shape",
        kind=SHAPE,
        title="",
        many=True,
        takes=dict,
        says=lambda shapes: tuple(shapes.items()),
        help="Shape of a data layer's blob without the batch, where the file does not say it; may be repeated.",
        record="input_shapes",
        kw_only=True,
    )


def only_option() -> Any:
    """`--only`: stages."""
    told = "Only this stage (name, glob or block); may be repeated."
    return option((), "--only", many=True, metavar="STAGE", help=told, title=MERGE, record="only")


def skip_option() -> Any:
    """`--skip`: stages."""
    told = "Not this stage; may be repeated."
    return option((), "--skip", many=True, metavar="STAGE", help=told, title=MERGE, record="skip")


def passes_option(**told: Any) -> Any:
    """`--no-pass`: names of passes."""
    known = {"metavar": "PASS", "help": "Leave one pass out; may be repeated.", "title": MERGE}
    return option((), "--no-pass", many=True, **{**known, **told})


def fixed_size_option() -> Any:
    """`--fixed-size`: what exact rewrites may count on."""
    told = "Images always have the size in the file: make exact rewrites that hold at that size alone (docs/exact.md)."
    return option(False, "--fixed-size", help=told, title="", record="fixed_size?")


def check_option(told: str) -> Any:
    """`--check`: a comparison in real Caffe."""
    return option(False, "--check", help=told, title=MEASURE, kw_only=True)


def caffe_option() -> Any:
    """`--caffe`: the place of real Caffe."""
    told = "Where real Caffe is: its prefix, its binary or a Python with pycaffe. [env: REBIRTH_CAFFE]"
    text = (
        "Where real Caffe is: its prefix, its binary or a Python with pycaffe. `rebirth run --caffe` must say so too."
    )
    return option(None, "--caffe", metavar="PATH", help=told, title=ENGINE, schedule=text, kw_only=True)


def python_layers_option() -> Any:
    """`--python-layers`: the command line opens the gate of `engines.caffe.python_layers` while a command lasts."""
    told = "Let real Caffe run the code of the net's Python layers. [env: REBIRTH_PYTHON_LAYERS=1]"
    return option(False, "--python-layers", help=told, title=ENGINE, kw_only=True)


@contextmanager
def python_layers_allowed() -> Iterator[None]:
    """Does what `--python-layers` says while it is entered, for processes that are started meanwhile too."""
    before = os.environ.get(PYTHON_LAYERS)
    os.environ[PYTHON_LAYERS] = "1"
    try:
        yield
    finally:
        if before is None:
            del os.environ[PYTHON_LAYERS]
        else:
            os.environ[PYTHON_LAYERS] = before


def force_option(told: str = "Write into an output directory that is not empty.") -> Any:
    """`--force`: what is written over."""
    return option(False, "--force", help=told, title=OUTPUT, kw_only=True)


def replace_option() -> Any:
    """`--force` of a command that writes a file."""
    return force_option("Replace the file if it is there.")


@dataclass(frozen=True)
class EngineOptions:
    """What is said about the engine.

    Attributes:
        cache: of the embedded engine: bytes to keep what never changes in a training, 0: none; None: a quarter of the
            free memory.
        python_layers: whether the command line said so; see `python_layers_option`.
    """

    TITLE: ClassVar[str] = ENGINE

    name: str = option(
        "auto",
        "--engine",
        kind=OneOf(ENGINES),
        shown=True,
        help="Real Caffe, or the embedded one; auto: the faster one that runs the net.",
        schedule="Real Caffe, or the embedded engine; auto: the faster one that runs the net.",
    )
    device: str | None = option(
        None,
        "--device",
        kind=OneOf(("cpu", "cuda", "mps")),
        help="Device of the embedded engine.",
        schedule="Of the embedded engine.",
    )
    precision: str | None = option(
        None,
        "--precision",
        kind=OneOf(("fp32", "bf16")),
        help="Precision of the embedded engine.",
        schedule="Of the embedded engine.",
    )
    threads: int | None = option(
        None,
        "--threads",
        kind=Whole(1, 1024),
        help="Threads of the engine. [default: as many as it takes]",
        schedule="Of either; left out: as many as it takes.",
    )
    caffe: str | None = caffe_option()
    cache: int | None = None
    python_layers: bool = python_layers_option()


@dataclass(frozen=True)
class PictureOptions:
    """What is said about how pictures are prepared.

    Attributes:
        resize: height and width that each picture is brought to.
        crop: side of the square cut out of its middle; 0: none is.
    """

    TITLE: ClassVar[str] = PICTURES

    resize: tuple[int, int] | None = None
    crop: int | None = None
    mean_value: tuple[float, ...] = option(
        (),
        "--mean-value",
        kind=MEANS,
        takes=lambda typed: typed or (),
        says=lambda value: value or None,
        help="Numbers to take off pixels: blue, green, red, or one for all.",
        schedule=(
            "What is taken off pixels: blue, green, red, or one for all; left out: as the net's own data layer does it."
        ),
    )
    mean_file: Path | None = option(
        None,
        "--mean-file",
        "--mean",
        kind=FILE,
        help="Or a mean picture (binaryproto) to take off.",
        schedule="Or a mean picture (binaryproto).",
    )
    scale: float | None = option(
        None,
        "--scale",
        kind=Real(),
        help="What values are multiplied by then.",
        schedule="What values are multiplied by then; left out: as the net's own data layer does it.",
    )
    raw_pixels: bool = option(
        False, "--raw-pixels", help="Take pixels as they are, from 0 to 255.", schedule="Pixels go in as they are."
    )
    transform_from: Path | None = option(
        None,
        "--transform-from",
        kind=FILE,
        help="Prepare pictures as this net's data layer for TEST does.",
        schedule="Prepare pictures as this net's data layer for TEST does.",
    )

    @property
    def says(self) -> bool:
        """Whether it says what happens to the values of pixels."""
        return self.mean_file is not None or bool(self.mean_value) or self.scale is not None or self.raw_pixels

    def verify(self, given: Collection[str]) -> None:
        """Raises UsageError for what excludes each other."""
        if self.mean_file is not None and self.mean_value:
            raise UsageError("--mean-file and --mean-value exclude each other")
        if self.raw_pixels and (self.mean_file is not None or self.mean_value or self.scale is not None):
            raise UsageError("--raw-pixels excludes --mean-value, --mean-file and --scale")


@dataclass(frozen=True)
class SizedPictureOptions(PictureOptions):
    """The same, and how large pictures are made."""

    resize: tuple[int, int] | None = option(
        None, "--resize", kind=SIZE, help="What pictures are resized to. [default: as the data, the mean or the net]"
    )
    crop: int | None = option(
        None, "--crop", kind=Whole(0, 2**15), help="The middle square; 0: none. [default: the net's size]"
    )


@dataclass(frozen=True)
class CalibrationOptions:
    """Where calibration data comes from."""

    TITLE: ClassVar[str] = PICTURES

    source: str = option(
        None,
        "--calibrate",
        metavar="SOURCE",
        schedule=(
            '"own": the net\'s own data layer in TRAIN, "own-test": in TEST; else an LMDB, LevelDB, folder, or text '
            "file that\nlists pictures."
        ),
        record="calibrate",
    )
    samples: int = option(
        256,
        "--samples",
        kind=Whole(1, 1_000_000),
        shown=True,
        help="How many of its images count.",
        schedule="How many images at most.",
        record="samples",
    )
    pictures: PictureOptions = group(PictureOptions, merged=True)
    engine: EngineOptions = group(EngineOptions, lent=True)

    def read_files(self) -> tuple[Path | None, ...]:
        """The files that it names."""
        return (Path(self.source), self.pictures.mean_file, self.pictures.transform_from)

    def verify(self, given: Collection[str]) -> None:
        """Raises UsageError for what excludes each other."""
        if self.source in OWN_PHASES and self.pictures != PictureOptions():
            raise UsageError(f"--calibrate {self.source} is prepared as the net's data layer says; leave the rest out")


def calibration(
    what: str, samples: int = REFIT_SAMPLES, *, missing: str = "", usual: CalibrationOptions | None = None
) -> Any:
    """A group of `CalibrationOptions`.

    Args:
        what: what the help says the source is for.
        samples: how many images, by default.
        missing: what to say where there is no source and there has to be one.
        usual: where there is no source, these. Without `missing` and this, there may be none.
    """
    told = f"{what}: LMDB, pictures, a list, own (the net's data layer in TRAIN) or own-test."
    changes: dict[str, dict[str, Any]] = {"source": {"help": told}, "samples": {"default": samples}}
    if usual is not None:
        changes["source"]["default"] = usual.source
    optional = not missing and usual is None
    kw_only = True if missing else MISSING
    return group(CalibrationOptions, optional=optional, missing=missing, usual=usual, changes=changes, kw_only=kw_only)


@dataclass(frozen=True)
class SolverOptions:
    """The paper's settings for one step of relearning.

    Attributes:
        clip_gradients: the norm that gradients are cut to; 0: none. None: as the lent solver says, else `usual_clip`.
        usual_clip: that norm where nobody says otherwise.
    """

    TITLE: ClassVar[str] = LEARN

    base_lr: float = option(0.001, "--base-lr", kind=POSITIVE, shown=True, help="The solver's learning rate.")
    stepsize: int | None = option(
        None,
        "--stepsize",
        kind=COUNT,
        help="Iterations until it falls, and falls again. [default: 4/9 of --max-iter, as in the paper]",
    )
    gamma: float = option(0.1, "--gamma", kind=POSITIVE, shown=True, help="What it is multiplied by then.")
    momentum: float = option(0.9, "--momentum", kind=Real(0, 1, below=True), shown=True, help="Momentum of SGD.")
    max_iter: int = option(90_000, "--max-iter", kind=COUNT, shown=True, help="Iterations in all.")
    lr_factor: float = option(
        10.0,
        "--lr-factor",
        kind=POSITIVE,
        shown=True,
        help="lr_mult of rebirth layers times this.",
        schedule="What a rebirth layer's lr_mult is multiplied by while its step lasts.",
        record="lr_factor",
    )
    clip_gradients: float | None = option(
        None,
        "--clip-gradients",
        kind=Real(0),
        help="Gradients are cut to this norm; 0: not. [default: the solver's, else 5; 0 with convert --paper]",
    )
    usual_clip: float = CLIP

    @property
    def falls_every(self) -> int:
        """The iterations between two falls of the rate."""
        return self.stepsize if self.stepsize is not None else max(1, round(self.max_iter * PAPER_STEP))
