"""What `rebirth deploy` may be told."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from deeprebirth_caffe.options.fields import LEARN, OUTPUT, argument, needed, option
from deeprebirth_caffe.options.kinds import COUNT, FILE, FOLDER, NET
from deeprebirth_caffe.options.shared import (
    caffe_option,
    check_option,
    fixed_size_option,
    force_option,
    passes_option,
    python_layers_option,
    shapes_option,
)


@dataclass(frozen=True)
class DeployOptions:
    """What `rebirth deploy` is told; see its help.

    Attributes:
        shared: whether the output directory is meant to hold other files too, so that nothing is said of them.
    """

    net: Path = argument("net", NET)
    weights: Path = needed("-w", "--weights", kind=FILE, help="The learned weights.")
    out: Path = needed("-o", "--out", kind=FOLDER, title=OUTPUT, help="Output directory.")
    batch: int | None = option(
        None,
        "--batch",
        kind=COUNT,
        title=LEARN,
        help="Images of a pass. [default: 1; where NET has inputs, its own]",
        record="batch",
    )
    skip_passes: tuple[str, ...] = passes_option()
    fixed_size: bool = fixed_size_option()
    input_shapes: Mapping[str, tuple[int, ...]] = shapes_option()
    check: bool = check_option("Compare the net before and after in real Caffe.")
    caffe: str | None = caffe_option()
    python_layers: bool = python_layers_option()
    force: bool = force_option()
    shared: bool = False
