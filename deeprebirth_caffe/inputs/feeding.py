"""Pictures into a net whose data comes from outside: which input takes them, prepared how, how many at once."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from deeprebirth_caffe.errors import RebirthError
from deeprebirth_caffe.inputs.pictures import PictureOptions, Preprocessing, own_lender
from deeprebirth_caffe.ir import Net, Value, View, summarize, unknown_shape
from deeprebirth_caffe.ir.probe import is_fed

if TYPE_CHECKING:
    from deeprebirth_caffe.engines.base import FloatArray

MOST_PICTURES = 64
MOST_BYTES = 1 << 30
"""How many pictures run at once, and what the blobs of the net may take then."""


def fed_values(view: View) -> list[Value]:
    """What comes from outside."""
    return [*view.inputs, *(value for layer in view.layers if is_fed(layer) for value in view.outs[layer])]


def picture_input(path: Path, view: View) -> Value:
    """The input that takes the pictures."""
    fed = fed_values(view)
    for value in fed:
        if value.shape is None:
            raise RebirthError(unknown_shape(value))
    found = next((value for value in fed if value.shape is not None and len(value.shape) == 4), None)
    if found is None:
        raise RebirthError(f"{path}: it has no input of four axes (pictures, channels, height, width)")
    return found


def preprocessing_for(options: PictureOptions, path: Path, net: Net, target: Value) -> Preprocessing:
    """How pictures are prepared for an input, where nothing else is said as the net's own data layer does it.

    Args:
        options: what the user says.
        path: of the net, for where its own paths start.
        net: it.
        target: the input.
    """
    assert target.shape is not None
    return Preprocessing(options, target.shape, own_lender(net, path), str(path))


def at_once(view: View, target: Value, most_bytes: int = MOST_BYTES) -> int:
    """How many pictures run together, so that the blobs of the net take no more than that."""
    assert target.shape is not None
    size = summarize(view).memory_bytes
    return max(1, min(MOST_PICTURES, most_bytes // size)) if size else MOST_PICTURES


def with_zeros(view: View, given: Mapping[str, FloatArray]) -> dict[str, FloatArray]:
    """What is given, and zeros for every other input, such as labels."""
    found = dict(given)
    count = max(len(array) for array in given.values())
    for value in fed_values(view):
        if value.name not in found and value.shape is not None:
            found[value.name] = np.zeros((count, *value.shape[1:]), np.float32)
    return found
