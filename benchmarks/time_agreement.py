"""Does `rebirth time` measure what others measure?

One net, three ways, in turn: the process that `rebirth time` starts; a plain loop over pycaffe's `forward`, written as
anyone would write it; and `caffe time -phase TEST` on the net fed by DummyData, whose row is left out. All on filled
input and weights. They should agree within 5 %, also by processor time, which other work on the machine changes less.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import tempfile
from pathlib import Path
from statistics import fmean, median

from deeprebirth_caffe import zoo
from deeprebirth_caffe.bench import machine
from deeprebirth_caffe.bench.caffe_time import CaffeTimeSubject, thread_settings
from deeprebirth_caffe.bench.targets import Job
from deeprebirth_caffe.bench.targets.local import LocalTarget
from deeprebirth_caffe.cli.layout import print_columns
from deeprebirth_caffe.engines.caffe.locate import find_caffe
from deeprebirth_caffe.engines.prepare import prepare

LOOP = """
import json, sys, time
import numpy as np
import caffe
net = caffe.Net(sys.argv[1], sys.argv[2], caffe.TEST)
for name in net.inputs:
    net.blobs[name].data[...] = np.random.standard_normal(net.blobs[name].data.shape)
for _ in range(3):
    net.forward()
wall, own = [], []
for _ in range(int(sys.argv[3])):
    begin, used = time.perf_counter(), time.process_time()
    net.forward()
    wall.append(1000 * (time.perf_counter() - begin))
    own.append(1000 * (time.process_time() - used))
json.dump([wall, own], open(sys.argv[4], "w"))
"""


def loop(net: Path, weights: Path, iterations: int, threads: int, folder: Path) -> tuple[float, float]:
    """Mean wall and processor milliseconds of a pass in a plain loop."""
    script, result = folder / "loop.py", folder / "loop.json"
    script.write_text(LOOP, encoding="utf-8")
    subprocess.run(
        [str(find_caffe().need_python()), str(script), str(net), str(weights), str(iterations), str(result)],
        env={**os.environ, **thread_settings(threads)},
        stderr=subprocess.DEVNULL,
        check=True,
    )
    wall, own = json.loads(result.read_text(encoding="utf-8"))
    return fmean(wall), fmean(own)


def measure(name: str, rounds: int, iterations: int, threads: int) -> None:
    ours: list[float] = []
    ours_own: list[float] = []
    plain: list[float] = []
    plain_own: list[float] = []
    program: list[float] = []
    with tempfile.TemporaryDirectory() as text, LocalTarget() as target:
        folder = Path(text)
        zoo.write(name, folder / name)
        files = prepare(folder / name / "deploy.prototxt", None).write(folder)
        job = Job("caffe", *files, threads)
        subject, caffe_time = target.open(job), CaffeTimeSubject(target, job)
        try:
            assert subject.pid is not None
            for number in range(rounds):
                before = machine.cpu_seconds(subject.pid)
                passes = subject.run(iterations, 0 if number else 3)
                after = machine.cpu_seconds(subject.pid)
                assert before is not None and after is not None
                ours.append(fmean(passes))
                ours_own.append(1000 * (after - before) / len(passes))
                wall, own = loop(*files, iterations, threads, folder)
                plain.append(wall)
                plain_own.append(own)
                program += caffe_time.run(iterations, 0)
        finally:
            subject.close()
    del ours_own[0]  # with the passes that do not count
    rows = [("", "best run ms", "median ms", "processor ms")]
    for label, wall_ms, own_ms in (
        ("rebirth time", ours, ours_own),
        ("plain pycaffe loop", plain, plain_own),
        ("caffe time, DummyData", program, None),
    ):
        rows.append(
            (label, f"{min(wall_ms):.2f}", f"{median(wall_ms):.2f}", f"{min(own_ms):.2f}" if own_ms else "unknown")
        )
    state = machine.state(machine.read_files(machine.STATE))
    print(f"{name}: {rounds} rounds of {iterations} passes, {threads} thread(s), load average {state.load}")
    print_columns(rows)
    for label, other in (("the plain loop", plain), ("caffe time", program)):
        print(
            f"rebirth time against {label}: best {100 * (min(ours) / min(other) - 1):+.1f} %, "
            f"median of pairs {100 * (median(a / b for a, b in zip(ours, other, strict=True)) - 1):+.1f} %"
        )
    if ours_own:
        print(f"processor time against the plain loop: {100 * (min(ours_own) / min(plain_own) - 1):+.1f} %")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("net", nargs="?", default="googlenet", help="of the zoo")
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--iterations", type=int, default=5)
    parser.add_argument("--threads", type=int, default=1)
    given = parser.parse_args()
    measure(given.net, given.rounds, given.iterations, given.threads)
