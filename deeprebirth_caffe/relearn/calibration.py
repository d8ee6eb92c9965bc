"""What a net's layers read of calibration data, which needs no labels: `--calibrate SOURCE`."""

from __future__ import annotations

import tempfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from math import ceil
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from deeprebirth_caffe.engines.choose import choose
from deeprebirth_caffe.errors import RebirthError
from deeprebirth_caffe.formats.files import read_regular_text
from deeprebirth_caffe.formats.prototxt import format_message
from deeprebirth_caffe.formats.records import datum_shape
from deeprebirth_caffe.inputs.feeding import at_once, picture_input, preprocessing_for, through, with_zeros
from deeprebirth_caffe.inputs.pictures import find_pictures, lender_of, own_lender, spell, transformation
from deeprebirth_caffe.inputs.roots import find_root
from deeprebirth_caffe.inputs.sources import (
    batch_of,
    check_sources,
    count_records,
    reads_source,
    set_batch,
    source_layers,
    source_of,
)
from deeprebirth_caffe.ir import Layer, Net, NetError, View
from deeprebirth_caffe.ir.subnet import ruleless
from deeprebirth_caffe.ir.weights import Array
from deeprebirth_caffe.numerics.moments import SecondMoment
from deeprebirth_caffe.options.shared import OWN_PHASES, CalibrationOptions
from deeprebirth_caffe.proto import caffe_pb2 as pb

if TYPE_CHECKING:
    from deeprebirth_caffe.engines.base import FloatArray

_DATABASES = {"data.mdb": "LMDB", "CURRENT": "LEVELDB"}

Blobs = Mapping[str, "FloatArray"]


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
) -> dict[str, Array]:
    """The second moment of what each layer reads.

    Returns:
        By layer, as `numerics.moments.SecondMoment` gives it; one that says nothing is left out.
    """
    sums: dict[tuple[str, int | None], SecondMoment] = {}
    images = 0
    view = net.view("TEST")
    blobs = sorted({one.blob for one in readings})
    batches = calibration_inputs(path, net, options, notes)
    engine = choose(options.engine, [view]).engine
    for batch, found in through(engine, net, view, batches, blobs, weights):
        for key in dict.fromkeys((one.blob, one.axis) for one in readings):
            vectors = _vectors(found[key[0]], key[1])
            sums.setdefault(key, SecondMoment(vectors.shape[1])).add(vectors)
        images += len_of(batch)
    notes.append(f"calibrated on {images} images of {options.source}")
    kept: dict[str, Array] = {}
    for one in readings:
        moment = sums[one.blob, one.axis]
        value = moment.value
        if not np.isfinite(value).all():
            notes.append(f'{one.layer}: "{one.blob}" is not finite on the calibration data, which does not count there')
        elif not value.any():
            notes.append(f'{one.layer}: "{one.blob}" is all zero on the calibration data, which does not count there')
        else:
            kept[one.layer] = value
            if moment.count < len(value):
                notes.append(f'{one.layer}: {moment.count} vectors of "{one.blob}" for {len(value)} inputs are few')
    return kept


def _vectors(array: FloatArray, axis: int | None) -> FloatArray:
    """(images, size, places)."""
    if axis is None:
        return array.reshape(len(array), -1, 1)
    return array.reshape(int(np.prod(array.shape[:axis], dtype=int)), array.shape[axis], -1)


def calibration_inputs(
    path: Path, net: Net, options: CalibrationOptions, notes: list[str]
) -> Iterator[dict[str, FloatArray]]:
    """What a net reads of calibration data, batch by batch: an array for every input of its TEST view.

    An input that the source says nothing about, such as labels of pictures, is zero.

    Args:
        path: of the net, for where its own paths start.
        net: it; its data layers say how pictures and records are prepared.
        options: the source.
        notes: takes what people should know.

    Yields:
        By blob, float32, (images, ...); `options.samples` images in all, or as many as there are: none comes twice.

    Raises:
        RebirthError: the source cannot be read or counted, or the net has no input for it.
        UsageError: there is nothing at the source.
    """
    view = net.view("TEST")
    if options.source in OWN_PHASES:
        batches = _from_own(path, net, view, options, notes)
    else:
        source = Path(options.source)
        backend = next((name for file, name in _DATABASES.items() if (source / file).is_file()), None)
        if backend is not None:
            batches = _from_database(path, net, view, options, backend, notes)
        else:
            batches = _from_pictures(path, net, view, options, notes)
    yield from batches


def len_of(batch: Blobs) -> int:
    """How many images a batch has."""
    return max((len(array) for array in batch.values()), default=0)


def _write(folder: Path, message: pb.NetParameter) -> Path:
    path = folder / "data.prototxt"
    path.write_text(format_message(message), encoding="utf-8")
    return path


def _tell(notes: list[str], text: str) -> None:
    """Notes something once, however often the images are read."""
    if text not in notes:
        notes.append(text)


def _there(options: CalibrationOptions, count: int | None, notes: list[str]) -> int:
    """How many images to take of a source that has so many, if that is known; says so where they are too few.

    Data layers read on from the beginning, and an image that counts twice says nothing new.
    """
    if count is None or count >= options.samples:
        return options.samples
    _tell(notes, f"{options.source} has {count} images, and {options.samples} were asked for; each counts once")
    return count


def _first(batches: Iterable[dict[str, FloatArray]], images: int) -> Iterator[dict[str, FloatArray]]:
    """As many images of some batches, the last of which is cut."""
    for batch in batches:
        yield {name: array[:images] for name, array in batch.items()}
        images -= len_of(batch)
        if images <= 0:
            return


def _from_own(
    path: Path, net: Net, view: View, options: CalibrationOptions, notes: list[str]
) -> Iterator[dict[str, FloatArray]]:
    """What the net's own data layers give; those that only take arrays get zeros."""
    phase = OWN_PHASES[options.source]
    try:
        alive = net.view(phase).layers
    except NetError:  # a file that is for one phase alone
        alive = []
    fed = [layer for layer in alive if layer.fed and not layer.traits.given]
    layers = [layer for layer in fed if reads_source(layer)]
    if not layers:
        other = (
            ", or use the pictures of TEST: --calibrate own-test" if phase == "TRAIN" and source_layers(view) else ""
        )
        raise RebirthError(
            f"{path}: it has no data layer of its own in {phase}; name a source: --calibrate SOURCE{other}"
        )
    given = {top for layer in fed for top in layer.tops}
    for value in view.fed:
        if value.shape is not None and len(value.shape) > 2 and value.name not in given:
            raise RebirthError(
                f'{path}: what it reads in {phase} has no "{value.name}", which TEST reads; --calibrate own-test, or '
                "another source"
            )
    root = find_root([source_of(layer) for layer in layers], path)
    check_sources(layers, root)
    message = _bare(net)
    for layer in fed:
        message.layer.add().CopyFrom(_as_tested(layer, view))
    blobs = [top for layer in message.layer for top in layer.top]
    for layer, param in zip(fed, message.layer, strict=True):
        if reads_source(layer):
            said = "; ".join(spell(param.transform_param))
            _tell(notes, f"{options.source}: layer {layer.name} in {phase}: {source_of(layer)}; {said}")
    counts = [count_records(layer, root, options.samples) for layer in layers]
    # Of several that are read side by side, the longest tells when all has been there.
    count = None if None in counts else max(one for one in counts if one is not None)
    images = _there(options, count, notes)
    engine = choose(options.engine, [view]).engine
    with tempfile.TemporaryDirectory(prefix="rebirth-calibrate-") as folder:
        probe = _write(Path(folder), message)
        labels: set[float] = set()
        for batch in _first(engine.batches(probe, None, images, blobs, root=root), images):
            labels.update(
                value for layer in layers for top in layer.tops[1:] for value in batch[top].reshape(-1)[:images]
            )
            yield with_zeros(view, batch)
    if len(labels) == 1 < images:
        notes.append(f"{options.source}: all {images} images are of one class; a database in mixed order says more")


def _as_tested(layer: Layer, view: View) -> pb.LayerParameter:
    """A data layer that reads its own records, from the first on, as the one of TEST for the same blob prepares them.

    Without one in TEST, pictures are only not mirrored.
    """
    made = ruleless(layer)
    param = made.param
    for part in ("data_param", "image_data_param"):
        if param.HasField(part):
            getattr(param, part).ClearField("rand_skip")
    if param.HasField("image_data_param"):
        param.image_data_param.ClearField("shuffle")
    if param.HasField("hdf5_data_param"):
        param.hdf5_data_param.ClearField("shuffle")
    twin = next((one for one in view.layers if one.fed and one.tops[:1] == layer.tops[:1]), None)
    if twin is None:
        param.transform_param.ClearField("mirror")
    elif twin is not layer:
        param.ClearField("transform_param")
        if twin.param.HasField("transform_param"):
            param.transform_param.CopyFrom(twin.param.transform_param)
        if reads_source(layer) and reads_source(twin):
            set_batch(made, batch_of(twin))
    return param


def _from_database(
    path: Path, net: Net, view: View, options: CalibrationOptions, backend: str, notes: list[str]
) -> Iterator[dict[str, FloatArray]]:
    """Reads another source with a data layer that prepares records as the net's own does."""
    target = picture_input(path, view)
    lender = options.pictures.transform_from
    own = lender_of(lender) if lender is not None else own_lender(net, path)
    message = _bare(net)
    made = message.layer.add(name="data", type="Data", top=[target.name])
    made.transform_param.CopyFrom(transformation(options.pictures, own, str(path)))
    made.data_param.source = str(Path(options.source).absolute())
    made.data_param.backend = pb.DataParameter.LMDB if backend == "LMDB" else pb.DataParameter.LEVELDB
    assert target.shape is not None, "picture_input looks at it"
    stored = datum_shape(made.data_param.source, backend)
    if own is None and stored is not None and target.shape[2] == target.shape[3] < min(stored[1:]):
        made.transform_param.crop_size = target.shape[2]
    _tell(notes, f"records of {options.source}: {'; '.join(spell(made.transform_param))}")
    images = _there(options, count_records(Layer(made), Path(), options.samples), notes)
    size = made.data_param.batch_size = min(at_once(view, target), images)
    engine = choose(options.engine, [view]).engine
    with tempfile.TemporaryDirectory(prefix="rebirth-calibrate-") as folder:
        probe = _write(Path(folder), message)
        for batch in _first(engine.batches(probe, None, ceil(images / size), [target.name]), images):
            yield with_zeros(view, batch)


def _from_pictures(
    path: Path, net: Net, view: View, options: CalibrationOptions, notes: list[str]
) -> Iterator[dict[str, FloatArray]]:
    target = picture_input(path, view)
    preprocessing = preprocessing_for(options.pictures, path, net, target)
    _tell(notes, preprocessing.said)
    files = find_pictures(listed(options.source))
    # Spread over all of them: folders are often sorted by class.
    images = _there(options, len(files), notes)
    files = files[:: max(1, len(files) // max(1, images))][:images]
    size = at_once(view, target)
    for start in range(0, len(files), size):
        yield with_zeros(view, {target.name: preprocessing.read(files[start : start + size])})


def _bare(net: Net) -> pb.NetParameter:
    """A net without layers under the name of another."""
    return pb.NetParameter(name=net.header.name)


def listed(source: str) -> list[str]:
    """The pictures that a text file names, first on each line, beside it; anything else names itself."""
    path = Path(source)
    if path.suffix.lower() not in (".txt", ".lst", ".list") or not path.is_file():
        return [source]
    names = [line.split()[0] for line in read_regular_text(path).splitlines() if line.strip()]
    if not names:
        raise RebirthError(f"{path}: this list names no picture")
    return [str(name if (name := Path(one)).is_absolute() else path.parent / name) for one in names]
