"""The WindowData layer: windows cut out of pictures and warped to crop_size; some are background."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np

from deeprebirth_caffe.data.decode import BadRecordError, opencv, read_picture
from deeprebirth_caffe.data.listing import label_of
from deeprebirth_caffe.data.paths import find_path, refuse
from deeprebirth_caffe.data.reader import FloatArray, RawBatch, Reader, State
from deeprebirth_caffe.data.rng import BATCH, generator
from deeprebirth_caffe.data.transform import Transform, spread
from deeprebirth_caffe.formats.files import read_regular_text
from deeprebirth_caffe.ops.base import by
from deeprebirth_caffe.proto import caffe_pb2 as pb


class Window(NamedTuple):
    """A window: its picture's place in the list, its class, and its corners, which belong to it."""

    image: int
    label: int
    x1: int
    y1: int
    x2: int
    y2: int


@dataclass(frozen=True)
class Crop:
    """A window's place in the picture and in the crop.

    Attributes:
        x: first and last column of the picture.
        y: first and last row of the picture.
        width: after warping.
        height: after warping.
        left: free columns before it.
        top: free rows above it.
    """

    x: tuple[int, int]
    y: tuple[int, int]
    width: int
    height: int
    left: int
    top: int


class WindowReader(Reader):
    """Windows drawn at random, with replacement: first background, then objects."""

    def __init__(self, param: pb.LayerParameter, train: bool, root: Path, seed: int) -> None:
        """Reads the window file."""
        settings = param.window_data_param
        super().__init__(param, settings.batch_size)
        self._crop = int(param.transform_param.crop_size)
        if not self._crop:
            refuse(param, "transform_param must have a positive crop_size")
        if not settings.source:
            refuse(param, "no source given")
        if 2 * settings.context_pad >= self._crop:
            refuse(param, f"context_pad {settings.context_pad} leaves nothing of crop_size {self._crop}")
        # This layer has a scale of its own; Caffe ignores transform_param's.
        self._transform = Transform(param, train, root, scale=settings.scale)
        self._seed = seed
        self._root = root
        self._images: list[str] = []
        self._background: list[Window] = []
        self._objects: list[Window] = []
        self._channels = self._read(find_path(settings.source, root))
        if self._channels != 3:
            refuse(param, f"its pictures are read in color, but it says they have {self._channels} channel(s), not 3")
        mean = self._transform.mean
        if mean is not None:
            border = self._mean_border(mean)
            if mean.shape[0] != 3 or border < 0 or mean.shape[1] < border + self._crop:
                refuse(param, f"its mean file is {by(mean.shape)}, which does not fit a crop of {self._crop}")
        self._of_objects = int(np.float32(self.batch_size) * np.float32(settings.fg_fraction))
        if self._of_objects and not self._objects:
            refuse(param, f"no window overlaps an object by fg_threshold {settings.fg_threshold:g}")
        if self._of_objects < self.batch_size and not self._background:
            refuse(param, f"no window overlaps objects by less than bg_threshold {settings.bg_threshold:g}")
        self.shapes = [(self.batch_size, self._channels, self._crop, self._crop), (self.batch_size,)]

    def _read(self, path: Path) -> int:
        """Fills the lists of images and windows; returns the number of channels."""
        try:
            text = read_regular_text(path)
        except OSError as error:
            refuse(self.param, f"cannot read this window file ({error.strerror})", error)
        words = iter(text.split())
        channels = 0
        try:
            for word in words:
                if word != "#":
                    raise ValueError
                channels = self._read_image(words)
        except (ValueError, StopIteration) as error:
            refuse(self.param, f"no window file, or a damaged one: see its picture number {len(self._images)}", error)
        if not self._images:
            refuse(self.param, "this window file is empty")
        for window in (*self._background, *self._objects):
            if not 0 <= window.image < len(self._images):
                refuse(self.param, f"it has windows of picture # {window.image}, but {len(self._images)} pictures")
        return channels

    def _read_image(self, words: Iterator[str]) -> int:
        settings = self.param.window_data_param
        number = label_of(next(words))
        self._images.append(settings.root_folder + next(words))
        channels, _, _ = (label_of(next(words)) for _ in range(3))
        for _ in range(label_of(next(words))):
            label, overlap = label_of(next(words)), np.float32(next(words))
            corners = [label_of(next(words)) for _ in range(4)]
            if overlap >= np.float32(settings.fg_threshold):
                if label < 1:
                    raise ValueError
                self._objects.append(Window(number, label, *corners))
            elif overlap < np.float32(settings.bg_threshold):
                self._background.append(Window(number, 0, *corners))
        return channels

    def read(self) -> RawBatch:
        rng = generator(self._seed, self.param.name, BATCH, self.batch)
        backgrounds = self.batch_size - self._of_objects
        records = []
        for index in range(self.batch_size):
            windows = self._background if index < backgrounds else self._objects
            window = windows[int(rng.integers(len(windows)))]
            mirrored = self.param.transform_param.mirror and bool(rng.integers(2))
            records.append((window, mirrored))
        self.batch += 1
        return RawBatch(self.batch - 1, records, [self._images[window.image] for window, _ in records], self.state())

    def make(self, raw: RawBatch) -> list[FloatArray]:
        data = np.zeros(self.shapes[0], np.float32)
        labels = np.empty(self.batch_size, np.float32)
        for index, (window, mirrored) in enumerate(raw.records):
            try:
                self._cut(window, mirrored, data[index])
            except BadRecordError as error:
                self.bad(f"picture number {window.image}: {raw.keys[index]}", error)
            labels[index] = window.label
        return [data, labels]

    def _cut(self, window: Window, mirrored: bool, out: FloatArray) -> None:
        cv2 = opencv()
        picture = read_picture(find_path(self._images[window.image], self._root), True)
        place = _place(window, self.param.window_data_param, self._crop, (picture.shape[0], picture.shape[1]), mirrored)
        (x1, x2), (y1, y2) = place.x, place.y
        if not (0 <= x1 <= x2 < picture.shape[1] and 0 <= y1 <= y2 < picture.shape[0]):
            raise BadRecordError(f"the window {window.x1} {window.y1} {window.x2} {window.y2} is not inside it")
        if place.width < 1 or place.height < 1:
            raise BadRecordError(f"a crop has no pixels of window {window.x1} {window.y1} {window.x2} {window.y2}")
        cut = cv2.resize(picture[y1 : y2 + 1, x1 : x2 + 1], (place.width, place.height), interpolation=cv2.INTER_LINEAR)
        if mirrored:
            cut = cv2.flip(cut, 1)
        rows = slice(place.top, place.top + place.height)
        columns = slice(place.left, place.left + place.width)
        rows_of_mean, columns_of_mean = self._in_mean(rows, columns)
        target = out[:, rows, columns]
        spread(cut, target)
        self._transform.finish(target, rows_of_mean, columns_of_mean)

    def _in_mean(self, rows: slice, columns: slice) -> tuple[slice, slice]:
        """The same place in the mean picture, centred on the crop."""
        if self._transform.mean is None:
            return rows, columns
        before = self._mean_border(self._transform.mean)
        return slice(rows.start + before, rows.stop + before), slice(columns.start + before, columns.stop + before)

    def _mean_border(self, mean: FloatArray) -> int:
        return int(mean.shape[2] - self._crop) // 2

    def look_for_files(self, most: int) -> None:
        for number, image in enumerate(self._images[:most]):
            self.look_for(find_path(image, self._root), f"picture number {number}: {image}")

    def state(self) -> State:
        return {"batch": self.batch, "windows": len(self._objects) + len(self._background)}

    def restore(self, state: State) -> None:
        windows = len(self._objects) + len(self._background)
        if int(state["windows"]) != windows:
            refuse(self.param, f"it has {windows} windows now, {state['windows']} when it was left")
        self.batch = int(state["batch"])

    def skip(self, batches: int) -> None:
        self.batch += batches


def _place(window: Window, settings: pb.WindowDataParameter, crop: int, size: tuple[int, int], mirrored: bool) -> Crop:
    """Widens a window by the context around it, in single precision as Caffe does."""
    _, _, x1, y1, x2, y2 = window
    if not settings.context_pad and settings.crop_mode != "square":
        return Crop((x1, x2), (y1, y2), crop, crop, 0, 0)
    f = np.float32
    context = f(crop) / f(crop - 2 * settings.context_pad)
    half_height, half_width = f(y2 - y1 + 1) / f(2), f(x2 - x1 + 1) / f(2)
    center_x, center_y = f(x1) + half_width, f(y1) + half_height
    if settings.crop_mode == "square":
        half_height = half_width = max(half_height, half_width)
    x1, x2 = _round(center_x - half_width * context), _round(center_x + half_width * context)
    y1, y2 = _round(center_y - half_height * context), _round(center_y + half_height * context)
    # The window may now reach beyond the picture; pixels outside stay zero.
    scale_x, scale_y = f(crop) / f(x2 - x1 + 1), f(crop) / f(y2 - y1 + 1)
    before_x, before_y = max(0, -x1), max(0, -y1)
    behind_x, behind_y = max(0, x2 - size[1] + 1), max(0, y2 - size[0] + 1)
    x1, x2, y1, y2 = x1 + before_x, x2 - behind_x, y1 + before_y, y2 - behind_y
    top = _round(f(before_y) * scale_y)
    left = _round(f(behind_x if mirrored else before_x) * scale_x)
    width = min(_round(f(x2 - x1 + 1) * scale_x), crop - left)
    height = min(_round(f(y2 - y1 + 1) * scale_y), crop - top)
    return Crop((x1, x2), (y1, y2), width, height, left, top)


def _round(value: np.float32) -> int:
    """Rounds to the nearest whole number, halves away from zero, as C does."""
    return int(math.copysign(math.floor(abs(float(value)) + 0.5), value))
