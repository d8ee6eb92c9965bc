"""What `rebirth distil` may be told."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path

from deeprebirth_caffe.errors import UsageError
from deeprebirth_caffe.options.fields import LEARN, OUTPUT, PICTURES, group, option
from deeprebirth_caffe.options.kinds import COUNT, FOLDER, POSITIVE
from deeprebirth_caffe.options.refit import ConversionOptions
from deeprebirth_caffe.options.shared import PictureOptions, force_option

ITERATIONS = 2000
BASE_LR = 0.0002
"""Adam's: blocks differ in how large their gradients are, and it takes steps of one size for all."""


@dataclass(frozen=True)
class DistilOptions(ConversionOptions):
    """What `rebirth distil` is told; see its help."""

    out: Path | None = option(
        None, "-o", "--out", kind=FOLDER, title=OUTPUT, help="Output directory. [default: DIR/distil]"
    )
    max_iter: int = option(
        ITERATIONS,
        "--max-iter",
        kind=COUNT,
        title=LEARN,
        shown=True,
        help="Iterations of the solver.",
        record="max_iter",
    )
    batch: int | None = option(
        None, "--batch", kind=COUNT, title=LEARN, help="Batch size of the training data layers.", record="batch"
    )
    base_lr: float = option(
        BASE_LR,
        "--base-lr",
        kind=POSITIVE,
        title=LEARN,
        shown=True,
        help="The solver's learning rate.",
        record="base_lr",
    )
    images: str | None = option(
        None,
        "--calibrate",
        metavar="PICTURES",
        title=PICTURES,
        help="Learn from these pictures, without labels: a folder, a pattern, a list. [default: the net's own data]",
        record="calibrate",
    )
    pictures: PictureOptions = group(PictureOptions)
    force: bool = force_option()

    def verify(self, given: Collection[str]) -> None:
        """Raises UsageError where there are no pictures to prepare."""
        if self.images is None and self.pictures != PictureOptions():
            raise UsageError("how pictures are prepared is said of --calibrate's; give it too")
