"""The embedded engine: Caffe's nets, solvers and data on PyTorch."""

from __future__ import annotations

import importlib.util
import platform
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any

from deeprebirth_caffe.engines.base import EngineError
from deeprebirth_caffe.engines.feeding import by_name, forward_once, need_files
from deeprebirth_caffe.extras import pip_install
from deeprebirth_caffe.ir import Net, NetState, Weights

if TYPE_CHECKING:
    import torch

    from deeprebirth_caffe.engines.base import Array, FloatArray, Forward
    from deeprebirth_caffe.engines.lesson import Lesson
    from deeprebirth_caffe.engines.torch.net import TorchNet
    from deeprebirth_caffe.engines.torch.solver import TorchTrainer

DEVICES = ("cpu", "cuda", "mps")
PRECISIONS = ("fp32", "bf16")


class TorchEngine:
    """Caffe's nets in this process; nothing but PyTorch is needed."""

    name = "torch"

    def __init__(
        self,
        device: str = "cpu",
        precision: str = "fp32",
        threads: int | None = None,
        seed: int | None = None,
        cache: int | None = None,
    ) -> None:
        """Checks that there is such a device; loads PyTorch.

        Args:
            device: cpu, cuda (or cuda:1 and so on) or mps.
            precision: fp32, or bf16: matrix products in bfloat16, weights in float32.
            threads: of PyTorch, for the whole process; None leaves it to the environment.
            seed: of fillers, Dropout and the like where no solver gives one; None: any.
            cache: how many bytes trainers may use to keep what never changes (`frozen.py`), 0: none; None: a quarter
                of the memory that is free when they start.

        Raises:
            EngineError: PyTorch or the device is missing, or there is no such precision.
        """
        if precision not in PRECISIONS:
            raise EngineError(f"no precision {precision!r}: there is {', '.join(PRECISIONS)}")
        if importlib.util.find_spec("torch") is None:
            raise EngineError(f"the embedded engine needs PyTorch: {pip_install('torch')}")
        import torch

        self.device = _checked(device, torch)
        self.precision = precision
        self.threads = threads
        self.seed = seed
        self.cache = cache
        if threads is not None:
            if threads < 1:
                raise EngineError(f"cannot run on {threads} threads; give 1 or more")
            torch.set_num_threads(threads)

    def describe(self) -> dict[str, object]:
        """Versions, device and threads."""
        import torch

        facts: dict[str, object] = {
            "torch": str(torch.__version__),
            "python": platform.python_version(),
            "machine": platform.machine(),
            "device": self.device,
            "precision": self.precision,
            "threads": torch.get_num_threads(),
            "cpu": torch.backends.cpu.get_cpu_capability(),
            "mkldnn": torch.backends.mkldnn.is_available(),  # type: ignore[no-untyped-call]
        }
        if self.device.startswith("cuda"):
            facts["gpu"] = torch.cuda.get_device_name(self.device)
        return facts

    @contextmanager
    def session(self) -> Iterator[TorchEngine]:
        """Nothing to start: it lives in this process."""
        yield self

    def load(
        self,
        net: Path | str,
        weights: Path | str | None = None,
        *,
        phase: str = "TEST",
        stages: Sequence[str] = (),
        level: int = 0,
        root: Path | str = ".",
        sources: bool = False,
    ) -> TorchNet:
        """Builds a net from files; see `TorchNet`."""
        from deeprebirth_caffe.engines.torch.net import TorchNet

        need_files(net, weights)
        file = Net.read(net)
        built = TorchNet(
            file,
            NetState(phase, level, frozenset(stages)),
            device=self.device,
            precision=self.precision,
            seed=self.seed,
            root=root,
            sources=sources,
        )
        if weights is not None:
            built.load(Weights.read(weights, [layer.param for layer in file.layers]))
        return built

    @contextmanager
    def loaded(self, net: Path | str, weights: Path | str | None, *, root: Path | str = ".") -> Iterator[Forward]:
        """Loads a net in phase TEST, to run it many times; see `Engine.loaded`."""
        import torch

        built = self.load(net, weights, root=root)

        def run(inputs: Array | Mapping[str, Array], blobs: Sequence[str] | None = None) -> dict[str, FloatArray]:
            given = by_name(inputs, built.inputs, net)
            with torch.no_grad():
                found = built.forward(given, built.blobs if blobs is None else blobs)
            return {name: _array(tensor) for name, tensor in found.items()}

        yield run

    def forward(
        self,
        net_path: Path | str,
        weights_path: Path | str | None,
        input_array: Array | Mapping[str, Array],
        blobs: Sequence[str] | None = None,
    ) -> dict[str, FloatArray]:
        """Runs a net forward in phase TEST, once; see `Engine.forward`."""
        return forward_once(self, net_path, weights_path, input_array, blobs)

    def batches(
        self,
        net: Path | str,
        weights: Path | str | None,
        iterations: int,
        blobs: Sequence[str] | None = None,
        *,
        root: Path | str = ".",
        stages: Sequence[str] = (),
        level: int = 0,
    ) -> Iterator[dict[str, FloatArray]]:
        """Runs a net with its own data layers in phase TEST, batch by batch.

        Gives, for each batch, the blobs asked for (None: the outputs). A blob is copied: keeping it is safe.
        """
        loaded = self.load(net, weights, stages=stages, level=level, root=root, sources=True)
        try:
            for _ in range(iterations):
                yield {name: _array(tensor) for name, tensor in loaded.forward(None, blobs).items()}
        finally:
            loaded.close()

    @contextmanager
    def trainer(
        self,
        solver: Path | str,
        *,
        weights: Sequence[Path | str] = (),
        resume: Path | str | None = None,
        root: Path | str = ".",
        lesson: Lesson | None = None,
    ) -> Iterator[TorchTrainer]:
        """Sets a solver up, to learn from a teacher besides where there is a lesson; see `Engine.trainer`."""
        from deeprebirth_caffe.engines.torch.memory import freed_memory_kept
        from deeprebirth_caffe.engines.torch.solver import open_trainer

        thrift = freed_memory_kept() if self.device == "cpu" else nullcontext()
        with thrift, open_trainer(self, solver, weights=weights, resume=resume, root=root, lesson=lesson) as made:
            yield made


def _checked(device: str, torch_module: Any) -> str:
    kind = device.split(":", 1)[0]
    if kind not in DEVICES:
        raise EngineError(f"no device {device!r}: there is {', '.join(DEVICES)}")
    if kind == "cuda":
        if not torch_module.cuda.is_available():
            raise EngineError(
                f"PyTorch sees no CUDA device for {device!r}; use --device cpu, or install its CUDA build"
            )
        index = device.partition(":")[2]
        if index and (not index.isdigit() or int(index) >= torch_module.cuda.device_count()):
            raise EngineError(f"no device {device!r}: PyTorch sees {torch_module.cuda.device_count()} of that kind")
    if kind == "mps" and not torch_module.backends.mps.is_available():
        raise EngineError("PyTorch sees no Apple GPU here; use --device cpu")
    if kind != "cuda" and device != kind:
        raise EngineError(f"no device {device!r}: there is one {kind} only")
    return device


def _array(tensor: torch.Tensor) -> FloatArray:
    import numpy as np

    return np.array(tensor.detach().float().cpu().numpy(), dtype=np.float32, order="C")
