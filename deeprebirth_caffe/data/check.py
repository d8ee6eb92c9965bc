"""Checks a data layer's source before anything starts."""

from __future__ import annotations

from pathlib import Path

from deeprebirth_caffe.data.layer import READERS
from deeprebirth_caffe.proto import caffe_pb2 as pb

MOST_FILES = 100_000
"""The most files of a list to check; more would take too long."""


def check_source(param: pb.LayerParameter, root: str | Path = ".") -> None:
    """Refuses a data layer that no engine could read, if that shows at once.

    Real Caffe aborts on most of them and waits for ever on some. A layer that reads no files passes.

    Args:
        param: the layer.
        root: the directory where its relative paths start.

    Raises:
        RebirthError: its source is missing, locked, empty, damaged or of another kind, its first record does not fit
            its settings, or its batch size is missing.
    """
    if param.type not in READERS:
        return
    reader = READERS[param.type](param, False, Path(root), 0)
    try:
        reader.look_for_files(MOST_FILES)
    finally:
        reader.close()
