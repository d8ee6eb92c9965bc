"""transform_param: crop, mirror, mean and scale, in Caffe's order and to the bit."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from deeprebirth_caffe.data.decode import COLOR, GRAY, NATIVE, BadRecordError, Picture, decode, opencv
from deeprebirth_caffe.data.paths import find_path, refuse
from deeprebirth_caffe.formats.blobs import read_blob
from deeprebirth_caffe.formats.files import read_regular
from deeprebirth_caffe.formats.wire import WireError
from deeprebirth_caffe.ops import Shape
from deeprebirth_caffe.ops.base import by
from deeprebirth_caffe.proto import caffe_pb2 as pb

FloatArray = NDArray[np.float32]


class Transform:
    """A data layer's transformation of a record.

    Attributes:
        mean: the mean picture, C x H x W, if any.
    """

    def __init__(self, param: pb.LayerParameter, train: bool, root: Path, scale: float | None = None) -> None:
        """Reads transform_param and its mean file.

        Raises:
            RebirthError: fields contradict each other, or the mean file cannot be used.
        """
        settings = param.transform_param
        if settings.HasField("mean_file") and settings.mean_value:
            refuse(param, "mean_file and mean_value cannot both be set")
        self._both = bool(settings.force_color and settings.force_gray)
        self._flag = COLOR if settings.force_color else GRAY if settings.force_gray else NATIVE
        self.crop = int(settings.crop_size)
        self.mirror = bool(settings.mirror)
        self._random_crop = bool(train and self.crop)
        self._scale = np.float32(settings.scale if scale is None else scale)
        self._values = np.array(settings.mean_value, np.float32)
        self.mean: FloatArray | None = None
        if settings.HasField("mean_file"):
            self.mean = _read_mean(param, settings.mean_file, root)

    def decode(self, data: bytes) -> Picture:
        """Decodes an encoded record.

        Raises:
            BadRecordError: the record cannot be decoded.
        """
        if self._both:
            raise BadRecordError("force_color and force_gray cannot both be set")
        return decode(data, self._flag)

    @property
    def random(self) -> bool:
        """Whether the transformation draws random numbers."""
        return self.mirror or self._random_crop

    def shape(self, channels: int, height: int, width: int) -> Shape:
        """(C, H, W) of the result, for a record of that shape.

        Raises:
            BadRecordError: it does not go with the settings.
        """
        if min(channels, height, width) < 1:
            raise BadRecordError(f"it has no values: {by((channels, height, width))}")
        if self.crop > min(height, width):
            raise BadRecordError(f"crop_size {self.crop} is larger than the picture, {height}x{width}")
        if self.mean is not None and self.mean.shape != (channels, height, width):
            raise BadRecordError(f"it is {by((channels, height, width))}, but the mean file {by(self.mean.shape)}")
        if self._values.size not in (0, 1, channels):
            raise BadRecordError(f"it has {channels} channel(s), but there are {self._values.size} mean_value entries")
        return (channels, self.crop or height, self.crop or width)

    def draw(self, rng: np.random.Generator, count: int) -> NDArray[np.float64]:
        """The random numbers of a batch: three a record, in [0, 1)."""
        return rng.random((count, 3))

    def apply(self, record: NDArray[Any], planar: bool, out: FloatArray, draws: NDArray[np.float64] | None) -> None:
        """Writes one record, transformed.

        Args:
            record: C x H x W if `planar`, else H x W (x C).
            planar: see `record`.
            out: the result, C x H x W.
            draws: the record's random numbers, if any.

        Raises:
            BadRecordError: the record does not fit the settings or `out`.
        """
        height, width = record.shape[1:] if planar else record.shape[:2]
        channels = record.shape[0] if planar else 1 if record.ndim == 2 else record.shape[2]
        if self.shape(channels, height, width) != out.shape:
            same = out.shape[0] == channels
            hint = "records of several sizes need crop_size" if same else "all need as many channels"
            raise BadRecordError(
                f"it is {by((channels, height, width))}, where the batch's first record makes {by(out.shape)}: {hint}"
            )
        top = left = 0
        mirrored = bool(self.mirror and draws is not None and draws[0] >= 0.5)
        if self.crop:
            top, left = (height - self.crop) // 2, (width - self.crop) // 2
            if self._random_crop and draws is not None:
                top = int(draws[1] * (height - self.crop + 1))
                left = int(draws[2] * (width - self.crop + 1))
        rows, columns = slice(top, top + out.shape[1]), slice(left, left + out.shape[2])
        step = -1 if mirrored else 1
        if planar:
            out[...] = record[:, rows, columns][:, :, ::step]
        else:
            cut = record[rows, columns]
            spread(opencv().flip(cut, 1) if mirrored else cut, out)
        self.finish(out, rows, columns, step)

    def finish(self, out: FloatArray, rows: slice, columns: slice, step: int = 1) -> None:
        """Subtracts the mean and scales.

        Args:
            out: the planes, mirrored if asked.
            rows: of the mean picture.
            columns: of the mean picture.
            step: -1 if they are mirrored.
        """
        if self.mean is not None:
            out -= self.mean[:, rows, columns][:, :, ::step]
        elif self._values.size:
            out -= self._values[:, None, None]
        if self._scale != 1:
            out *= self._scale


def spread(pixels: NDArray[np.uint8], out: FloatArray) -> None:
    """Pixels, H x W (x C), to planes."""
    planes = (pixels,) if pixels.ndim == 2 else opencv().split(pixels)
    for plane, target in zip(planes, out, strict=True):
        target[...] = plane


def _read_mean(param: pb.LayerParameter, name: str, root: Path) -> FloatArray:
    path = find_path(name, root)
    try:
        data = read_regular(path)
    except OSError as error:
        refuse(param, f"mean_file {path}: cannot read it ({error.strerror})", error)
    try:
        blob = read_blob(data, 0, len(data)).array
    except (WireError, ValueError) as error:
        refuse(param, f"mean_file {path}: no binaryproto of a mean ({error})", error)
    # Caffe counts axes from the front and reads missing axes as 1; of several images it uses the first.
    shape = blob.shape + (1,) * (4 - blob.ndim)
    if len(shape) > 4 or min(shape) < 1:
        refuse(param, f"mean_file {path}: its shape {by(blob.shape)} is not that of a picture")
    return np.ascontiguousarray(blob.reshape(shape)[0], np.float32)
