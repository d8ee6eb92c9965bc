"""Every engine on the same nets as real Caffe: the same outputs, whatever reads the net and however."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import AbstractContextManager, closing
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest
from nets import conv, data, fc, layer, pool, relu

from deeprebirth_caffe import zoo
from deeprebirth_caffe.commands.convert import convert
from deeprebirth_caffe.engines.agree import Agreement, agree, first_failure
from deeprebirth_caffe.engines.base import EngineError
from deeprebirth_caffe.engines.hosted import HostedRunner
from deeprebirth_caffe.engines.prepare import prepare, random_inputs
from deeprebirth_caffe.engines.runners import RUNNERS, Runner, open_runner
from deeprebirth_caffe.options.convert import ConvertOptions

if TYPE_CHECKING:
    from deeprebirth_caffe.engines.caffe.client import CaffeWorker

NEEDS = {
    "caffe": (),
    "torch": ("torch",),
    "opencv": ("cv2",),
    "mnn": ("MNN",),
    "onnxruntime": ("onnx", "onnxruntime"),
    "ncnn": ("onnx", "ncnn", "pnnx"),
}


@pytest.fixture(params=RUNNERS)
def name(request: pytest.FixtureRequest) -> Iterator[str]:
    import importlib.util

    for module in NEEDS[request.param]:
        if importlib.util.find_spec(module) is None:
            pytest.skip(f"{module} is not installed")
    if request.param == "opencv" and not hasattr(pytest.importorskip("cv2").dnn, "readNetFromCaffe"):
        pytest.importorskip("onnx")
    yield request.param


def same(
    caffe: CaffeWorker, name: str, folder: Path, net: Path, batch: int | None = None, *, hosted: bool = True
) -> None:
    """Compares the outputs; `hosted`: in a process of the engine's own, as nets are timed."""
    ready = prepare(net, None, batch=batch)
    inputs = random_inputs(ready)
    (folder / "plain").mkdir(exist_ok=True)
    path, weights = ready.write(folder / "plain")
    loaded = caffe.load(path, weights=weights)
    wanted = caffe.forward(loaded, inputs, list(ready.outputs))
    caffe.close(loaded)
    assert all(np.ptp(array) > 0 for array in wanted.values())
    opened: AbstractContextManager[Runner] = (
        HostedRunner(name, net, batch=batch, threads=1)
        if hosted
        else closing(open_runner(name, net, batch=batch, threads=1))
    )
    with opened as runner:
        assert set(runner.outputs) == set(wanted)
        found = agree(wanted, runner.forward(inputs))
        assert not first_failure(found)
        assert len(runner.time(2, warmup=1)) == 2


def compared(runner: Runner, net: Path, batch: int | None = None) -> list[Agreement]:
    """Runs the net of an open runner in real Caffe too, on the same random input."""
    inputs = random_inputs(prepare(net, None, batch=batch))
    with closing(open_runner("caffe", net, batch=batch)) as reference:
        return agree(reference.forward(inputs), runner.forward(inputs))


def write(folder: Path, text: str) -> Path:
    path = folder / "net.prototxt"
    path.write_text(text)
    return path


@pytest.mark.parametrize(
    ("net", "batch"), [("googlenet28", 1), ("googlenet28", 3), ("googlenet64", 1), ("alexnet64", 3), ("resnet64", 1)]
)
def test_zoo(caffe: CaffeWorker, tmp_path: Path, name: str, net: str, batch: int) -> None:
    zoo.write(net, tmp_path / "zoo")
    same(caffe, name, tmp_path, tmp_path / "zoo" / "deploy.prototxt", batch)


@pytest.mark.parametrize("net", ["squeezenet1.1", "mobilenet"])
def test_large(caffe: CaffeWorker, tmp_path: Path, name: str, net: str) -> None:
    zoo.write(net, tmp_path / "zoo")
    same(caffe, name, tmp_path, tmp_path / "zoo" / "deploy.prototxt", 1)


@pytest.mark.parametrize("net", ["googlenet28", "googlenet64", "alexnet64", "resnet64"])
def test_converted(caffe: CaffeWorker, tmp_path: Path, name: str, net: str) -> None:
    zoo.write(net, tmp_path / "zoo")
    convert(ConvertOptions(tmp_path / "zoo" / "deploy.prototxt", out=tmp_path / "out"))
    same(caffe, name, tmp_path, tmp_path / "out" / "deploy.prototxt", 1)


NETS = {
    "two_outputs": data(1, 3, 16, 16)
    + conv("a", "data", 8)
    + relu("ra", "a")
    + pool("p", "a", 3, 2)
    + fc("x", "p")
    + layer("Softmax", "y", "p"),
    "two_inputs": data(1, 3, 12, 12)
    + data(1, 3, 12, 12, name="other")
    + conv("a", "data")
    + conv("b", "other")
    + layer("Eltwise", "x", ("a", "b")),
    "sliced_output": data(1, 8, 9, 9) + conv("a", "data", 8) + layer("Slice", "s", "a", ("x", "y")),
    "in_place_output": data(1, 3, 9, 9) + conv("a", "data", 8) + relu("r", "a"),
    "pools_that_round_up": data(1, 3, 16, 16)
    + conv("a", "data", 8, fields="pad: 1")
    + pool("p", "a", 3, 2, fields="pad: 1")
    + pool("q", "a", 3, 2, fields="pool: AVE")
    + fc("x", "p")
    + fc("y", "q"),
    "old": 'name: "old" input: "data" input_dim: 1 input_dim: 3 input_dim: 20 input_dim: 20 '
    'layers { name: "c" type: CONVOLUTION bottom: "data" top: "c" convolution_param { num_output: 4 kernel_size: 3 } }'
    'layers { name: "r" type: RELU bottom: "c" top: "c" } '
    'layers { name: "p" type: POOLING bottom: "c" top: "p" pooling_param { kernel_size: 3 stride: 2 } }'
    'layers { name: "f" type: INNER_PRODUCT bottom: "p" top: "f" inner_product_param { num_output: 7 } }',
    "fork": data(1, 4, 12, 12)
    + layer("DepthwiseConvolution", "dw", "data", fields="convolution_param { num_output: 4 kernel_size: 3 }")
    + pool("p", "dw", 2, 2, fields="ceil_mode: true")
    + fc("f", "p"),
    "odd_names": data(1, 3, 12, 12, name="in put") + conv("a;b $(c)", "in put") + fc("o'ut", "a;b $(c)"),
    "trains": data(5, 3, 12, 12)
    + data(5, name="label")
    + conv("c", "data")
    + fc("f", "c")
    + layer("SoftmaxWithLoss", "loss", ("f", "label")),
}


@pytest.mark.parametrize("net", NETS)
def test_nets(caffe: CaffeWorker, tmp_path: Path, name: str, net: str) -> None:
    same(caffe, name, tmp_path, write(tmp_path, NETS[net]), hosted=False)


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="no such call here")
@pytest.mark.caffe
def test_processors(tmp_path: Path, name: str) -> None:
    net = write(tmp_path, data(1, 3, 16, 16) + conv("a", "data"))
    ours = os.sched_getaffinity(0)
    first = max(ours)
    with HostedRunner(name, net, threads=2, cpus=[first]) as runner:
        runner.time(2)
        for thread in Path(f"/proc/{runner.pid}/task").iterdir():
            assert os.sched_getaffinity(int(thread.name)) == {first}
        assert (runner.peak_rss_bytes or 0) > 10 << 20
    assert os.sched_getaffinity(0) == ours


@pytest.mark.caffe
def test_threads_are_as_many_as_were_asked_for(tmp_path: Path, name: str) -> None:
    net = write(tmp_path, data(1, 32, 64, 64) + conv("a", "data", 64) + conv("b", "a", 64) + relu("r", "b"))

    def threads(count: int) -> int:
        with HostedRunner(name, net, threads=count) as runner:
            assert runner.describe()["threads"] == count
            runner.time(3)
            return len(list(Path(f"/proc/{runner.pid}/task").iterdir()))

    more = threads(2) - threads(1)
    # PyTorch starts helpers of its own beside those that compute.
    assert more >= 1 if name == "torch" else more == 1


def test_an_engine_that_computes_something_else_is_found_out(caffe: CaffeWorker, tmp_path: Path) -> None:
    """MNN's converter leaves out LRN's k; nothing shows that but a comparison."""
    pytest.importorskip("MNN")
    net = write(tmp_path, data(1, 4, 8, 8) + conv("c", "data") + layer("LRN", "x", "c", fields="lrn_param { k: 2 }"))
    runner = open_runner("mnn", net)
    assert "differs by" in first_failure(compared(runner, net))
    runner.close()


def test_shapes_that_differ_are_found_when_the_net_is_opened(tmp_path: Path) -> None:
    """MNN rounds up whatever round_mode says."""
    pytest.importorskip("MNN")
    text = data(1, 4, 11, 11) + conv("c", "data") + pool("x", "c", 2, 2, fields="round_mode: FLOOR")
    with pytest.raises(EngineError, match=r'output "x" is .*, in Caffe it is'):
        HostedRunner("mnn", write(tmp_path, text))


def test_an_engine_that_crashes_is_an_error(tmp_path: Path) -> None:
    """MNN falls over a Scale with two inputs."""
    pytest.importorskip("MNN")
    text = data(1, 4, 9, 9) + conv("c", "data") + conv("d", "data") + layer("Scale", "x", ("c", "d"), fields=AXIS_0)
    with pytest.raises(EngineError, match="its process was ended by SIG"):
        HostedRunner("mnn", write(tmp_path, text))


AXIS_0 = "scale_param { axis: 0 }"


def test_a_runner_that_agrees(caffe: CaffeWorker, tmp_path: Path) -> None:
    pytest.importorskip("onnxruntime")
    pytest.importorskip("onnx")
    net = write(tmp_path, data(2, 4, 8, 8) + conv("c", "data") + layer("LRN", "x", "c", fields="lrn_param { k: 2 }"))
    runner = open_runner("onnxruntime", net, batch=3)
    [found] = compared(runner, net, batch=3)
    assert not found.failure and found.varies and 0 < found.worst < 1e-4


def test_mnn_is_converted_without_a_word_to_anyone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No process, no connection, no logger: in a process of its own, where sockets and programs are booby-trapped."""
    pytest.importorskip("MNN")
    import subprocess
    import sys

    net = write(tmp_path, data(1, 3, 16, 16) + conv("a", "data") + fc("x", "a"))
    code = (
        "import os, socket, subprocess, sys, urllib.request\n"
        "def trap(*a, **k): raise SystemExit('trapped')\n"
        "socket.socket.connect = socket.getaddrinfo = socket.create_connection = trap\n"
        "os.system = os.popen = os.posix_spawn = subprocess.Popen.__init__ = urllib.request.urlopen = trap\n"
        "from pathlib import Path\n"
        "from deeprebirth_caffe.engines.runners import open_runner\n"
        f"runner = open_runner('mnn', Path({str(net)!r})); assert runner.time(1)\n"
        "assert 'MNN.tools' not in sys.modules and not any('aliyun' in name for name in sys.modules)\n"
        "sys.stderr.write('quiet')"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120, check=False)
    assert (done.returncode, done.stdout) == (0, ""), done
    assert done.stderr.endswith("quiet")
