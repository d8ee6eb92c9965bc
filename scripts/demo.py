"""`make demo`: GoogLeNet from our zoo, merged, and both run by real Caffe side by side.

The weights are random: speed does not depend on them. What is timed is a forward pass at batch 1 on filled random
input, one thread, the two nets taking turns, each in a process of its own.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

from deeprebirth_caffe.cli.show import print_columns
from deeprebirth_caffe.engines import engine
from deeprebirth_caffe.engines.base import NetTiming
from deeprebirth_caffe.ir import Net, summarize
from deeprebirth_caffe.workflows.probe import save_weights
from deeprebirth_caffe.workflows.random_weights import random_weights

ROOT = Path("demo")
RUNS, ITERATIONS = 9, 10


def rebirth(*arguments: object, quiet: bool = False) -> None:
    """Runs one command as a user would, and says so; quiet leaves its output out."""
    words = [str(argument) for argument in arguments]
    print(f"\n$ rebirth {' '.join(words)}", flush=True)
    command = [sys.executable, "-m", "deeprebirth_caffe.cli", *words]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL if quiet else None)


def main() -> None:
    """Builds, converts, runs and times."""
    shutil.rmtree(ROOT, ignore_errors=True)
    original, weights = ROOT / "googlenet", ROOT / "googlenet" / "random.caffemodel"
    rebirth("zoo", "googlenet", "-o", original)
    net = Net.read(original / "train_val.prototxt")
    save_weights(weights, net, random_weights(net))
    merged, paper = ROOT / "merge", ROOT / "merge-paper"
    rebirth("convert", original / "train_val.prototxt", "-w", weights, "-o", merged)
    rebirth("convert", original / "train_val.prototxt", "-w", weights, "-o", paper, "--paper", quiet=True)
    nets = {
        "GoogLeNet": (original / "deploy.prototxt", weights),
        "GoogLeNet-Merge": (merged / "deploy.prototxt", merged / "init.caffemodel"),
        "GoogLeNet-Merge --paper": (paper / "deploy.prototxt", paper / "init.caffemodel"),
    }
    print(
        f"\nreal Caffe, one thread, batch 1, filled random input, {RUNS} runs of {ITERATIONS} passes each:", flush=True
    )
    timings = engine("caffe").time_nets(
        [path for path, _ in nets.values()],
        runs=RUNS,
        iterations=ITERATIONS,
        threads=1,
        weights=[model for _, model in nets.values()],
    )
    show(list(nets), [path for path, _ in nets.values()], timings)


def show(names: list[str], paths: list[Path], timings: list[NetTiming]) -> None:
    """One row a net: time, speed-up pair by pair, memory."""
    rows = [("", "median ms", "best ms", "speed-up", "blobs MiB", "parameters MiB")]
    for name, path, timing in zip(names, paths, timings, strict=True):
        cost = summarize(Net.read(path).view())
        rows.append(
            (
                name,
                f"{timing.median_ms:.1f}",
                f"{timing.best_ms:.1f}",
                f"{speed_up(timings[0], timing):.2f}x",
                f"{(cost.blob_bytes or 0) / 2**20:.1f}",
                f"{4 * (cost.params or 0) / 2**20:.1f}",
            )
        )
    print_columns(rows)
    print(f"\nThe merged net, its solver and its start are in {ROOT / 'merge'}; README.md says how to go on.")


def speed_up(before: NetTiming, after: NetTiming) -> float:
    """The median over the turns of the ratio of the two nets' medians in that turn."""
    ratios = [sorted(a)[len(a) // 2] / sorted(b)[len(b) // 2] for a, b in zip(before.runs, after.runs, strict=True)]
    return sorted(ratios)[len(ratios) // 2]


if __name__ == "__main__":
    main()
