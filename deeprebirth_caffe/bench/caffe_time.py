"""Timing with only the `caffe` program: on devices, and with a Caffe that has no pycaffe.

`caffe time` loads no weights and fills no input, and layers are too fast on zeros (pooling above all). So the net
gets DummyData layers for random input, whose rows are left out, and fillers for random weights.
"""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from deeprebirth_caffe.bench.caffe_log import Benchmark, CaffeLogError, parse_one
from deeprebirth_caffe.engines.base import EngineError
from deeprebirth_caffe.engines.caffe import python_layers
from deeprebirth_caffe.formats.files import atomic_write
from deeprebirth_caffe.formats.prototxt import format_message
from deeprebirth_caffe.ir import Layer, Net
from deeprebirth_caffe.proto import caffe_pb2 as pb

if TYPE_CHECKING:
    from deeprebirth_caffe.bench.targets.base import Completed, Job, Target

NET = "net.prototxt"
NOTE = (
    "timed with `caffe time`, which gives the mean of each run only and runs backward as well: random input and "
    "weights by fillers, the input's row left out; p10 and p90 are those of the runs, memory includes gradients"
)


def dressed(net: Net) -> tuple[pb.NetParameter, frozenset[str]]:
    """A deploy net that fills its input and weights.

    Returns:
        The message, and the names of the layers that make the input.
    """
    message = net.message()
    inputs: list[str] = []
    for layer, param in zip(net.layers, message.layer, strict=True):
        if param.type == "Input":
            _make_up(net, layer, param)
            inputs.append(param.name)
        _fill(Layer(param))
    return message, frozenset(inputs)


def _make_up(net: Net, layer: Layer, param: pb.LayerParameter) -> None:
    """Turns an Input layer into a DummyData layer."""
    shapes = list(param.input_param.shape)
    param.ClearField("input_param")
    param.type = "DummyData"
    for index in range(len(param.top)):
        param.dummy_data_param.shape.add().CopyFrom(shapes[min(index, len(shapes) - 1)])
        filler = param.dummy_data_param.data_filler.add()
        if any(reader.traits.indices for reader, _ in net.readers(layer, index)):
            filler.type, filler.value = "constant", 0
        else:
            filler.type, filler.std = "gaussian", 1


def _fill(layer: Layer) -> None:
    """Adds fillers, because Caffe's default weights are zeros."""
    if hasattr(layer.own, "weight_filler"):
        layer.own.weight_filler.Clear()
        layer.own.weight_filler.type = "msra"
    elif layer.type == "BatchNorm":
        # BatchNorm has no filler, so its statistics stay 0; with an eps of 1 it then changes nothing.
        layer.param.batch_norm_param.eps = 1


class CaffeTimeSubject:
    """A net in `caffe time`; each run is a new process."""

    single = False
    pid: int | None = None

    def __init__(self, target: Target, job: Job) -> None:
        """Writes the net and copies it to the target.

        Raises:
            EngineError: the engine is not Caffe, or the target cannot take the net.
        """
        if job.engine != "caffe":
            raise EngineError(f"{job.engine} does not run on {target.name}: only caffe does")
        net = Net.read(job.net)
        python_layers.check((layer.param for layer in net.layers), job.net)
        message, self._input_names = dressed(net)
        self._target = target
        self._job = job
        self._rows: list[list[tuple[str, float]]] = []
        self._peak: int | None = None
        with tempfile.TemporaryDirectory(prefix="rebirth-time-") as folder:
            path = Path(folder) / NET
            atomic_write(path, format_message(message))
            self._place = target.push({NET: path})

    def run(self, iterations: int, warmup: int) -> list[float]:
        """The mean pass of a run. `caffe time` itself warms up with a pass."""
        args = ["time", "-model", str(self._place / NET), "-iterations", str(iterations), "-phase", "TEST"]
        done = self._target.run_caffe(args, env=thread_settings(self._job.threads), cpus=self._job.cpus)
        if done.rc:
            raise EngineError(f"caffe time on {self._target.name}: {_cause(done)}", stderr_tail=_tail(done))
        try:
            benchmark = parse_one(done.stderr + done.stdout)
        except CaffeLogError as error:
            raise EngineError(f"caffe time on {self._target.name}: {error}", stderr_tail=_tail(done)) from error
        if done.peak_rss_bytes is not None:
            self._peak = max(self._peak or 0, done.peak_rss_bytes)
        self._rows.append([(row.name, row.forward_ms) for row in benchmark.rows if row.name not in self._input_names])
        return [self._without_input(benchmark)]

    def _without_input(self, benchmark: Benchmark) -> float:
        assert benchmark.forward_ms is not None
        return benchmark.forward_ms - sum(row.forward_ms for row in benchmark.rows if row.name in self._input_names)

    def layers(self, iterations: int) -> list[tuple[str, float]] | None:
        """The rows of the next run."""
        return self._rows.pop(0) if self._rows else None

    def describe(self) -> dict[str, object]:
        return {"engine": "caffe", "version": "", "threads": self._job.threads, "program": "caffe time"}

    def peak_rss_bytes(self) -> int | None:
        return self._peak

    def notes(self) -> list[str]:
        return [NOTE]

    def close(self) -> None:
        """Does nothing: no process lives between runs."""


def thread_settings(threads: int | None) -> dict[str, str]:
    """The environment that gives Caffe's matrix libraries this many threads."""
    if threads is None:
        return {}
    return dict.fromkeys(("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS", "MKL_NUM_THREADS"), str(threads))


def _tail(done: Completed) -> str:
    return "\n".join(done.stderr.decode("utf-8", "replace").splitlines()[-40:])


def _cause(done: Completed) -> str:
    """The line of a log that tells the cause."""
    lines = [" ".join(line.split()) for line in done.stderr.decode("utf-8", "replace").splitlines() if line.strip()]
    fatal = [line.partition("] ")[2] or line for line in lines if line.startswith("F") and "] " in line]
    last = (fatal or [line for line in lines if not line.startswith(("    @", "***"))] or ["it printed nothing"])[-1]
    ended = f"it was ended by signal {-done.rc}" if done.rc < 0 else f"it ended with status {done.rc}"
    return f"{ended}: {last[:400]}"
