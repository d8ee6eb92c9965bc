"""What `rebirth tucker` may be told."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from deeprebirth_caffe.options.convert import RewriteOptions
from deeprebirth_caffe.options.fields import MERGE, OUTPUT, option
from deeprebirth_caffe.options.kinds import FILE, FOLDER, Real
from deeprebirth_caffe.options.shared import CalibrationOptions, calibration

VBMF = "vbmf"
DEFAULT_RATIO = 0.5


@dataclass(frozen=True)
class TuckerOptions(RewriteOptions):
    """What `rebirth tucker` is told; see its help."""

    suffix: ClassVar[str] = "-tucker"

    weights: Path | None = option(None, "-w", "--weights", kind=FILE, needed=True, help="Learned weights.")
    out: Path | None = option(
        None, "-o", "--out", kind=FOLDER, title=OUTPUT, help="Output directory. [default: <stem>-tucker beside the net]"
    )
    ratio: float | None = option(
        None,
        "--ratio",
        kind=Real(0, 1, above=True),
        title=MERGE,
        help="What part of the weights of these stages is left. [default: 0.5]",
        schedule="What part of the weights is left; left out: half, unless `ranks` says otherwise.",
        record="ratio",
    )
    ranks: str | None = option(
        None,
        "--ranks",
        metavar="vbmf|FILE",
        title=MERGE,
        help="Ranks by variational Bayes, or from a JSON file (docs/tucker.md).",
        schedule="`vbmf`, or a JSON file with ranks by layer.",
        record="ranks",
    )
    calibrate: CalibrationOptions | None = calibration("Weigh errors by what layers read of this", 256)

    def read_files(self) -> Iterator[Path | None]:
        """The files that the command reads."""
        yield from super().read_files()
        if self.ranks not in (None, VBMF):
            yield Path(str(self.ranks))
        if self.calibrate is not None:
            yield from self.calibrate.read_files()

    @property
    def budget(self) -> float | None:
        """The part of the weights that is left; None where something else decides."""
        return None if self.ranks is not None else self.ratio if self.ratio is not None else DEFAULT_RATIO
