"""The ONNX exporter without engines: names, the open batch, shared weights, refusals."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
from nets import conv, data, fc, layer, parse, pool, relu

from deeprebirth_caffe.commands import export as workflow
from deeprebirth_caffe.commands.export import ModelInput, export
from deeprebirth_caffe.engines.libraries import need
from deeprebirth_caffe.engines.prepare import plain
from deeprebirth_caffe.engines.random_weights import random_weights
from deeprebirth_caffe.errors import RebirthError, RefusedError, UsageError
from deeprebirth_caffe.ir import Net, Weights
from deeprebirth_caffe.ir.probe import save_weights
from deeprebirth_caffe.ops import all_ops
from deeprebirth_caffe.options.export import ExportOptions

onnx = pytest.importorskip("onnx")

from deeprebirth_caffe.to_onnx import BATCH, OPSET, Exported, at_batch, model, to_onnx  # noqa: E402
from deeprebirth_caffe.to_onnx.table import TRANSLATORS  # noqa: E402

IMAGE = data(2, 3, 8, 8)


def exported(text: str, *, dynamic: bool = True, opset: int = OPSET) -> Exported:
    made = to_onnx(plain(parse(text, weights=True)).net, dynamic=dynamic, opset=opset)
    onnx.checker.check_model(made.model, full_check=True)
    return made


def dims(info: onnx.ValueInfoProto) -> list[int | str]:
    return [dim.dim_param or dim.dim_value for dim in info.type.tensor_type.shape.dim]


def test_blobs_and_layers_keep_their_names() -> None:
    made = exported(IMAGE + conv("conv1", "data") + pool("pool1", "conv1") + fc("fc", "pool1"))
    nodes = list(made.model.graph.node)
    assert [node.name for node in nodes if "/" not in node.name] == ["conv1", "pool1", "fc"]
    assert {"conv1", "pool1", "fc"} <= {name for node in nodes for name in node.output}
    assert [one.name for one in made.model.graph.input] == ["data"]
    assert [one.name for one in made.model.graph.output] == ["fc"]
    assert {one.name for one in made.model.graph.initializer} >= {"conv1.weight", "conv1.bias", "fc.weight", "fc.bias"}


def test_only_the_last_contents_of_a_blob_bear_its_name() -> None:
    made = exported(IMAGE + conv("x", "data") + relu("r", "x") + layer("TanH", "t", "x", "x"))
    assert [(node.name, node.output[0]) for node in made.model.graph.node] == [("x", "x/x"), ("r", "x/r"), ("t", "x")]


def test_an_input_that_is_overwritten_keeps_its_name() -> None:
    made = exported(IMAGE + relu("r", "data"))
    assert [one.name for one in made.model.graph.input] == ["data"]
    assert made.outputs == {"data": "data/r"}
    assert [one.name for one in made.model.graph.output] == ["data/r"]


def test_names_are_unique_whatever_the_net_calls_things() -> None:
    text = IMAGE + conv("x/Conv", "data") + conv("x/Conv.weight", "x/Conv") + fc("x", "x/Conv.weight", fields="axis: 2")
    graph = exported(text).model.graph
    tensors = [one.name for one in (*graph.input, *graph.initializer)] + [
        name for node in graph.node for name in node.output
    ]
    assert len(tensors) == len(set(tensors))
    names = [node.name for node in graph.node]
    assert len(names) == len(set(names))


def test_the_batch_is_open() -> None:
    made = exported(
        IMAGE + conv("c", "data") + layer("Reshape", "r", "c", fields="reshape_param { shape { dim: 0 dim: -1 } }")
    )
    assert made.batch is None and not made.notes
    assert dims(made.model.graph.input[0]) == [BATCH, 3, 8, 8]
    assert dims(made.model.graph.output[0]) == [BATCH, 144]


def test_a_net_that_is_bound_to_its_batch_says_by_what() -> None:
    made = exported(IMAGE + layer("Slice", "s", "data", ("a", "b"), "slice_param { axis: 0 slice_point: 1 }"))
    assert made.batch == 2
    assert made.notes == ('the batch stays 2: layer "s" (Slice) needs axis 0 as a number',)
    assert dims(made.model.graph.input[0]) == [2, 3, 8, 8]


def test_a_net_without_inputs() -> None:
    made = exported(layer("Parameter", "p", (), "p", "parameter_param { shape { dim: 3 } }") + relu("r", "p", "x"))
    assert (made.batch, made.inputs, made.outputs) == (None, {}, {"x": "x"})


def test_an_input_that_nobody_reads_is_left_out() -> None:
    made = exported(IMAGE + data(2, name="label") + conv("c", "data") + layer("Silence", "s", "label", ()))
    assert list(made.inputs) == ["data"]


def test_shared_weights_are_stored_once_and_are_the_last_ones() -> None:
    share = 'param { name: "w" } param { name: "b" }'
    net = parse(IMAGE + conv("one", "data", 3, rest=share) + conv("two", "one", 3, rest=share), weights=True)
    made = to_onnx(plain(net).net)
    stored = {one.name: onnx.numpy_helper.to_array(one) for one in made.model.graph.initializer}
    assert set(stored) == {"two.weight", "two.bias"}
    assert net.weights is not None
    np.testing.assert_array_equal(stored["two.weight"], net.weights["two"][0])
    assert {node.input[1] for node in made.model.graph.node} == {"two.weight"}


def test_opset_and_ir_version_go_together() -> None:
    for opset in (13, 17, 18):
        made = exported(
            IMAGE + layer("Reduction", "x", "data", fields="reduction_param { operation: MEAN axis: 1 }"), opset=opset
        )
        assert [(one.domain, one.version) for one in made.model.opset_import] == [("", opset)]
        assert made.model.ir_version == onnx.helper.find_min_ir_version_for(made.model.opset_import)
    assert made.model.producer_name == "deeprebirth-caffe"


@pytest.mark.parametrize(
    "fields, size, pads",
    [
        ("kernel_size: 3 stride: 2", 8, [0, 0, 1, 1]),
        ("kernel_size: 3 stride: 2", 9, [0, 0, 0, 0]),
        ("kernel_size: 3 stride: 2 pad: 1 round_mode: FLOOR", 8, [1, 1, 1, 1]),
        ("kernel_size: 3 stride: 2 pad: 1", 8, [1, 1, 2, 2]),
        ("kernel_size: 3 stride: 1 pad: 1", 8, [1, 1, 1, 1]),
        ("kernel_size: 2 stride: 3 pad: 1", 8, [1, 1, 1, 1]),
    ],
)
def test_pooling_writes_its_padding_out(fields: str, size: int, pads: list[int]) -> None:
    text = data(1, 2, size, size) + layer("Pooling", "p", "data", fields=f"pooling_param {{ {fields} }}")
    [node] = exported(text).model.graph.node
    attributes = {one.name: list(one.ints) or one.i for one in node.attribute}
    assert attributes["pads"] == pads
    assert not attributes.get("ceil_mode")


REFUSED = {
    "Im2col": layer("Im2col", "x", "data", fields="convolution_param { kernel_size: 3 }"),
    "Python": layer("Python", "x", "data", fields='python_param { module: "m" layer: "L" }'),
    "Filter": data(2, name="sel") + layer("Filter", "x", ("data", "sel")),
    "HDF5Output": data(2, name="y")
    + layer("HDF5Output", "x", ("data", "y"), (), 'hdf5_output_param { file_name: "f" }'),
    "Pooling": layer("Pooling", "x", "data", fields="pooling_param { pool: STOCHASTIC kernel_size: 2 }"),
}


@pytest.mark.parametrize("kind", REFUSED)
def test_refused_by_reason(kind: str) -> None:
    with pytest.raises(RefusedError, match=rf'layer "x" \({kind}\) has no ONNX form: .') as caught:
        exported(IMAGE + relu("r", "data", "out") + REFUSED[kind])
    assert "\n" not in str(caught.value)


def test_every_type_of_caffe_is_translated_or_refused_on_purpose() -> None:
    training = {kind.type for kind in all_ops() if kind.loss or kind.metric or kind.data}
    left = {kind.type for kind in all_ops()} - training - set(TRANSLATORS)
    assert left == {"Im2col", "Filter", "Python", "HDF5Output"}


def test_a_loss_is_refused_where_it_is_not_taken_out() -> None:
    net = parse(IMAGE + data(2, name="y") + fc("f", "data") + layer("SoftmaxWithLoss", "l", ("f", "y")), weights=True)
    with pytest.raises(RefusedError, match="for training"):
        to_onnx(net)


def test_weights_are_needed() -> None:
    net = parse(IMAGE + conv("c", "data"))
    with pytest.raises(RebirthError, match="give them with -w"):
        to_onnx(net)
    net.weights = Weights()
    with pytest.raises(RebirthError, match='nothing for layer "c"'):
        to_onnx(net)


def test_more_than_a_file_holds_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(model, "MAX_BYTES", 500)
    with pytest.raises(RefusedError, match="2 GiB"):
        exported(IMAGE + conv("c", "data", 8))


def test_at_batch() -> None:
    net = plain(parse(IMAGE + data(5, 4, name="other") + conv("c", "data") + fc("f", "other"), weights=True)).net
    twin = at_batch(net, 7)
    shapes = {name: value.shape for name, value in twin.view("TEST").blobs.items()}
    assert (shapes["data"], shapes["other"], shapes["c"]) == ((7, 3, 8, 8), (5, 4), (7, 4, 6, 6))
    assert net.view("TEST").blobs["data"].shape == (2, 3, 8, 8)


# the workflow


def files(folder: Path, text: str) -> tuple[Path, Path]:
    net = Net.parse(text, "net.prototxt")
    path, weights = folder / "net.prototxt", folder / "net.caffemodel"
    path.write_text(text)
    save_weights(weights, net, random_weights(net))
    return path, weights


TRAINS = (
    'layer { name: "data" type: "Data" top: "data" top: "label" data_param { source: "gone" batch_size: 9 } }\n'
    + conv("c", "data")
    + layer("BatchNorm", "bn", "c", "c")
    + fc("f", "c")
    + layer("SoftmaxWithLoss", "loss", ("f", "label"))
)


def test_a_net_that_trains_is_deployed_first(tmp_path: Path) -> None:
    net = Net.parse(TRAINS)
    net.data[net.layers[0]] = (3, 8, 8)
    path, weights = tmp_path / "net.prototxt", tmp_path / "net.caffemodel"
    path.write_text(TRAINS)
    save_weights(weights, net, random_weights(net))
    found = export(ExportOptions(path, weights, tmp_path / "net.onnx", input_shapes={"data": (3, 8, 8)}))
    assert found.inputs == [ModelInput(name="data", shape=(1, 3, 8, 8))]
    assert [one.blob for one in found.outputs] == ["prob"]
    assert found.batch is None and "rebirth deploy" in found.notes[0]
    kinds = [node.op_type for node in onnx.load(tmp_path / "net.onnx").graph.node]
    assert kinds == ["Conv", "Flatten", "Gemm", "Softmax"]


def test_a_bound_batch_and_what_is_written(tmp_path: Path) -> None:
    path, weights = files(tmp_path, IMAGE + conv("c", "data"))
    out = tmp_path / "net.onnx"
    found = export(ExportOptions(path, weights, out, batch=4, opset=17))
    assert (found.batch, found.opset, found.check) == (4, 17, None)
    assert found.bytes == out.stat().st_size
    assert dims(onnx.load(out).graph.input[0]) == [4, 3, 8, 8]


def test_files_that_are_there_stay(tmp_path: Path) -> None:
    path, weights = files(tmp_path, IMAGE + conv("c", "data"))
    out = tmp_path / "net.onnx"
    out.write_text("mine")
    with pytest.raises(RebirthError, match="add --force"):
        export(ExportOptions(path, weights, out))
    assert out.read_text() == "mine"
    export(ExportOptions(path, weights, out, force=True))
    assert onnx.load(out).graph.node
    with pytest.raises(RebirthError, match="directory"):
        export(ExportOptions(path, weights, tmp_path))
    with pytest.raises(RebirthError, match="no directory"):
        export(ExportOptions(path, weights, tmp_path / "no" / "net.onnx"))


@pytest.mark.parametrize("opset", [12, 10_000])
def test_opsets_out_of_range(tmp_path: Path, opset: int) -> None:
    path, weights = files(tmp_path, IMAGE + conv("c", "data"))
    with pytest.raises(UsageError, match="--opset"):
        export(ExportOptions(path, weights, tmp_path / "net.onnx", opset=opset))


def test_weights_of_part_of_the_net(tmp_path: Path) -> None:
    path, weights = files(tmp_path, IMAGE + conv("c", "data"))
    path.write_text(IMAGE + conv("c", "data") + conv("d", "c"))
    with pytest.raises(RebirthError, match="holds nothing for d"):
        export(ExportOptions(path, weights, tmp_path / "net.onnx"))


class Wrong:
    """Stands in for real Caffe, and computes something else."""

    def __init__(self, value: float) -> None:
        self.value = value

    def session(self) -> Wrong:
        return self

    def __enter__(self) -> None: ...

    def __exit__(self, *_: object) -> None: ...

    def forward(
        self, net: Path, weights: Path, inputs: dict[str, np.ndarray], blobs: list[str]
    ) -> dict[str, np.ndarray]:
        shape = (*next(iter(inputs.values())).shape[:1], 4, 6, 6)
        values = np.full(math.prod(shape), self.value, np.float32) + np.arange(math.prod(shape), dtype=np.float32)
        return {name: values.reshape(shape) for name in blobs}


@pytest.mark.parametrize("value", [5.0, math.nan])
def test_a_check_that_fails_writes_nothing(tmp_path: Path, value: float) -> None:
    pytest.importorskip("onnxruntime")
    path, weights = files(tmp_path, IMAGE + conv("c", "data"))
    with pytest.raises(RefusedError, match='output "c"'):
        export(ExportOptions(path, weights, tmp_path / "net.onnx"), Wrong(value))  # type: ignore[arg-type]
    assert not (tmp_path / "net.onnx").exists()


def test_without_onnx(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path, weights = files(tmp_path, IMAGE + conv("c", "data"))
    monkeypatch.setattr(workflow, "need", lambda module, extra: need("no_such_library", extra))
    with pytest.raises(RebirthError, match="no_such_library is not installed: pip install 'onnx"):
        export(ExportOptions(path, weights, tmp_path / "net.onnx"))


def test_a_result_that_only_a_silence_reads_is_an_output() -> None:
    text = IMAGE + conv("x", "data") + conv("ab", "x") + layer("Silence", "s", "ab", ())
    assert exported(text).outputs == {"ab": "ab"}
    assert to_onnx(parse(text, weights=True)).outputs == {"ab": "ab"}
    assert exported(text.replace('"ab" }\n', '"x" }\n', 1) + conv("y", "ab")).outputs == {"y": "y"}


def test_a_model_without_outputs_is_refused() -> None:
    with pytest.raises(RefusedError, match="no outputs"):
        to_onnx(parse(IMAGE + layer("Silence", "s", "data", ()), weights=True))


@pytest.mark.parametrize(
    ("kind", "fields"),
    [
        ("Exp", "exp_param { shift: 1000 }"),
        ("Exp", "exp_param { base: 10 shift: 300 }"),
        ("Power", "power_param { power: 30 scale: 0 shift: 1e30 }"),
    ],
)
def test_numbers_beyond_single_precision_are_refused(kind: str, fields: str) -> None:
    """Caffe computes infinity then; readers of a model with such constants do not agree."""
    with pytest.raises(RefusedError, match="larger than single precision holds"):
        exported(IMAGE + layer(kind, "x", "data", "x", fields))
