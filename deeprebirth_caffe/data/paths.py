"""Resolves the paths of a net, and names a data layer and its source in errors."""

from __future__ import annotations

from pathlib import Path
from typing import NoReturn

from deeprebirth_caffe.errors import RebirthError
from deeprebirth_caffe.ops.base import title
from deeprebirth_caffe.proto import caffe_pb2 as pb


def find_path(name: str, root: str | Path = ".") -> Path:
    """Resolves a path of a net from the directory that Caffe would start in, whatever file names it.

    Raises:
        RebirthError: it cannot be a path.
    """
    if "\0" in name:
        raise RebirthError(f"{name!r} is no path: it holds a zero byte")
    return Path(root) / name


def source_of(param: pb.LayerParameter) -> str:
    """The source of a data layer, as the file gives it."""
    sources = {
        "Data": param.data_param.source,
        "ImageData": param.image_data_param.source,
        "HDF5Data": param.hdf5_data_param.source,
        "WindowData": param.window_data_param.source,
    }
    return sources.get(param.type, "")


def refuse(param: pb.LayerParameter, what: str, cause: BaseException | None = None) -> NoReturn:
    """Raises RebirthError for a data layer: name, source, then the fault."""
    source = source_of(param)
    where = f"{source}: " if source else ""
    raise RebirthError(f"{title(param)} ({param.type}): {where}{what}") from cause
