"""Shapes, parameters and memory of generated nets, against real Caffe.

REBIRTH_GENERATED says how many nets (100); their layer types are printed at the end (`pytest -s`).
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from measured_caffe import MeasuringWorker
from netgen import MAKERS, Made, Sources, grow

from deeprebirth_caffe import ops
from deeprebirth_caffe.formats.prototxt import format_message
from deeprebirth_caffe.ir import Net
from deeprebirth_caffe.ir.summary import summarize
from deeprebirth_caffe.proto import caffe_pb2 as pb

if TYPE_CHECKING:
    from measured_caffe import DescribedNet

    from deeprebirth_caffe.engines.caffe.locate import CaffeInstall

NETS = int(os.environ.get("REBIRTH_GENERATED", "100"))
IMAGE = (3, 6, 7)
HDF5_SHAPES = {"data": (2, 4, 5), "label": (1, 1, 6)}
PYTHON = """
import caffe

class Same(caffe.Layer):
    def setup(self, bottom, top):
        pass

    def reshape(self, bottom, top):
        top[0].reshape(*bottom[0].data.shape)

    def forward(self, bottom, top):
        pass

    def backward(self, top, propagate_down, bottom):
        pass
"""

# A private Caffe's Python listens to no environment variable, so a script puts the module where it is found.
START = """
import runpy, sys

here = sys.path[0]
sys.path[0] = ""
sys.path.append(here)
del sys.argv[0]
runpy.run_path(sys.argv[0], run_name="__main__")
"""


@pytest.fixture(scope="module")
def worker(caffe_install: CaffeInstall, tmp_path_factory: pytest.TempPathFactory) -> Iterator[MeasuringWorker]:
    """A Caffe that finds the module of the Python layers."""
    folder = tmp_path_factory.mktemp("modules")
    (folder / "generated_layers.py").write_text(PYTHON)
    (folder / "start.py").write_text(START)
    launcher = folder / "python"
    launcher.write_text(f"#!/bin/sh\nexec '{caffe_install.need_python()}' '{folder / 'start.py'}' \"$@\"\n")
    launcher.chmod(0o755)
    install = replace(caffe_install, python=launcher)
    with (
        pytest.MonkeyPatch.context() as patch,
        MeasuringWorker(install, threads=1, timeout=300, respawn=True) as worker,
    ):
        patch.setenv("REBIRTH_PYTHON_LAYERS", "1")
        yield worker


@pytest.fixture(scope="module")
def sources(worker: MeasuringWorker, tmp_path_factory: pytest.TempPathFactory) -> Sources:
    """One file of each kind that data layers read."""
    folder = tmp_path_factory.mktemp("sources")
    cv2 = pytest.importorskip("cv2")
    for name, size in (("small.png", (6, 7)), ("large.png", (20, 30))):
        cv2.imwrite(str(folder / name), np.zeros((*size, 3), np.uint8))
    (folder / "images.txt").write_text(f"{folder / 'small.png'} 1\n")
    boxes = "1 0.9 0 0 5 5\n1 0.1 2 2 9 9\n"
    (folder / "windows.txt").write_text(f"# 0\n{folder / 'large.png'}\n3\n20\n30\n2\n{boxes}")
    mean = pb.BlobProto(num=1, channels=3, height=6, width=7, data=[1.0] * 126)
    (folder / "mean.binaryproto").write_bytes(mean.SerializeToString())
    matrix = pb.BlobProto(num=1, channels=1, height=5, width=5, data=[1.0] * 25)
    (folder / "infogain.binaryproto").write_bytes(matrix.SerializeToString())
    _write_hdf5(worker, folder)
    picture = (folder / "small.png").read_bytes()
    return Sources(
        records=[
            (_records(folder / "raw", pb.Datum(channels=3, height=6, width=7, data=bytes(126))), IMAGE, False),
            (_records(folder / "deep", pb.Datum(channels=5, height=4, width=9, data=bytes(180))), (5, 4, 9), False),
            (_records(folder / "encoded", pb.Datum(data=picture, encoded=True)), IMAGE, True),
        ],
        images=folder / "images.txt",
        image_shape=IMAGE,
        windows=folder / "windows.txt",
        hdf5=folder / "hdf5.txt",
        hdf5_shapes=HDF5_SHAPES,
        mean=folder / "mean.binaryproto",
        infogain=folder / "infogain.binaryproto",
        python_module="generated_layers",
        folder=folder,
    )


def _records(path: Path, datum: pb.Datum) -> Path:
    lmdb = pytest.importorskip("lmdb")
    with lmdb.open(str(path), map_size=1 << 20) as store, store.begin(write=True) as batch:
        batch.put(b"0", datum.SerializeToString())
    return path


def _write_hdf5(worker: MeasuringWorker, folder: Path) -> None:
    net = pb.NetParameter()
    source = net.layer.add(name="in", type="Input", top=list(HDF5_SHAPES))
    for shape in HDF5_SHAPES.values():
        source.input_param.shape.add(dim=(3, *shape))
    sink = net.layer.add(name="out", type="HDF5Output", bottom=list(HDF5_SHAPES))
    sink.hdf5_output_param.file_name = str(folder / "stored.h5")
    (folder / "write.prototxt").write_text(format_message(net))
    loaded = worker.load(folder / "write.prototxt")
    worker.forward(loaded)
    worker.close(loaded)  # the file is complete once its layer is gone
    (folder / "hdf5.txt").write_text(f"{folder / 'stored.h5'}\n")


def compare(made: Made, text: str, real: DescribedNet, phase: str) -> None:
    """All that can be known beforehand is as in real Caffe."""
    net = Net.parse(text)
    net.data = {layer: made.data[layer.name] for layer in net.layers if layer.name in made.data}  # type: ignore[misc]
    view = net.view(phase)
    cost = summarize(view)

    assert [layer.name for layer in view.layers] == [n for n, t in real.layers if (n, t) not in inserted(real, net)]
    blobs = {name: shape for name, shape in real.blobs.items() if name not in real.copies}
    unnamed = {name for name in blobs if name not in view.blobs}  # the losses that have no top
    assert {name: value.shape or blobs[name] for name, value in view.blobs.items()} == {
        name: shape for name, shape in blobs.items() if name not in unnamed
    }
    for row in cost.layers:
        if row.param_shapes is not None:
            assert row.param_shapes == real.params.get(row.layer.name, ()), row.layer.name
    known = all(row.param_shapes is not None for row in cost.layers)
    owned = sum(
        ops.count(shape)
        for name, shapes in real.params.items()
        for index, shape in enumerate(shapes)
        if index not in real.shared.get(name, {})
    )
    if known:
        assert cost.params == owned
    if all(value.shape is not None for value in view.values):
        assert cost.memory_required_for_data == real.memory_required_for_data
    else:
        # What no file says (Python, Filter) taken from Caffe; all else must add up.
        for value in view.values:
            value.shape = value.shape or real.blobs[value.name]
        assert summarize(view).memory_required_for_data == real.memory_required_for_data


def inserted(real: DescribedNet, net: Net) -> set[tuple[str, str]]:
    """The Split layers that Caffe made."""
    own = {layer.name for layer in net.layers}
    return {(name, kind) for name, kind in real.layers if kind == "Split" and name not in own}


def test_generated_nets(worker: MeasuringWorker, sources: Sources, tmp_path: Path) -> None:
    seen: Counter[str] = Counter()
    sizes: list[int] = []
    assert set(MAKERS) == set(worker.info()["layer_types"])
    path = tmp_path / "net.prototxt"

    @settings(
        max_examples=NETS,
        derandomize=True,
        database=None,
        deadline=None,
        suppress_health_check=list(HealthCheck),
    )
    @given(st.randoms(use_true_random=True))
    def check(random: object) -> None:
        made = grow(random, sources)  # type: ignore[arg-type]
        text = format_message(made.net)
        path.write_text(text)
        for phase in ("TRAIN", "TEST"):
            real = worker.load(path, phase)
            try:
                compare(made, text, real, phase)
            finally:
                worker.close(real)
        seen.update(layer.type for layer in made.net.layer)
        sizes.append(len(made.net.layer))

    check()
    rare = ", ".join(f"{kind} {count}" for kind, count in seen.most_common()[:-13:-1])
    print(f"\n{len(sizes)} nets, {sum(sizes)} layers, {len(seen)} of {len(MAKERS)} types; rarest: {rare}")
    assert set(seen) == set(MAKERS)
