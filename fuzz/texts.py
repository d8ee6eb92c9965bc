"""Texts that are no prototxt: schedules, and the logs of `caffe time` and of training."""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Sequence
from pathlib import Path
from random import Random
from typing import Any

import mutate
import values

from deeprebirth_caffe.bench.caffe_log import CaffeLogError, parse
from deeprebirth_caffe.bench.machine import facts, state
from deeprebirth_caffe.errors import RebirthError
from deeprebirth_caffe.runs.report.logs import read_log
from deeprebirth_caffe.runs.schedule.files import read_schedule
from deeprebirth_caffe.training.runlog import RunLog

ROOT = Path(__file__).resolve().parents[1]
ROW = b"I0821 11:42:33.123456  4242 caffe.cpp:400] "


def schedules() -> list[bytes]:
    """The ones that are shipped, without comments, and with few steps: reading takes as long as the text is."""
    found = []
    for path in sorted((ROOT / "configs").glob("*.yaml")):
        lines = [line for line in path.read_bytes().splitlines(keepends=True) if line.strip() and b"#" not in line]
        found.append(b"".join(lines)[:900].rpartition(b"\n")[0] + b"\n")
    return [SHORT, *found]


@functools.cache
def _parsed(data: bytes) -> Any:
    import yaml

    return yaml.safe_load(data)


def damage_schedule(random: Random, seeds: Sequence[bytes]) -> bytes:
    """The tree of one changed, or its text."""
    import yaml

    data = random.choice(seeds)
    if random.randrange(3):
        tree = values.change(random, _parsed(data))
        as_json = values.as_json(random, tree)
        if random.randrange(6) == 0:
            return as_json
        try:
            dumper: Any = getattr(yaml, "CSafeDumper", yaml.SafeDumper)  # the one in C is ten times as fast
            data = yaml.dump(tree, Dumper=dumper, allow_unicode=True).encode("utf-8", "surrogatepass")
        except RecursionError:  # it writes what is nested deeply no more than it reads it
            return as_json
        return data if random.randrange(4) else mutate.mutate_text(random, [data])
    if random.randrange(8) == 0:
        data += random.choice(TRICKS)
    return mutate.mutate_text(random, [data, *seeds])


SHORT = b"""net: train_val.prototxt
weights: net.caffemodel
solver: solver.prototxt
test: {metric: top1, per_image: true}
engine: {name: torch, threads: 2}
input_shapes: {data: [3, 64, 64]}
steps:
  - stages: [conv1, conv2]
    passes: [pool-to-stride]
    finetune: {iterations: 500, base_lr: 0.01, step: 200}
    budget: {step: 1.5, then: rollback}
    distil: {iterations: 100}
  - {stages: [inception_3a], skip: true}
joint: {iterations: 100}
tucker: {energy: 0.9}
deploy: {}
time: {engines: [torch], threads: [1], runs: 3}
"""

TRICKS = (
    b"\nname: &a [*a]\n",
    b"\na: &a [x, x]\nb: &b [*a, *a, *a]\nc: &c [*b, *b, *b]\nname: [*c, *c, *c]\n",
    b"\nseed: 1:1:1:1:1\n",
    b"\nseed: 0x" + b"f" * 6000 + b"\n",
    b"\n<<: [{}, {}]\n",
    b"\n? [a, b]\n: c\n",
    b"\nname: !!python/object/apply:os.system [x]\n",
    b"\nname: !!binary =\n",
    b"\n--- \n...\n",
)


def run_schedule(data: bytes, folder: Path) -> None:
    """Reads it; nothing that it names is looked for."""
    path = folder / "s.yaml"
    path.write_bytes(data)
    read_schedule(path)


def logs() -> list[bytes]:
    """Logs of several forks of Caffe and of our own training."""
    found = [path.read_bytes() for path in sorted((ROOT / "tests/logs").glob("*.log"))]
    training = b"".join(
        b'{"iteration": %d, "lr": 0.01, "loss": 2.5, "images_per_second": null, "outputs": {"loss": 2.5}, '
        b'"tests": [{"iteration": %d, "net": 0, "outputs": {"top1": 0.5}}]}\n' % (number, number)
        for number in range(6)
    )
    return [*(log[:20_000] for log in found), training]


def damage_log(random: Random, seeds: Sequence[bytes]) -> bytes:
    """Lines changed, doubled and taken out, and numbers put in the place of others."""
    lines = random.choice(seeds).splitlines(keepends=True)
    for _ in range(random.choice((1, 1, 2, 6))):
        if not lines:
            break
        at = random.randrange(len(lines))
        kind = random.randrange(8)
        if kind == 0:
            del lines[at]
        elif kind == 1:
            lines.insert(random.randrange(len(lines)), lines[at])
        elif kind == 2:
            lines[at] = mutate.mutate_bytes(random, [lines[at]])
        elif kind == 3:
            lines.insert(at, ROW + random.choice(ODD_ROWS))
        else:
            lines[at] = mutate.TOKEN.sub(lambda found: _token(random, found[0]), lines[at])
    return b"".join(lines)


ODD_ROWS = (
    b"     conv1\tforward: 1e308 ms.\n",
    b"     conv1\tforward: inf ms.\n",
    b"     conv1\tforward: -nan ms.\n",
    b"     conv1\tforward: " + b"9" * 5000 + b" ms.\n",
    b" " * 3000 + b"\n",
    b"*** Benchmark begins ***\n",
    b"*** Benchmark ends ***\n",
    b"Average Forward pass: -1 ms.\n",
    b"Testing for 99999999999999999999 iterations.\n",
    b"\xff\xfe\x00\n",
)


def _token(random: Random, token: bytes) -> bytes:
    if token[:1].isdigit() and random.randrange(4) == 0:
        return random.choice((*mutate.NUMBERS, b"1e308", b"1" * 400))
    return b"" if random.randrange(60) == 0 else token


def run_log(data: bytes, folder: Path) -> None:
    """Reads it as each kind of log, and as what a machine says of itself."""
    found: Any = []
    with contextlib.suppress(CaffeLogError):
        found = parse(data)
    for one in found:
        with contextlib.suppress(CaffeLogError):
            one.check()
    path = folder / "log.jsonl"
    path.write_bytes(data)
    with contextlib.suppress(RebirthError):
        read_log(path)
    texts = dict.fromkeys(("/proc/cpuinfo", "/proc/meminfo", "/proc/loadavg"), data.decode("utf-8", "replace"))
    facts(texts)
    state(texts)
    RunLog(path, start=3).close()
