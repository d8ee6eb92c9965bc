"""What a net's layers read of calibration data, which needs no labels: `--calibrate SOURCE`."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from math import ceil
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from deeprebirth_caffe.engines.probe import probe_message
from deeprebirth_caffe.errors import RebirthError
from deeprebirth_caffe.formats.prototxt import format_message
from deeprebirth_caffe.ir import Net, View
from deeprebirth_caffe.numerics.moments import SecondMoment
from deeprebirth_caffe.proto import caffe_pb2 as pb
from deeprebirth_caffe.workflows.choose import Choice, EngineOptions, choose
from deeprebirth_caffe.workflows.feeding import at_once, picture_input, preprocessing_for, with_zeros
from deeprebirth_caffe.workflows.pictures import PictureOptions, data_layer, find_pictures
from deeprebirth_caffe.workflows.roots import find_root
from deeprebirth_caffe.workflows.sources import check_sources, source_layers, source_of

if TYPE_CHECKING:
    from deeprebirth_caffe.engines.base import FloatArray

OWN = "own"
"""The source that means the net's own data layer in TEST."""
_DATABASES = {"data.mdb": "LMDB", "CURRENT": "LEVELDB"}

Blobs = Mapping[str, "FloatArray"]


@dataclass(frozen=True)
class CalibrationOptions:
    """Where calibration data comes from.

    Attributes:
        source: an LMDB or LevelDB, a picture, a folder or pattern of them, a text file that lists them, or `OWN`.
        samples: how many images at most.
        pictures: how they are prepared; by default as the net's own data layer does it.
        engine: what runs the net.
    """

    source: str
    samples: int = 256
    pictures: PictureOptions = field(default_factory=PictureOptions)
    engine: EngineOptions = field(default_factory=EngineOptions)


@dataclass(frozen=True)
class Reading:
    """What a layer reads.

    Attributes:
        layer: its name.
        blob: what it reads.
        axis: where its vectors lie in the blob; what is behind are their places. None: all behind the first axis is
            one vector.
    """

    layer: str
    blob: str
    axis: int | None


def read_moments(
    path: Path, net: Net, weights: Path, readings: Sequence[Reading], options: CalibrationOptions, notes: list[str]
) -> dict[str, Any]:
    """The second moment of what each layer reads.

    Args:
        path: of the net.
        net: it, with its weights.
        weights: their file.
        readings: of the layers.
        options: what to run through the net.
        notes: takes what people should know.

    Returns:
        By layer, as `numerics.moments.SecondMoment` gives it; one that says nothing is left out.
    """
    sums: dict[tuple[str, int | None], SecondMoment] = {}
    images = 0
    for batch in _batches(path, net, weights, sorted({one.blob for one in readings}), options, notes):
        sizes = {len(array) for array in batch.values()}
        for key in dict.fromkeys((one.blob, one.axis) for one in readings):
            vectors = _vectors(batch[key[0]], key[1])
            sums.setdefault(key, SecondMoment(vectors.shape[1])).add(vectors)
        images += max(sizes, default=0)
    notes.append(f"calibrated on {images} images of {options.source}")
    found: dict[str, Any] = {}
    for one in readings:
        moment = sums[one.blob, one.axis]
        value = moment.value
        if not np.isfinite(value).all():
            notes.append(f'{one.layer}: "{one.blob}" is not finite on the calibration data, which does not count there')
        elif not value.any():
            notes.append(f'{one.layer}: "{one.blob}" is all zero on the calibration data, which does not count there')
        else:
            found[one.layer] = value
            if moment.count < len(value):
                notes.append(f'{one.layer}: {moment.count} vectors of "{one.blob}" for {len(value)} inputs are few')
    return found


def _vectors(array: FloatArray, axis: int | None) -> FloatArray:
    """(images, size, places)."""
    if axis is None:
        return array.reshape(len(array), -1, 1)
    return array.reshape(int(np.prod(array.shape[:axis], dtype=int)), array.shape[axis], -1)


def _batches(
    path: Path, net: Net, weights: Path, blobs: Sequence[str], options: CalibrationOptions, notes: list[str]
) -> Iterator[Blobs]:
    view = net.view("TEST")
    choice = choose(options.engine, [view])
    if options.source == OWN:
        yield from _from_own(path, view, weights, blobs, options, choice)
        return
    source = Path(options.source)
    backend = next((name for file, name in _DATABASES.items() if (source / file).is_file()), None)
    if backend is not None:
        yield from _from_database(path, net, view, weights, blobs, options, choice, backend)
    else:
        yield from _from_pictures(path, net, view, weights, blobs, options, choice, notes)


def _from_own(
    path: Path, view: View, weights: Path, blobs: Sequence[str], options: CalibrationOptions, choice: Choice
) -> Iterator[Blobs]:
    layers = source_layers(view)
    if not layers:
        raise RebirthError(f"{path}: it has no data layer of its own in TEST; name a source: --calibrate SOURCE")
    root = find_root([source_of(layer) for layer in layers], path)
    check_sources(layers, root)
    made = 0
    for batch in choice.engine.batches(path, weights, options.samples, blobs, root=root):
        yield batch
        made += max(len(array) for array in batch.values())
        if made >= options.samples:
            return


def _from_database(
    path: Path,
    net: Net,
    view: View,
    weights: Path,
    blobs: Sequence[str],
    options: CalibrationOptions,
    choice: Choice,
    backend: str,
) -> Iterator[Blobs]:
    """Runs the net with a data layer of another source in its input's place."""
    target = picture_input(path, view)
    message = probe_message(net, view)
    fed = next(layer for layer in message.layer if target.name in layer.top)
    own = data_layer(net)
    size = min(at_once(view, target), options.samples)
    made = pb.LayerParameter(name=fed.name, type="Data", top=fed.top)
    if own is not None:
        made.transform_param.CopyFrom(own.param.transform_param)
        if made.transform_param.HasField("mean_file"):
            root = find_root([made.transform_param.mean_file, source_of(own)], path)
            made.transform_param.mean_file = str((root / made.transform_param.mean_file).absolute())
    made.data_param.source = str(Path(options.source).absolute())
    made.data_param.backend = pb.DataParameter.LMDB if backend == "LMDB" else pb.DataParameter.LEVELDB
    made.data_param.batch_size = size
    fed.CopyFrom(made)
    with tempfile.TemporaryDirectory(prefix="rebirth-calibrate-") as folder:
        probe = Path(folder) / "calibrate.prototxt"
        probe.write_text(format_message(message), encoding="utf-8")
        yield from choice.engine.batches(probe, weights, ceil(options.samples / size), blobs)


def _from_pictures(
    path: Path,
    net: Net,
    view: View,
    weights: Path,
    blobs: Sequence[str],
    options: CalibrationOptions,
    choice: Choice,
    notes: list[str],
) -> Iterator[Blobs]:
    target = picture_input(path, view)
    preprocessing = preprocessing_for(options.pictures, path, net, target)
    notes.append(preprocessing.said)
    files = find_pictures(_listed(options.source))
    # Spread over all of them: folders are often sorted by class.
    step = max(1, len(files) // options.samples)
    files = files[::step][: options.samples]
    size = at_once(view, target)
    with tempfile.TemporaryDirectory(prefix="rebirth-calibrate-") as folder, ExitStack() as stack:
        probe = Path(folder) / "calibrate.prototxt"
        probe.write_text(format_message(probe_message(net, view)), encoding="utf-8")
        run = stack.enter_context(choice.engine.loaded(probe, weights))
        for start in range(0, len(files), size):
            batch = preprocessing.read(files[start : start + size])
            yield run(with_zeros(view, target, batch), blobs)


def _listed(source: str) -> list[str]:
    """The pictures that a text file names, first on each line, beside it; anything else names itself."""
    path = Path(source)
    if path.suffix.lower() not in (".txt", ".lst", ".list") or not path.is_file():
        return [source]
    names = [line.split()[0] for line in path.read_text("utf-8", "surrogateescape").splitlines() if line.strip()]
    if not names:
        raise RebirthError(f"{path}: this list names no picture")
    return [str(name if (name := Path(one)).is_absolute() else path.parent / name) for one in names]
