"""Runners and the processes that host them, on ONNX Runtime: errors, deaths, processors, preparation of nets."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from nets import conv, data, fc, layer, relu

from deeprebirth_caffe.engines import hosted, libraries
from deeprebirth_caffe.engines.agree import agree, first_failure
from deeprebirth_caffe.engines.base import EngineError
from deeprebirth_caffe.engines.hosted import HostedRunner
from deeprebirth_caffe.engines.prepare import prepare, random_inputs
from deeprebirth_caffe.engines.runners import RUNNERS, open_runner
from deeprebirth_caffe.errors import RefusedError, UsageError

TEXT = data(2, 3, 8, 8) + conv("c", "data") + relu("r", "c") + fc("f", "c")


def write(folder: Path, text: str = TEXT) -> Path:
    path = folder / "net.prototxt"
    path.write_text(text)
    return path


@pytest.fixture
def net(tmp_path: Path) -> Path:
    pytest.importorskip("onnx")
    pytest.importorskip("onnxruntime")
    return write(tmp_path)


def alive(pid: int) -> bool:
    """Whether a process runs; one that ended and was not fetched by its parent does not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def wait_for_death(pid: int) -> bool:
    for _ in range(100):
        if not alive(pid):
            return True
        time.sleep(0.1)
    return False


# in this process


def test_a_runner_runs_and_times(net: Path) -> None:
    runner = open_runner("onnxruntime", net, threads=1, batch=5)
    assert (runner.engine, runner.inputs, runner.outputs) == ("onnxruntime", {"data": (5, 3, 8, 8)}, ["f"])
    out = runner.forward(random_inputs(prepare(net, None, batch=5)))
    assert out["f"].shape == (5, 5) and out["f"].dtype == np.float32 and out["f"].any()
    times = runner.time(4, warmup=1)
    assert len(times) == 4 and min(times) > 0
    layers = runner.layers(3)
    assert layers and any(name.startswith("c") for name, _ in layers) and all(ms > 0 for _, ms in layers)
    assert runner.describe()["threads"] == 1
    runner.close()


def test_random_weights_are_the_same_every_time(net: Path) -> None:
    inputs = random_inputs(prepare(net, None))
    one, two = (open_runner("onnxruntime", net) for _ in range(2))
    np.testing.assert_array_equal(one.forward(inputs)["f"], two.forward(inputs)["f"])


@pytest.mark.parametrize("inputs", [{}, {"data": np.zeros((1, 3, 8, 8), np.float32)}])
def test_wrong_inputs(net: Path, inputs: dict[str, np.ndarray]) -> None:
    with pytest.raises(EngineError, match='input "data"'):
        open_runner("onnxruntime", net).forward(inputs)


def test_no_such_engine(tmp_path: Path) -> None:
    for opened in (open_runner, HostedRunner):
        with pytest.raises(UsageError, match="there is caffe, torch"):
            opened("tvm", write(tmp_path))


@pytest.mark.parametrize("name", [name for name in RUNNERS if name != "caffe"])
def test_a_missing_library_says_what_to_type(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    ours = libraries.importlib.util.find_spec

    def find(module: str) -> object:
        return None if module in ("torch", "cv2", "MNN", "_tools", "onnx", "pnnx") else ours(module)

    def missing(module: str) -> object:
        if find(module) is None:
            raise ImportError(module)
        return real(module)

    real = libraries.importlib.import_module
    monkeypatch.setattr(libraries.importlib.util, "find_spec", find)
    monkeypatch.setattr(libraries.importlib, "import_module", missing)
    with pytest.raises(EngineError, match=r"is not installed: pip install '(torch|opencv-python-headless|MNN|onnx)"):
        open_runner(name, write(tmp_path))


def test_what_is_printed_meanwhile_goes_to_stderr(capfd: pytest.CaptureFixture[str]) -> None:
    with libraries.stdout_as_stderr():
        os.write(1, b"from compiled code\n")
    os.write(1, b"ours\n")
    out, err = capfd.readouterr()
    assert (out, err) == ("ours\n", "from compiled code\n")


# preparing nets


def test_old_nets_and_those_of_forks_become_plain(tmp_path: Path) -> None:
    old = write(
        tmp_path,
        'input: "data" input_dim: 2 input_dim: 3 input_dim: 8 input_dim: 8 '
        'layers { name: "c" type: CONVOLUTION bottom: "data" top: "c" '
        "convolution_param { num_output: 3 kernel_size: 3 } }"
        'layers { name: "d" type: DROPOUT bottom: "c" top: "c" }',
    )
    ready = prepare(old, None, batch=4)
    assert ready.inputs == {"data": (4, 3, 8, 8)} and ready.outputs == {"c": (4, 3, 6, 6)}
    fork = write(
        tmp_path,
        data(2, 3, 8, 8)
        + layer("DepthwiseConvolution", "dw", "data", fields="convolution_param { num_output: 3 kernel_size: 3 }")
        + layer("ReLU6", "r", "dw", "dw"),
    )
    ready = prepare(fork, None)
    assert [one.type for one in ready.net.layers] == ["Input", "Convolution", "Clip"]
    assert ready.batch == 2
    path, weights = ready.write(tmp_path)
    assert "group: 3" in path.read_text() and weights.stat().st_size > 100


def test_every_reader_of_caffe_files_finds_it_spelled_out(tmp_path: Path) -> None:
    text = (
        data(1, 9, 8, 8)
        + layer("Slice", "s", "data", ("a", "b", "c"), "slice_param { slice_dim: 1 }")
        + layer("Concat", "j", ("a", "b", "c"), fields="concat_param { concat_dim: 2 }")
        + layer("LRN", "n", "j")
        + layer("Pooling", "p", "n", fields="pooling_param { kernel_size: 2 round_mode: CEIL }")
        + layer("Pooling", "q", "p", fields="pooling_param { kernel_size: 2 round_mode: FLOOR }")
    )
    ready = prepare(write(tmp_path, text), None)
    _, cut, join, norm, up, down = (one.param for one in ready.net.layers)
    assert list(cut.slice_param.slice_point) == [3, 6] and cut.slice_param.axis == 1
    assert join.concat_param.HasField("axis") and join.concat_param.axis == 2
    assert not cut.slice_param.HasField("slice_dim") and not join.concat_param.HasField("concat_dim")
    assert norm.lrn_param.HasField("local_size") and norm.lrn_param.alpha == 1 and norm.lrn_param.HasField("k")
    assert not up.pooling_param.HasField("round_mode") and down.pooling_param.HasField("round_mode")
    assert ready.outputs == {"q": (1, 3, 22, 6)}


def test_layers_that_share_weights_all_hold_them(tmp_path: Path) -> None:
    share = 'param { name: "w" } param { name: "b" }'
    text = data(1, 3, 9, 9) + conv("one", "data", 3, rest=share) + conv("two", "one", 3, rest=share)
    found = prepare(write(tmp_path, text), None).net.weights
    assert found is not None
    for one, two in zip(found["one"], found["two"], strict=True):
        np.testing.assert_array_equal(one, two)


def test_a_net_without_weights(tmp_path: Path) -> None:
    ready = prepare(write(tmp_path, data(1, 3, 9, 9) + relu("r", "data", "x")), None)
    path, weights = ready.write(tmp_path)
    assert prepare(path, weights).outputs == {"x": (1, 3, 9, 9)}


def test_of_a_net_that_trains_what_it_infers(tmp_path: Path) -> None:
    text = TEXT + data(2, name="label") + layer("SoftmaxWithLoss", "loss", ("f", "label"))
    ready = prepare(write(tmp_path, text), None, batch=2)
    assert ready.inputs == {"data": (2, 3, 8, 8)} and ready.outputs == {"prob": (2, 5)}


def test_what_plain_caffe_cannot_say(tmp_path: Path) -> None:
    with pytest.raises(RefusedError, match=r"plain Caffe, which cannot say this net: n .*Normalize"):
        prepare(write(tmp_path, TEXT + layer("Normalize", "n", "f")), None)


def test_random_inputs_are_what_layers_can_use(tmp_path: Path) -> None:
    text = (
        data(4, 6, name="words")
        + layer("Embed", "e", "words", fields="embed_param { num_output: 5 input_dim: 3 }")
        + layer("Input", "cont", (), "cont", "input_param { shape { dim: 4 dim: 6 } }")
        + layer("LSTM", "l", ("e", "cont"), fields="recurrent_param { num_output: 2 }")
    )
    found = random_inputs(prepare(write(tmp_path, text), None))
    assert set(np.unique(found["words"])) == {0, 1, 2}
    assert set(np.unique(found["cont"])) == {0, 1} and not found["cont"][0].any()


# agreement


def test_agreement() -> None:
    wanted = {"a": np.array([1.0, -4.0, np.nan], np.float32), "b": np.array([[2.0]], np.float32)}
    assert [one.failure for one in agree(wanted, wanted)] == ["", ""]
    near = {**wanted, "a": wanted["a"] + np.float32(1e-4)}
    [a, b] = agree(wanted, near)
    assert a.worst == pytest.approx(2.5e-5, rel=0.1) and not a.failure and a.varies and b.varies
    assert "differs by" in first_failure(agree(wanted, {**wanted, "a": wanted["a"] * 1.001}))
    assert "not finite" in first_failure(agree(wanted, {**wanted, "a": np.zeros(3, np.float32)}))
    assert "not finite" in first_failure(agree(wanted, {**wanted, "b": np.array([[np.inf]], np.float32)}))
    assert "shape" in first_failure(agree(wanted, {**wanted, "b": np.array([2.0], np.float32)}))
    assert "missing" in first_failure(agree(wanted, {"a": wanted["a"]}))


def test_windows_without_a_pixel_are_no_scale() -> None:
    lowest = np.finfo(np.float32).min
    wanted, found = (np.array([1.0, second, lowest], np.float32) for second in (2.0, 3.0))
    assert first_failure(agree({"a": wanted}, {"a": found}))


# in a process of its own


def test_hosted(net: Path) -> None:
    inputs = random_inputs(prepare(net, None))
    with HostedRunner("onnxruntime", net, threads=1) as runner:
        assert (runner.inputs, runner.outputs) == ({"data": (2, 3, 8, 8)}, ["f"])
        pid = runner.pid
        assert pid is not None and pid != os.getpid() and alive(pid)
        here = open_runner("onnxruntime", net).forward(inputs)
        assert not first_failure(agree(here, runner.forward(inputs)))
        assert len(runner.time(3)) == 3
        assert runner.layers(2)
        assert runner.describe()["engine"] == "onnxruntime"
        peak = runner.peak_rss_bytes
        assert peak is not None and peak > 1 << 20
    assert not alive(pid)
    assert runner.pid is None and runner.peak_rss_bytes is None
    runner.close()
    with pytest.raises(EngineError, match="closed"):
        runner.time(1)


def test_an_error_there_is_an_error_here(net: Path) -> None:
    with HostedRunner("onnxruntime", net) as runner:
        with pytest.raises(EngineError, match='input "data" was not given'):
            runner.forward({})
        assert runner.time(1)  # and the process goes on


def test_what_cannot_be_exported_is_refused(tmp_path: Path) -> None:
    pytest.importorskip("onnx")
    text = data(2, 3, 8, 8) + layer("Im2col", "x", "data", fields="convolution_param { kernel_size: 3 }")
    with pytest.raises(RefusedError, match="no ONNX form"):
        HostedRunner("onnxruntime", write(tmp_path, text))


def test_a_process_that_is_killed(net: Path) -> None:
    with HostedRunner("onnxruntime", net) as runner:
        assert runner.pid is not None
        os.kill(runner.pid, signal.SIGKILL)
        with pytest.raises(EngineError, match="SIGKILL") as caught:
            runner.time(1)
        assert caught.value.fatal


def test_a_process_that_does_not_answer_in_time(net: Path) -> None:
    with HostedRunner("onnxruntime", net, timeout=60) as runner:
        pid = runner.pid
        assert pid is not None
        os.kill(pid, signal.SIGSTOP)
        runner.timeout = 0.2
        with pytest.raises(EngineError, match="no answer in time"):
            runner.time(1)
        assert not alive(pid)


def test_it_dies_with_its_parent(net: Path) -> None:
    code = (
        "import os, sys; from pathlib import Path; from deeprebirth_caffe.engines.hosted import HostedRunner\n"
        f"runner = HostedRunner('onnxruntime', Path({str(net)!r}))\n"
        "print(runner.pid, flush=True); os.kill(os.getpid(), 9)"
    )
    done = subprocess.run([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True, timeout=120, check=False)
    assert done.returncode == -signal.SIGKILL
    assert wait_for_death(int(done.stdout))


def test_what_a_process_started_dies_with_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A converter may be at work when it takes too long, or when we are interrupted."""
    code = (
        "import pathlib, subprocess\nchild = subprocess.Popen(['sleep', '600'])\n"
        f"pathlib.Path({str(tmp_path / 'pid')!r}).write_text(str(child.pid))\n"
        "child.wait()\n"
    )
    monkeypatch.setattr(hosted, "python_words", lambda *_: [sys.executable, "-c", code])
    host = hosted._Host("load", "onnxruntime", tmp_path, 1, None)
    for _ in range(100):
        if (tmp_path / "pid").exists() and (tmp_path / "pid").read_text():
            break
        time.sleep(0.1)
    child = int((tmp_path / "pid").read_text())
    assert alive(child)
    with pytest.raises(EngineError, match="no answer in time"):
        host.answer("load", 0.1)
    assert wait_for_death(child) and not alive(host.pid)


def test_nothing_of_the_current_folder_is_run(net: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    net = net.absolute()
    for name in ("random", "json", "numpy", "onnx", "onnxruntime", "deeprebirth_caffe"):
        (tmp_path / f"{name}.py").write_text("import pathlib; pathlib.Path(__file__ + '.ran').touch()")
    monkeypatch.chdir(tmp_path)
    with HostedRunner("onnxruntime", net) as runner:
        assert runner.time(1, 0)
    assert not list(tmp_path.glob("*.ran"))


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="no such call here")
def test_processors(net: Path) -> None:
    first = min(os.sched_getaffinity(0))
    with HostedRunner("onnxruntime", net, threads=1, cpus=[first, first]) as runner:
        assert runner.pid is not None
        for thread in Path(f"/proc/{runner.pid}/task").iterdir():
            assert os.sched_getaffinity(int(thread.name)) == {first}
    for wrong in ([], [100_000]):
        with pytest.raises(UsageError, match="--cpus"):
            HostedRunner("onnxruntime", net, cpus=wrong)


def test_threads_reach_libraries_that_only_read_the_environment() -> None:
    assert hosted._environment(3)["OMP_NUM_THREADS"] == "3"
    assert hosted._environment(None).get("OMP_NUM_THREADS") == os.environ.get("OMP_NUM_THREADS")
