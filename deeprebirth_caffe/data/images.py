"""The ImageData layer: a list of pictures with labels."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from deeprebirth_caffe.data.decode import BadRecordError, Picture, read_picture
from deeprebirth_caffe.data.listing import label_of
from deeprebirth_caffe.data.paths import find_path, refuse
from deeprebirth_caffe.data.reader import FloatArray, RawBatch, Reader, State, fill
from deeprebirth_caffe.data.rng import BATCH, EPOCH, START, generator
from deeprebirth_caffe.data.transform import Transform
from deeprebirth_caffe.formats.files import read_regular_text
from deeprebirth_caffe.proto import caffe_pb2 as pb


class ImageReader(Reader):
    """The pictures of a list, round after round; if shuffled, each round has a new order."""

    def __init__(self, param: pb.LayerParameter, train: bool, root: Path, seed: int) -> None:
        """Reads the list and its first picture."""
        settings = param.image_data_param
        super().__init__(param, settings.batch_size)
        if (settings.new_height == 0) != (settings.new_width == 0):
            refuse(param, "new_height and new_width must be given together")
        if not settings.source:
            refuse(param, "no source given")
        self._size = (settings.new_height, settings.new_width) if settings.new_height else None
        self._transform = Transform(param, train, root)
        self._seed = seed
        self._root = root
        self._entries = _read_list(param, find_path(settings.source, root))
        if settings.rand_skip > len(self._entries):
            refuse(param, f"rand_skip {settings.rand_skip} may skip all of its {len(self._entries)} pictures")
        self._start = 0
        if settings.rand_skip:
            self._start = int(generator(seed, param.name, START).integers(settings.rand_skip))
        self._order: tuple[int, list[int]] = (-1, [])
        self.seek(0)
        line = self._next_line()
        try:
            picture = self._picture(line)
            height, width = picture.shape[:2]
            shape = self._transform.shape(1 if picture.ndim == 2 else picture.shape[2], height, width)
        except BadRecordError as error:
            self.bad(self._name(line), error)
        self.shapes = [(self.batch_size, *shape), (self.batch_size,)][: len(param.top)]

    def _path(self, line: int) -> Path:
        return find_path(self.param.image_data_param.root_folder + self._entries[line][0], self._root)

    def _picture(self, line: int) -> Picture:
        return read_picture(self._path(line), self.param.image_data_param.is_color, self._size)

    def _name(self, line: int) -> str:
        return f"line {line + 1}: {self._path(line)}"

    def seek(self, batch: int) -> None:
        """Goes to the beginning of a batch."""
        self.batch = batch
        self._epoch, self._position = divmod(self._start + batch * self.batch_size, len(self._entries))

    def _next_line(self) -> int:
        if not self.param.image_data_param.shuffle:
            return self._position
        if self._order[0] != self._epoch:
            rng = generator(self._seed, self.param.name, EPOCH, self._epoch)
            self._order = self._epoch, rng.permutation(len(self._entries)).tolist()
        return self._order[1][self._position]

    def read(self) -> RawBatch:
        lines = []
        for _ in range(self.batch_size):
            lines.append(self._next_line())
            self._position += 1
            if self._position == len(self._entries):
                self._position = 0
                self._epoch += 1
        self.batch += 1
        return RawBatch(self.batch - 1, lines, [self._entries[line][0] for line in lines], self.state())

    def make(self, raw: RawBatch) -> list[FloatArray]:
        count = len(raw.records)
        draws = None
        if self._transform.random:
            draws = self._transform.draw(generator(self._seed, self.param.name, BATCH, raw.number), count)
        data: FloatArray | None = None
        labels = np.empty(count, np.float32)
        for index, line in enumerate(raw.records):
            try:
                data = fill(self._transform, self._picture(line), False, data, index, count, draws)
            except BadRecordError as error:
                self.bad(self._name(line), error)
            labels[index] = self._entries[line][1]
        assert data is not None
        return [data, labels][: len(self.param.top)]

    def state(self) -> State:
        return {"batch": self.batch, "start": self._start, "pictures": len(self._entries)}

    def restore(self, state: State) -> None:
        if int(state["pictures"]) != len(self._entries):
            refuse(self.param, f"it lists {len(self._entries)} pictures now, {state['pictures']} when it was left")
        self._start = int(state["start"])
        self.seek(int(state["batch"]))

    def skip(self, batches: int) -> None:
        self.seek(self.batch + batches)

    def look_for_files(self, most: int) -> None:
        for line in range(min(most, len(self._entries))):
            self.look_for(self._path(line), self._name(line))


def _read_list(param: pb.LayerParameter, path: Path) -> list[tuple[str, int]]:
    """File and label of each line; the label is behind the last space."""
    try:
        text = read_regular_text(path)
    except OSError as error:
        refuse(param, f"cannot read this list ({error.strerror})", error)
    entries = []
    lines = text.split("\n")
    for number, line in enumerate(lines[:-1] if not lines[-1] else lines, 1):
        name, _, label = line.rpartition(" ")
        try:
            entries.append((name, label_of(label.rstrip())))
        except ValueError:
            name = ""
        if not name:
            refuse(
                param, f"line {number} is not a file and its label, a whole number of 32 bits: {line.strip()[:100]!r}"
            )
    if not entries:
        refuse(param, "this list is empty")
    return entries
