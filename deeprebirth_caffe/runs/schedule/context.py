"""What all steps of a run share: the schedule with its files found, what watches, the net that it began with."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from deeprebirth_caffe.errors import RebirthError
from deeprebirth_caffe.formats.solver import SolverSource
from deeprebirth_caffe.inputs.roots import check_regular, find_root
from deeprebirth_caffe.inputs.sources import (
    batch_of,
    check_sources,
    count_records,
    files_of,
    source_layers,
    source_of,
)
from deeprebirth_caffe.ir import Net, View
from deeprebirth_caffe.nets.load import both_phases, load_net
from deeprebirth_caffe.nets.solver import lend_solver
from deeprebirth_caffe.options.fields import taken
from deeprebirth_caffe.options.shared import OWN_PHASES, CalibrationOptions, EngineOptions, PictureOptions
from deeprebirth_caffe.results import Figures
from deeprebirth_caffe.runs.schedule.accuracy import metrics_of
from deeprebirth_caffe.runs.schedule.digests import data_digest, digest
from deeprebirth_caffe.runs.schedule.solvers import check_count

if TYPE_CHECKING:
    from deeprebirth_caffe.runs.schedule.model import Calibrate, Length, Schedule, Teacher
    from deeprebirth_caffe.training.listening import Listener


class Watcher(Protocol):
    """Shows a run."""

    @property
    def listener(self) -> Listener:
        """Is told about training."""
        ...

    def say(self, text: str) -> None:
        """A line about what happens."""
        ...

    def show(self, what: str, done: int, total: int) -> None:
        """How far something is."""
        ...


@dataclass(frozen=True)
class Inputs:
    """A schedule with its files.

    Attributes:
        schedule: as it was read.
        path: of its file, absolute.
        root: where relative paths inside the net start.
        net: its prototxt.
        weights: its caffemodel.
        lent: its solver.
        train: the view that learns.
        test: the view that is tested.
        metrics: what budgets can go by.
        records: how many training images there are; None where that is not known.
        batch: how many of them an iteration takes, by the net.
    """

    schedule: Schedule
    path: Path
    root: Path
    net: Path
    weights: Path
    lent: SolverSource | None
    train: View
    test: View
    metrics: tuple[str, ...]
    records: int | None
    batch: int

    def file(self, name: str) -> Path:
        """A path of the schedule, absolute."""
        return _beside(self.path, name)

    @property
    def engine(self) -> EngineOptions:
        """What trains and tests."""
        given = self.schedule.engine
        caffe = given.caffe
        if caffe is not None and self.file(caffe).exists():
            caffe = str(self.file(caffe))
        return taken(EngineOptions, given, caffe=caffe)

    @property
    def engine_facts(self) -> dict[str, object]:
        """What of the engine decides results; how many threads it has does so in the last digits alone."""
        facts: dict[str, Any] = self.schedule.engine.model_dump(include={"name", "device", "precision"})
        return facts

    def iterations(self, length: Length, where: str, lent: bool = True) -> int:
        """How many iterations something is trained.

        Args:
            length: as the schedule says it.
            where: what errors call it.
            lent: whether the user's own solver has a say in it: its `iter_size` makes an iteration several batches.

        Raises:
            RebirthError: they are to be counted in epochs, and how many images there are is not known; or they are
                more than a solver can count.
        """
        if length.epochs is None:
            return length.iterations or 0
        if self.records is None:
            raise RebirthError(f"{where}: how many training images there are is not known; give iterations, not epochs")
        size = (length.batch or self.batch) * (self.lent.message.iter_size if lent and self.lent is not None else 1)
        found = max(1, round(length.epochs * self.records / size)) if length.epochs else 0
        check_count(found, where)
        return found

    def calibration(self, given: Calibrate) -> CalibrationOptions:
        """The images that a refit or Tucker looks at."""
        source = given.source if given.source in OWN_PHASES else str(self.file(given.source))
        named = {"mean_file": given.mean_file, "transform_from": given.transform_from}
        files = {key: self.file(name) if name is not None else None for key, name in named.items()}
        pictures = taken(PictureOptions, given, **files)
        return taken(CalibrationOptions, given, source=source, pictures=pictures, engine=self.engine)

    def teacher_files(self, given: Teacher) -> tuple[Path, Path]:
        """Net and weights of a teacher."""
        if given.net is None or given.weights is None:
            return self.net, self.weights
        return self.file(given.net), self.file(given.weights)

    def test_batches(self) -> list[int]:
        """`test_iter` of a solver that tests on the way."""
        if self.schedule.test.iterations:
            return [self.schedule.test.iterations]
        layers = source_layers(self.test)
        records = count_records(layers[0], self.root) if len(layers) == 1 else None
        if records is not None:
            return [-(-records // batch_of(layers[0]))]
        return list(self.lent.message.test_iter[:1]) if self.lent is not None else []


@dataclass(frozen=True)
class Stage:
    """A net with weights, at some point of the run.

    Attributes:
        net: its prototxt.
        weights: its caffemodel.
        values: what its test gave.
    """

    net: Path
    weights: Path
    values: Figures


@dataclass
class Context:
    """What steps are given.

    Attributes:
        inputs: the schedule with its files.
        watcher: is told what happens.
        data: digests of training and test data, by phase.
        base: the net that the run began with, once it is tested.
        merged: the net in front of Tucker, once that is done.
        ahead: the iterations of the steps behind the one that runs.
    """

    inputs: Inputs
    watcher: Watcher
    data: dict[str, str] = field(default_factory=dict)
    base: Stage | None = None
    merged: Stage | None = None
    ahead: int = 0

    def data_of(self, phase: str) -> str:
        """A digest of the data that a phase reads."""
        if phase not in self.data:
            view = self.inputs.train if phase == "TRAIN" else self.inputs.test
            files = [file for layer in view.layers for file in files_of(layer, self.inputs.root)]
            self.data[phase] = data_digest(files)
        return self.data[phase]

    def calibration_digest(self, given: Calibrate) -> str:
        """A digest of the images that a refit or Tucker looks at."""
        named = [name for name in (given.mean_file, given.transform_from) if name is not None]
        said = given.model_dump(mode="json", exclude={"source", "samples"}, exclude_defaults=True)
        phase = OWN_PHASES.get(given.source)
        images = self.data_of(phase) if phase is not None else data_digest([self.inputs.file(given.source)])
        if not said:
            return images
        return digest({"images": images, "said": said, "files": data_digest([self.inputs.file(one) for one in named])})

    @property
    def origin(self) -> Stage:
        """The net that the run began with."""
        assert self.base is not None, "the first step tests it"
        return self.base


def read_inputs(schedule: Schedule, path: Path) -> Inputs:
    """Finds and reads the files of a schedule.

    Raises:
        RebirthError: one is not there or cannot be read, or they do not belong together.
    """
    where = str(path)
    path = Path(os.path.abspath(path))  # noqa: PTH100 - links as they are
    net, weights = _beside(path, schedule.net), _beside(path, schedule.weights)
    solver = _beside(path, schedule.solver) if schedule.solver is not None else None
    for key, file in (("net", net), ("weights", weights), ("solver", solver)):
        if file is not None and (file.is_dir() or not file.exists()):
            raise RebirthError(f"{where}: {key}: there is {'a folder, and no' if file.is_dir() else 'no'} file {file}")
        if file is not None:
            check_regular(file)
    plain = Net.read(net)
    layers = [layer for view in plain.views for layer in source_layers(view)]
    root = Path(os.path.abspath(find_root([source_of(layer) for layer in layers], net)))  # noqa: PTH100
    with inside(root):
        read = load_net(net, weights, schedule.input_shapes)
        if not read.trains:
            raise RebirthError(
                f"{where}: net: {net} has no loss and no data to train with; give its train_val.prototxt"
            )
        if read.absent:
            raise RebirthError(f"{where}: net: {both_phases(read, net)}")
        train, test = read.view("TRAIN"), read.view("TEST")
        for name, view in (("TRAIN", train), ("TEST", test)):
            if not source_layers(view):
                raise RebirthError(f"{where}: net: {net} has no data layer that reads a source in {name}")
        check_sources({id(layer): layer for view in (train, test) for layer in source_layers(view)}.values(), root)
        first = source_layers(train)[0]
        records = count_records(first, root)
    lent = lend_solver(solver, net).source if solver is not None else None
    metrics = tuple(metrics_of(test))
    return Inputs(schedule, path, root, net, weights, lent, train, test, metrics, records, batch_of(first))


@contextlib.contextmanager
def inside(folder: Path) -> Iterator[None]:
    """Works in a folder for a while: paths inside nets start where Caffe would be started."""
    before = Path.cwd()
    os.chdir(folder)
    try:
        yield
    finally:
        os.chdir(before)


def _beside(path: Path, name: str) -> Path:
    return Path(os.path.abspath(path.parent / name))  # noqa: PTH100 - links as they are
