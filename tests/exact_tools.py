"""What the tests of exact passes share: comparing in the Caffe that all tests share, and layers that do nothing."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING

from deeprebirth_caffe.engines.caffe.engine import CaffeEngine
from deeprebirth_caffe.nets.check import CheckResult, compare_nets

if TYPE_CHECKING:
    from collections.abc import Iterator

    from deeprebirth_caffe.engines.caffe.client import CaffeWorker
    from deeprebirth_caffe.engines.caffe.locate import CaffeInstall
    from deeprebirth_caffe.ir import Net

ZEROS = [
    ("Dropout", ""),
    ("Split", ""),
    ("Power", "power_param { power: 1 }"),
    ("Pooling", "pooling_param { kernel_size: 1 }"),
    ("Concat", ""),
    ("Slice", ""),
    ("Tile", "tile_param { tiles: 1 }"),
    ("Flatten", "flatten_param { axis: 1 end_axis: 1 }"),
    ("Reshape", "reshape_param { shape { dim: 0 dim: 0 dim: 0 dim: 0 } }"),
]
"""Layers of one blob that put out what they read."""


class Shared(CaffeEngine):
    """The engine on the worker that all tests share."""

    def __init__(self, install: CaffeInstall, worker: CaffeWorker) -> None:
        super().__init__(install)
        self._worker_of_tests = worker

    @contextmanager
    def session(self) -> Iterator[CaffeWorker]:
        yield self._worker_of_tests


def same(before: Net, after: Net, engine: CaffeEngine, *, blobs: int, batch: int = 2) -> CheckResult:
    """Compares, and makes sure that there was something to compare."""
    result = compare_nets(before, after, engine, batch=batch)
    assert result.failure == "", result.failure
    assert result.blobs >= blobs
    return result
