"""Weights that a fork of Caffe wrote, in the form that plain Caffe reads."""

from __future__ import annotations

from pathlib import Path

from deeprebirth_caffe.formats.caffemodel import CaffemodelError, read_caffemodel, write_caffemodel
from deeprebirth_caffe.formats.hdf5 import is_hdf5


def plain_weights(path: Path, folder: Path) -> Path:
    """A weights file that plain Caffe reads: the file itself, or a copy in `folder` where a fork's Caffe wrote it.

    A file that cannot be read stays what it is; Caffe's worker says what is wrong with it.
    """
    if is_hdf5(path):
        return path
    try:
        model = read_caffemodel(path)
    except CaffemodelError:
        return path
    if all(raw is not None for layer in model.layers for raw in layer.raw):
        return path
    copy = folder / f"{len(list(folder.iterdir()))}-{path.name}"
    write_caffemodel(copy, model.name, [(layer.name, layer.type, layer) for layer in model.layers])
    return copy
