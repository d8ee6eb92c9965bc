"""What `rebirth export` may be told."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from deeprebirth_caffe.options.fields import argument, needed, option
from deeprebirth_caffe.options.kinds import COUNT, FILE, NET, OUT, Whole
from deeprebirth_caffe.options.shared import (
    caffe_option,
    check_option,
    python_layers_option,
    replace_option,
    shapes_option,
)


@dataclass(frozen=True)
class ExportOptions:
    """What `rebirth export` is told; see its help."""

    net: Path = argument("net", NET)
    weights: Path = needed("-w", "--weights", kind=FILE, help="The learned weights.")
    out: Path = needed("-o", "--out", kind=OUT, help="The ONNX file to write.")
    opset: int | None = option(
        None, "--opset", kind=Whole(), help="Version of ONNX's operators. [default: 13, which every reader knows]"
    )
    batch: int | None = option(None, "--batch", kind=COUNT, help="Bind the model to this batch. [default: any]")
    input_shapes: Mapping[str, tuple[int, ...]] = shapes_option()
    check: bool = check_option("Compare every output in ONNX Runtime with real Caffe.")
    caffe: str | None = caffe_option()
    python_layers: bool = python_layers_option()
    force: bool = replace_option()
