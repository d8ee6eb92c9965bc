"""Training speed and memory: the embedded engine beside pycaffe, in one run.

    python benchmarks/throughput.py [--net googlenet] [--batch 32] [--threads 2] [--rounds 3] [--iterations 2]
        [--engines torch caffe caffe:SkylakeX] [--device cpu] [--precision fp32]

Every engine trains the net (forward, backward, update) in a process of its own on the same random batch, and they take
turns, so that whatever the machine does meanwhile hits all of them. Told are images per second, by the median of all
iterations and by the best of them, and the process's peak memory. `caffe:CORE` is pycaffe with OPENBLAS_CORETYPE=CORE.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Any

from deeprebirth_caffe import zoo
from deeprebirth_caffe.cli.layout import print_columns
from deeprebirth_caffe.formats.prototxt import format_message, parse_message
from deeprebirth_caffe.proto import caffe_pb2 as pb

ENGINES = ["torch", "caffe", "caffe:SkylakeX"]
CLASSES = 10  # of the labels; any net of the zoo has as many

CAFFE_SIDE = """
import json, resource, sys, time
import numpy as np
import caffe
caffe.set_mode_cpu()
solver = caffe.SGDSolver(sys.argv[1])
random = np.random.RandomState(0)
blobs = solver.net.blobs
blobs["data"].data[...] = random.standard_normal(blobs["data"].data.shape)
blobs["label"].data[...] = random.randint(0, int(sys.argv[2]), blobs["label"].data.shape)
print("ready", flush=True)
for line in sys.stdin:
    seconds = []
    for _ in range(int(line)):
        begin = time.perf_counter()
        solver.step(1)
        seconds.append(time.perf_counter() - begin)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    print(json.dumps({"seconds": seconds, "peak": peak}), flush=True)
"""


def write_solver(name: str, batch: int, folder: Path) -> Path:
    """The net's train_val with its Data layers made Inputs, and a solver for it."""
    built = zoo.build(name)
    net = parse_message(built.train_val, pb.NetParameter)
    for layer in net.layer:
        if layer.type == "Data":
            layer.type = "Input"
            layer.ClearField("data_param")
            layer.ClearField("transform_param")
            layer.input_param.shape.add(dim=(batch, *built.input_shape))
            layer.input_param.shape.add(dim=(batch,))
    (folder / "net.prototxt").write_text(format_message(net))
    solver = folder / "solver.prototxt"
    solver.write_text(
        f'train_net: "{folder / "net.prototxt"}"\nbase_lr: 0.0001\nlr_policy: "fixed"\nmomentum: 0.9\n'
        "weight_decay: 0.0002\nmax_iter: 1000000\nsnapshot_after_train: false\nrandom_seed: 1\n"
    )
    return solver


class Side:
    """One engine's process."""

    def __init__(self, name: str, command: list[str], env: dict[str, str]) -> None:
        self.name = name
        self.seconds: list[float] = []
        self.peak = 0
        self._process = subprocess.Popen(
            command, env=env, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
        )
        self._line("ready")

    def _line(self, what: str) -> str:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            if line.startswith(what):
                return line
        raise SystemExit(f"{self.name}: its process ended with {self._process.wait()}")

    def turn(self, iterations: int, counts: bool = True) -> None:
        """Some iterations of training."""
        assert self._process.stdin is not None
        self._process.stdin.write(f"{iterations}\n")
        self._process.stdin.flush()
        found = json.loads(self._line("{"))
        if counts:
            self.seconds += found["seconds"]
        self.peak = max(self.peak, found["peak"])

    def close(self) -> None:
        """Ends the process."""
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._process.wait()


def start(name: str, solver: Path, arguments: argparse.Namespace) -> Side:
    """Starts an engine's process; `name` is one of `--engines`."""
    threads = str(arguments.threads)
    env = dict(os.environ) | dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), threads)
    if name == "torch":
        own = [sys.executable, __file__, "--torch-side", str(solver)]
        own += ["--threads", threads, "--device", arguments.device, "--precision", arguments.precision]
        return Side(name, own, env)
    from deeprebirth_caffe.engines.caffe.locate import find_caffe

    install = find_caffe()
    env["GLOG_minloglevel"] = "2"
    env["PYTHONPATH"] = os.pathsep.join(map(str, install.pythonpath))
    core = name.partition(":")[2]
    if core:
        env["OPENBLAS_CORETYPE"] = core
    return Side(name, [str(install.need_python()), "-c", CAFFE_SIDE, str(solver), str(CLASSES)], env)


def torch_side(solver: Path, threads: int, device: str, precision: str) -> None:
    """What the embedded engine's process does."""
    import torch

    from deeprebirth_caffe.engines.torch.engine import TorchEngine

    engine = TorchEngine(device, precision, threads)
    with engine.trainer(solver) as trainer:
        random = torch.Generator().manual_seed(0)
        data, label = (trainer.net.shape_of(name) for name in ("data", "label"))
        trainer.net.feed(
            {
                "data": torch.randn(data, generator=random),
                "label": torch.randint(0, CLASSES, label, generator=random).float(),
            }
        )
        print("ready", flush=True)
        for line in sys.stdin:
            seconds = [trainer.step().seconds for _ in range(int(line))]
            answer: dict[str, Any] = {"seconds": seconds, "peak": _peak(device)}
            print(json.dumps(answer), flush=True)


def _peak(device: str) -> int:
    """The most memory in use so far, in KiB: the GPU's own where there is one."""
    if device.startswith("cuda"):
        import torch

        return torch.cuda.max_memory_allocated() // 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


def main() -> None:
    """Runs all engines side by side and prints a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    whole: Callable[[str], int] = int
    parser.add_argument("--net", default="googlenet", choices=zoo.names())
    parser.add_argument("--batch", type=whole, default=32)
    parser.add_argument("--threads", type=whole, default=2)
    parser.add_argument("--rounds", type=whole, default=3)
    parser.add_argument("--iterations", type=whole, default=2)
    parser.add_argument("--engines", nargs="+", default=ENGINES)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--precision", default="fp32")
    parser.add_argument("--torch-side", type=Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.torch_side is not None:
        torch_side(arguments.torch_side, arguments.threads, arguments.device, arguments.precision)
        return
    with tempfile.TemporaryDirectory() as folder:
        solver = write_solver(arguments.net, arguments.batch, Path(folder))
        sides = [start(name, solver, arguments) for name in arguments.engines]
        for side in sides:
            side.turn(1, counts=False)
        for _ in range(arguments.rounds):
            for side in sides:
                side.turn(arguments.iterations)
        for side in sides:
            side.close()
    first = median(sides[0].seconds)
    rows = [["engine", "images/s", f"{sides[0].name} is", "at best", "peak memory"]]
    for side in sides:
        middle = median(side.seconds)
        speeds = [f"{arguments.batch / seconds:.1f}" for seconds in (middle, min(side.seconds))]
        rows.append([side.name, speeds[0], f"{middle / first:.2f}x", speeds[1], f"{side.peak / 1024:.0f} MiB"])
    print(f"{arguments.net}, batch {arguments.batch}, {arguments.threads} threads: forward, backward and update")
    print_columns(rows)


if __name__ == "__main__":
    main()
