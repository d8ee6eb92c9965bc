"""How much memory a net needs for one image: what we foretell beside what real Caffe's process then has.

A net is loaded and run at two batch sizes; by how much more the process grows with the larger one is the memory of that
many images. Blobs are large, so that pages and the allocator do not count.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from nets import conv, layer, parse, pool, relu

from deeprebirth_caffe import zoo
from deeprebirth_caffe.commands.convert import convert
from deeprebirth_caffe.engines.caffe.client import CaffeWorker
from deeprebirth_caffe.engines.caffe.locate import CaffeInstall
from deeprebirth_caffe.formats.prototxt import format_message
from deeprebirth_caffe.ir import Net, summarize
from deeprebirth_caffe.ops import all_ops
from deeprebirth_caffe.ops.base import no_buffers
from deeprebirth_caffe.options.convert import ConvertOptions
from deeprebirth_caffe.proto import caffe_pb2 as pb

pytestmark = pytest.mark.caffe
CLOSE = 0.03
SHAPE = (16, 64, 64)
"""Of one image: a quarter of a MiB."""
BATCHES = (16, 80)


def filled(*shape: int | str, name: str = "data") -> str:
    """Ones: pages that nobody has written to are not resident. A dimension "N" is the batch, "M" 256 of it."""
    dims = " ".join(f"dim: {dim}" for dim in shape)
    filler = 'data_filler { type: "constant" value: 1 }'
    return layer("DummyData", name, (), name, f"dummy_data_param {{ shape {{ {dims} }} {filler} }}")


IMAGE = filled("N", *SHAPE)
TWO = IMAGE + filled("N", *SHAPE, name="twin")
LONG = 1 << 16


def recurrent(kind: str, steps: int, *, static: bool = False, exposed: bool = False) -> str:
    """A recurrent layer, whose batch is the second axis: 256 sequences an image of the first blob, which nobody reads.

    Its weights are small, since each step has its own until it shares those of the first.
    """
    text = filled("N", 1, name="images") + filled(steps, "M", 32) + filled(steps, "M", name="flags")
    bottoms, tops = ["data", "flags"], ["out"]
    if static:
        text += filled("M", 4, name="static")
        bottoms.append("static")
    if exposed:
        for state in range(1 + (kind == "LSTM")):
            text += filled(1, "M", 32, name=f"from{state}")
            bottoms.append(f"from{state}")
            tops.append(f"to{state}")
    fields = f"num_output: 32 expose_hidden: {str(exposed).lower()}"
    filler = 'weight_filler { type: "constant" value: 1e-4 }'
    return text + layer(kind, "out", bottoms, tops, f"recurrent_param {{ {fields} {filler} }}")


def one(kind: str, fields: str = "", *, bottoms: tuple[str, ...] = ("data",), top: str = "out", more: str = "") -> str:
    return (TWO if "twin" in bottoms else IMAGE) + layer(kind, "out", bottoms, top, fields) + more


PYRAMID = "spp_param {{ pyramid_height: {} pool: {} }}"
CASES = {
    "distinct tops": one("ReLU"),
    "in place": one("ReLU", top="data"),
    "Split": IMAGE + relu("a", "data", "a") + relu("b", "a", "b") + relu("c", "a", "c"),
    "Split in the file": one("Split"),
    "Flatten": one("Flatten", more=layer("Reshape", "r", "out", fields="reshape_param { shape { dim: 0 dim: -1 } }")),
    "Concat of one": one("Concat"),
    "Concat": one("Concat", bottoms=("data", "twin")),
    "Slice into one": one("Slice"),
    "Slice": IMAGE + layer("Slice", "s", "data", ("a", "b")),
    "Crop": one("Crop", "crop_param { axis: 2 }", bottoms=("data", "twin")),
    "Eltwise SUM": one("Eltwise", bottoms=("data", "twin")),
    "Eltwise MAX": one("Eltwise", "eltwise_param { operation: MAX }", bottoms=("data", "twin")),
    "Tile": one("Tile", "tile_param { tiles: 2 }"),
    "Pooling MAX": IMAGE + pool("out", "data", 2, 1),
    "Pooling MAX, mask read": IMAGE
    + layer("Pooling", "out", "data", ("out", "mask"), "pooling_param { kernel_size: 2 stride: 1 }"),
    "Pooling AVE": IMAGE + pool("out", "data", 2, 1, "pool: AVE"),
    "SPP": one("SPP", PYRAMID.format(7, "MAX")),
    "SPP AVE": one("SPP", PYRAMID.format(7, "AVE")),
    "SPP of one level": one("SPP", PYRAMID.format(1, "MAX")),
    "LRN": one("LRN"),
    "LRN within channels": one("LRN", "lrn_param { local_size: 3 norm_region: WITHIN_CHANNEL }"),
    "BatchNorm": one("BatchNorm"),
    "BatchNorm in place": one("BatchNorm", top="data"),
    "BatchNorm of the batch": one("BatchNorm", "batch_norm_param { use_global_stats: false }"),
    "MVN": one("MVN"),
    "MVN of means": one("MVN", "mvn_param { normalize_variance: false across_channels: true }"),
    "Scale": one("Scale"),
    "Scale in place": one("Scale", "scale_param { bias_term: true }", top="data"),
    "Scale of two": one("Scale", "scale_param { axis: 0 }", bottoms=("data", "twin")),
    "Bias in place": one("Bias", top="data"),
    "PReLU": one("PReLU"),
    "PReLU in place": one("PReLU", top="data"),
    "ELU": one("ELU", top="data"),
    "Sigmoid": one("Sigmoid", top="data"),
    "TanH": one("TanH"),
    "BNLL": one("BNLL"),
    "Power": one("Power", "power_param { power: 2 scale: 2 shift: 1 }"),
    "Dropout": one("Dropout"),
    "Swish": one("Swish"),
    "Convolution": IMAGE + conv("out", "data", 16, 3, "pad: 1"),
    "Convolution, pointwise": IMAGE + conv("out", "data", 16, 1),
    "Deconvolution": one("Deconvolution", "convolution_param { num_output: 16 kernel_size: 3 pad: 1 }"),
    "Im2col": one("Im2col", "convolution_param { kernel_size: 2 stride: 2 }"),
    "InnerProduct": one("InnerProduct", "inner_product_param { num_output: 8 axis: 3 }"),
    "Embed": one("Embed", "embed_param { num_output: 1 input_dim: 2 }"),
    "Softmax": one("Softmax", "softmax_param { axis: 2 }"),
    "Softmax in place": one("Softmax", top="data"),
    "SoftmaxWithLoss": IMAGE
    + filled("N", 1, *SHAPE[1:], name="label")
    + layer("SoftmaxWithLoss", "out", ("data", "label")),
    "InfogainLoss": IMAGE
    + filled("N", 1, *SHAPE[1:], name="label")
    + filled(SHAPE[0], SHAPE[0], name="table")
    + layer("InfogainLoss", "out", ("data", "label", "table")),
    "EuclideanLoss": one("EuclideanLoss", bottoms=("data", "twin")),
    "SigmoidCrossEntropyLoss": one("SigmoidCrossEntropyLoss", bottoms=("data", "twin")),
    "HingeLoss": filled("N", LONG) + filled("N", name="label") + layer("HingeLoss", "out", ("data", "label")),
    "ContrastiveLoss": filled("N", LONG)
    + filled("N", LONG, name="twin")
    + filled("N", name="label")
    + layer("ContrastiveLoss", "out", ("data", "twin", "label")),
    "a weighted top": one("ReLU", "loss_weight: 1"),
    "ArgMax": one("ArgMax", "argmax_param { axis: 1 }"),
    "Reduction": one("Reduction", "reduction_param { axis: 3 }"),
    "BatchReindex": IMAGE + filled("N", name="order") + layer("BatchReindex", "out", ("data", "order")),
    **{
        f"{kind}, {steps} steps{', static' * static}{', exposed' * exposed}": recurrent(
            kind, steps, static=static, exposed=exposed
        )
        for kind in ("LSTM", "RNN")
        for steps, static, exposed in ((1, False, False), (3, False, False), (3, True, False), (3, False, True))
    },
}


class Process:
    """A Caffe that gives back at once what a net had."""

    def __init__(self, worker: CaffeWorker, folder: Path) -> None:
        self.worker, self.path = worker, folder / "net.prototxt"
        for text in (IMAGE, IMAGE + conv("out", "data")):  # what is made once
            self.grown(at(text, 2))

    def resident(self) -> int:
        status = Path(f"/proc/{self.worker.pid}/status").read_text(encoding="ascii")
        found = re.search(r"^VmRSS:\s+(\d+) kB", status, re.M)
        assert found is not None
        return 1024 * int(found[1])

    def grown(self, text: str, phase: str = "TEST", passes: int = 1) -> int:
        """Bytes that the process is larger by once a net has run."""
        self.path.write_text(text, encoding="utf-8")
        before = self.resident()
        net = self.worker.load(self.path, phase)
        for _ in range(passes):
            self.worker.forward(net, {}, blobs=[])
        after = self.resident()
        self.worker.close(net)
        return after - before

    def slope(self, text: Callable[[int], str], few: int, many: int, **how: Any) -> float:
        """Bytes of one image more, of the net that a batch size gives."""
        small, large = (self.grown(text(batch), **how) for batch in (few, many))
        return (large - small) / (many - few)


def at(text: str, batch: int) -> str:
    return text.replace("dim: N", f"dim: {batch}").replace("dim: M", f"dim: {256 * batch}")


@pytest.fixture(scope="module")
def process(caffe_install: CaffeInstall, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Process]:
    with pytest.MonkeyPatch.context() as patch:
        # Whatever is larger has pages of its own, which go back to the system with it.
        patch.setenv("MALLOC_MMAP_THRESHOLD_", "16384")
        with CaffeWorker(caffe_install, threads=1, timeout=300) as worker:
            yield Process(worker, tmp_path_factory.mktemp("memory"))


def foretold(net: Net, batch: int, phase: str = "TEST") -> int:
    cost = summarize(net.view(phase))
    assert cost.memory_bytes is not None and cost.batch == batch
    return cost.memory_bytes


@pytest.mark.parametrize("name", CASES)
def test_a_layer(name: str, process: Process) -> None:
    few, many = BATCHES
    said = foretold(Net.parse(at(CASES[name], many)), many)
    assert process.slope(partial(at, CASES[name]), few, many) == pytest.approx(said, rel=CLOSE)


def test_dropout_has_a_mask_in_train(process: Process) -> None:
    few, many = BATCHES
    said = foretold(Net.parse(at(CASES["Dropout"], many)), many, "TRAIN")
    assert process.slope(partial(at, CASES["Dropout"]), few, many, phase="TRAIN") == pytest.approx(said, rel=CLOSE)


def test_every_type_that_keeps_something_is_here() -> None:
    keeps = {
        one.type
        for one in all_ops()
        if (one.buffers_fn, one.train_buffers_fn) != (no_buffers, no_buffers) or one.shares_fn is not None
    }
    tried = set(re.findall(r'type: "(\w+)"', "".join(CASES.values())))
    assert keeps - tried == {"Data", "ImageData", "WindowData", "HDF5Output", "Parameter"}


def test_batches_are_read_ahead(process: Process, tmp_path: Path) -> None:
    lmdb = pytest.importorskip("lmdb")
    record = pb.Datum(channels=4, height=128, width=128, data=bytes(range(256)) * 256, label=1)
    with lmdb.open(str(tmp_path / "lmdb"), map_size=1 << 26) as database, database.begin(write=True) as transaction:
        for number in range(40):
            transaction.put(b"%08d" % number, record.SerializeToString())

    def text(batch: int) -> str:
        fields = f'source: "{tmp_path}/lmdb" backend: LMDB batch_size: {batch} prefetch: 3'
        return layer("Data", "data", (), ("data", "label"), f"data_param {{ {fields} }}")

    net = parse(text(40), datum=(4, 128, 128))
    # As many passes as let each batch be filled.
    assert process.slope(text, 8, 40, passes=8) == pytest.approx(foretold(net, 40), rel=CLOSE)


@pytest.mark.parametrize(
    ("name", "options", "mib"),
    [
        ("googlenet", None, 34.51),
        ("googlenet", {}, 9.92),
        ("googlenet", {"paper": True}, 14.04),
        ("squeezenet1.0", None, 32.63),
        ("alexnet", None, 7.63),
    ],
)
def test_a_net(name: str, options: dict[str, Any] | None, mib: float, process: Process, tmp_path: Path) -> None:
    zoo.write(name, tmp_path / "net")
    path = tmp_path / "net/deploy.prototxt"
    if options is not None:
        convert(ConvertOptions(path, out=tmp_path / "out", **options))
        path = tmp_path / "out/deploy.prototxt"
    message = Net.read(path).message()
    _, *shape = message.layer[0].input_param.shape[0].dim

    def text(batch: int) -> str:
        message.layer[0].CopyFrom(parse(filled(batch, *shape)).layers[0].param)
        return format_message(message)

    said = foretold(Net.read(path), 1)
    assert said / 2**20 == pytest.approx(mib, abs=0.1)
    # About as much memory for each net.
    few, many = (round(scale / mib) for scale in (60, 300))
    assert process.slope(text, few, many) == pytest.approx(said, rel=CLOSE)
