"""Pictures as records of a database, equal to convert_imageset's byte by byte."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from google.protobuf.message import DecodeError
from numpy.typing import NDArray

from deeprebirth_caffe.data.decode import COLOR, GRAY, NATIVE, BadRecordError, Picture, decode, opencv
from deeprebirth_caffe.formats.files import read_regular
from deeprebirth_caffe.proto import caffe_pb2 as pb

AS_IS = "as-is"
"""The file's bytes; if it is resized, encoded again in the same format."""

LARGEST = 2**31 - 2**16
"""Bytes in one record: a message ends at 2 GiB."""


@dataclass(frozen=True)
class RecordFormat:
    """How a picture is stored.

    Attributes:
        height: to resize to; 0: no resizing.
        width: to resize to; 0: no resizing.
        gray: whether to read gray; else BGR.
        encoded: "" (raw pixels), "as-is", or the format: "jpg", "png".
    """

    height: int = 0
    width: int = 0
    gray: bool = False
    encoded: str = ""


@dataclass(frozen=True)
class Record:
    """A picture's Datum, serialised, and (channels, height, width)."""

    value: bytes
    shape: tuple[int, int, int]


def read_record(path: str, label: int, form: RecordFormat) -> Record:
    """Reads a picture and makes its record.

    Raises:
        BadRecordError: the picture cannot be read, decoded or stored.
    """
    data = _read(path)
    picture = decode(data, GRAY if form.gray else COLOR)
    if form.height and form.width:
        cv2 = opencv()
        picture = cv2.resize(picture, (form.width, form.height), interpolation=cv2.INTER_LINEAR)
    if form.encoded:
        return Record(encoded_datum(_encode(path, data, picture, form), label), _shape(picture))
    return raw_record(picture, label)


def raw_record(picture: Picture, label: int) -> Record:
    """Makes the record of pixels: height x width, or height x width x channels."""
    if picture.nbytes > LARGEST:
        raise BadRecordError("the picture is too large for one record; use --resize or --encoded")
    channels, height, width = _shape(picture)
    planes = picture if picture.ndim == 2 else picture.transpose(2, 0, 1)
    datum = pb.Datum(channels=channels, height=height, width=width, data=planes.tobytes(), label=label, encoded=False)
    return Record(datum.SerializeToString(), (channels, height, width))


def encoded_datum(data: bytes, label: int) -> bytes:
    """The record of an encoded picture, without its shape."""
    return pb.Datum(data=data, label=label, encoded=True).SerializeToString()


def stored_pixels(value: bytes) -> NDArray[Any]:
    """The pixels or numbers of a record, channels x height x width, decoded as compute_image_mean does.

    Raises:
        BadRecordError: it is no record, or its picture cannot be decoded.
    """
    try:
        datum = pb.Datum.FromString(value)
    except DecodeError as error:
        raise BadRecordError("it is no Datum") from error
    if datum.encoded:
        picture = decode(datum.data, NATIVE)
        return picture[None] if picture.ndim == 2 else picture.transpose(2, 0, 1)
    flat = np.frombuffer(datum.data, np.uint8) if datum.data else np.array(datum.float_data, np.float32)
    shape = (datum.channels, datum.height, datum.width)
    if min(shape) < 1 or flat.size != shape[0] * shape[1] * shape[2]:
        raise BadRecordError(f"it holds {flat.size} values, which do not fit its shape")
    return flat.reshape(shape)


def stored_shape(value: bytes, gray: bool) -> tuple[int, int, int]:
    """(channels, height, width) of a record; an encoded picture is read as gray or as BGR."""
    datum = pb.Datum.FromString(value)
    if datum.encoded:
        return _shape(decode(datum.data, GRAY if gray else COLOR))
    return datum.channels, datum.height, datum.width


def _read(path: str) -> bytes:
    try:
        return read_regular(path, LARGEST)
    except OSError as error:
        raise BadRecordError(f"cannot read it: {error.strerror or error}") from error
    except ValueError as error:  # the path has a NUL
        raise BadRecordError(f"cannot read it: {error}") from error


def _encode(path: str, data: bytes, picture: Picture, form: RecordFormat) -> bytes:
    suffix = Path(path).suffix[1:].lower()
    wanted = suffix if form.encoded == AS_IS else form.encoded
    if not (form.height and form.width) and (suffix == wanted or (suffix, wanted) == ("jpeg", "jpg")):
        if data[:4] == b"GIF8" or data[4:12] == b"ftypavif":
            raise BadRecordError("Caffe cannot decode this format; use --encoded png or jpg")
        return data
    if not wanted:
        wanted = "jpg" if data[:2] == b"\xff\xd8" else "png"
    cv2 = opencv()
    try:
        done, encoded = cv2.imencode(f".{wanted}", picture)
    except cv2.error:
        done = False
    if not done:
        raise BadRecordError(f"cannot encode it as {wanted}; use --encoded png or jpg")
    return bytes(encoded)


def _shape(picture: Picture) -> tuple[int, int, int]:
    height, width = picture.shape[:2]
    return (1 if picture.ndim == 2 else picture.shape[2], height, width)
