"""The loss curves of both engines side by side: one solver, the same start, the same data.

For example, with the nets of Caffe's `examples` copied to ROOT and their data made by `rebirth data`:

    python benchmarks/trajectories.py ROOT/examples/mnist/lenet_solver.prototxt --root ROOT --iterations 100

The start is that of the net's fillers, as the embedded engine draws it, unless `--weights` names one; both engines load
it. `--converted` trains the full-size GoogLeNet, converted, with both auxiliary losses, on random pictures instead.
"""

from __future__ import annotations

import argparse
import shutil
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from deeprebirth_caffe import zoo
from deeprebirth_caffe.cli.layout import print_columns
from deeprebirth_caffe.commands.convert import convert
from deeprebirth_caffe.engines.base import Engine, Step
from deeprebirth_caffe.engines.caffe.engine import CaffeEngine
from deeprebirth_caffe.engines.random_weights import random_weights
from deeprebirth_caffe.engines.torch.engine import TorchEngine
from deeprebirth_caffe.formats.prototxt import format_message
from deeprebirth_caffe.formats.solver import read_solver
from deeprebirth_caffe.ir.probe import probe, save_weights
from deeprebirth_caffe.nets.load import load_net
from deeprebirth_caffe.options.convert import ConvertOptions
from deeprebirth_caffe.proto import caffe_pb2 as pb


def main() -> None:
    """Reads the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("solver", type=Path, nargs="?", help="a solver file")
    parser.add_argument("--root", type=Path, default=Path(), help="where the paths in it start")
    parser.add_argument("--weights", type=Path, help="a caffemodel to start from")
    parser.add_argument("--iterations", type=int, default=100)
    parser.add_argument("--threads", type=int, help="of each engine")
    parser.add_argument("--converted", action="store_true", help="the converted GoogLeNet instead of a solver")
    parser.add_argument("--batch", type=int, default=8, help="of the converted GoogLeNet")
    given = parser.parse_args()
    engines: dict[str, Engine] = {
        "caffe": CaffeEngine(threads=given.threads),
        "torch": TorchEngine(threads=given.threads, seed=1),
    }
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        if given.converted:
            converted_googlenet(engines, folder, given.iterations, given.batch)
        elif given.solver is None:
            parser.error("name a solver, or say --converted")
        else:
            curves(engines, folder, given.solver, given.root, given.weights, given.iterations)


def curves(
    engines: Mapping[str, Engine], folder: Path, solver: Path, root: Path, weights: Path | None, iterations: int
) -> None:
    """Trains in both engines and prints how losses and outputs go."""
    message = read_solver(solver).message
    message.snapshot_prefix = str(folder / "start")
    # Read from here, its net and data from the root.
    own = folder / "solver.prototxt"
    own.write_text(format_message(message))
    if weights is None:
        with engines["torch"].trainer(own, root=root) as trainer:
            weights = folder / "start.caffemodel"
            shutil.copy(trainer.snapshot().model, weights)
    steps: dict[str, list[Step]] = {}
    for name, engine in engines.items():
        with engine.trainer(own, weights=[weights], root=root) as trainer:
            steps[name] = [trainer.step() for _ in range(iterations)]
    compare(steps)


def compare(steps: Mapping[str, Sequence[Step]]) -> None:
    """Prints two runs: some of the iterations, then how far the curves are from each other."""
    mine, theirs = steps["torch"], steps["caffe"]
    rows = [("iteration", "lr", "caffe", "torch", "difference")]
    shown = sorted({*range(0, len(mine), max(1, len(mine) // 10)), len(mine) - 1})
    for index in shown:
        one, other = mine[index], theirs[index]
        difference = abs(one.loss - other.loss) / abs(other.loss)
        rows.append((str(index), f"{one.lr:.6g}", f"{other.loss:.6f}", f"{one.loss:.6f}", f"{difference:.1e}"))
    print_columns(rows)
    ours, caffes = (np.array([step.loss for step in run]) for run in (mine, theirs))
    relative = np.abs(ours - caffes) / np.abs(caffes)
    tail = slice(-max(1, len(ours) // 5), None)
    print(
        f"relative difference of the losses: median {np.median(relative):.1e}, largest {relative.max():.1e}; mean loss "
        f"of the last fifth: caffe {caffes[tail].mean():.4f}, torch {ours[tail].mean():.4f}; rates the same: "
        f"{[one.lr for one in mine] == [one.lr for one in theirs]}"
    )
    for name, run in steps.items():
        seconds = float(np.median([step.seconds for step in run]))
        print(f"{name}: {run[0].images / seconds:.0f} images/s")


def converted_googlenet(engines: Mapping[str, Engine], folder: Path, iterations: int, batch: int) -> None:
    """The converted GoogLeNet: the losses of some iterations."""
    prepare_googlenet(folder, batch)
    solver = pb.SolverParameter(
        net=str(folder / "train.prototxt"), base_lr=0.001, lr_policy="fixed", solver_mode=pb.SolverParameter.CPU
    )
    (folder / "solver.prototxt").write_text(format_message(solver))
    curves(engines, folder, folder / "solver.prototxt", folder, folder / "out/init.caffemodel", iterations)


def prepare_googlenet(folder: Path, batch: int) -> None:
    """Converts GoogLeNet with random weights; writes its training net, fed from HDF5 and without Dropout."""
    import h5py

    built = zoo.build("googlenet")
    shapes = {"data": built.input_shape}
    (folder / "net.prototxt").write_text(built.train_val)
    net = load_net(folder / "net.prototxt", None, shapes)
    save_weights(folder / "w.caffemodel", net, random_weights(net))
    result = convert(
        ConvertOptions(
            folder / "net.prototxt", weights=folder / "w.caffemodel", out=folder / "out", input_shapes=shapes
        )
    )
    random = np.random.default_rng(0)
    with h5py.File(folder / "data.h5", "w") as file:
        file["data"] = random.normal(size=(3 * batch, *built.input_shape)).astype(np.float32)
        file["label"] = random.integers(0, built.classes, 3 * batch).astype(np.float32)
    (folder / "list.txt").write_text(f"{folder / 'data.h5'}\n")
    message = probe(result.net, result.net.view("TRAIN"), batch).message()
    first = message.layer[0]
    first.type = "HDF5Data"
    first.ClearField("input_param")
    first.hdf5_data_param.source = str(folder / "list.txt")
    first.hdf5_data_param.batch_size = batch
    kept = [layer for layer in message.layer if layer.type != "Dropout"]
    (folder / "train.prototxt").write_text(format_message(pb.NetParameter(name="googlenet", layer=kept)))


if __name__ == "__main__":
    main()
