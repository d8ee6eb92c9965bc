"""The folder of a small finished run, and the files in it damaged one or two at a time."""

from __future__ import annotations

import contextlib
import io
import json
from collections.abc import Sequence
from pathlib import Path
from random import Random
from typing import Any

import mutate
import numpy as np
import seeds as files
import values

from deeprebirth_caffe.cli.status import print_steps
from deeprebirth_caffe.runs.report import html, markdown
from deeprebirth_caffe.runs.report.gather import gather
from deeprebirth_caffe.runs.report.sections import sections
from deeprebirth_caffe.runs.report.write import figures
from deeprebirth_caffe.runs.schedule.status import status
from deeprebirth_caffe.wording import json_bytes

STEPS = (("00-base", "base"), ("01-conv1", "step"), ("02-joint", "joint"), ("03-deploy", "deploy"), ("04-time", "time"))


def _run() -> dict[str, Any]:
    steps = [{"folder": place, "name": place[3:], "kind": kind, "stages": ["conv1"]} for place, kind in STEPS]
    return {
        "version": 1,
        "rebirth": "0.1.0",
        "name": "small",
        "schedule": {"net": "net.prototxt", "test": {"metric": "top1"}},
        "steps": steps,
        "machine": {"cpu": "A CPU", "memory_bytes": 2**33, "cores": 2},
        "engines": {"python": "3.11", "torch": {"threads": 2}},
        "started": "2026-01-02T03:04:05+00:00",
        "commands": [{"at": "now", "command": ["rebirth", "run", "a b.yaml"], "rebirth": "0.1.0"}],
    }


def _result(place: str, kind: str) -> dict[str, Any]:
    test = {"accuracy": 0.75, "loss": 0.5, "top1": 0.75, "top5": 1.0, "prob": [0.5, None], "images": 8}
    tested = kind in ("base", "step", "joint")
    return {
        "version": 1,
        "step": place,
        "kind": kind,
        "stages": ["conv1"],
        "status": "done",
        "net": f"{place}/net.prototxt",
        "weights": f"{place}/net.caffemodel",
        "test": test if tested else None,
        "after_convert": test if kind == "step" else None,
        "drop": {"top1": 1.5},
        "iterations": 20,
        "seconds": 12.5,
        "attempts": [{}],
        "per_image": "test.npy" if tested else None,
    }


def _manifest() -> dict[str, Any]:
    figures: dict[str, Any] = {"layers": 6, "params": 1000, "macs": 123456, "memory_bytes": 4096}
    figures = {**figures, "uncounted": [{"name": "x", "type": "Foo"}]}
    return {
        "version": 1,
        "outputs": {"net": "net.prototxt"},
        "rewrites": [{"stage": "conv1", "pass": "pool-to-stride"}],
        "before": figures,
        "after": {**figures, "macs": 65432},
        "ledger": {"layers": {"relearned": ["conv1_merge"]}, "copied": 2, "folded": 1, "relearned": 1, "dropped": 0},
    }


def _times() -> dict[str, Any]:
    layers = [{"name": "conv1", "type": "Convolution", "stage": "conv1", "tensor": True, "forward_ms": 1.25}]
    layers += [{"name": "pool1", "type": "Pooling", "stage": "pool1", "tensor": False, "forward_ms": 0.75}]

    def net(place: str, median: float) -> dict[str, Any]:
        sizes = dict.fromkeys(("peak_rss_bytes", "memory_bytes", "reused_bytes", "param_bytes", "storage_bytes"), 2**20)
        return {
            **{
                "net": f"/r/03-deploy{place}/deploy.prototxt",
                "engine": "caffe",
                "on": "local",
                "threads": 1,
                "batch": 1,
            },
            **{"median_ms": median, "tensor_share": 0.6, "layers": layers, **sizes},
            "energy": {"method": "a counter", "mj": 5.0},
        }

    nets = [net("/base", 2.0), net("", 1.0)]
    ratio = {"net": nets[0]["net"], "vs": nets[1]["net"], "median": 2.0, "low": 1.9, "high": 2.1}
    time = {"version": 1, "machine": {"cpu": "A CPU"}, "nets": nets, "ratios": [ratio], "warnings": ["busy"]}
    return {"version": 1, "times": [{"engine": "caffe", "threads": 1, "time": time}]}


def _log() -> bytes:
    rows = []
    for iteration in range(12):
        row: dict[str, Any] = {
            "iteration": iteration,
            "lr": 0.1 if iteration < 6 else 0.01,
            "loss": 2.5 / (1 + iteration),
        }
        if iteration % 4 == 0:
            outputs = {"top1": iteration / 20, "prob": [0.5]}
            row["tests"] = [{"iteration": iteration, "net": 0, "outputs": outputs}]
        rows.append(json.dumps({**row, "images_per_second": 100.0, "outputs": {"loss": 1.0}}))
    return "".join(row + "\n" for row in rows).encode()


def _step() -> dict[str, Any]:
    part = {"of": "0" * 40, "done": True, "seconds": 3.5, "made": {"rewrites": 1}}
    return {"version": 1, "parts": {"convert": part, "train": {**part, "done": False}}}


def _tree() -> dict[str, bytes]:
    """The whole folder: path -> contents."""
    hits = io.BytesIO()
    np.save(hits, np.tile(np.array([[1, 1], [0, 1]], np.uint8), (4, 1)))
    net = files.WEIGHED.encode()
    found = {
        "run.json": json.dumps(_run()).encode(),
        "schedule.yaml": b"net: net.prototxt\nsteps: []\n",
        "00-base/net.prototxt": net,
        "01-conv1/convert/manifest.json": json.dumps(_manifest()).encode(),
        "01-conv1/convert/net.prototxt": net.replace(b"conv1", b"conv1_merge"),
        "01-conv1/train/log.jsonl": _log(),
        "01-conv1/train/solver.prototxt": files.SOLVER.encode(),
        "04-time/time.json": json.dumps(_times()).encode(),
    }
    for place, kind in STEPS:
        found[f"{place}/result.json"] = json.dumps(_result(place, kind)).encode()
        found[f"{place}/step.json"] = json.dumps(_step()).encode()
        if kind in ("base", "step", "joint"):
            found[f"{place}/test.npy"] = hits.getvalue()
    return found


TREE = _tree()
DAMAGED = [path for path in TREE if not path.endswith((".prototxt", ".yaml"))]
SPLIT = b"\0\0file\0\0"


def seeds() -> list[bytes]:
    """Nothing is damaged."""
    return [b""]


def damage(random: Random, _whole: Sequence[bytes]) -> bytes:
    """One or two files, each as its path and what it is to hold; a path alone is taken away."""
    parts = []
    for _count in range(random.choice((1, 1, 2))):
        path = random.choice(DAMAGED)
        kind = random.randrange(10)
        data = TREE[path]
        if kind == 0:
            parts.append(path.encode())
            continue
        if kind < 3 or path.endswith(".npy"):
            data = mutate.mutate_bytes(random, [data])
        elif path.endswith(".jsonl"):
            lines = data.splitlines()
            place = random.randrange(len(lines))
            lines[place] = values.as_json(random, values.change(random, json.loads(lines[place])))
            data = b"".join(line + b"\n" for line in lines)
        else:
            data = values.as_json(random, values.change(random, json.loads(data)))
        parts.append(path.encode() + b"\0" + data)
    return SPLIT.join(parts)


def run(data: bytes, folder: Path) -> None:
    """Says how far the run is, and makes its report; then all files are as they were."""
    root = folder / "run"
    if not root.exists():
        for path, content in TREE.items():
            (root / path).parent.mkdir(parents=True, exist_ok=True)
            (root / path).write_bytes(content)
    touched = []
    for part in filter(None, data.split(SPLIT)):
        name, there, content = part.partition(b"\0")
        touched.append(name.decode())
        (root / name.decode()).write_bytes(content)
        if not there:
            (root / name.decode()).unlink()
    try:
        try:
            far = status(root)
            json_bytes(far)
            if len(data) % 4 == 0:
                with contextlib.redirect_stdout(io.StringIO()):
                    print_steps([(step.folder, step) for step in far.steps], far.metric)
        finally:
            found = gather(root)
            parts = sections(found)
            html.page(found.title, "", parts)
            markdown.text(found.title, "", parts)
            json_bytes(figures(found, found.folder, ()))
    finally:
        for place in touched:
            (root / place).write_bytes(TREE[place])
