"""A tiny net with data, for tests of finetune, test and forward: pictures of four kinds that it learns in a moment."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from deeprebirth_caffe.proto import caffe_pb2 as pb

CLASSES, SIDE = 4, 8
TERMS = 2 * (64 + 8 + CLASSES) + 8
"""What NET adds up for a value and for a gradient: each weight's inputs, a Softmax's classes, a batch."""

NET = """name: "tiny"
layer { name: "data" type: "Data" top: "data" top: "label" include { phase: TRAIN }
  transform_param { scale: 0.00390625 } data_param { source: "train_lmdb" batch_size: 8 backend: LMDB } }
layer { name: "data" type: "Data" top: "data" top: "label" include { phase: TEST }
  transform_param { scale: 0.00390625 } data_param { source: "test_lmdb" batch_size: 8 backend: LMDB } }
layer { name: "fc1" type: "InnerProduct" bottom: "data" top: "fc1"
  inner_product_param { num_output: 8 weight_filler { type: "xavier" } } }
layer { name: "relu1" type: "ReLU" bottom: "fc1" top: "fc1" }
layer { name: "fc2" type: "InnerProduct" bottom: "fc1" top: "fc2"
  inner_product_param { num_output: 4 weight_filler { type: "xavier" } } }
layer { name: "accuracy" type: "Accuracy" bottom: "fc2" bottom: "label" top: "accuracy" include { phase: TEST } }
layer { name: "loss" type: "SoftmaxWithLoss" bottom: "fc2" bottom: "label" top: "loss" }
"""

SOLVER = """net: "net.prototxt"
test_iter: 3 test_interval: 10 base_lr: 0.05 lr_policy: "fixed" momentum: 0.9 weight_decay: 0.001
display: 5 max_iter: 25 snapshot: 10 snapshot_prefix: "snap/tiny" random_seed: 3 solver_mode: CPU
"""


def picture(label: int, random: np.random.Generator) -> np.ndarray:
    """Two bright rows, where the class says, in noise."""
    pixels = random.integers(0, 60, (SIDE, SIDE)).astype(np.uint8)
    pixels[2 * label : 2 * label + 2] += 150
    return pixels


def datum(label: int, random: np.random.Generator) -> pb.Datum:
    """A record."""
    return pb.Datum(channels=1, height=SIDE, width=SIDE, data=picture(label, random).tobytes(), label=label)


def write_lmdb(path: Path, records: list[bytes]) -> None:
    """A database of these values."""
    import lmdb

    with lmdb.open(str(path), map_size=1 << 24) as database, database.begin(write=True) as transaction:
        for index, value in enumerate(records):
            transaction.put(b"%08d" % index, value)


def make_tiny(folder: Path, solver: str = SOLVER, net: str = NET) -> None:
    """Writes net.prototxt, solver.prototxt, train_lmdb (40 records) and test_lmdb (20)."""
    random = np.random.default_rng(1)
    (folder / "net.prototxt").write_text(net, encoding="utf-8")
    (folder / "solver.prototxt").write_text(solver, encoding="utf-8")
    for name, count in (("train_lmdb", 40), ("test_lmdb", 20)):
        write_lmdb(folder / name, [datum(index % CLASSES, random).SerializeToString() for index in range(count)])
