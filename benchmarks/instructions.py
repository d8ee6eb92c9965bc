"""Instructions of one forward pass in real Caffe on ARM, counted under qemu.

`instructions.py googlenet=a/deploy.prototxt merged=b/deploy.prototxt --arch arm64` runs each net in the pycaffe that
`rebirth caffe install --arch` brought, on one thread, and counts by layer and stage. It counts the second pass: what
Caffe and OpenBLAS do once is over by then. It needs qemu-user (a static qemu takes no plugins) and a C compiler.

Instructions are not time. A cache miss costs as much as many of them, and cores differ in what they do in a cycle. The
counts say how much work is left, on a machine that is no ARM.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
from dataclasses import asdict, dataclass
from pathlib import Path

from deeprebirth_caffe.bench.breakdown import layer_times
from deeprebirth_caffe.engines.caffe.arch import ARCHES
from deeprebirth_caffe.engines.caffe.locate import default_prefix
from deeprebirth_caffe.formats.files import atomic_write
from deeprebirth_caffe.ir import Net

PLUGIN = Path(__file__).with_name("qemu_count.c")
WORKER = """
import os, sys
os.environ["GLOG_minloglevel"] = "2"
import caffe, numpy
caffe.set_mode_cpu()
net = caffe.Net(sys.argv[1], caffe.TEST)
random = numpy.random.RandomState(1)
for blob in net.inputs:
    net.blobs[blob].data[...] = random.rand(*net.blobs[blob].data.shape)
net.forward()
def mark(index):
    try:
        os.close(0x5eb10000 + index)
    except OSError:
        pass
print("\\n".join(net._layer_names))
for index in range(len(net.layers)):
    mark(2 * index)
    net._forward(index, index)
    mark(2 * index + 1)
"""


@dataclass(frozen=True)
class Count:
    """The instructions of one layer in one forward pass."""

    layer: str
    type: str
    stage: str
    instructions: int


def build_plugin(folder: Path) -> Path:
    """Compiles the plugin for this machine."""
    plugin = folder / "qemu_count.so"
    subprocess.run(["cc", "-O2", "-shared", "-fPIC", "-o", plugin, PLUGIN], check=True)
    return plugin


def count(deploy: Path, arch: str, core: str, plugin: Path) -> list[Count]:
    """Counts a net's layers.

    Args:
        deploy: the net; its batch counts.
        arch: one of `ARCHES`, by Debian's name.
        core: OPENBLAS_CORETYPE; empty leaves the choice to OpenBLAS.
        plugin: what `build_plugin` made.

    Raises:
        SystemExit: Caffe for the architecture, or qemu, is not here, or the net does not run.
    """
    prefix = default_prefix(arch)
    processor = next(candidate for candidate in ARCHES if candidate.debian == arch)
    qemu = shutil.which(f"qemu-{processor.machine}")
    if qemu is None or not prefix.is_dir():
        raise SystemExit(f"needs qemu-{processor.machine} (qemu-user) and `rebirth caffe install --arch {arch}`")
    lib, usr = prefix / "lib" / processor.triple, prefix / "usr/lib" / processor.triple
    places = [prefix / "usr/lib", usr / "openblas-pthread", usr, lib, usr / "blas", usr / "lapack"]
    command = [qemu, "-plugin", str(plugin), str(lib / "ld-2.31.so"), "--inhibit-cache"]
    command += ["--library-path", ":".join(map(str, places)), str(prefix / "usr/bin/python3.9")]
    command += ["-E", "-s", "-c", WORKER, str(deploy)]
    environment = {**os.environ, "OPENBLAS_NUM_THREADS": "1"} | ({"OPENBLAS_CORETYPE": core} if core else {})
    ran = subprocess.run(command, env=environment, text=True, capture_output=True, check=False)
    if ran.returncode:
        raise SystemExit(f"{deploy}: {ran.stderr[-2000:]}")
    marks = {int(index): int(total) for index, total in re.findall(r"^mark (\d+) (\d+)$", ran.stderr, re.MULTILINE)}
    counts = [
        (name, float(marks[2 * index + 1] - marks[2 * index])) for index, name in enumerate(ran.stdout.splitlines())
    ]
    rows = layer_times(counts, Net.read(deploy).view(), {})
    return [Count(row.name, row.type, row.stage, round(row.forward_ms)) for row in rows]


def main() -> None:
    """Counts the nets and prints a table; writes JSON where it is asked to."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("nets", nargs="+", metavar="NAME=DEPLOY")
    parser.add_argument("--arch", default="arm64", choices=[arch.debian for arch in ARCHES])
    parser.add_argument("--core", default="", help="OPENBLAS_CORETYPE, for example CORTEXA53")
    parser.add_argument("--json", type=Path, help="write all counts there")
    options = parser.parse_args()
    results: dict[str, list[Count]] = {}
    with tempfile.TemporaryDirectory() as folder:
        plugin = build_plugin(Path(folder))
        for word in options.nets:
            name, _, deploy = word.partition("=")
            results[name] = count(Path(deploy), options.arch, options.core, plugin)
            print(f"{name}: {sum(row.instructions for row in results[name]) / 1e9:.3f} G", file=sys.stderr)
    names = list(results)
    stages = list(dict.fromkeys(row.stage for rows in results.values() for row in rows))
    print(f"| stage, millions of instructions ({options.arch}) | " + " | ".join(names) + " |")
    print("|---" * (len(names) + 1) + "|")
    for stage in [*stages, "total"]:
        sums = [sum(row.instructions for row in results[name] if stage in (row.stage, "total")) for name in names]
        cells = [f"{value / 1e6:.1f}" if value else "" for value in sums]
        if stage == "total":
            cells[1:] = [f"{cell} ({sums[0] / value:.2f}x)" for cell, value in zip(cells[1:], sums[1:])]
        print(f"| {stage or 'other'} | " + " | ".join(cells) + " |")
    if options.json:
        data = {name: [asdict(row) for row in rows] for name, rows in results.items()}
        atomic_write(
            options.json, json.dumps({"arch": options.arch, "core": options.core, "nets": data}, indent=1).encode()
        )


if __name__ == "__main__":
    main()
