"""Every layer type in the embedded engine against real Caffe: what it computes and what flows back."""

from __future__ import annotations

import itertools
import math
import subprocess
import zlib
from collections.abc import Mapping
from contextlib import closing
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from closeness import Comparison, apart, between

pytest.importorskip("torch")

import torch
from exact_net import ExactNet, array
from torch_grid import CASES, Case, fill

from deeprebirth_caffe.engines.base import EngineError
from deeprebirth_caffe.engines.torch.layers.base import made_types
from deeprebirth_caffe.engines.torch.layers.refused import REFUSED
from deeprebirth_caffe.engines.torch.net import FED, READ, TorchNet
from deeprebirth_caffe.ir import Net, NetState
from deeprebirth_caffe.proto import caffe_pb2 as pb

if TYPE_CHECKING:
    from measured_caffe import DescribedNet, MeasuringWorker
    from numpy.typing import NDArray

    Arrays = Mapping[str, NDArray[np.float32]]

ELSEWHERE = {"Data", "HDF5Data", "ImageData", "WindowData"}
"""Read by `deeprebirth_caffe.data`, whose tests compare their batches."""
ALONE = {"HDF5Output", "MemoryData"}
"""Tried below, but not in the grid: they write files, or take arrays by a way of their own."""


def chance(case: Case) -> np.random.Generator:
    """A case's own random numbers."""
    return np.random.default_rng(zlib.crc32(repr(case).encode()))


def given(case: Case, rng: np.random.Generator) -> dict[str, NDArray[np.float32]]:
    """New values for what it reads and does not learn."""
    return {
        name: fill(case.value(index), shape, rng)
        for index, (name, shape) in enumerate(zip(case.inputs, case.bottoms, strict=True))
        if not case.learns(index)
    }


class Pair:
    """One case's net in both engines, with the same weights."""

    def __init__(self, case: Case, caffe: MeasuringWorker, folder: Path) -> None:
        self.case, self.caffe = case, caffe
        self.rng = chance(case)
        path = folder / "net.prototxt"
        path.write_text(case.net())
        self.real: DescribedNet = caffe.load(path, case.phase, seed=1)
        net, state = Net.read(path), NetState(case.phase)
        self.ours = TorchNet(net, state, seed=1, sources=False)
        self.comparison = Comparison()
        params = {name: [self._weight(name, shape) for shape in shapes] for name, shapes in self.real.params.items()}
        caffe.set_params(self.real, params)
        assert set(self.ours.blobs_of) == set(params)
        with torch.no_grad():
            for name, arrays in params.items():
                for tensor, values in zip(self.ours.blobs_of[name], arrays, strict=True):
                    tensor.copy_(torch.from_numpy(values))
        self.exact = ExactNet(net, state, self.ours)

    def _weight(self, layer: str, shape: tuple[int, ...]) -> NDArray[np.float32]:
        if layer in self.case.inputs:
            index = self.case.inputs.index(layer)
            return fill(self.case.value(index), shape, self.rng)
        if self.case.weights == "small":
            return fill("normal", shape, self.rng) / 2
        return fill(self.case.weights, shape, self.rng)

    def reshape(self, shapes: tuple[tuple[int, ...], ...]) -> None:
        self.case = replace(self.case, bottoms=shapes)
        blobs = self.caffe.reshape(self.real, dict(zip(self.case.inputs, shapes, strict=True)))
        self.real = replace(self.real, blobs=blobs)

    @property
    def terms(self) -> int:
        """No value is a sum of more numbers than the largest array in the net has."""
        sizes = [math.prod(shape) for shape in self.real.blobs.values()]
        return max(*sizes, *(math.prod(shape) for shapes in self.real.params.values() for shape in shapes), 1)

    def compare(self, what: str, real: NDArray[Any], ours: torch.Tensor, true: torch.Tensor) -> None:
        self.comparison.near(what, real, array(ours), self.terms, array(true))

    def forward(self) -> None:
        inputs = given(self.case, self.rng)
        if self.case.type == "Input":
            inputs = {name: fill("normal", self.real.blobs[name], self.rng) for name in self.case.outputs}
        real = self.caffe.forward(self.real, inputs)
        ours = self.ours.forward(inputs, keep=self.ours.blobs, retain=True)
        true = self.exact.forward(inputs, keep=self.exact.blobs, retain=True)
        assert set(real) == set(ours)
        for name, values in real.items():
            self.compare(name, values, ours[name], true[name])
        for name, arrays in self.caffe.get_params(self.real).items():
            for index, values in enumerate(arrays):
                tensors = (net.blobs_of[name][index] for net in (self.ours, self.exact))
                self.compare(f"{name}[{index}]", values, *tensors)

    def backward(self, diffs: Arrays, ignored: Arrays) -> None:
        """Compares what flows back."""
        for net in (self.ours, self.exact):
            net.zero_grad()
            net.backward(diffs)
        real = self.caffe.backward(self.real, {**ignored, **diffs}, self.case.inputs)
        for name, values in real.blobs.items():
            self.compare(f"diff of {name}", values, self.ours.blob_diff(name), self.exact.blob_diff(name))
        for name, arrays in real.params.items():
            for index, values in enumerate(arrays):
                tensors = [net.blobs_of[name][index] for net in (self.ours, self.exact)]
                grads = [torch.zeros_like(one) if one.grad is None else one.grad for one in tensors]
                self.compare(f"diff of {name}[{index}]", values, *grads)

    def diffs(self) -> dict[str, NDArray[np.float32]]:
        return {name: fill("normal", self.real.blobs[name], self.rng) for name in self.case.takes}

    def close(self) -> None:
        self.caffe.close(self.real)
        self.ours.close()
        self.exact.close()


def check(case: Case, caffe: MeasuringWorker, folder: Path, shapes: tuple[tuple[int, ...], ...] | None = None) -> None:
    """Holds one case's net against Caffe's, on inputs of the file's shapes or of others."""
    pair = Pair(case, caffe, folder)
    if shapes is not None:
        pair.reshape(shapes)
    for _ in range(case.passes):
        pair.forward()
        if case.way == "none":
            continue
        pair.backward(
            pair.diffs(), {name: np.ones(pair.real.blobs[name], np.float32) for name in case.outputs if case.takes}
        )
    pair.close()
    pair.comparison.verify(case)


@cache
def names() -> list[str]:
    counts: dict[str, int] = {}
    found = []
    for case in CASES:
        counts[case.type] = counts.get(case.type, 0) + 1
        found.append(f"{case.type}-{counts[case.type]}")
    return found


@pytest.mark.parametrize("case", CASES, ids=names())
def test_layer(caffe: MeasuringWorker, tmp_path: Path, case: Case) -> None:
    check(case, caffe, tmp_path)


@pytest.mark.parametrize("factor", [1.0001, 0.9999])
@pytest.mark.parametrize(
    "kind", ["Convolution", "Eltwise", "InnerProduct", "LRN", "LSTM", "Pooling", "Scale", "Softmax"]
)
def test_a_small_fault_is_seen(
    caffe: MeasuringWorker, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str, factor: float
) -> None:
    """In ours alone, and in ours and in the truth that is computed by the same code."""
    monkeypatch.delenv("REBIRTH_TEST_MARGINS", raising=False)
    case = next(case for case in CASES if case.type == kind and case.way == "force")
    for nets in (["ours"], ["ours", "exact"]):
        pair = Pair(case, caffe, tmp_path)
        for name in nets:
            net = getattr(pair, name)
            step = next(step for step in net._steps if step.layer.name == "case")
            right = step.lowered.forward
            step.lowered.forward = lambda *given, right=right: [factor * top for top in right(*given)]
        pair.forward()
        pair.close()
        assert any(text.startswith("y0") for text in pair.comparison.wrong), nets


GROWS = {"AbsVal", "Clip", "ELU", "LRN", "MVN", "Pooling", "Power", "ReLU", "SPP", "Sigmoid"}
MORE = {"BatchNorm", "Concat", "Convolution", "Deconvolution", "Eltwise", "EuclideanLoss", "Flatten", "Im2col"}
MORE |= {"InnerProduct", "PReLU", "Scale", "Slice", "Softmax", "SoftmaxWithLoss", "Split", "Tile"}


def other_shapes(case: Case) -> tuple[tuple[int, ...], ...] | None:
    """Shapes for a net that was loaded for others: another batch, and larger pictures where the layer takes them."""
    if case.way != "force" or case.type not in GROWS | MORE or not case.bottoms or case.passes > 1:
        return None
    first = case.bottoms[0]
    if "axis: 0" in case.body or len({shape[:1] for shape in case.bottoms}) != 1 or len(first) < 2:
        return None
    spatial = case.type in GROWS and len(first) == 4 and "axis" not in case.body
    return tuple(
        (shape[0] + 2, *(n + 3 if spatial and i else n for i, n in enumerate(shape[1:]))) for shape in case.bottoms
    )


@pytest.mark.parametrize("kind", sorted(GROWS | MORE))
def test_inputs_of_other_shapes_than_the_files(caffe: MeasuringWorker, tmp_path: Path, kind: str) -> None:
    tried = 0
    for case in [case for case in CASES if case.type == kind]:
        shapes = other_shapes(case)
        if shapes is not None:
            tried += 1
            check(case, caffe, tmp_path, shapes)
    assert tried


def test_every_type_is_tried_or_refused(caffe: MeasuringWorker) -> None:
    tried = {case.type for case in CASES}
    assert tried | ALONE | ELSEWHERE | set(REFUSED) == set(caffe.info()["layer_types"])
    assert not (tried | ALONE) & (ELSEWHERE | set(REFUSED))
    assert made_types() | FED | READ == tried | ALONE | ELSEWHERE | set(REFUSED)
    assert READ == ELSEWHERE
    assert len(set(CASES)) == len(CASES) >= 600
    assert len(set(names())) == len(CASES)


def test_what_is_refused_says_why() -> None:
    for kind, reason in REFUSED.items():
        net = Net.parse(f'layer {{ name: "odd" type: "{kind}" top: "y" }}')
        with pytest.raises(EngineError, match=f'layer "odd".*{kind}.*{reason}.*--engine caffe'):
            TorchNet(net, NetState("TEST"))


def run(caffe: MeasuringWorker, script: str, *arguments: object) -> None:
    """Runs a script under pycaffe's Python."""
    command = [str(caffe.install.need_python()), "-c", script, *map(str, arguments)]
    subprocess.run(command, env=caffe.environment(), check=True, capture_output=True)


def test_memory_data(caffe: MeasuringWorker, tmp_path: Path) -> None:
    path = tmp_path / "net.prototxt"
    shape = "batch_size: 2 channels: 3 height: 4 width: 5"
    path.write_text(f'layer {{ name: "m" type: "MemoryData" top: "x" top: "l" memory_data_param {{ {shape} }} }}')
    rng = np.random.default_rng(0)
    batch = {"x": fill("normal", (2, 3, 4, 5), rng), "l": fill("classes:9", (2,), rng)}
    np.savez(tmp_path / "given.npz", **batch)
    script = (
        "import caffe, numpy, sys\n"
        "net, given = caffe.Net(sys.argv[1], caffe.TEST), numpy.load(sys.argv[2])\n"
        "net.set_input_arrays(given['x'], given['l'])\n"
        "net.forward()\n"
        "numpy.savez(sys.argv[3], **{name: blob.data for name, blob in net.blobs.items()})\n"
    )
    run(caffe, script, path, tmp_path / "given.npz", tmp_path / "real.npz")
    with closing(TorchNet(Net.read(path), NetState("TEST"))) as net:
        ours = net.forward(batch, keep=["x", "l"])
    with np.load(tmp_path / "real.npz") as real:
        for name in batch:
            assert apart(real[name].ravel(), array(ours[name]).ravel()) == 0  # Caffe's labels get axes as they come


@pytest.mark.parametrize(("shape", "labels"), [((3, 2, 2, 1), (3,)), ((3, 4), (3, 2)), ((2, 3, 4), (2, 1, 1, 5))])
def test_hdf5_output(caffe: MeasuringWorker, tmp_path: Path, shape: tuple[int, ...], labels: tuple[int, ...]) -> None:
    h5py = pytest.importorskip("h5py")
    case = Case("HDF5Output", 'hdf5_output_param { file_name: "FILE" }', (shape, labels), tops=0, way="none")
    rng = np.random.default_rng(0)
    batch = {"x0": fill("normal", shape, rng), "x1": fill("classes:5", labels, rng)}
    path = tmp_path / "net.prototxt"
    path.write_text(case.net().replace("FILE", str(tmp_path / "real.h5")))
    with type(caffe)(caffe.install, threads=1) as worker:  # it closes the file when it ends
        worker.forward(worker.load(path), batch)
    path.write_text(case.net().replace("FILE", str(tmp_path / "ours.h5")))
    with closing(TorchNet(Net.read(path), NetState("TEST"))) as net:
        net.forward(batch)
        with pytest.raises(EngineError, match=r'layer "case".*one batch'):  # Caffe aborts there
            net.forward(batch)
    with h5py.File(tmp_path / "real.h5") as real, h5py.File(tmp_path / "ours.h5") as ours:
        assert set(real) == set(ours) == {"data", "label"}
        for name in real:
            assert real[name].dtype == ours[name].dtype
            assert apart(real[name][()], ours[name][()]) == 0


def test_infogain_matrix_from_a_file(caffe: MeasuringWorker, tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    blob = pb.BlobProto(data=fill("unit", (25,), rng).tolist())
    blob.shape.dim.extend((1, 1, 5, 5))
    (tmp_path / "matrix.binaryproto").write_bytes(blob.SerializeToString())
    body = f'infogain_loss_param {{ source: "{tmp_path / "matrix.binaryproto"}" }}'
    check(Case("InfogainLoss", body, ((4, 5), (4,)), ("normal", "classes:5")), caffe, tmp_path)


def test_dropout_as_random_as_caffes(caffe: MeasuringWorker, tmp_path: Path) -> None:
    for ratio in (0.2, 0.5, 0.9):
        case = Case("Dropout", f"dropout_param {{ dropout_ratio: {ratio} }}", ((200, 100),))
        pair = Pair(case, caffe, tmp_path)
        ones = {"x0": np.ones((200, 100), np.float32)}
        real = caffe.forward(pair.real, ones)["y0"]
        ours = array(pair.ours.forward(ones, keep=["y0"], retain=True)["y0"]).copy()
        assert np.unique(real) == pytest.approx(np.unique(ours))
        assert (ours != 0).mean() == pytest.approx(1 - ratio, abs=0.02)
        pair.ours.backward({"y0": 3 * ones["x0"]})
        assert array(pair.ours.blob_diff("x0")) == pytest.approx(3 * ours)  # the same mask goes back
        again = array(pair.ours.forward(ones, keep=["y0"])["y0"])
        assert (again != ours).any()
        pair.close()


def lone(case: Case, relu: bool = False, precision: str = "fp32") -> TorchNet:
    """A case's net in the embedded engine alone."""
    net = TorchNet(Net.parse(case.net(relu)), NetState(case.phase), seed=1, sources=False, precision=precision)
    rng = np.random.default_rng(7)
    with torch.no_grad():
        for tensors in net.blobs_of.values():
            for tensor in tensors:
                tensor.copy_(torch.from_numpy(fill("positive", tuple(tensor.shape), rng)))
    return net


KINDS = sorted({case.type for case in CASES})


def agree(case: Case, first: list[torch.Tensor], second: list[torch.Tensor], limit: float = between(1000)) -> None:
    assert len(first) == len(second)
    for a, b in zip(first, second, strict=True):
        assert apart(array(a), array(b.float())) <= limit, case


@pytest.mark.parametrize("kind", KINDS)
def test_channels_may_come_last(kind: str) -> None:
    for case in [case for case in CASES if case.type == kind]:
        found = []
        for layout in (torch.contiguous_format, torch.channels_last):
            with closing(lone(case)) as net:
                inputs = {name: torch.from_numpy(values) for name, values in given(case, chance(case)).items()}
                inputs = {n: v.contiguous(memory_format=layout) if v.dim() == 4 else v for n, v in inputs.items()}
                before = {name: values.clone() for name, values in inputs.items()}
                found.append(list(net.forward(inputs, keep=[*case.outputs, *net.outputs]).values()))
                for name, values in before.items():
                    assert torch.equal(values.nan_to_num(), inputs[name].nan_to_num()), case
        agree(case, *found)


@pytest.mark.parametrize("kind", KINDS)
def test_thrift_changes_nothing(kind: str) -> None:
    """A run that lets tensors go, and lets a ReLU write on what is before it, has the same gradients."""
    cases = [replace(case, way="loss") for case in CASES if case.type == kind and case.way != "none"]
    for case, relu in itertools.product(cases, (False, True)):
        if relu and (not case.outputs or case.type.endswith("Loss")):
            continue
        found = []
        for retain in (True, False):
            with closing(lone(case, relu)) as net:
                tops = list(
                    net.forward(given(case, chance(case)), keep=[*case.outputs, *net.outputs], retain=retain).values()
                )
                net.backward()
                grads = [each.tensor.grad for each in net.learnable]
                found.append(tops + [grad for grad in grads if grad is not None])
        agree(case, *found)


@pytest.mark.parametrize("kind", KINDS)
def test_bf16_stays_near(kind: str) -> None:
    for case in [case for case in CASES if case.type == kind]:
        learning = case if case.way == "none" else replace(case, way="loss")
        found = []
        for precision in ("fp32", "bf16"):
            with closing(lone(learning, precision=precision)) as net:
                tops = list(net.forward(given(learning, chance(case)), keep=[*case.outputs, *net.outputs]).values())
                if learning.way == "loss":
                    net.backward()
                grads = [each.tensor.grad for each in net.learnable]
                assert all(grad is None or grad.dtype == torch.float32 for grad in grads)
                found.append(tops + [grad for grad in grads if grad is not None])
        agree(case, *found, limit=0.02)


@pytest.mark.parametrize("number", [7, -1])
@pytest.mark.parametrize(
    ("kind", "bottoms"),
    [
        ("SoftmaxWithLoss", ((3, 5), (3,))),
        ("HingeLoss", ((3, 5), (3,))),
        ("InfogainLoss", ((3, 5), (3,), (5, 5))),
        ("MultinomialLogisticLoss", ((3, 5), (3,))),
        ("BatchReindex", ((3, 5), (3,))),
        ("Embed", ((3,),)),
    ],
)
def test_a_number_out_of_range_is_an_error(kind: str, bottoms: tuple[tuple[int, ...], ...], number: int) -> None:
    body = "embed_param { num_output: 2 input_dim: 5 }" if kind == "Embed" else ""
    net = lone(Case(kind, body, bottoms, way="none"))
    name = "x0" if kind == "Embed" else "x1"
    with pytest.raises(EngineError, match=rf'layer "case".* {number}\b'):
        net.forward({name: np.array([0, number, 1], np.float32)})
