"""Folders of runs for tests of the report: one made by real work on a small net, and one made up, for what is rare."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from deeprebirth_caffe import zoo
from deeprebirth_caffe.bench import machine
from deeprebirth_caffe.commands.convert import convert
from deeprebirth_caffe.options.convert import ConvertOptions
from deeprebirth_caffe.results import to_json

Hits = NDArray[np.uint8]


def write(path: Path, data: Any) -> None:
    """JSON into a file, with the folders above it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(to_json(data)), encoding="utf-8")


def run_json(folder: Path, steps: Sequence[tuple[str, str, Sequence[str]]] = (), **more: Any) -> list[Path]:
    """A run without results.

    Args:
        folder: made.
        steps: name, kind and stages of each.
        more: other fields of `run.json`.

    Returns:
        The folders of the steps.
    """
    names = [f"{number:02}-{name}" for number, (name, _, _) in enumerate(steps)]
    info = {
        "version": 1,
        "rebirth": "0.1.0",
        "name": "A small run",
        "schedule": {"net": "net.prototxt", "test": {"metric": "top1"}},
        "steps": [
            {"folder": place, "name": name, "kind": kind, "stages": list(stages)}
            for place, (name, kind, stages) in zip(names, steps, strict=True)
        ],
        "machine": machine.facts(machine.read_files(machine.FACTS)),
        "engines": {"python": "3.11.2", "torch": {"torch": "2.13.0", "threads": 2}},
        "started": "2026-01-02T03:04:05+00:00",
        "commands": [{"at": "now", "command": ["rebirth", "run", "a b.yaml"], "rebirth": "0.1.0"}] * 2,
        **more,
    }
    write(folder / "run.json", info)
    (folder / "schedule.yaml").write_text("net: net.prototxt\nsteps: []\n", encoding="utf-8")
    return [folder / name for name in names]


def result(folder: Path, test: Mapping[str, Any] | None = None, hits: Hits | None = None, **more: Any) -> None:
    """A step's result.

    Args:
        folder: of the step.
        test: what its test gave.
        hits: a row an image, top-1 and top-5; None keeps none.
        more: other fields of `result.json`.
    """
    if hits is not None:
        folder.mkdir(parents=True, exist_ok=True)
        np.save(folder / "test.npy", hits)
        more["per_image"] = "test.npy"
    data = {"version": 1, "step": folder.name, "status": "done", "test": test, "attempts": [], "iterations": 0}
    write(folder / "result.json", {**data, **more})


def scores(hits: Hits) -> dict[str, float]:
    """A test's figures."""
    top1, top5 = (float(value) for value in hits.mean(axis=0))
    return {"accuracy": top1, "loss": 0.5, "top1": top1, "top5": top5, "images": float(len(hits))}


def log(path: Path, losses: Sequence[float | None], rates: Sequence[float] | None = None, test_every: int = 0) -> None:
    """A training log."""
    path.parent.mkdir(parents=True, exist_ok=True)
    lines = []
    for iteration, loss in enumerate(losses):
        line: dict[str, Any] = {"iteration": iteration, "lr": rates[iteration] if rates else 0.01, "loss": loss}
        line |= {"outputs": {"loss": loss}, "images_per_second": None}
        if test_every and iteration % test_every == 0:
            outputs = {"accuracy": iteration / len(losses), "loss": 1.0}
            line |= {"test": outputs, "tests": [{"iteration": iteration, "net": 0, "outputs": outputs}]}
        lines.append(json.dumps(line) + "\n")
    path.write_text("".join(lines), encoding="utf-8")


def timed(net: Path, median: float, stages: Mapping[str, tuple[float, float]]) -> dict[str, Any]:
    """A row of "nets" of `rebirth time`.

    Args:
        net: its file.
        median: milliseconds of a pass.
        stages: milliseconds in tensor layers and in the others.
    """
    layers = [
        {"name": f"{stage}/{kind}", "type": kind, "stage": stage, "tensor": kind == "Convolution", "forward_ms": ms}
        for stage, both in stages.items()
        for kind, ms in zip(("Convolution", "Pooling"), both, strict=True)
    ]
    return {
        "net": str(net),
        "engine": "caffe",
        "on": "local",
        "threads": 1,
        "batch": 1,
        "median_ms": median,
        "tensor_share": 0.5 if layers else None,
        "layers": layers,
        "peak_rss_bytes": 5 * 2**20,
        "memory_bytes": int(median * 2**20),
        "param_bytes": 2**20,
        "reused_bytes": None,
        "storage_bytes": 2**20,
        "energy": {"method": "not available here: no counter", "mj": None},
    }


def time_json(nets: Sequence[Mapping[str, Any]], ratios: Sequence[Mapping[str, Any]] = ()) -> dict[str, Any]:
    """A result of `rebirth time`."""
    return {
        "version": 1,
        "machine": {"cpu": "A CPU"},
        "nets": list(nets),
        "ratios": list(ratios),
        "warnings": ["the machine was busy"],
    }


def made_up(folder: Path, images: int = 400) -> Path:
    """A run on googlenet28 whose nets and manifests are real and whose figures are made up.

    Args:
        folder: made.
        images: in the test.
    """
    merges = [("conv1", ["conv1"]), ("3a", ["inception_3a"]), ("top", ["inception_3b", "inception_4a"])]
    middle = [(name, "step", only) for name, only in merges]
    steps = run_json(folder, [("base", "base", []), *middle, ("deploy", "deploy", []), ("time", "time", [])])
    random = np.random.default_rng(1)
    base = (random.random((images, 2)) < (0.8, 0.95)).astype(np.uint8)
    result(steps[0], scores(base), base)
    source = folder.with_name(f"{folder.name}-source")
    zoo.write("googlenet28", source)
    shutil.copyfile(source / "train_val.prototxt", steps[0] / "train_val.prototxt")
    net = source / "train_val.prototxt"
    for number, (step, (_, only)) in enumerate(zip(steps[1:], merges, strict=False), 1):
        convert(ConvertOptions(net, out=step / "convert", only=tuple(only), input_shapes={"data": (1, 28, 28)}))
        net = step / "convert" / net.name
        hits = base.copy()
        hits[: 2 * number, 0] = 0
        log(step / "train" / "log.jsonl", [2.0 / (1 + index) for index in range(50)], test_every=10)
        after = {"top1": 0.1 * number, "top5": 0.5}
        result(step, scores(hits), hits, after_convert=after, iterations=50, seconds=100.0 * number)
    *_, deploy, time = steps
    (deploy / "base").mkdir(parents=True)
    shutil.copyfile(source / "deploy.prototxt", deploy / "base" / "deploy.prototxt")
    shutil.copyfile(net.parent / "deploy.prototxt", deploy / "deploy.prototxt")
    shutil.rmtree(source)
    result(deploy, scores(base))
    stages = ("conv1", "conv2", "inception_3a", "inception_3b", "inception_4a", "loss3")
    nets = [
        timed(deploy / "base" / "deploy.prototxt", 15.0, dict.fromkeys(stages, (1.0, 1.4))),
        timed(deploy / "deploy.prototxt", 5.0, dict.fromkeys(stages, (0.5, 0.3))),
    ]
    ratio = {"net": nets[0]["net"], "vs": nets[1]["net"], "median": 3.2, "low": 3.1, "high": 3.3}
    times_json(time, time_json(nets, [ratio]))
    return folder


def times_json(folder: Path, *times: Mapping[str, Any]) -> None:
    """What the step "time" leaves."""
    rows = [{"engine": "caffe", "threads": 1, "time": time} for time in times]
    write(folder / "time.json", {"version": 1, "times": rows})
    result(folder)
