"""Real Caffe as an Engine."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from deeprebirth_caffe.engines.caffe.kernels import Kernels, choose_kernels
from deeprebirth_caffe.engines.caffe.locate import CaffeInstall, find_caffe
from deeprebirth_caffe.engines.feeding import by_name, forward_once, need_files

if TYPE_CHECKING:
    from deeprebirth_caffe.engines.base import Array, FloatArray, Forward, Trainer
    from deeprebirth_caffe.engines.caffe.client import CaffeWorker


class CaffeEngine:
    """Caffe 1.0 through pycaffe, in a process of its own.

    Each call starts a process (half a second) unless a `session` is open, which they then use.
    """

    name = "caffe"

    def __init__(
        self,
        caffe: CaffeInstall | str | Path | None = None,
        *,
        threads: int | None = None,
        timeout: float | None = None,
    ) -> None:
        """Finds Caffe; starts nothing.

        Args:
            caffe: What `--caffe` names, or an installation; None: whatever is found.
            threads: Threads of the matrix library; None leaves it to the environment.
            timeout: Seconds that one call may take.
        """
        self.install = caffe if isinstance(caffe, CaffeInstall) else find_caffe(caffe)
        self.threads = threads
        self.timeout = timeout
        self._session: CaffeWorker | None = None

    def _worker(self) -> CaffeWorker:
        from deeprebirth_caffe.engines.caffe.client import CaffeWorker

        return CaffeWorker(self.install, threads=self.threads, timeout=self.timeout)

    def kernels(self) -> Kernels:
        """The kernels of the matrix library, and who chose them; may start Caffe to find out."""
        return choose_kernels(self.install)

    @contextmanager
    def session(self) -> Iterator[CaffeWorker]:
        """Keeps one process for several calls and gives it; an inner session uses the outer one's."""
        if self._session is not None:
            yield self._session
            return
        with self._worker() as worker:
            self._session = worker
            try:
                yield worker
            finally:
                self._session = None

    def describe(self) -> dict[str, object]:
        """Versions, the matrix library, and where this Caffe was found."""
        with self.session() as worker:
            facts: dict[str, object] = dict(worker.info())
        facts.pop("pid", None)
        facts["where"] = self.install.where
        facts["package"] = self.install.version
        return facts

    @contextmanager
    def loaded(self, net: Path | str, weights: Path | str | None, *, root: Path | str = ".") -> Iterator[Forward]:
        """Loads a net in phase TEST, to run it many times; see `Engine.loaded`."""
        need_files(net, weights)
        with self.session() as worker:
            loaded = worker.load(net, weights=weights, cwd=root)
            shapes = dict(loaded.blobs)

            def run(inputs: Array | Mapping[str, Array], blobs: Sequence[str] | None = None) -> dict[str, FloatArray]:
                given = by_name(inputs, loaded.inputs, net)
                new = {
                    name: array.shape
                    for name, array in given.items()
                    if name in shapes and tuple(array.shape) != shapes[name]
                }
                if new:
                    shapes.update(worker.reshape(loaded, new))
                return worker.forward(loaded, given, blobs)

            try:
                yield run
            finally:
                worker.close(loaded)

    def forward(
        self,
        net_path: Path | str,
        weights_path: Path | str | None,
        input_array: Array | Mapping[str, Array],
        blobs: Sequence[str] | None = None,
    ) -> dict[str, FloatArray]:
        """Runs a net forward in phase TEST, once; see `Engine.forward`."""
        return forward_once(self, net_path, weights_path, input_array, blobs)

    @contextmanager
    def trainer(
        self,
        solver: Path | str,
        *,
        weights: Sequence[Path | str] = (),
        resume: Path | str | None = None,
        root: Path | str = ".",
    ) -> Iterator[Trainer]:
        """Sets a solver up, always in a process of its own; see `Engine.trainer`."""
        from deeprebirth_caffe.engines.caffe.trainer import open_trainer

        with open_trainer(self._worker(), solver, weights, resume, root) as trainer:
            yield trainer

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
        """Runs a net with its own data layers in phase TEST, batch by batch, in a process of its own."""
        from deeprebirth_caffe.engines.caffe.labels import label_rules
        from deeprebirth_caffe.ir import Net
        from deeprebirth_caffe.ir.state import NetState

        need_files(net, weights)
        # Their paths start in `root` as long as it runs, and no other net's may.
        with self._worker() as worker:
            path, model = Path(net).absolute(), None if weights is None else Path(weights).absolute()
            worker.enter(root)
            loaded = worker.load(path, weights=model, stages=stages, level=level)
            state = NetState("TEST", level, frozenset(stages))
            worker.call("guard_labels", handle=loaded.handle, rules=label_rules(Net.read(path), state))
            wanted = list(loaded.outputs) if blobs is None else list(blobs)
            for _ in range(iterations):
                yield worker.forward(loaded, blobs=wanted)
