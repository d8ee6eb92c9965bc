"""What the tests of solvers share: a small net with everything a solver looks at, its data, states to start from."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from closeness import apart, assert_within, between
from numpy.typing import NDArray

from deeprebirth_caffe.engines.caffe.locate import CaffeInstall
from deeprebirth_caffe.engines.torch.engine import TorchEngine
from deeprebirth_caffe.engines.torch.solver import TorchTrainer
from deeprebirth_caffe.formats.caffemodel import write_caffemodel
from deeprebirth_caffe.formats.hdf5 import stream_hdf5_model
from deeprebirth_caffe.formats.solverstate import SolverState, read_solverstate, write_solverstate
from deeprebirth_caffe.ir import Weights

Array = NDArray[np.float32]

NET = """
name: "small"
layer { name: "data" type: "HDF5Data" top: "data" top: "label" hdf5_data_param { source: "list.txt" batch_size: 2 } }
layer { name: "conv" type: "Convolution" bottom: "data" top: "conv"
  param { lr_mult: 1 } param { lr_mult: 2 decay_mult: 0 }
  convolution_param { num_output: 3 kernel_size: 3 weight_filler { type: "xavier" } } }
layer { name: "relu" type: "ReLU" bottom: "conv" top: "conv" }
layer { name: "still" type: "Convolution" bottom: "conv" top: "still"
  param { lr_mult: 0 } param { lr_mult: 0 decay_mult: 3 }
  convolution_param { num_output: 2 kernel_size: 1 weight_filler { type: "xavier" } } }
layer { name: "one" type: "InnerProduct" bottom: "still" top: "one" param { lr_mult: 0.5 }
  inner_product_param { num_output: 4 weight_filler { type: "xavier" } } }
layer { name: "two" type: "InnerProduct" bottom: "one" top: "two" param { name: "w" decay_mult: 2 } param { name: "b" }
  inner_product_param { num_output: 4 weight_filler { type: "xavier" } } }
layer { name: "three" type: "InnerProduct" bottom: "two" top: "three" param { name: "w" } param { name: "b" lr_mult: 3 }
  inner_product_param { num_output: 4 weight_filler { type: "xavier" } } }
layer { name: "loss" type: "SoftmaxWithLoss" bottom: "three" bottom: "label" top: "loss" loss_weight: 2 }
"""

SHAPES = {
    "conv": [(3, 3, 3, 3), (3,)],
    "still": [(2, 3, 1, 1), (2,)],
    "one": [(4, 32), (4,)],
    "two": [(4, 4), (4,)],
    "three": [(4, 4), (4,)],
}
LEARNABLE = [shape for name, shapes in SHAPES.items() if name != "three" for shape in shapes]
HISTORIES = {"SGD": 1, "Nesterov": 1, "AdaGrad": 1, "RMSProp": 1, "AdaDelta": 2, "Adam": 2}
RECORDS = 4
TERMS = 2 * (27 + 3 + 32 + 4 + 4) + 2 * 16 * 2
"""What NET adds up for a value and for a gradient, each weight's inputs twice and the pixels of a batch."""


def write_net(folder: Path, text: str = NET, records: int = RECORDS) -> None:
    """Writes net.prototxt and the data it reads: two batches, so that an even iteration begins anew."""
    import h5py

    random = np.random.default_rng(7)
    with h5py.File(folder / "data.h5", "w") as file:
        file["data"] = random.normal(size=(records, 3, 6, 6)).astype(np.float32)
        file["label"] = (np.arange(records) % 4).astype(np.float32)
    (folder / "list.txt").write_text("data.h5\n")
    (folder / "net.prototxt").write_text(text)


def write_state(
    folder: Path, iteration: int, solver: str = "SGD", *, hdf5: bool = False, step: int = 0, seed: int = 0
) -> Path:
    """Writes a snapshot with random numbers; gives the path of the solverstate."""
    random = np.random.default_rng(seed)
    end = ".h5" if hdf5 else ""
    arrays = {
        name: [random.normal(0, 0.4, shape).astype(np.float32) for shape in shapes] for name, shapes in SHAPES.items()
    }
    arrays["three"] = arrays["two"]
    model = folder / f"begin_iter_{iteration}.caffemodel{end}"
    if hdf5:
        entries = [(name, [None, None] if name == "three" else given) for name, given in arrays.items()]
        with model.open("wb") as file:
            stream_hdf5_model(file, entries)
    else:
        kinds = {"conv": "Convolution", "still": "Convolution"}
        write_caffemodel(model, "small", [(n, kinds.get(n, "InnerProduct"), given) for n, given in arrays.items()])
    history = []
    for copy in range(HISTORIES[solver]):
        for shape in LEARNABLE:
            values = random.normal(0, 0.1, shape).astype(np.float32)
            # Adam's first moments have signs, and so has momentum; what stands under a root has none.
            signed = solver in ("SGD", "Nesterov") or (solver == "Adam" and copy == 0)
            history.append(values if signed else np.abs(values))
    state = folder / f"begin_iter_{iteration}.solverstate{end}"
    write_solverstate(state, SolverState(iteration, model.name, history, step))
    return state


def caffe_train(install: CaffeInstall, folder: Path, solver: str, *arguments: str) -> str:
    """Runs `caffe train` in a folder; gives its log."""
    done = subprocess.run(
        [str(install.need_binary()), "train", "--solver", solver, *arguments],
        cwd=folder,
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    return done.stderr


@contextmanager
def torch_trainer(
    folder: Path, solver: str = "solver.prototxt", weights: Sequence[Path] = (), resume: Path | None = None
) -> Iterator[TorchTrainer]:
    """A solver in the embedded engine, started in a folder."""
    with TorchEngine(seed=1).trainer(folder / solver, weights=weights, resume=resume, root=folder) as trainer:
        yield trainer


def far(mine: Sequence[Array], caffes: Sequence[Array]) -> float:
    """The largest distance of arrays that belong together."""
    return max(apart(other, one) for one, other in zip(mine, caffes, strict=True))


def assert_as_far(mine: Sequence[Sequence[Array]], caffes: Sequence[Sequence[Array]], steps: int) -> None:
    """Fails where weights or history differ by more than so many steps of `NET` make of two roundings."""
    for what, ours, theirs in zip(("weights", "history"), mine, caffes, strict=True):
        for index, (one, other) in enumerate(zip(ours, theirs, strict=True)):
            assert_within(f"{what}[{index}]", other, one, between(steps * TERMS))


def snapshot_arrays(folder: Path, prefix: str, iteration: int, end: str = "") -> tuple[list[Array], list[Array]]:
    """The weights and the history of a snapshot."""
    weights = Weights.read(folder / f"{prefix}_iter_{iteration}.caffemodel{end}")
    state = read_solverstate(folder / f"{prefix}_iter_{iteration}.solverstate{end}")
    assert state.iteration == iteration
    return [array for name in SHAPES if name in weights for array in weights[name]], list(state.history)
