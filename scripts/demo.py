"""`make demo`: the whole method on a small trained net, then the speed of a full-size one.

First GoogLeNet's parts on handwritten digits, with weights that ship with the project: converted, relearned for 300
iterations, tested before and after, deployed, and timed in real Caffe. Then GoogLeNet at its full size, with random
weights, for speed does not depend on them. What is timed is a forward pass at batch 1 on filled random input, one
thread, the nets taking turns, each in a process of its own.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

from deeprebirth_caffe.cli.show import print_columns
from deeprebirth_caffe.engines import engine
from deeprebirth_caffe.engines.base import NetTiming
from deeprebirth_caffe.ir import Net, summarize
from deeprebirth_caffe.workflows.probe import save_weights
from deeprebirth_caffe.workflows.random_weights import random_weights

ROOT = Path("demo")
DIGITS = ROOT / "digits28"
EXAMPLE = Path(__file__).parent.parent / "examples" / "googlenet28.caffemodel"
ITERATIONS = 300
RUNS, PASSES = 9, 10


def rebirth(*arguments: object, quiet: bool = False) -> None:
    """Runs one command as a user would, and says so; quiet leaves its output out."""
    words = [str(argument) for argument in arguments]
    print(f"\n$ rebirth {' '.join(words)}", flush=True)
    subprocess.run(_command(words), check=True, stdout=subprocess.DEVNULL if quiet else None)


def main() -> None:
    """Digits, then GoogLeNet."""
    shutil.rmtree(ROOT, ignore_errors=True)
    digits()
    googlenet()
    print(f"\nAll of it is in {ROOT}; README.md says how to go on with a net of your own.")


def digits() -> None:
    """A trained net through the whole method."""
    rebirth("zoo", "googlenet28", "-o", DIGITS)
    shutil.copyfile(EXAMPLE, DIGITS / EXAMPLE.name)
    with inside(DIGITS):
        # A net's data has paths from where Caffe is started.
        rebirth("data", "digits", "-o", "digits")
        original, weights = Path("train_val.prototxt"), Path(EXAMPLE.name)
        reborn, phone = Path("train_val-rebirth"), Path("phone")
        steps = ("--max-iter", ITERATIONS, "--stepsize", ITERATIONS * 4 // 9)
        rebirth("convert", original, "-w", weights, "--solver", "solver.prototxt", *steps)
        merged, start = reborn / "train_val.prototxt", reborn / "init.caffemodel"
        learned = reborn / f"rebirth_iter_{ITERATIONS}.caffemodel"
        rebirth("finetune", reborn / "solver.prototxt")
        before = accuracy(original, weights)
        converted, after = accuracy(merged, start), accuracy(merged, learned)
        rebirth("deploy", merged, "-w", learned, "-o", phone)
        time(
            {
                "original": (Path("deploy.prototxt"), weights),
                "reborn": (phone / "deploy.prototxt", phone / "deploy.caffemodel"),
            }
        )
    print(f"\ntop-1: {before:.1%} before, {converted:.1%} just converted, {after:.1%} relearned")


@contextlib.contextmanager
def inside(folder: Path) -> Iterator[None]:
    """Goes into a folder, and back."""
    before = Path.cwd()
    print(f"\n$ cd {folder}", flush=True)
    os.chdir(folder)
    try:
        yield
    finally:
        os.chdir(before)


def accuracy(net: Path, weights: Path) -> float:
    """Top-1 on all digits that are for testing."""
    words = ["test", str(net), "-w", str(weights), "--iterations", "all", "--json"]
    print(f"\n$ rebirth {' '.join(words)}", flush=True)
    done = subprocess.run(_command(words), check=True, stdout=subprocess.PIPE)
    found = json.loads(done.stdout)
    print(f"top-1 {found['top1']:.1%} of {found['images']} pictures", flush=True)
    return float(found["top1"])


def googlenet() -> None:
    """The speed of the full-size net."""
    original, weights = ROOT / "googlenet", ROOT / "googlenet" / "random.caffemodel"
    rebirth("zoo", "googlenet", "-o", original)
    net = Net.read(original / "train_val.prototxt")
    save_weights(weights, net, random_weights(net))
    merged, paper = ROOT / "merge", ROOT / "merge-paper"
    rebirth("convert", original / "train_val.prototxt", "-w", weights, "-o", merged, quiet=True)
    rebirth("convert", original / "train_val.prototxt", "-w", weights, "-o", paper, "--paper", quiet=True)
    time(
        {
            "GoogLeNet": (original / "deploy.prototxt", weights),
            "GoogLeNet-Merge": (merged / "deploy.prototxt", merged / "init.caffemodel"),
            "GoogLeNet-Merge --paper": (paper / "deploy.prototxt", paper / "init.caffemodel"),
        }
    )


def time(nets: dict[str, tuple[Path, Path]]) -> None:
    """Times nets side by side: one row a net, with the speed-up over the first, and memory."""
    print(f"\nreal Caffe, one thread, batch 1, filled random input, {RUNS} runs of {PASSES} passes each:", flush=True)
    timings = engine("caffe").time_nets(
        [path for path, _ in nets.values()],
        runs=RUNS,
        iterations=PASSES,
        threads=1,
        weights=[model for _, model in nets.values()],
    )
    rows = [("", "median ms", "best ms", "speed-up", "blobs MiB", "parameters MiB")]
    for (name, (path, _)), timing in zip(nets.items(), timings, strict=True):
        cost = summarize(Net.read(path).view())
        rows.append(
            (
                name,
                f"{timing.median_ms:.2f}",
                f"{timing.best_ms:.2f}",
                f"{speed_up(timings[0], timing):.2f}x",
                f"{(cost.blob_bytes or 0) / 2**20:.2f}",
                f"{4 * (cost.params or 0) / 2**20:.2f}",
            )
        )
    print_columns(rows)


def speed_up(before: NetTiming, after: NetTiming) -> float:
    """The median over the turns of the ratio of the two nets' medians in that turn."""
    ratios = [sorted(a)[len(a) // 2] / sorted(b)[len(b) // 2] for a, b in zip(before.runs, after.runs, strict=True)]
    return sorted(ratios)[len(ratios) // 2]


def _command(words: list[str]) -> list[str]:
    return [sys.executable, "-m", "deeprebirth_caffe.cli", *words]


if __name__ == "__main__":
    main()
