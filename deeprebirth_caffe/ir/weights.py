"""A net's learned arrays by layer name, as a .caffemodel keeps them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from deeprebirth_caffe.errors import RebirthError
from deeprebirth_caffe.formats.caffemodel import LayerBlobs, read_caffemodel

Array = npt.NDArray[Any]


class Weights:
    """Arrays by layer name.

    An entry read from a file stays a `LayerBlobs` until a pass sets new arrays for that name, so that what no pass
    touched is written back byte for byte.
    """

    def __init__(self, entries: dict[str, LayerBlobs | tuple[Array, ...]] | None = None, path: str = "") -> None:
        self._entries: dict[str, LayerBlobs | tuple[Array, ...]] = dict(entries or {})
        self.path = path

    @classmethod
    def read(cls, path: str | Path) -> Weights:
        """Reads a .caffemodel; of layers that share one name the last with blobs counts, as in Caffe."""
        model = read_caffemodel(path)
        return cls({layer.name: layer for layer in model.layers if layer.blobs}, str(path))

    def copy(self) -> Weights:
        """A copy that shares the arrays (they are never written in place)."""
        return Weights(self._entries, self.path)

    def __contains__(self, name: str) -> bool:
        return name in self._entries

    def __iter__(self) -> Iterator[str]:
        return iter(self._entries)

    def __len__(self) -> int:
        return len(self._entries)

    def __getitem__(self, name: str) -> tuple[Array, ...]:
        entry = self._entries[name]
        return tuple(entry.blobs) if isinstance(entry, LayerBlobs) else entry

    def entry(self, name: str) -> LayerBlobs | tuple[Array, ...]:
        """The entry as it is kept: `LayerBlobs` where it still is the file's own."""
        return self._entries[name]

    def legacy(self, name: str) -> tuple[bool, ...]:
        """For each blob of a layer, whether its shape is told by the old four dimensions."""
        entry = self._entries[name]
        return tuple(entry.legacy) if isinstance(entry, LayerBlobs) else (False,) * len(entry)

    def set(self, name: str, arrays: Sequence[Array]) -> None:
        """Gives a layer new arrays, as float32."""
        self._entries[name] = tuple(np.ascontiguousarray(array, dtype=np.float32) for array in arrays)

    def drop(self, name: str) -> None:
        """Forgets a layer's arrays, if it has any."""
        self._entries.pop(name, None)

    def finite(self, name: str) -> bool:
        """Whether no value of the layer is NaN or infinite, or would be in single precision."""
        with np.errstate(over="ignore", invalid="ignore"):
            return all(bool(np.isfinite(array.astype(np.float32, copy=False)).all()) for array in self[name])


class WeightsError(RebirthError):
    """The weights do not belong to the net."""
