"""Arrays for a net: which blob takes which, and data layers that take them in place of their files."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from deeprebirth_caffe.engines.base import EngineError
from deeprebirth_caffe.ir import Layer, Net, View
from deeprebirth_caffe.ir.probe import probe
from deeprebirth_caffe.ops import Shape, all_ops

if TYPE_CHECKING:
    from deeprebirth_caffe.engines.base import Array, Engine, FloatArray

READ = frozenset(kind.type for kind in all_ops() if kind.data and kind.block)
"""Types that would look elsewhere for what the caller gives here."""


def need_files(net_path: Path | str, weights_path: Path | str | None) -> None:
    """Refuses files that are not there, in the same words for every engine.

    Raises:
        EngineError: one is missing.
    """
    for what, path in (("net", net_path), ("weights", weights_path)):
        if path is not None and not Path(path).is_file():
            raise EngineError(f"{path}: there is no such file for the {what}; check the path")


def by_name(
    input_array: Array | Mapping[str, Array], inputs: Sequence[str], net_path: Path | str
) -> Mapping[str, Array]:
    """Arrays by blob: a lone one is for the first input."""
    if isinstance(input_array, Mapping):
        return input_array
    if not inputs:
        raise EngineError(f"{net_path} has no input: give it an Input layer")
    return {inputs[0]: input_array}


def forward_once(
    engine: Engine,
    net_path: Path | str,
    weights_path: Path | str | None,
    input_array: Array | Mapping[str, Array],
    blobs: Sequence[str] | None,
) -> dict[str, FloatArray]:
    """Runs a net in phase TEST, once; see `Engine.forward`."""
    need_files(net_path, weights_path)
    weights = None if weights_path is None else Path(weights_path)
    with _fed(Path(net_path), input_array) as (path, given), engine.loaded(path, weights) as run:
        return run(given, blobs)


@contextmanager
def _fed(path: Path, input_array: Array | Mapping[str, Array]) -> Iterator[tuple[Path, Array | Mapping[str, Array]]]:
    """The file to load and its arrays: another file where data layers of the net have to become inputs."""
    net = Net.read(path)
    reading = [layer for layer in net.view("TEST").layers if layer.type in READ]
    if not reading:
        yield path, input_array
        return
    given = by_name(input_array, reading[0].tops, path)
    for layer in reading:
        first = given.get(layer.tops[0])
        if first is not None and first.ndim > 1:
            net.data[layer] = tuple(first.shape[1:])
    net.changed()
    view = net.view("TEST")
    shapes = {top: _shape(view, layer, top, given) for layer in reading for top in layer.tops}
    made = probe(net, view, fed=reading.__contains__, shapes=shapes)
    with tempfile.TemporaryDirectory(prefix="rebirth-fed-") as folder:
        copy = Path(folder) / path.name
        copy.write_text(made.text(), encoding="utf-8", errors="surrogateescape")
        yield copy, given


def _shape(view: View, layer: Layer, top: str, given: Mapping[str, Array]) -> Shape:
    """Of an array that is given; of one that is not, as many records as the layer's others have."""
    if top in given:
        return tuple(given[top].shape)
    batch = next((given[name].shape[:1] for name in layer.tops if name in given), None)
    value = next(value for value in view.outs[layer] if value.name == top)
    if value.shape is not None:
        return value.shape if batch is None else (*batch, *value.shape[1:])
    if batch is not None and top != layer.tops[0]:
        return tuple(batch)  # labels
    raise EngineError(f'give an array for blob "{top}": nothing says what shape layer "{layer.name}" gives it')
