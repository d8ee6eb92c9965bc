"""Labels that a loss would take for a class that is not there: Caffe reads beyond its memory then, without a word."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from google.protobuf.message import DecodeError

from deeprebirth_caffe.errors import RebirthError
from deeprebirth_caffe.formats.files import read_regular_text
from deeprebirth_caffe.inputs.sources import source_layers, source_of
from deeprebirth_caffe.ir import Layer, Value, View
from deeprebirth_caffe.proto import caffe_pb2 as pb

MAX_RECORDS = 10_000
MAX_BYTES = 1 << 26
"""How much of a database is looked at; a list of pictures is read whole."""


@dataclass(frozen=True)
class Judge:
    """A layer that takes class numbers.

    Attributes:
        layer: the loss or the Accuracy.
        axis: of the classes in its first bottom.
        classes: how many there are; None where the shape is not known.
        ignored: the label that it passes over.
    """

    layer: Layer
    axis: int
    classes: int | None
    ignored: int | None


def judge_of(view: View, layer: Layer) -> Judge | None:
    """What a layer wants of the labels in its second bottom; None where it takes no class numbers."""
    if not layer.traits.class_labels or len(view.ins[layer]) < 2:
        return None
    shape = view.ins[layer][0].shape
    accuracy = layer.type == "Accuracy"
    param: Any = layer.param.accuracy_param if accuracy else layer.param.loss_param
    axis = 1
    if accuracy:
        axis = param.axis
    elif layer.type == "SoftmaxWithLoss":
        axis = layer.param.softmax_param.axis
    elif layer.type == "InfogainLoss":
        axis = layer.param.infogain_loss_param.axis
    known = shape is not None and -len(shape) <= axis < len(shape)
    ignored = int(param.ignore_label) if param.HasField("ignore_label") else None
    return Judge(layer, axis, int(shape[axis]) if shape is not None and known else None, ignored)


def check_labels(view: View, root: Path) -> None:
    """Refuses data whose first records have labels that a loss of the net does not know.

    Args:
        view: of the net.
        root: where relative paths start.

    Raises:
        RebirthError: it names the record.
    """
    sources = source_layers(view)
    judges: dict[Value, list[Judge]] = {}
    for layer in view.layers:
        judge = judge_of(view, layer)
        if judge is not None and judge.classes is not None and view.ins[layer][1].producer in sources:
            judges.setdefault(view.ins[layer][1], []).append(judge)
    for label, wanting in judges.items():
        source = label.producer
        assert source is not None
        where = f'layer "{source.name}": {source_of(source)}'
        try:
            for key, value in _labels(source, label.name, root):
                _check(where, key, value, wanting)
        except DecodeError as error:
            raise RebirthError(f"{where}: {error}") from error


def _check(where: str, key: str, value: float, judges: Sequence[Judge]) -> None:
    for judge in judges:
        if judge.classes is not None and value != judge.ignored and not 0 <= value < judge.classes:
            raise RebirthError(
                f'{where}: record {key} has label {value}, and "{judge.layer.name}" knows {judge.classes} classes, '
                f"0 to {judge.classes - 1}; correct the label or the number of outputs"
            )


def _labels(layer: Layer, top: str, root: Path) -> Iterator[tuple[str, float]]:
    """Key and label of a source's first records; those that cannot be read are somebody else's matter."""
    from deeprebirth_caffe.data.listing import label_of

    path = root / source_of(layer)
    if layer.type == "Data":
        yield from _database(path, pb.DataParameter.DB.Name(layer.param.data_param.backend))
    elif layer.type == "ImageData":
        for line in read_regular_text(path).splitlines():
            name, _, label = line.strip().rpartition(" ")  # Caffe splits at the last space
            if name:
                with contextlib.suppress(ValueError):
                    yield name, label_of(label)
    elif layer.type == "HDF5Data":
        yield from _hdf5(path, top, root)


def _database(path: Path, backend: str) -> Iterator[tuple[str, int]]:
    from deeprebirth_caffe.formats.stores import open_cursor

    try:
        cursor = open_cursor(path, backend)
    except RebirthError as error:
        raise DecodeError(str(error)) from error
    try:
        first, size = cursor.key(), 0
        for _ in range(MAX_RECORDS):
            try:
                datum = pb.Datum.FromString(bytes(cursor.value()))
            except DecodeError as error:
                # Caffe itself would go on with the pixels of the record before.
                raise DecodeError(f"record {_name(cursor.key())} is damaged; make the database anew") from error
            yield _name(cursor.key()), datum.label
            size += len(datum.data)
            cursor.advance()
            if cursor.key() == first or size > MAX_BYTES:
                break
    except RebirthError as error:
        raise DecodeError(f"behind record {_name(cursor.key())}: {error}") from error
    finally:
        cursor.close()


def _name(key: bytes) -> str:
    return key.decode("utf-8", "replace")


def _hdf5(listing: Path, top: str, root: Path) -> Iterator[tuple[str, float]]:
    from deeprebirth_caffe.formats.hdf5 import find_dataset, open_hdf5, told_as_damage

    name = next(line.strip() for line in read_regular_text(listing).splitlines() if line.strip())
    with told_as_damage(f"{name}: cut off or damaged at {top!r}"), open_hdf5(root / name) as file:
        labels = find_dataset(file, top)
        for row, value in enumerate(labels[...].reshape(-1) if labels is not None else ()):
            yield f"{row} of {name}", int(value) if math.isfinite(value) else float(value)
