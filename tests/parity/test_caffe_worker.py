"""The worker process against real Caffe: what it computes, and how it fails."""

from __future__ import annotations

import os
import signal
import threading
import time
from pathlib import Path

import numpy as np
import pytest
from closeness import assert_within, between
from measured_caffe import MeasuringWorker
from nvcaffe import TYPES, raw_model

from deeprebirth_caffe.engines import EngineError, engine
from deeprebirth_caffe.engines.caffe.engine import CaffeEngine
from deeprebirth_caffe.engines.caffe.kernels import VARIABLE, Kernels, candidates, this_processor
from deeprebirth_caffe.engines.caffe.locate import CaffeInstall

pytestmark = pytest.mark.caffe

NET = """
name: "small"
force_backward: true
layer { name: "data" type: "Input" top: "data" input_param { shape { dim: 2 dim: 3 dim: 5 dim: 5 } } }
layer { name: "conv" type: "Convolution" bottom: "data" top: "conv"
  convolution_param { num_output: 4 kernel_size: 3 weight_filler { type: "xavier" } } }
layer { name: "relu" type: "ReLU" bottom: "conv" top: "conv" }
layer { name: "one" type: "InnerProduct" bottom: "conv" top: "one" param { name: "w" } param { name: "b" }
  inner_product_param { num_output: 3 weight_filler { type: "xavier" } } }
layer { name: "two" type: "InnerProduct" bottom: "conv" top: "two" param { name: "w" } param { name: "b" }
  inner_product_param { num_output: 3 } }
"""

TRAINING = """
name: "training"
layer { name: "data" type: "DummyData" top: "data" top: "label" include { phase: TRAIN }
  dummy_data_param { shape { dim: 8 dim: 6 } shape { dim: 8 }
    data_filler { type: "gaussian" std: 1 } data_filler { type: "constant" value: 1 } } }
layer { name: "a" type: "InnerProduct" bottom: "data" top: "a"
  param { lr_mult: 10 } param { lr_mult: 20 decay_mult: 0 }
  inner_product_param { num_output: 5 weight_filler { type: "xavier" } } }
layer { name: "still" type: "InnerProduct" bottom: "a" top: "still" param { lr_mult: 0 } param { lr_mult: 0 }
  inner_product_param { num_output: 5 weight_filler { type: "xavier" } } }
layer { name: "loss" type: "SoftmaxWithLoss" bottom: "still" bottom: "label" top: "loss" }
"""

SOLVER = """
net: "training.prototxt" base_lr: 0.01 lr_policy: "step" stepsize: 10 gamma: 0.1 momentum: 0.9
weight_decay: 0.0005 max_iter: 10 solver_mode: CPU
"""


@pytest.fixture
def net(tmp_path: Path) -> Path:
    path = tmp_path / "net with space.prototxt"
    path.write_text(NET)
    return path


@pytest.fixture
def own(caffe_install: CaffeInstall) -> MeasuringWorker:
    """A worker that a test may kill."""
    return MeasuringWorker(caffe_install, threads=1, timeout=60)


def test_info(caffe: MeasuringWorker) -> None:
    info = caffe.info()
    assert info["caffe"].startswith("1.")
    assert "Convolution" in info["layer_types"]
    assert info["blas"].get("threads", 1) == 1
    assert b"NetParameter" in caffe.schema()


def test_load(caffe: MeasuringWorker, net: Path) -> None:
    loaded = caffe.load(net)
    assert loaded.layers[:3] == (("data", "Input"), ("conv", "Convolution"), ("relu", "ReLU"))
    assert loaded.blobs["conv"] == (2, 4, 3, 3)
    assert loaded.params["conv"] == ((4, 3, 3, 3), (4,))
    assert loaded.inputs == ("data",)
    assert set(loaded.outputs) == {"one", "two"}
    assert loaded.bottoms["relu"] == loaded.tops["relu"] == ("conv",)
    # Caffe put a Split behind conv; its two copies are known as such.
    assert sorted(loaded.copies.values()) == ["conv", "conv"]
    assert loaded.shared == {"two": {0: ("one", 0), 1: ("one", 1)}}
    counts = [np.prod(loaded.blobs[top]) for tops in loaded.tops.values() for top in tops]
    assert loaded.memory_required_for_data == 4 * sum(counts)
    caffe.close(loaded)
    with pytest.raises(EngineError, match="was closed") as caught:
        caffe.get_params(loaded)
    assert not caught.value.fatal


def test_phase_level_and_stage_choose_layers(caffe: MeasuringWorker, tmp_path: Path) -> None:
    path = tmp_path / "states.prototxt"
    path.write_text(
        'layer { name: "x" type: "Input" top: "x" input_param { shape { dim: 1 } } }\n'
        'layer { name: "t" type: "ReLU" bottom: "x" top: "t" include { phase: TRAIN } }\n'
        'layer { name: "s" type: "ReLU" bottom: "x" top: "s" include { stage: "s" min_level: 2 } }\n'
    )

    def names(**how: object) -> list[str]:
        return [name for name, kind in caffe.load(path, **how).layers if kind == "ReLU"]  # type: ignore[arg-type]

    assert names() == []
    assert names(phase="TRAIN") == ["t"]
    assert names(level=2, stages=["s"]) == ["s"]
    assert names(level=1, stages=["s"]) == []
    with pytest.raises(EngineError, match="TRAIN or TEST"):
        names(phase="test")


def test_forward_and_backward_agree_with_numpy(caffe: MeasuringWorker, net: Path) -> None:
    loaded = caffe.load(net, seed=1)
    random = np.random.default_rng(0)
    x = random.standard_normal((2, 3, 5, 5))  # float64: converted on the way in
    out = caffe.forward(loaded, {"data": x})
    assert set(out) == {"data", "conv", "one", "two"}  # no copies of Splits
    params = caffe.get_params(loaded)
    weight, bias = params["conv"]
    windows = np.lib.stride_tricks.sliding_window_view(x.astype(np.float32), (3, 3), axis=(2, 3))
    expected = np.einsum("nchwij,ocij->nohw", windows, weight) + bias[:, None, None]
    # The blob holds what the in-place ReLU left there.
    assert_within("conv", np.maximum(expected, 0), out["conv"], between(27))
    inner = out["conv"].reshape(2, -1)
    assert_within("one", inner @ params["one"][0].T + params["one"][1], out["one"], between(inner.shape[1]))
    diff = random.standard_normal((2, 3)).astype(np.float32)
    for _ in range(2):  # a second pass does not add to the first
        gradients = caffe.backward(loaded, {"one": diff})
    assert_within("diff of one", diff.T @ inner, gradients.params["one"][0], between(2))
    # The ReLU in place masks the gradient of the blob it works on.
    back = (diff @ params["one"][0]).reshape(out["conv"].shape) * (out["conv"] > 0)
    assert_within("diff of conv", back, gradients.blobs["conv"], between(3))
    assert np.abs(gradients.blobs["data"]).max() > 0  # force_backward


def test_params_round_trip(caffe: MeasuringWorker, net: Path, tmp_path: Path) -> None:
    loaded = caffe.load(net)
    random = np.random.default_rng(1)
    new = [random.standard_normal(s).astype(np.float32) for s in loaded.params["conv"]]
    before = caffe.get_params(loaded, ["conv"])["conv"]
    with pytest.raises(EngineError, match=r"parameter 1 of layer 'conv' is 4, got 5"):
        caffe.set_params(loaded, {"conv": [new[0], np.zeros(5)]})
    with pytest.raises(EngineError, match="has 2 parameters, got 1"):
        caffe.set_params(loaded, {"conv": new[:1]})
    with pytest.raises(EngineError, match="no layer 'nobody'"):
        caffe.set_params(loaded, {"nobody": new})
    np.testing.assert_array_equal(caffe.get_params(loaded, ["conv"])["conv"][0], before[0])  # nothing was written
    caffe.set_params(loaded, {"conv": new})
    path = tmp_path / "w.caffemodel"
    caffe.save(loaded, path)
    again = caffe.get_params(caffe.load(net, weights=path))
    for mine, theirs in zip(new, again["conv"], strict=True):
        np.testing.assert_array_equal(mine, theirs)
    with pytest.raises(EngineError, match="there is no directory"):
        caffe.save(loaded, tmp_path / "nowhere" / "w")


def test_reshape(caffe: MeasuringWorker, net: Path) -> None:
    loaded = caffe.load(net)
    assert caffe.reshape(loaded, {"data": (1, 3, 5, 5)})["conv"] == (1, 4, 3, 3)
    with pytest.raises(EngineError, match=r"blob 'data' is 1x3x5x5, got 2x3x5x5"):
        caffe.forward(loaded, {"data": np.zeros((2, 3, 5, 5))})


def test_time_runs_on_filled_nets(caffe: MeasuringWorker, tmp_path: Path) -> None:
    path = tmp_path / "zero.prototxt"
    path.write_text(
        'layer { name: "x" type: "Input" top: "x" top: "label"'
        " input_param { shape { dim: 2 dim: 3 dim: 4 dim: 4 } shape { dim: 2 } } }\n"
        'layer { name: "c" type: "Convolution" bottom: "x" top: "c"'
        " convolution_param { num_output: 2 kernel_size: 1 } }\n"
        'layer { name: "n" type: "BatchNorm" bottom: "c" top: "c" }\n'
        'layer { name: "f" type: "InnerProduct" bottom: "c" top: "f"'
        " inner_product_param { num_output: 5 } }\n"
        'layer { name: "l" type: "SoftmaxWithLoss" bottom: "f" bottom: "label" top: "l" }\n'
    )
    loaded = caffe.load(path)
    times = caffe.time(loaded, iterations=4)
    params = caffe.get_params(loaded)
    assert params["c"][0].any() and params["n"][1].all() and params["f"][0].any()
    out = caffe.forward(loaded)
    assert not out["label"].any()
    assert np.isfinite(out["f"]).all()
    assert out["f"].std() > 0
    assert len(times) == 4
    assert min(times) > 0
    assert [name for name, _ in caffe.time_layers(loaded, iterations=2)] == ["c", "n", "f", "l"]
    # Weights that are not zero stay.
    np.testing.assert_array_equal(caffe.get_params(loaded)["c"][0], params["c"][0])


def test_training(caffe: MeasuringWorker, tmp_path: Path) -> None:
    (tmp_path / "training.prototxt").write_text(TRAINING)
    solver = tmp_path / "solver.prototxt"
    solver.write_text(SOLVER)
    saved = tmp_path / "trained.caffemodel"
    done = caffe.train(solver, 2, seed=1, rates=True, watch=["loss", "a"], save=saved, cwd=tmp_path)
    assert len(done.losses) == 2
    assert done.losses == pytest.approx(done.outputs["loss"])
    assert len(done.outputs["a"]) == 2
    assert done.learning_rate == pytest.approx(0.01)
    # What the solver really did, not what its text says.
    assert done.rates["a"] == pytest.approx((10, 20), rel=1e-2)
    assert done.rates["still"] == (0, 0)
    assert done.decays["a"][0] == pytest.approx(0.0005, rel=0.1)
    assert saved.stat().st_size > 0
    with pytest.raises(EngineError, match="no blob 'nothing'"):
        caffe.train(solver, 1, watch=["nothing"], cwd=tmp_path)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ('layer { name: "a" type: "Foo" top: "a" }', 'layer "a" has type Foo, which this Caffe does not have'),
        ('layer { name: "a" type: "ReLU" bottom: "b" top: "a" }', "Unknown bottom blob 'b'"),
        ('layer { name: "a" type: }', "1:25: Expected string"),
    ],
)
def test_an_abort_becomes_one_line(own: MeasuringWorker, tmp_path: Path, text: str, words: str) -> None:
    path = tmp_path / "bad.prototxt"
    path.write_text(text)
    with own:
        with pytest.raises(EngineError) as caught:
            own.load(path)
        message = str(caught.value)
        assert message.startswith("Caffe, load: ")
        assert words in message
        assert "\n" not in message
        assert caught.value.fatal
        assert "*** Check failure stack trace: ***" in caught.value.stderr_tail
        assert not own.running
        with pytest.raises(EngineError, match="not running"):
            own.info()


def test_the_shared_worker_comes_back(caffe: MeasuringWorker, net: Path, tmp_path: Path) -> None:
    old = caffe.load(net)
    (tmp_path / "bad.prototxt").write_text('layer { name: "a" type: "Foo" top: "a" }')
    with pytest.raises(EngineError):
        caffe.load(tmp_path / "bad.prototxt")
    new = caffe.load(net)
    # A handle of the dead process never means a net of the new one.
    assert new.handle != old.handle
    with pytest.raises(EngineError, match="no net with handle"):
        caffe.forward(old)


def test_missing_files_do_not_end_the_worker(caffe: MeasuringWorker, net: Path) -> None:
    pid = caffe.pid
    for call in (lambda: caffe.load("/nowhere"), lambda: caffe.load(net, weights="/nowhere")):
        with pytest.raises(EngineError, match="/nowhere does not exist") as caught:
            call()
        assert not caught.value.fatal
    assert caffe.pid == pid


def test_a_killed_worker(own: MeasuringWorker) -> None:
    with own:
        assert own.pid is not None
        pid = own.pid
        os.kill(pid, signal.SIGKILL)
        with pytest.raises(EngineError, match="SIGKILL") as caught:
            own.info()
        assert caught.value.fatal
        with pytest.raises(ProcessLookupError):  # reaped
            os.kill(pid, 0)


def slow_solver(directory: Path) -> Path:
    (directory / "training.prototxt").write_text(TRAINING)
    solver = directory / "solver.prototxt"
    solver.write_text(SOLVER)
    return solver


def test_a_timeout_ends_it(own: MeasuringWorker, tmp_path: Path) -> None:
    solver = slow_solver(tmp_path)
    with own:
        pid = own.pid
        assert pid is not None
        begin = time.monotonic()
        with pytest.raises(EngineError, match="no answer in time"):
            own.train(solver, 10**8, cwd=tmp_path, timeout=0.5)
        assert time.monotonic() - begin < 5
        with pytest.raises(ProcessLookupError):
            os.kill(pid, 0)


def test_ctrl_c_ends_it(own: MeasuringWorker, tmp_path: Path) -> None:
    solver = slow_solver(tmp_path)
    with own:
        pid = own.pid
        assert pid is not None
        timer = threading.Timer(0.5, os.kill, (os.getpid(), signal.SIGINT))
        timer.start()
        with pytest.raises(KeyboardInterrupt):
            own.train(solver, 10**8, cwd=tmp_path)
        timer.join()
        with pytest.raises(ProcessLookupError):
            os.kill(pid, 0)


def test_a_solver_has_to_be_open(caffe: MeasuringWorker, tmp_path: Path) -> None:
    pid = caffe.pid
    for op in ("step", "snapshot"):
        with pytest.raises(EngineError, match=f"Caffe, {op}: no solver is open"):
            caffe.call(op)
    with pytest.raises(EngineError, match="there is no directory"):
        caffe.enter(tmp_path / "nowhere")
    assert caffe.pid == pid


def test_what_is_not_pycaffe(tmp_path: Path) -> None:
    python = tmp_path / "python"
    python.write_text("#!/bin/sh\necho 'nothing of the sort' >&2\nexit 3\n")
    python.chmod(0o755)
    worker = MeasuringWorker(CaffeInstall(binary=None, python=python, where="test"))
    with pytest.raises(EngineError, match="status 3: nothing of the sort"):
        worker.start()
    gone = MeasuringWorker(CaffeInstall(binary=None, python=tmp_path / "gone", where="test"))
    with pytest.raises(EngineError, match="cannot start"):
        gone.start()


def test_prints_do_not_disturb_the_frames(caffe_install: CaffeInstall, tmp_path: Path) -> None:
    modules = tmp_path / "modules"
    modules.mkdir()
    (modules / "loud.py").write_text(
        "import caffe, os\n"
        "class Loud(caffe.Layer):\n"
        "    def setup(self, bottom, top): print('setup'); os.system('echo child')\n"
        "    def reshape(self, bottom, top): top[0].reshape(*bottom[0].data.shape)\n"
        "    def forward(self, bottom, top):\n"
        "        print('forward', flush=True)\n"
        "        top[0].data[...] = bottom[0].data + 1\n"
        "    def backward(self, top, propagate_down, bottom): pass\n"
    )
    path = tmp_path / "loud.prototxt"
    path.write_text(
        'layer { name: "x" type: "Input" top: "x" input_param { shape { dim: 3 } } }\n'
        'layer { name: "p" type: "Python" bottom: "x" top: "y"'
        ' python_param { module: "loud" layer: "Loud" } }\n'
    )
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("REBIRTH_CAFFE_PYTHONPATH", str(modules))
        patch.setenv("PYTHONPATH", str(modules))
        patch.setenv("REBIRTH_PYTHON_LAYERS", "1")
        with MeasuringWorker(caffe_install) as worker:
            out = worker.forward(worker.load(path), {"x": np.zeros(3)}, ["y"])
            np.testing.assert_array_equal(out["y"], np.ones(3))
            assert "child" in worker.stderr_tail()


@pytest.mark.parametrize(
    ("imports", "resize"),
    [
        ("import caffe", "caffe.io.resize_image"),
        ("import caffe\nimport caffe.io as files", "files.resize_image"),
        ("import caffe\nfrom caffe.io import *", "resize_image"),
        ("import caffe\nfrom caffe.io import resize_image as resize", "resize"),
    ],
)
def test_python_layers_have_caffe_io(caffe_install: CaffeInstall, tmp_path: Path, imports: str, resize: str) -> None:
    """It is imported when it is used, since it takes half of the time of a start."""
    (tmp_path / "half.py").write_text(
        f"{imports}\n"
        "class Half(caffe.Layer):\n"
        "    def setup(self, bottom, top): pass\n"
        "    def reshape(self, bottom, top): top[0].reshape(2, 2, 1)\n"
        f"    def forward(self, bottom, top): top[0].data[...] = {resize}(bottom[0].data, (2, 2))\n"
        "    def backward(self, top, propagate_down, bottom): pass\n"
    )
    path = tmp_path / "half.prototxt"
    path.write_text(
        'layer { name: "x" type: "Input" top: "x" input_param { shape { dim: 4 dim: 4 dim: 1 } } }\n'
        'layer { name: "p" type: "Python" bottom: "x" top: "y" python_param { module: "half" layer: "Half" } }\n'
    )
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", str(tmp_path))
        patch.setenv("REBIRTH_PYTHON_LAYERS", "1")
        with MeasuringWorker(caffe_install) as worker:
            out = worker.forward(worker.load(path), {"x": np.full((4, 4, 1), 3.0)}, ["y"])
            np.testing.assert_allclose(out["y"], np.full((2, 2, 1), 3.0))


def test_scalars_and_nan_travel(caffe: MeasuringWorker, tmp_path: Path) -> None:
    path = tmp_path / "sum.prototxt"
    path.write_text(
        'layer { name: "x" type: "Input" top: "x" input_param { shape { dim: 3 } } }\n'
        'layer { name: "s" type: "Reduction" bottom: "x" top: "s" }\n'
    )
    loaded = caffe.load(path)
    out = caffe.forward(loaded, {"x": np.array([1.0, 2.0, 4.0])})
    assert out["s"].shape == ()
    assert out["s"] == 7
    assert np.isnan(caffe.forward(loaded, {"x": np.full(3, np.nan)})["s"])


def test_engine(caffe: MeasuringWorker, caffe_install: CaffeInstall, net: Path, tmp_path: Path) -> None:
    eng = engine("caffe", caffe=caffe_install, threads=1)
    assert isinstance(eng, CaffeEngine)
    x = np.random.default_rng(0).standard_normal((1, 3, 5, 5)).astype(np.float32)
    caffe.save(caffe.load(net, seed=1), tmp_path / "w")
    with eng.session() as worker:
        # A lone array goes to the only input, whose shape follows it.
        out = eng.forward(net, tmp_path / "w", x, ["one", "data"])
        np.testing.assert_array_equal(out["data"], x)
        assert out["one"].shape == (1, 3)
        assert eng.describe()["caffe"] == worker.info()["caffe"]
        pid = worker.pid
        with eng.session() as inner:
            assert inner.pid == pid
    assert not worker.running
    np.testing.assert_array_equal(eng.forward(net, tmp_path / "w", {"data": x})["one"], out["one"])


def test_no_such_engine() -> None:
    with pytest.raises(EngineError, match="no engine named 'tpu'"):
        engine("tpu")


@pytest.mark.parametrize("dtype", TYPES)
def test_weights_of_nvcaffe_reach_caffe(caffe: MeasuringWorker, tmp_path: Path, dtype: str) -> None:
    (tmp_path / "net.prototxt").write_text(NET)
    loaded = caffe.load(tmp_path / "net.prototxt", seed=1)
    caffe.save(loaded, tmp_path / "plain.caffemodel")
    (tmp_path / "raw.caffemodel").write_bytes(raw_model((tmp_path / "plain.caffemodel").read_bytes(), dtype))
    again = caffe.load(tmp_path / "net.prototxt", weights=tmp_path / "raw.caffemodel", seed=2)
    wanted, found = (caffe.get_params(net, ["conv", "one"]) for net in (loaded, again))
    for name, arrays in wanted.items():
        for array, mine in zip(arrays, found[name], strict=True):
            np.testing.assert_array_equal(mine, array.astype(dtype).astype(np.float32))


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16"])
def test_a_net_with_a_byte_order_mark_reaches_caffe(caffe: MeasuringWorker, tmp_path: Path, encoding: str) -> None:
    (tmp_path / "net.prototxt").write_text(NET, encoding=encoding)
    assert caffe.load(tmp_path / "net.prototxt").blobs["two"] == (2, 3)


@pytest.mark.parametrize("core", [core for core in candidates(this_processor()) if core != "SkylakeX"])
def test_kernels_that_are_named_are_used_and_right(caffe_install: CaffeInstall, core: str) -> None:
    with MeasuringWorker(caffe_install, kernels=Kernels(core)) as worker:
        found = worker.call("check_products")[0]
        if "DYNAMIC_ARCH" not in found.get("config", ""):
            pytest.skip("this Caffe has another matrix library, or the kernels of one processor alone")
        assert (found["core"], found["wrong"]) == (core, "")
        assert worker.info()["blas"]["core"] == core


def test_the_worker_says_whose_kernels_it_uses(caffe: MeasuringWorker) -> None:
    blas = caffe.info()["blas"]
    if "core" in blas:
        assert blas["chosen_by"] == "user" and blas["core"].lower() == os.environ[VARIABLE].lower()
