"""A net's learned arrays by layer name, as in a .caffemodel."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from deeprebirth_caffe.errors import RebirthError
from deeprebirth_caffe.formats.caffemodel import LayerBlobs, read_caffemodel
from deeprebirth_caffe.formats.hdf5 import is_hdf5, read_hdf5_model
from deeprebirth_caffe.proto import caffe_pb2 as pb

Array = npt.NDArray[Any]


class Weights:
    """Arrays by layer name.

    An entry from a file stays a `LayerBlobs` until a pass sets new arrays for that name, so unchanged arrays are
    written back byte for byte.
    """

    def __init__(self, entries: dict[str, LayerBlobs | tuple[Array, ...]] | None = None, path: str = "") -> None:
        self._entries: dict[str, LayerBlobs | tuple[Array, ...]] = dict(entries or {})
        self.path = path

    @classmethod
    def read(cls, path: str | Path, layers: Iterable[pb.LayerParameter] = ()) -> Weights:
        """Reads a .caffemodel or a .caffemodel.h5; the contents tell which.

        If layers share a name, the last with blobs counts, as in Caffe.

        Args:
            path: of the file.
            layers: of the net. HDF5 stores shared parameters once; with the net's layers each gets them here, as
                in a .caffemodel.
        """
        if is_hdf5(path):
            return cls(_with_shared(read_hdf5_model(path), layers), str(path))
        model = read_caffemodel(path)
        return cls({layer.name: layer for layer in model.layers if layer.blobs}, str(path))

    def copy(self) -> Weights:
        """A copy that shares the arrays, which are never written in place."""
        return Weights(self._entries, self.path)

    def __contains__(self, name: str) -> bool:
        return name in self._entries

    def __iter__(self) -> Iterator[str]:
        return iter(self._entries)

    def __len__(self) -> int:
        return len(self._entries)

    def __getitem__(self, name: str) -> tuple[Array, ...]:
        entry = self._entries[name]
        return _todays(entry) if isinstance(entry, LayerBlobs) else entry

    def entry(self, name: str) -> LayerBlobs | tuple[Array, ...]:
        """The stored entry: a `LayerBlobs` if it is still the file's."""
        return self._entries[name]

    def legacy(self, name: str) -> tuple[bool, ...]:
        """For each array, whether its shape is still the old four dimensions, which Caffe compares from the end."""
        entry = self._entries[name]
        if not isinstance(entry, LayerBlobs):
            return (False,) * len(entry)
        return tuple(old and array.ndim == 4 for old, array in zip(entry.legacy, _todays(entry), strict=True))

    def set(self, name: str, arrays: Sequence[Array]) -> None:
        """Sets new arrays of a layer, as float32."""
        # A single number keeps its shape, which has no axes: ascontiguousarray would give it one.
        self._entries[name] = tuple(
            np.ascontiguousarray(array, dtype=np.float32).reshape(np.shape(array)) for array in arrays
        )

    def drop(self, name: str) -> None:
        """Removes a layer's arrays, if any."""
        self._entries.pop(name, None)

    def finite(self, name: str) -> bool:
        """Whether all values of the layer are finite in single precision."""
        with np.errstate(over="ignore", invalid="ignore"):
            return all(bool(np.isfinite(array.astype(np.float32, copy=False)).all()) for array in self[name])


def _todays(layer: LayerBlobs) -> tuple[Array, ...]:
    """A layer's arrays without the leading 1s of the old four dimensions, which Caffe takes only from old files.

    Only weights of convolutions had four dimensions then; those of an InnerProduct had two, and biases one.
    """
    arrays: list[Array] = []
    for index, (blob, legacy) in enumerate(zip(layer.blobs, layer.legacy, strict=True)):
        axes = 1 if index else 2 if layer.type == "InnerProduct" else 4
        if blob.dtype == np.float16:  # half precision is only a way of storing
            blob = blob.astype(np.float32)
        arrays.append(
            blob.reshape(blob.shape[4 - axes :]) if legacy and blob.shape[: 4 - axes] == (1,) * (4 - axes) else blob
        )
    return tuple(arrays)


def _with_shared(
    arrays: dict[str, tuple[Array, ...]], layers: Iterable[pb.LayerParameter]
) -> dict[str, LayerBlobs | tuple[Array, ...]]:
    """Adds the parameters that HDF5 leaves out because an earlier layer owns them."""
    shared: dict[str, LayerBlobs | tuple[Array, ...]] = dict(arrays)
    owners: dict[str, Array] = {}
    for layer in layers:
        blobs = list(arrays.get(layer.name, ()))
        for index, spec in enumerate(layer.param):
            has = index < len(blobs) and blobs[index].size > 0
            if spec.name and has:
                owners.setdefault(spec.name, blobs[index])
            elif spec.name in owners and index <= len(blobs):
                blobs[index : index + 1] = [owners[spec.name]]
        if blobs:
            shared[layer.name] = tuple(blobs)
    return shared


class WeightsError(RebirthError):
    """The weights do not belong to the net."""
