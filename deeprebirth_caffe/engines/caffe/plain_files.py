"""Files that plain Caffe refuses for how they are written, in a form that it reads."""

from __future__ import annotations

from codecs import BOM_UTF8, BOM_UTF16_BE, BOM_UTF16_LE
from pathlib import Path

from deeprebirth_caffe.formats.caffemodel import CaffemodelError, read_caffemodel, write_caffemodel
from deeprebirth_caffe.formats.files import open_regular
from deeprebirth_caffe.formats.hdf5 import is_hdf5
from deeprebirth_caffe.formats.prototxt.document import read_document


def plain_net(path: Path, folder: Path) -> Path:
    """A net's file that plain Caffe reads: the file itself, or a copy in `folder` where it has a byte order mark."""
    try:
        with open_regular(path) as file:
            marked = file.read(len(BOM_UTF8)).startswith((BOM_UTF8, BOM_UTF16_LE, BOM_UTF16_BE))
    except OSError:
        return path
    if not marked:
        return path
    copy = _free(path, folder)
    copy.write_text(read_document(path).text, encoding="utf-8", errors="surrogateescape")
    return copy


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
    copy = _free(path, folder)
    write_caffemodel(copy, model.name, [(layer.name, layer.type, layer) for layer in model.layers])
    return copy


def _free(path: Path, folder: Path) -> Path:
    return folder / f"{len(list(folder.iterdir()))}-{path.name}"
