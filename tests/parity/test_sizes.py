"""Records of different sizes, one a batch: the nets of both engines take each batch's shape, also in training."""

from __future__ import annotations

from itertools import islice
from pathlib import Path

import numpy as np
import pytest
from closeness import assert_near, assert_within, trained

from deeprebirth_caffe.engines.caffe.engine import CaffeEngine
from deeprebirth_caffe.engines.caffe.locate import CaffeInstall
from deeprebirth_caffe.formats.caffemodel import write_caffemodel
from deeprebirth_caffe.proto import caffe_pb2 as pb

pytest.importorskip("torch")
pytest.importorskip("lmdb")

SIZES = [(12, 9), (7, 16), (20, 20), (9, 12), (13, 13), (8, 7)]

BODY = """
layer { name: "conv" type: "Convolution" bottom: "data" top: "conv"
  convolution_param { num_output: 4 kernel_size: 3 stride: 2 pad: 1 weight_filler { type: "xavier" } } }
layer { name: "norm" type: "BatchNorm" bottom: "conv" top: "conv" batch_norm_param { use_global_stats: true } }
layer { name: "relu" type: "ReLU" bottom: "conv" top: "conv" }
layer { name: "max" type: "Pooling" bottom: "conv" top: "max" pooling_param { pool: MAX kernel_size: 3 stride: 2 } }
layer { name: "lrn" type: "LRN" bottom: "max" top: "lrn" lrn_param { local_size: 3 alpha: 0.1 } }
layer { name: "ave" type: "Pooling" bottom: "conv" top: "ave"
  pooling_param { pool: AVE kernel_size: 3 stride: 2 } }
layer { name: "both" type: "Concat" bottom: "lrn" bottom: "ave" top: "both" }
layer { name: "up" type: "Deconvolution" bottom: "both" top: "up"
  convolution_param { num_output: 4 kernel_size: 4 stride: 2 weight_filler { type: "xavier" } } }
layer { name: "crop" type: "Crop" bottom: "up" bottom: "conv" top: "crop" crop_param { axis: 2 } }
layer { name: "sum" type: "Eltwise" bottom: "crop" bottom: "conv" top: "sum" }
layer { name: "spp" type: "SPP" bottom: "sum" top: "spp" spp_param { pyramid_height: 2 } }
layer { name: "all" type: "Pooling" bottom: "sum" top: "all" pooling_param { pool: AVE global_pooling: true } }
layer { name: "flat" type: "Flatten" bottom: "all" top: "flat" }
layer { name: "scores" type: "Concat" bottom: "flat" bottom: "spp" top: "scores" }
layer { name: "ip" type: "InnerProduct" bottom: "scores" top: "ip"
  inner_product_param { num_output: 3 weight_filler { type: "xavier" } } }
layer { name: "loss" type: "SoftmaxWithLoss" bottom: "ip" bottom: "label" top: "loss" }
"""

IMAGES = """
layer { name: "data" type: "ImageData" top: "data" top: "label" transform_param { scale: 0.01 mean_value: 9 }
  image_data_param { source: "list.txt" batch_size: 1 } }
"""
LMDB = """
layer { name: "data" type: "Data" top: "data" top: "label" transform_param { scale: 0.01 }
  data_param { source: "lmdb" backend: LMDB batch_size: 1 } }
"""
TERMS = 27 + 9 + 9 + 3 + 8 * 16 + 100 + 24
"""What the layers add up for one value, the whole picture for `all`."""
BLOBS = ["data", "conv", "max", "lrn", "both", "crop", "sum", "spp", "ip", "loss"]


def make_data(folder: Path) -> None:
    """The same pictures as files and in an LMDB."""
    import cv2
    import lmdb

    random = np.random.default_rng(3)
    lines = []
    with lmdb.open(str(folder / "lmdb"), map_size=1 << 20) as database, database.begin(write=True) as transaction:
        for number, (height, width) in enumerate(SIZES):
            pixels = random.integers(0, 255, (height, width, 3), dtype=np.uint8)
            assert cv2.imwrite(str(folder / f"{number}.png"), pixels)
            lines.append(f"{folder}/{number}.png {number % 3}\n")
            planes = pixels.transpose(2, 0, 1).tobytes()
            record = pb.Datum(channels=3, height=height, width=width, data=planes, label=number % 3)
            transaction.put(b"%08d" % number, record.SerializeToString())
    (folder / "list.txt").write_text("".join(lines))


def make_weights(path: Path) -> None:
    """Random ones, the same for both engines."""
    random = np.random.default_rng(4)
    shapes = {
        "conv": ("Convolution", [(4, 3, 3, 3), (4,)]),
        "up": ("Deconvolution", [(8, 4, 4, 4), (4,)]),
        "ip": ("InnerProduct", [(3, 24), (3,)]),
    }
    layers = [
        (name, kind, [random.normal(0, 0.3, shape).astype(np.float32) for shape in given])
        for name, (kind, given) in shapes.items()
    ]
    statistics = [np.full(4, 0.1, np.float32), np.full(4, 0.5, np.float32), np.ones(1, np.float32)]
    write_caffemodel(path, "sizes", [*layers, ("norm", "BatchNorm", statistics)])


@pytest.mark.parametrize("data", [IMAGES, LMDB], ids=["ImageData", "Data"])
def test_every_batch_has_its_own_shape(caffe_install: CaffeInstall, tmp_path: Path, data: str) -> None:
    from deeprebirth_caffe.engines.torch.engine import TorchEngine

    make_data(tmp_path)
    make_weights(tmp_path / "start.caffemodel")
    (tmp_path / "net.prototxt").write_text(data + BODY)
    (tmp_path / "solver.prototxt").write_text(
        'net: "net.prototxt" base_lr: 0.01 lr_policy: "fixed" momentum: 0.9 max_iter: 9 snapshot_prefix: "s"\n'
        f"test_iter: {len(SIZES)} test_interval: 100\n"
    )
    batches, steps = [], []
    for engine in (CaffeEngine(caffe_install, threads=1), TorchEngine()):
        found = engine.batches(tmp_path / "net.prototxt", tmp_path / "start.caffemodel", 8, BLOBS, root=tmp_path)
        batches.append(list(islice(found, 8)))
        start = [tmp_path / "start.caffemodel"]
        with engine.trainer(tmp_path / "solver.prototxt", weights=start, root=tmp_path) as trainer:
            steps.append([trainer.step().loss for _ in range(9)] + [trainer.test()["loss"]])
    assert [one["data"].shape[2:] for one in batches[0]] == [*SIZES, *SIZES[:2]]
    for real, ours in zip(*batches, strict=True):
        assert_near({name: real[name] for name in BLOBS}, {name: ours[name] for name in BLOBS}, TERMS)
    assert_within("losses", *steps, trained(10, TERMS))
