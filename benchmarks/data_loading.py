"""How many records a second the data layers give, beside real Caffe's Data layer where there is one.

Each row is one LMDB, made of random smooth pictures: 256x256 JPEGs cut to 224 as GoogLeNet is trained, and 64x64
records, raw and encoded. `cpu us` is the processor time that a record takes in our threads, which is what
training on the same processors loses.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import tempfile
import time
from pathlib import Path

import cv2
import lmdb
import numpy as np
from google.protobuf import text_format

from deeprebirth_caffe.cli.layout import print_columns
from deeprebirth_caffe.data import open_layer
from deeprebirth_caffe.engines.caffe.client import CaffeWorker
from deeprebirth_caffe.engines.caffe.locate import CaffeNotFoundError, find_caffe
from deeprebirth_caffe.proto import caffe_pb2 as pb

MEANS = "mean_value: 104 mean_value: 117 mean_value: 123"
SOURCES = {
    "jpeg256": (256, ".jpg", 32, f"crop_size: 224 mirror: true {MEANS}"),
    "jpeg64": (64, ".jpg", 128, f"crop_size: 56 mirror: true {MEANS}"),
    "png64": (64, ".png", 128, f"crop_size: 56 mirror: true {MEANS}"),
    "raw64": (64, "", 128, f"crop_size: 56 mirror: true {MEANS}"),
}
"""Size, encoding, batch and transformation of each LMDB."""
RECORDS = 512
SECONDS = 4.0


def fill(path: Path, size: int, encoding: str) -> None:
    """Makes an LMDB of smooth pictures with some noise, which are about as hard to decode as photos."""
    rng = np.random.default_rng(0)
    with lmdb.open(str(path), map_size=1 << 30) as database, database.begin(write=True) as transaction:
        for number in range(RECORDS):
            coarse = rng.integers(0, 256, (size // 8, size // 8, 3), dtype=np.uint8)
            smooth = np.asarray(cv2.resize(coarse, (size, size), interpolation=cv2.INTER_CUBIC), np.uint8)
            pixels = np.minimum(smooth, 244) + rng.integers(0, 12, smooth.shape, dtype=np.uint8)
            datum = pb.Datum(label=number % 10)
            if encoding:
                datum.encoded = True
                datum.data = cv2.imencode(encoding, pixels)[1].tobytes()
            else:
                datum.channels, datum.height, datum.width = 3, size, size
                datum.data = pixels.transpose(2, 0, 1).tobytes()
            transaction.put(b"%08d" % number, datum.SerializeToString())


def ours(param: pb.LayerParameter, root: Path, threads: int) -> tuple[float, float]:
    """Records a second, and microseconds of processor time a record."""
    with open_layer(param, True, root, threads=threads) as layer:
        layer.next()
        batches = 0
        start, before = time.perf_counter(), time.process_time()
        while time.perf_counter() - start < SECONDS:
            layer.next()
            batches += 1
        records = batches * layer.batch_size
        return records / (time.perf_counter() - start), 1e6 * (time.process_time() - before) / records


def caffes(worker: CaffeWorker, param: pb.LayerParameter, root: Path) -> float:
    """Records a second of a net that has nothing but the layer."""
    path = root / "net.prototxt"
    path.write_text(text_format.MessageToString(pb.NetParameter(name="net", layer=[param])))
    net = worker.load(path, "TRAIN")
    worker.forward(net, blobs=[])
    batches = 0
    start = time.perf_counter()
    while time.perf_counter() - start < SECONDS:
        worker.forward(net, blobs=[])
        batches += 1
    rate = batches * param.data_param.batch_size / (time.perf_counter() - start)
    worker.close(net)
    return rate


def main() -> None:
    """Prints a row for each LMDB."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, nargs="+", default=[1, 2], help="numbers of threads (default: 1 2)")
    threads = parser.parse_args().threads
    header = ["records/s", *[f"{count} thread{'s' * (count > 1)}" for count in threads], "cpu us", "pycaffe"]
    rows = [header]
    with contextlib.ExitStack() as stack:
        name = stack.enter_context(tempfile.TemporaryDirectory())
        worker = None
        with contextlib.suppress(CaffeNotFoundError):
            worker = stack.enter_context(CaffeWorker(find_caffe(), threads=1))
        for source, (size, encoding, batch, transform) in SOURCES.items():
            path = Path(name) / source
            fill(path, size, encoding)
            body = f'data_param {{ source: "{path}" backend: LMDB batch_size: {batch} }}'
            param = text_format.Parse(f"{body} transform_param {{ {transform} }}", pb.LayerParameter())
            param.name, param.type = "data", "Data"
            param.top.extend(["data", "label"])
            measured = [ours(param, Path(name), count) for count in threads]
            row = [source, *[f"{rate:.0f}" for rate, _ in measured], f"{measured[0][1]:.0f}"]
            rows.append([*row, f"{caffes(worker, param, Path(name)):.0f}" if worker else "-"])
    print_columns(rows)
    print(f"{os.cpu_count()} processors, load {os.getloadavg()[0]:.1f}")


if __name__ == "__main__":
    main()
