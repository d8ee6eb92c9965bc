"""`Engine.forward` means the same in both engines, of a train_val too."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from closeness import assert_within, between
from measured_caffe import MeasuringWorker

from deeprebirth_caffe.engines import EngineError, engine
from deeprebirth_caffe.engines.base import Engine
from deeprebirth_caffe.engines.caffe.engine import CaffeEngine
from deeprebirth_caffe.engines.caffe.locate import CaffeInstall
from deeprebirth_caffe.engines.torch.engine import TorchEngine
from deeprebirth_caffe.errors import RebirthError, RefusedError

pytest.importorskip("torch")

NET = """
layer { name: "train" type: "Data" top: "data" top: "label" include { phase: TRAIN }
  data_param { source: "nowhere/train_lmdb" backend: LMDB batch_size: 64 } }
layer { name: "test" type: "%s" top: "data" top: "label" include { phase: TEST } transform_param { scale: 0.5 } %s }
layer { name: "conv" type: "Convolution" bottom: "data" top: "conv"
  convolution_param { num_output: 4 kernel_size: 3 } }
layer { name: "relu" type: "ReLU" bottom: "conv" top: "conv" }
layer { name: "drop" type: "Dropout" bottom: "conv" top: "conv" include { phase: TRAIN } }
layer { name: "fc" type: "InnerProduct" bottom: "conv" top: "fc" inner_product_param { num_output: 5 } }
layer { name: "accuracy" type: "Accuracy" bottom: "fc" bottom: "label" top: "accuracy" include { phase: TEST } }
layer { name: "loss" type: "SoftmaxWithLoss" bottom: "fc" bottom: "label" top: "loss" }
"""
TERMS = 2 * 9 + 4 * 4 * 4 + 5
"""What NET adds up for a score's loss."""
DATA = 'data_param { source: "nowhere/test_lmdb" backend: LMDB batch_size: 50 }'
KINDS = {
    "Data": DATA,
    "ImageData": 'image_data_param { source: "nowhere.txt" batch_size: 50 }',
    "HDF5Data": 'hdf5_data_param { source: "nowhere.txt" batch_size: 50 }',
    "MemoryData": "memory_data_param { batch_size: 50 channels: 2 height: 6 width: 6 }",
}


@pytest.fixture(scope="module")
def engines(caffe_install: CaffeInstall) -> Iterator[tuple[Engine, Engine]]:
    """Caffe, started once, and the embedded one."""
    real = CaffeEngine(caffe_install, threads=1)
    with real.session():
        yield real, engine("torch", seed=1)


@pytest.fixture
def weights(caffe: MeasuringWorker, tmp_path: Path) -> Path:
    path = tmp_path / "deploy.prototxt"
    body = NET[NET.index('layer { name: "conv"') : NET.index('layer { name: "drop"')]
    fc = NET[NET.index('layer { name: "fc"') : NET.index('layer { name: "accuracy"')]
    path.write_text(
        'layer { name: "in" type: "Input" top: "data" input_param { shape { dim: 1 dim: 2 dim: 6 dim: 6 } } }'
        + body
        + fc
    )
    loaded = caffe.load(path)
    rng = np.random.default_rng(7)
    caffe.set_params(
        loaded,
        {
            name: [rng.standard_normal(shape).astype(np.float32) for shape in shapes]
            for name, shapes in loaded.params.items()
        },
    )
    caffe.save(loaded, tmp_path / "w.caffemodel")
    return tmp_path / "w.caffemodel"


def images(count: int = 3) -> Any:
    return np.random.default_rng(count).standard_normal((count, 2, 6, 6)).astype(np.float32)


@pytest.mark.parametrize("kind", KINDS)
def test_a_train_val(engines: tuple[Engine, Engine], weights: Path, tmp_path: Path, kind: str) -> None:
    """A lone array goes to the data, as it is (no transformation), and labels are 0."""
    net = tmp_path / "train_val.prototxt"
    net.write_text(NET % (kind, KINDS[kind]))
    before = sorted(tmp_path.iterdir())
    real, ours = (one.forward(net_path=net, weights_path=weights, input_array=images(), blobs=None) for one in engines)
    assert {"data", "label", "conv", "fc", "accuracy", "loss"} == real.keys() == ours.keys()
    for name in real:
        assert_within(name, real[name], ours[name], between(TERMS))
    np.testing.assert_array_equal(real["data"], images())
    assert not real["label"].any() and real["label"].shape[0] == 3
    # The loss is that of class 0.
    scores = real["fc"].astype(np.float64)
    wanted = np.mean(np.log(np.exp(scores).sum(1)) - scores[:, 0])
    assert_within("loss", wanted, real["loss"], between(TERMS))
    assert sorted(tmp_path.iterdir()) == before


def test_labels_that_are_given(engines: tuple[Engine, Engine], weights: Path, tmp_path: Path) -> None:
    net = tmp_path / "train_val.prototxt"
    net.write_text(NET % ("Data", DATA))
    labels = np.array([1, 4, 2], np.float32)
    found = [one.forward(net, weights, {"data": images(), "label": labels}, ["loss", "fc", "label"]) for one in engines]
    scores = found[0]["fc"].astype(np.float64)
    wanted = np.mean(np.log(np.exp(scores).sum(1)) - scores[range(3), labels.astype(int)])
    for one in found:
        np.testing.assert_array_equal(one["label"], labels)
        assert_within("loss", wanted, one["loss"], between(TERMS))


def test_what_cannot_be_fed(engines: tuple[Engine, Engine], weights: Path, tmp_path: Path) -> None:
    net = tmp_path / "train_val.prototxt"
    net.write_text(NET % ("Data", DATA))
    said = set()
    for one in engines:
        with pytest.raises(EngineError) as caught:
            one.forward(net, weights, {"label": np.zeros(3, np.float32)})
        said.add(str(caught.value))
    assert said == {'give an array for blob "data": nothing says what shape layer "test" gives it'}


@pytest.mark.parametrize("missing", ["net", "weights"])
def test_missing_files(engines: tuple[Engine, Engine], weights: Path, tmp_path: Path, missing: str) -> None:
    net = tmp_path / "train_val.prototxt"
    net.write_text(NET % ("Data", DATA))
    paths = {"net": net, "weights": weights, missing: tmp_path / "no such file"}
    for one in engines:
        calls: list[Callable[[], object]] = [
            partial(one.forward, paths["net"], paths["weights"], images()),
            one.loaded(paths["net"], paths["weights"]).__enter__,
            one.batches(paths["net"], paths["weights"], 1).__iter__().__next__,
        ]
        for call in calls:
            with pytest.raises(EngineError) as caught:
                call()
            wanted = f"{tmp_path}/no such file: there is no such file for the {missing}; check the path"
            assert (type(caught.value), str(caught.value)) == (EngineError, wanted)


def test_the_parameters_have_the_same_names_everywhere() -> None:
    names = ["net_path", "weights_path", "input_array", "blobs"]
    for forward in (Engine.forward, CaffeEngine.forward, TorchEngine.forward):
        assert list(inspect.signature(forward).parameters) == ["self", *names]


# ------------------------------------------------------------ what Caffe says of layers it cannot make


INPUT = 'layer { name: "in" type: "Input" top: "x" input_param { shape { dim: 3 } } }\n'


def load_error(worker: MeasuringWorker, path: Path, text: str) -> str:
    path.write_text(INPUT + text)
    with pytest.raises(EngineError) as caught:
        worker.load(path, cwd=path.parent)
    return str(caught.value)


PYTHON = 'layer { name: "py" type: "Python" bottom: "x" top: "y" python_param { module: "%s" layer: "L" } }'


def test_python_layers_need_a_word(
    caffe: MeasuringWorker, caffe_install: CaffeInstall, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Their module is not looked at before; nor do modules beside a net stand in for Python's own."""
    for name in ("mine", "random", "json"):
        (tmp_path / f"{name}.py").write_text(f"import pathlib; pathlib.Path({str(tmp_path)!r}, 'ran').touch()\n")
    net, plain = tmp_path / "net.prototxt", tmp_path / "plain.prototxt"
    plain.write_text(INPUT)
    net.write_text(INPUT + PYTHON % "mine")
    hidden = tmp_path / "hidden.prototxt"
    hidden.write_text((INPUT + PYTHON % "mine").replace('"Python"', "'Py' \"\\164hon\""))
    solver, inside = tmp_path / "solver.prototxt", tmp_path / "inside.prototxt"
    rates = 'base_lr: 1 lr_policy: "fixed" max_iter: 1 snapshot_prefix: "s"\n'
    solver.write_text(f'net: "net.prototxt" {rates}')
    inside.write_text(f"net_param {{ {INPUT} {PYTHON % 'mine'} }} {rates}")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    for way in (
        lambda: caffe.load(net, cwd=tmp_path),
        lambda: caffe.load(hidden, cwd=tmp_path),
        lambda: caffe.train(solver, 1, cwd=tmp_path),
        lambda: caffe.train(inside, 1, cwd=tmp_path),
        lambda: CaffeEngine(caffe_install).trainer(solver.resolve()).__enter__(),
    ):
        monkeypatch.chdir(tmp_path)
        with pytest.raises(RefusedError, match=r'layer "py" of type Python runs code in real Caffe .*--python-layers'):
            way()
    # What is no net to us may be one to Caffe.
    net.write_text(INPUT + PYTHON % "mine" + " unknown <")
    with pytest.raises(RebirthError, match=r"net\.prototxt:2:"):
        caffe.load(net, cwd=tmp_path)
    caffe.load(plain, cwd=tmp_path)
    assert not (tmp_path / "ran").exists()


def test_python_layers_that_cannot_be_made(
    caffe_install: CaffeInstall, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("REBIRTH_PYTHON_LAYERS", "1")
    with MeasuringWorker(caffe_install) as worker:
        cannot_be_made(worker, tmp_path)


def cannot_be_made(caffe: MeasuringWorker, tmp_path: Path) -> None:
    net = tmp_path / "net.prototxt"
    said = load_error(caffe, net, PYTHON % "rebirth_no_such")
    assert said.startswith(
        "Caffe, load: layer 'py': its Python module 'rebirth_no_such' cannot be imported (ModuleNotFoundError: "
        f"No module named 'rebirth_no_such'); looked for in {tmp_path}"
    )
    (tmp_path / "rebirth_needy.py").write_text("import rebirth_other\n")
    assert "module 'rebirth_needy' cannot be imported (ModuleNotFoundError: No module named 'rebirth_other')" in (
        load_error(caffe, net, PYTHON % "rebirth_needy")
    )
    (tmp_path / "rebirth_empty.py").write_text("")
    assert f"module 'rebirth_empty' ({tmp_path}/rebirth_empty.py) has no class 'L'" in (
        load_error(caffe, net, PYTHON % "rebirth_empty")
    )
    (tmp_path / "rebirth_picky.py").write_text(
        "import caffe\nclass L(caffe.Layer):\n    def setup(self, bottom, top): raise ValueError('two bottoms')\n"
    )
    said = load_error(caffe, net, PYTHON % "rebirth_picky")
    assert said == f"Caffe, load: layer 'py' (rebirth_picky.L in {tmp_path}/rebirth_picky.py): ValueError: two bottoms"


def test_layers_of_forks(caffe: MeasuringWorker, tmp_path: Path) -> None:
    net = tmp_path / "net.prototxt"
    advice = "; rebirth doctor NET says whose it is, and rebirth convert NET --portable may help (docs/forks.md)"
    said = load_error(caffe, net, 'layer { name: "up" type: "Interp" bottom: "x" top: "y" }')
    assert said == 'Caffe, load: layer "up" has type Interp, which this Caffe does not have' + advice
    said = load_error(
        caffe, net, 'layer { name: "up" type: "Interp" bottom: "x" top: "y"\n interp_param { height: 8 } }'
    )
    assert said == f'Caffe, load: {net}:3: this Caffe knows no field "interp_param" (LayerParameter)' + advice
