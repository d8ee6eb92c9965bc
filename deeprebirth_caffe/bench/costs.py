"""The costs of a net beside time: memory, storage, and the batch that fits."""

from __future__ import annotations

import io
from dataclasses import dataclass
from typing import Any

from deeprebirth_caffe.engines.prepare import probe_net
from deeprebirth_caffe.ir import Net, Weights, summarize
from deeprebirth_caffe.ir.memory import Fit, fit, reused_bytes
from deeprebirth_caffe.ir.probe import save_weights
from deeprebirth_caffe.ops import FLOAT_BYTES


@dataclass(frozen=True)
class Costs:
    """Costs in bytes; None if a shape is unknown.

    Attributes:
        memory_bytes: Caffe's memory for one image (`ir.NetCost`).
        param_bytes: of the learned numbers, shared ones once.
        memory_required_for_data: as Caffe logs it, for the whole batch.
        reused_bytes: of one image's blobs, if each buffer is reused after its last reader.
        fit: how memory grows with the batch.
    """

    memory_bytes: int | None
    param_bytes: int | None
    memory_required_for_data: int | None
    reused_bytes: int | None
    fit: Fit | None


def costs(net: Net) -> Costs:
    """The costs of a deploy net with Input layers, in TEST."""
    view = net.view("TEST")
    total = summarize(view)
    single, double = (probe_net(net, view, batch).view("TEST") for batch in (1, 2))
    params = None if total.params is None else FLOAT_BYTES * total.params
    reused = reused_bytes(view)
    return Costs(
        total.memory_bytes,
        params,
        total.memory_required_for_data,
        None if reused is None else reused // view.batch,
        fit(single, double),
    )


class _Counter(io.RawIOBase):
    """A file that only counts bytes."""

    def __init__(self) -> None:
        self.size = 0

    def writable(self) -> bool:
        return True

    def write(self, data: Any, /) -> int:
        count = memoryview(data).nbytes
        self.size += count
        return count


def storage_bytes(net: Net, weights: Weights) -> int:
    """The size of a net's caffemodel, without writing it."""
    counter = _Counter()
    save_weights(counter, net, weights)  # type: ignore[arg-type]
    return counter.size
