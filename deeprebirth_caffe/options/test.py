"""What `rebirth test` may be told."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from deeprebirth_caffe.options.fields import MEASURE, OUTPUT, argument, group, needed, option
from deeprebirth_caffe.options.kinds import BATCHES, FILE, MAX_INT, OUT_FILE, Whole
from deeprebirth_caffe.options.shared import EngineOptions, replace_option

ITERATIONS = 50
"""As `caffe test`."""


@dataclass(frozen=True)
class TestOptions:
    """What `rebirth test` is told; see its help."""

    __test__ = False  # no test of pytest's, whatever its name

    net: Path = argument("net", FILE)
    weights: Path = needed("-w", "--weights", kind=FILE, help="The learned weights.")
    iterations: int = option(
        ITERATIONS,
        "--iterations",
        kind=BATCHES,
        title=MEASURE,
        shown=True,
        help="How many batches; all (or 0): each record once.",
    )
    engine: EngineOptions = group(EngineOptions)
    per_image: Path | None = option(
        None, "--per-image", kind=OUT_FILE, title=OUTPUT, help="Write a CSV table with a row an image."
    )
    stages: Sequence[str] = option((), "--stage", many=True, help="A stage of NetState; may be repeated.")
    level: int = option(0, "--level", kind=Whole(0, MAX_INT), help="The level of NetState.")
    force: bool = replace_option()
