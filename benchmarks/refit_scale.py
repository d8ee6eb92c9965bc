"""How long `--init refit` takes, and how much memory, as the number of images grows.

    python benchmarks/refit_scale.py [--net googlenet] [--images 128,256,512] [--engine torch] [--threads 2]
        [--json FILE]

Random weights that keep activations alive, and smooth random pictures: what is fitted says nothing about accuracy. Each
size runs in a process of its own, whose peak memory (and that of Caffe's process, with `--engine caffe`) is what the
system reports at its end. Temporary files are counted while they are there.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

MIB = 1 << 20


def make_net(folder: Path, name: str) -> tuple[Path, Path, tuple[int, ...]]:
    """A deploy net of the zoo and random weights for it: their paths, and the shape of a picture."""
    from deeprebirth_caffe import zoo
    from deeprebirth_caffe.engines.random_weights import random_weights
    from deeprebirth_caffe.ir.probe import save_weights
    from deeprebirth_caffe.nets.load import load_net

    zoo.write(name, folder)
    path, weights = folder / "deploy.prototxt", folder / "random.caffemodel"
    net = load_net(path)
    save_weights(weights, net, random_weights(net))
    shape = net.view("TEST").blobs["data"].shape
    assert shape is not None
    return path, weights, shape[1:]


def make_pictures(path: Path, count: int, shape: tuple[int, ...]) -> None:
    """A database of smooth noise, so that neighbouring pixels are alike, as in photographs."""
    import lmdb
    import numpy as np

    from deeprebirth_caffe.proto import caffe_pb2 as pb

    rng = np.random.default_rng(0)
    channels, height, width = shape
    with lmdb.open(str(path), map_size=1 << 34) as database, database.begin(write=True) as transaction:
        for index in range(count):
            picture = np.zeros(shape)
            for size in (4, 16, 56):
                coarse = rng.normal(0, 30, (channels, -(-height // size), -(-width // size)))
                picture += np.kron(coarse, np.ones((1, size, size)))[:, :height, :width]
            data = np.clip(picture + 110, 0, 255).astype(np.uint8).tobytes()
            datum = pb.Datum(channels=channels, height=height, width=width, data=data, label=0)
            transaction.put(b"%08d" % index, datum.SerializeToString())


def run_one(folder: Path, images: int, engine: str, threads: int) -> dict[str, Any]:
    """One refit in this process: seconds, MiB."""
    from deeprebirth_caffe.commands.convert import convert
    from deeprebirth_caffe.options.convert import ConvertOptions
    from deeprebirth_caffe.options.shared import CalibrationOptions, EngineOptions
    from deeprebirth_caffe.results import to_json

    temporary = folder / f"temporary{images}"
    temporary.mkdir()
    tempfile.tempdir = str(temporary)
    most, done = 0, threading.Event()

    def watch() -> None:
        nonlocal most
        while not done.wait(0.2):
            sizes = []
            for file in temporary.rglob("*"):
                try:
                    sizes.append(file.stat().st_size)
                except FileNotFoundError:
                    continue
            most = max(most, sum(sizes))

    watcher = threading.Thread(target=watch)
    watcher.start()
    begin = time.perf_counter()
    try:
        runner = EngineOptions(engine, threads=threads)
        options = ConvertOptions(
            net=folder / "net" / "deploy.prototxt",
            weights=folder / "net" / "random.caffemodel",
            init="refit",
            calibrate=CalibrationOptions(str(folder / "pictures"), images, engine=runner),
            dry_run=True,
        )
        manifest = convert(options, None, lambda text: print(text, file=sys.stderr)).manifest
    finally:
        done.set()
        watcher.join()
    report = manifest.refit
    assert report is not None
    return {
        "images": report.images,
        "engine": report.engine,
        "layers": len(report.layers),
        "seconds": time.perf_counter() - begin,
        "peak_mib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
        "caffe_peak_mib": resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 1024,
        "temporary_mib": most / MIB,
        "output": to_json(report.outputs[-1]),
    }


def main() -> None:
    """Runs every size and prints a table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--net", default="googlenet")
    parser.add_argument("--images", default="128,256,512")
    parser.add_argument("--engine", choices=["torch", "caffe"], default="torch")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--json", type=Path, help="where the figures go")
    parser.add_argument("--one", type=Path, help=argparse.SUPPRESS)
    given = parser.parse_args()
    sizes = [int(one) for one in given.images.split(",")]
    if given.one is not None:
        print(json.dumps(run_one(given.one, sizes[0], given.engine, given.threads)))
        return
    rows = []
    with tempfile.TemporaryDirectory(prefix="rebirth-bench-") as name:
        folder = Path(name)
        _, _, shape = make_net(folder / "net", given.net)
        make_pictures(folder / "pictures", max(sizes), shape)
        for size in sizes:
            words = ["--images", str(size), "--engine", given.engine, "--threads", str(given.threads)]
            command = [sys.executable, __file__, "--one", str(folder), *words]
            done = subprocess.run(command, stdout=subprocess.PIPE, check=True, text=True)
            row = json.loads(done.stdout)
            rows.append(row)
            print(
                f"{given.net}, {row['engine']}, {row['images']} images: {row['seconds']:.1f} s, "
                f"peak {row['peak_mib']:.0f} MiB (Caffe's process {row['caffe_peak_mib']:.0f}), "
                f"temporary files {row['temporary_mib']:.0f} MiB"
            )
    if given.json is not None:
        given.json.write_text(json.dumps({"net": given.net, "threads": given.threads, "rows": rows}, indent=2) + "\n")


if __name__ == "__main__":
    main()
