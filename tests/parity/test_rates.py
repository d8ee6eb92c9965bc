"""The converted GoogLeNet learns in both engines alike: the same losses, rebirth layers really ten times as fast."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest
from closeness import assert_within, trained
from measured_caffe import TrainResult
from measured_torch import train
from nets import without_switches

from deeprebirth_caffe import zoo
from deeprebirth_caffe.commands.convert import convert
from deeprebirth_caffe.engines.random_weights import random_weights
from deeprebirth_caffe.engines.torch.engine import TorchEngine
from deeprebirth_caffe.formats.prototxt import format_message
from deeprebirth_caffe.ir import Net, summarize
from deeprebirth_caffe.ir.probe import probe, save_weights
from deeprebirth_caffe.nets.load import load_net
from deeprebirth_caffe.nets.rewriting import Converted
from deeprebirth_caffe.options.convert import ConvertOptions
from deeprebirth_caffe.proto import caffe_pb2 as pb

if TYPE_CHECKING:
    from measured_caffe import MeasuringWorker

BATCH = 4
ITERATIONS = 20
TERMS = 20_000
"""About what a path through the net adds up for a value, and a gradient of its first layer over BATCH * 32 * 32."""


@dataclass(frozen=True)
class Setup:
    """A converted net ready to train on pictures of its own, with neither dropout nor momentum nor decay."""

    folder: Path
    converted: Converted

    def train(self, caffe: MeasuringWorker | None, iterations: int, base_lr: float) -> TrainResult:
        """Trains in real Caffe, or else in the embedded engine."""
        solver = pb.SolverParameter(
            net=str(self.folder / "train.prototxt"),
            base_lr=base_lr,
            lr_policy="fixed",
            solver_mode="CPU",
            snapshot_prefix=str(self.folder / "s"),
        )
        path = self.folder / "solver.prototxt"
        path.write_text(format_message(solver))
        weights = self.folder / "out/init.caffemodel"
        if caffe is not None:
            return caffe.train(path, iterations, weights, rates=True, cwd=self.folder)
        return train(TorchEngine(), path, iterations, weights)

    @property
    def multipliers(self) -> dict[str, list[float]]:
        """Each learnable blob's lr_mult, by the text."""
        rows = [row for row in summarize(self.converted.net.view("TRAIN")).layers if row.param_shapes]
        return {row.layer.name: [spec.lr_mult for spec in row.layer.param.param] for row in rows}


@pytest.fixture(scope="module")
def setup(tmp_path_factory: pytest.TempPathFactory) -> Setup:
    """GoogLeNet for 64 x 64 pictures, with both auxiliary losses, converted with its weights."""
    folder = tmp_path_factory.mktemp("rates")
    built = zoo.build("googlenet64")
    shapes = {"data": built.input_shape}
    (folder / "net.prototxt").write_text(built.train_val)
    net = load_net(folder / "net.prototxt", None, shapes)
    save_weights(folder / "w.caffemodel", net, random_weights(net))
    result = convert(
        ConvertOptions(
            folder / "net.prototxt", weights=folder / "w.caffemodel", out=folder / "out", input_shapes=shapes
        )
    )
    _write_data(folder, built.input_shape, built.classes)
    _trainable(result.net, folder)
    return Setup(folder, result)


def _write_data(folder: Path, shape: tuple[int, ...], classes: int) -> None:
    import h5py

    random = np.random.default_rng(0)
    with h5py.File(folder / "data.h5", "w") as file:
        file["data"] = random.normal(size=(3 * BATCH, *shape)).astype(np.float32)
        file["label"] = random.integers(0, classes, 3 * BATCH).astype(np.float32)
    (folder / "list.txt").write_text(f"{folder / 'data.h5'}\n")


def _trainable(net: Net, folder: Path) -> None:
    """The TRAIN view, fed from HDF5 and without Dropout or switches, so that both engines see and do the same."""
    message = probe(net, net.view("TRAIN"), BATCH).message()
    first = message.layer[0]
    first.type = "HDF5Data"
    first.ClearField("input_param")
    first.hdf5_data_param.source = str(folder / "list.txt")
    first.hdf5_data_param.batch_size = BATCH
    without_switches(message)
    kept = [layer for layer in message.layer if layer.type != "Dropout"]
    assert all(layer.bottom == layer.top for layer in message.layer if layer.type == "Dropout")
    assert sum(layer.type == "SoftmaxWithLoss" for layer in kept) == 3
    whole = pb.NetParameter(name="small", layer=kept)
    (folder / "train.prototxt").write_text(format_message(whole))


@pytest.mark.parametrize("engine", ["caffe", "torch"])
def test_rebirth_layers_move_ten_times_as_fast(engine: str, setup: Setup, request: pytest.FixtureRequest) -> None:
    """The change of the weights over their gradient, one step, against what the text says."""
    caffe = request.getfixturevalue("caffe") if engine == "caffe" else None
    done = setup.train(caffe, 1, 0.1)
    rebirth = setup.converted.manifest.lr_mult
    wanted = setup.multipliers
    assert len(rebirth) >= 20
    assert set(rebirth) < set(wanted) == set(done.rates)
    for name, mults in wanted.items():
        assert mults == ([10, 20] if name in rebirth else [1, 2]), name
        assert done.rates[name] == pytest.approx(mults, rel=1e-2), name


def test_both_engines_lose_alike(caffe: MeasuringWorker, setup: Setup) -> None:
    """Twenty iterations, the total and each of the three losses."""
    theirs = setup.train(caffe, ITERATIONS, 0.001)
    mine = setup.train(None, ITERATIONS, 0.001)
    assert len(mine.losses) == ITERATIONS
    assert_within("losses", theirs.losses, mine.losses, trained(ITERATIONS, TERMS))
    assert set(mine.outputs) == set(theirs.outputs)
    assert len(mine.outputs) == 3
    for name, values in mine.outputs.items():
        assert_within(name, theirs.outputs[name], values, trained(ITERATIONS, TERMS))
    assert mine.losses[-1] < mine.losses[0]
