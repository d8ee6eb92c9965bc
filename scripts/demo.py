"""`make demo`: the whole method on a small trained net, the speed of a full-size one, and a run with its report.

First GoogLeNet's parts on handwritten digits, with weights that ship with the project: converted, relearned for 300
iterations, tested before and after, deployed, and timed in real Caffe. Then GoogLeNet at its full size, with random
weights, for speed does not depend on them. At the end the digits once more, as the paper does it, step by step from a
schedule, with a report of what was won and lost. What is timed is a forward pass at batch 1 on filled random input, one
thread, the nets taking turns, each in a process of its own. Where there is no real Caffe, the embedded engine takes its
place in all of that.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

from deeprebirth_caffe.engines.caffe.locate import CaffeNotFoundError, find_caffe
from deeprebirth_caffe.isolation import python_words

ROOT = Path("demo")
DIGITS = ROOT / "digits28"
EXAMPLES = Path(__file__).parent.parent / "examples"
EXAMPLE = EXAMPLES / "googlenet28.caffemodel"
SCHEDULE = EXAMPLES / "googlenet28.yaml"
ITERATIONS = 300


def rebirth(*arguments: object, quiet: bool = False) -> None:
    """Runs one command as a user would, and says so; quiet leaves its output out."""
    words = [str(argument) for argument in arguments]
    print(f"\n$ rebirth {' '.join(words)}", flush=True)
    subprocess.run(_command(words), check=True, stdout=subprocess.DEVNULL if quiet else None)


def main() -> None:
    """Digits, GoogLeNet, and the digits step by step."""
    engine = chosen_engine()
    shutil.rmtree(ROOT, ignore_errors=True)
    digits(engine)
    googlenet(engine)
    report = step_by_step(engine)
    print(f"\nAll of it is in {ROOT}; README.md says how to go on with a net of your own.")
    print(f"The report of the run, for a browser: {report}")
    if engine != "caffe":
        print(
            "All times are the embedded engine's, for there is no real Caffe here; docs/caffe.md tells how to get it."
        )


def chosen_engine() -> str:
    """What times the nets: real Caffe, or else the embedded engine, which it says."""
    try:
        find_caffe().need_python()
    except CaffeNotFoundError as error:
        print(f"{error}\nThe embedded engine (PyTorch) trains, tests and times in its place.", flush=True)
        return "torch"
    return "caffe"


def digits(engine: str) -> None:
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
        time(engine, phone / "deploy.prototxt", Path("deploy.prototxt"))
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


def googlenet(engine: str) -> None:
    """The speed of the full-size net."""
    original, merged, paper = ROOT / "googlenet", ROOT / "merge", ROOT / "merge-paper"
    rebirth("zoo", "googlenet", "-o", original)
    rebirth("convert", original / "train_val.prototxt", "-o", merged, quiet=True)
    rebirth("convert", original / "train_val.prototxt", "-o", paper, "--paper", quiet=True)
    time(engine, merged / "deploy.prototxt", original / "deploy.prototxt", paper / "deploy.prototxt")


def step_by_step(engine: str) -> Path:
    """The digits as a schedule says; gives the report's page."""
    schedule = SCHEDULE.read_text(encoding="utf-8")
    timed = schedule.replace("\ntime:\n", f"\ntime:\n  engines: [{engine}]\n")
    (DIGITS / SCHEDULE.name).write_text(timed, encoding="utf-8")
    with inside(DIGITS):
        out = Path(f"{SCHEDULE.stem}-run")
        rebirth("run", SCHEDULE.name, "-o", out)
        rebirth("report", out)
    return DIGITS / out / "report.html"


def time(engine: str, net: Path, *others: Path) -> None:
    """Times nets in turn."""
    against = [word for other in others for word in ("--vs", other)]
    protocol = ("--threads", 1, "--runs", 9, "--iterations", 10)
    rebirth("time", net, *against, "--engine", engine, *protocol, "--by", "stage")


def _command(words: list[str]) -> list[str]:
    return python_words("deeprebirth_caffe", words)


if __name__ == "__main__":
    main()
