"""How far the data layers of a resumed run have to be moved forward, and how far they really need to be.

Caffe saves no position. Its data layers start at the first record, so they are run, without the rest of the net, as
often as they ran before. Behind the last record comes the first one again: whole rounds are left out where the number
of records is known.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from math import gcd
from pathlib import Path

from deeprebirth_caffe.engines.plan import Plan, PlannedNet
from deeprebirth_caffe.formats.files import open_regular, read_regular_text
from deeprebirth_caffe.formats.hdf5 import count_rows
from deeprebirth_caffe.proto import caffe_pb2 as pb


@dataclass(frozen=True)
class Move:
    """One data layer to run ahead.

    Attributes:
        net: 0 for the training net, from 1 the test nets.
        layer: the layer.
        batches: how many to run.
    """

    net: int
    layer: str
    batches: int


def moves(plan: Plan, iteration: int, sources: list[list[tuple[str, str, int]]]) -> Iterator[Move]:
    """What has to be run before a run goes on.

    Args:
        plan: the solver.
        iteration: how many iterations are done.
        sources: name, type and batch size of the data layers of the training net and of each test net.
    """
    tested = plan.tests_before(iteration)
    nets: list[tuple[PlannedNet, int]] = [(plan.train, iteration * max(1, plan.param.iter_size))]
    nets += [(one, tested * one.iterations) for one in plan.tests]
    for index, ((planned, batches), found) in enumerate(zip(nets, sources, strict=True)):
        state = planned.state
        params = {layer.name: layer.param for layer in planned.net.view(state.phase, state.stages, state.level).layers}
        for name, kind, size in found:
            # MemoryData has nothing to read, and aborts.
            if kind == "MemoryData":
                continue
            records = _records(params[name], plan.root) if name in params else None
            round_trip = records // gcd(records, size) if records else 0
            yield Move(index, name, batches % round_trip if round_trip else batches)


def _records(param: pb.LayerParameter, root: Path) -> int | None:
    """How many records a source has that is read round and round; None where that is unknown or dear to find out."""
    try:
        if param.type == "Data" and param.data_param.backend == pb.DataParameter.LMDB:
            from deeprebirth_caffe.formats.lmdb import LmdbCursor

            return int(LmdbCursor(root / param.data_param.source).entries)
        if param.type == "HDF5Data":
            names = read_regular_text(root / param.hdf5_data_param.source).split()
            return sum(count_rows(root / name, param.top[0]) for name in names)
        if param.type == "ImageData":
            with open_regular(root / param.image_data_param.source) as file:
                return sum(1 for _ in file)
    except Exception:  # whatever is wrong with it, running the layer is right as well
        return None
    return None
