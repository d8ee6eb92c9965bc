r"""What relearning costs: accuracy against iterations for different starts and recipes, on a trained net.

For example, with googlenet64 of the zoo trained on 100 classes (its data layers name the databases):

    python benchmarks/relearning.py NET/train_val.prototxt NET/base.caffemodel --solver NET/solver.prototxt \
        --calibrate own --iterations 1400 -o results xavier inherit refit refit+teacher

A recipe is words joined by `+`: a start (`xavier`, `inherit`, `refit`), then any of `distil` (a fifth of the iterations
go to distillation first), `teacher` (the original net teaches while it learns), `match` (block outputs too), `reparam`
(parts that are folded away again), `poly` (the rate falls to nothing), `paper` (the paper's merges), `receptive`
(kernels as wide as what they stand for), `whole` (reducers keep their channels), and `staged` (stage by stage from the
bottom, so many iterations each, the rate down at 44 %).

Every recipe has a folder in -o; what is there already is not run again. The table is printed at the end and lies in
`relearning.json`: for each recipe and point its test outputs.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from deeprebirth_caffe.cli.layout import print_columns
from deeprebirth_caffe.formats.prototxt import format_message
from deeprebirth_caffe.formats.solver import read_solver
from deeprebirth_caffe.isolation import python_words

RATE_FALLS = 4 / 9
"""The paper's: after 40,000 of 90,000 iterations."""
DISTILLED = 5
"""Of the iterations, one part of so many is distillation where a recipe says so."""


@dataclass(frozen=True)
class Setting:
    """What all recipes share."""

    net: Path
    weights: Path
    solver: Path
    calibrate: str
    samples: int
    iterations: int
    points: int
    rate: float
    steps: Sequence[Sequence[str]]
    threads: int | None
    clip: float | None


def main() -> None:
    """Reads the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("net", type=Path)
    parser.add_argument("weights", type=Path)
    parser.add_argument("recipes", nargs="+")
    parser.add_argument("--solver", type=Path, required=True, help="the net's own: test_iter, weight decay, …")
    parser.add_argument("--calibrate", default="own", help="of refit")
    parser.add_argument("--samples", type=int, default=512, help="of refit")
    parser.add_argument("--iterations", type=int, default=1400, help="in all, or of each stage")
    parser.add_argument("--points", type=int, default=5, help="tests on the way")
    parser.add_argument("--rate", type=float, default=0.001, help="base_lr; ten times that in rebirth layers")
    parser.add_argument("--clip", type=float, help="clip_gradients: without it good starts may be thrown far away")
    parser.add_argument(
        "--steps",
        default="conv1*;conv2*;inception_3a;inception_3b;inception_4a;inception_4b,inception_4c,inception_4d;"
        "inception_4e;inception_5a;inception_5b",
        help="stages of `staged`: steps apart by ;, stages of one step by ,",
    )
    parser.add_argument("--threads", type=int)
    parser.add_argument("-o", "--out", type=Path, required=True)
    given = parser.parse_args()
    setting = Setting(
        given.net,
        given.weights,
        given.solver,
        given.calibrate,
        given.samples,
        given.iterations,
        given.points,
        given.rate,
        [step.split(",") for step in given.steps.split(";")],
        given.threads,
        given.clip,
    )
    found = {recipe: results(setting, recipe, given.out / recipe) for recipe in given.recipes}
    (given.out / "relearning.json").write_text(json.dumps(found, indent=1) + "\n")
    show(found)


def results(setting: Setting, recipe: str, folder: Path) -> list[dict[str, Any]]:
    """Runs a recipe, or reads what it gave: rows of `step`, `iteration` and test outputs."""
    done = folder / "results.json"
    if done.is_file():
        return list(json.loads(done.read_text()))
    words = recipe.split("+")
    rows: list[dict[str, Any]] = []
    net, weights = setting.net, setting.weights
    steps: Sequence[Sequence[str]] = setting.steps if "staged" in words else [()]
    for number, stages in enumerate(steps, 1):
        place = folder / (f"{number:02}" if len(steps) > 1 else "all")
        net, weights = _step(setting, words, net, weights, stages, place, rows)
    done.write_text(json.dumps(rows, indent=1) + "\n")
    return rows


def _step(
    setting: Setting,
    words: Sequence[str],
    net: Path,
    weights: Path,
    stages: Sequence[str],
    place: Path,
    rows: list[dict[str, Any]],
) -> tuple[Path, Path]:
    """Converts, tests, learns; gives the net and weights that the next step starts from."""
    name = ",".join(stages) or "all"
    arguments: list[object] = [
        net,
        "-w",
        weights,
        "-o",
        place,
        "--solver",
        setting.solver,
        "--init",
        words[0],
        "--force",
    ]
    for stage in stages:
        arguments += ["--only", stage]
    if words[0] == "refit" or "reparam" in words:
        arguments += ["--calibrate", setting.calibrate, "--samples", setting.samples]
    arguments += ["--reparam"] * ("reparam" in words) + ["--paper"] * ("paper" in words)
    arguments += ["--kernel", "receptive"] * ("receptive" in words) + ["--reduce", "1"] * ("whole" in words)
    converted = _run("convert", *arguments)
    merged, start = place / net.name, place / "init.caffemodel"
    rows.append({"step": name, "iteration": 0, **_test(setting, merged, start)})
    _note(rows[-1])
    iterations = setting.iterations
    if "distil" in words:
        first = iterations // DISTILLED
        _run("distil", place, "-o", place / "distil", "--max-iter", first, "--force")
        # With the rates that it is written with: those of labels are no good for it.
        model = _learn(setting, place / "distil" / "solver.prototxt", place / "distil" / "log.jsonl")
        distilled = Path(str(model["model"]))
        rows.append({"step": name, "iteration": first, **_test(setting, merged, distilled)})
        _note(rows[-1])
        iterations -= first
    # Auxiliary heads are not distilled: they keep their start.
    extra: list[object] = ["-w", start] + (["-w", distilled] if "distil" in words else [])
    if "teacher" in words or "match" in words:
        extra += ["--teacher", setting.net, "--teacher-weights", setting.weights]
        extra += ["--match-blobs"] * ("match" in words)
    log = place / "log.jsonl"
    solver = _solver(setting, place / "solver.prototxt", iterations, words)
    summary = _learn(setting, solver, log, *extra)
    passed = setting.iterations - iterations
    for line in map(json.loads, log.read_text().splitlines()):
        for test in line.get("tests", []):
            rows.append({"step": name, "iteration": passed + test["iteration"], **_tops(test["outputs"])})
            _note(rows[-1])
    rows[-1].update(seconds=summary["seconds"], rebirth=converted["ledger"]["relearned"])
    return merged, Path(str(summary["model"]))


def _solver(setting: Setting, solver: Path, iterations: int, words: Sequence[str]) -> Path:
    """The converted net's solver with this run's rates, beside it."""
    message = read_solver(solver).message
    message.max_iter = iterations
    message.snapshot = iterations
    message.base_lr = setting.rate
    message.random_seed = 1
    message.test_interval = max(1, iterations // setting.points)
    message.test_initialization = False
    for field in ("stepsize", "gamma", "power", "clip_gradients"):
        message.ClearField(field)
    if setting.clip is not None:
        message.clip_gradients = setting.clip
    if "poly" in words:
        message.lr_policy, message.power = "poly", 1
    else:
        message.lr_policy, message.stepsize, message.gamma = "step", max(1, round(iterations * RATE_FALLS)), 0.1
    own = solver.with_name("own-solver.prototxt")
    own.write_text(format_message(message))
    return own


def _learn(setting: Setting, solver: Path, log: Path, *extra: object) -> dict[str, Any]:
    begin = time.perf_counter()
    more = [*extra, *(["--threads", setting.threads] if setting.threads else [])]
    summary = _run("finetune", solver, "--engine", "torch", "--log", log, "--force", *more)
    summary["seconds"] = time.perf_counter() - begin
    return summary


def _test(setting: Setting, net: Path, weights: Path) -> dict[str, float]:
    more = ["--threads", setting.threads] if setting.threads else []
    found = _run("test", net, "-w", weights, "--iterations", 0, "--engine", "torch", *more)
    return _tops(found["outputs"])


def _tops(outputs: dict[str, Any]) -> dict[str, float]:
    return {name: value for name, value in outputs.items() if isinstance(value, float)}


def _run(*arguments: object) -> dict[str, Any]:
    words = [*(str(one) for one in arguments), "--json"]
    done = subprocess.run(python_words("deeprebirth_caffe", words), stdout=subprocess.PIPE, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"failed: rebirth {' '.join(words)}")
    return dict(json.loads(done.stdout))


def _note(row: dict[str, Any]) -> None:
    print(json.dumps(row), file=sys.stderr, flush=True)


def show(found: dict[str, list[dict[str, Any]]]) -> None:
    """Prints the table."""
    names = sorted({name for rows in found.values() for row in rows for name in row if "top" in name})
    lines = [["recipe", "step", "iterations", *names]]
    for recipe, rows in found.items():
        for row in rows:
            scores = [f"{100 * row[name]:.2f}" if name in row else "" for name in names]
            lines.append([recipe, row["step"], str(row["iteration"]), *scores])
    print_columns(lines)


if __name__ == "__main__":
    main()
