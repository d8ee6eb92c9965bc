"""Pictures into a net whose data comes from outside: which input takes them, prepared how, how many at once."""

from __future__ import annotations

import tempfile
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from deeprebirth_caffe.errors import RebirthError
from deeprebirth_caffe.inputs.pictures import Preprocessing, own_lender
from deeprebirth_caffe.ir import Net, Value, View, summarize, unknown_shape
from deeprebirth_caffe.ir.probe import probe, save_weights
from deeprebirth_caffe.options.shared import PictureOptions

if TYPE_CHECKING:
    from deeprebirth_caffe.engines.base import Engine, FloatArray, Forward

MOST_PICTURES = 64
MOST_BYTES = 1 << 30
"""How many pictures run at once, and what the blobs of the net may take then."""


def picture_input(path: Path, view: View) -> Value:
    """The input that takes the pictures."""
    for value in view.fed:
        if value.shape is None:
            raise RebirthError(unknown_shape(value))
    found = next((value for value in view.fed if value.shape is not None and len(value.shape) == 4), None)
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
    for value in view.fed:
        if value.name not in found and value.shape is not None:
            found[value.name] = np.zeros((count, *value.shape[1:]), np.float32)
    return found


def through(
    engine: Engine,
    net: Net,
    view: View,
    batches: Iterable[Mapping[str, FloatArray]],
    blobs: Sequence[str],
    weights: Path | None = None,
    *,
    up_to: Collection[Value] | None = None,
) -> Iterator[tuple[Mapping[str, FloatArray], dict[str, FloatArray]]]:
    """Runs batches through a net in which Input layers stand for its data.

    Args:
        engine: what runs it.
        net: it, with its weights.
        view: which of its views.
        batches: arrays by input; those that the net does not have are left out. The first says the shapes.
        blobs: what to give back.
        weights: their file; None: one is made of the net's own.
        up_to: run only what these values depend on; None: all.

    Yields:
        Each batch, and its blobs.
    """
    run: Forward | None = None
    inputs: set[str] = set()
    with tempfile.TemporaryDirectory(prefix="rebirth-batches-") as folder, ExitStack() as stack:
        for batch in batches:
            if run is None:
                shapes = {name: tuple(array.shape) for name, array in batch.items()}
                made = probe(net, view, shapes=shapes, up_to=up_to)
                inputs = {top for layer in made.layers if layer.fed for top in layer.tops}
                path = Path(folder) / "net.prototxt"
                path.write_text(made.text(), encoding="utf-8")
                if weights is None and net.weights is not None:
                    weights = Path(folder) / "net.caffemodel"
                    save_weights(weights, net, net.weights)
                run = stack.enter_context(engine.loaded(path, weights))
            yield batch, run({name: array for name, array in batch.items() if name in inputs}, blobs)
