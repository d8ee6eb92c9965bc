"""What a solver file asks for: which nets in which states, what its snapshots are called. Both engines' business."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from deeprebirth_caffe.engines.policy import check_policy, check_rule
from deeprebirth_caffe.errors import RebirthError
from deeprebirth_caffe.formats.prototxt import format_message
from deeprebirth_caffe.formats.solver import read_solver
from deeprebirth_caffe.ir import Net
from deeprebirth_caffe.ir.state import NetState
from deeprebirth_caffe.proto import caffe_pb2 as pb


@dataclass(frozen=True)
class PlannedNet:
    """One net of a solver.

    Attributes:
        net: the whole file.
        state: in which it is built.
        source: the file, or the solver's field that holds it.
        iterations: for a test net, its `test_iter`.
    """

    net: Net
    state: NetState
    source: str
    iterations: int = 0


@dataclass(frozen=True)
class Plan:
    """A solver, read and checked.

    Attributes:
        path: of the solver.
        param: its message.
        root: where relative paths start.
        train: the net that learns.
        tests: those it is tested with, in Caffe's order.
        prefix: of the snapshots, as Caffe writes it into solverstates: from `root`, or absolute.
    """

    path: Path
    param: pb.SolverParameter
    root: Path
    train: PlannedNet
    tests: tuple[PlannedNet, ...]
    prefix: str

    @property
    def hdf5(self) -> bool:
        """Whether snapshots are written as HDF5."""
        return bool(self.param.snapshot_format == pb.SolverParameter.HDF5)

    def model_name(self, iteration: int) -> str:
        """The path of a snapshot's weights, from `root`."""
        return f"{self.prefix}_iter_{iteration}.caffemodel" + (".h5" if self.hdf5 else "")

    def state_name(self, iteration: int) -> str:
        """The path of a snapshot's solverstate, from `root`."""
        return f"{self.prefix}_iter_{iteration}.solverstate" + (".h5" if self.hdf5 else "")

    def tests_before(self, iteration: int) -> int:
        """How often Caffe has tested when it has done so many iterations."""
        interval = self.param.test_interval
        if not self.tests or interval <= 0 or iteration <= 0:
            return 0
        return (iteration - 1) // interval + bool(self.param.test_initialization)


def read_plan(solver: Path | str, root: Path | str = ".") -> Plan:
    """Reads a solver and its nets, by the rules of Caffe's Solver::InitTrainNet and InitTestNets.

    Raises:
        RebirthError: a file cannot be read, or Caffe would refuse the solver.
    """
    path, root = Path(solver), Path(root)
    text = read_solver(path)
    param = text.message
    if text.unknown:
        names = ", ".join(sorted(set(text.unknown)))
        raise RebirthError(f"{path}: Caffe 1.0 does not know {names}; correct or remove it")
    given = [name for name in ("net", "net_param", "train_net", "train_net_param") if param.HasField(name)]
    if len(given) != 1:
        what = "names no net; add net" if not given else f"has {' and '.join(given)}; keep one"
        raise RebirthError(f"{path}: this solver {what}")
    read: dict[str, Net] = {}

    def net(field: str, message: pb.NetParameter | None = None, file: str = "") -> tuple[Net, str]:
        if message is not None:
            name = f"{path} ({field})"
            return Net.parse(format_message(message), name), name
        place = root / file
        if file not in read:
            if not place.is_file():
                raise RebirthError(f"{path}: {field} names {file}, which is not there (looked at {place.absolute()})")
            read[file] = Net.read(place)
        return read[file], str(place)

    field = given[0]
    if field.endswith("_param"):
        found, source = net(field, getattr(param, field))
    else:
        found, source = net(field, file=getattr(param, field))
    train = PlannedNet(found, net_state("TRAIN", found.header.state, param.train_state), source)

    test_nets = [net("test_net_param", message) for message in param.test_net_param]
    test_nets += [net("test_net", file=file) for file in param.test_net]
    generic = field in ("net", "net_param")
    missing = len(param.test_iter) - len(test_nets)
    if missing < 0 or (missing and not generic):
        raise RebirthError(
            f"{path}: {len(param.test_iter)} test_iter for {len(test_nets)} test nets; write one for each"
        )
    test_nets += [(found, source)] * missing
    if param.test_state and len(param.test_state) != len(test_nets):
        raise RebirthError(
            f"{path}: {len(param.test_state)} test_state for {len(test_nets)} test nets; write one for each or none"
        )
    if test_nets and param.test_interval <= 0:
        raise RebirthError(f"{path}: test_iter without a test_interval above 0; add test_interval")
    states = list(param.test_state) or [pb.NetState()] * len(test_nets)
    tests = tuple(
        PlannedNet(one, net_state("TEST", one.header.state, extra), name, count)
        for (one, name), extra, count in zip(test_nets, states, param.test_iter, strict=True)
    )
    try:
        check_policy(param)
        check_rule(param)
    except RebirthError as error:
        raise RebirthError(f"{path}: {error}") from error
    return Plan(path, param, root, train, tests, _prefix(path, param, root))


def net_state(phase: str, *merged: pb.NetState) -> NetState:
    """A phase, then what each message says on top of that; stages add up."""
    level, stages = 0, set[str]()
    for message in merged:
        if message.HasField("phase"):
            phase = pb.Phase.Name(message.phase)
        if message.HasField("level"):
            level = message.level
        stages.update(message.stage)
    return NetState(phase, level, frozenset(stages))


def unrestorable(planned: PlannedNet) -> list[str]:
    """Whatever in a net is random in each run, so that a solverstate alone cannot bring it back."""
    train = planned.state.phase == "TRAIN"
    found: dict[str, None] = {}
    for layer in planned.net.view(planned.state.phase, planned.state.stages, planned.state.level).layers:
        param = layer.param
        reads = layer.fed and layer.type != "DummyData" and not layer.traits.given
        shuffles = {"ImageData": param.image_data_param.shuffle, "HDF5Data": param.hdf5_data_param.shuffle}
        fillers = param.dummy_data_param.data_filler
        window = param.window_data_param
        facts = (
            (shuffles.get(layer.type, False), "shuffle"),
            (layer.traits.reads and _skips(param), "rand_skip"),
            (layer.type == "WindowData", "the choice of windows"),
            (reads and (param.transform_param.mirror or window.mirror), "mirror"),
            (reads and train and param.transform_param.crop_size > 0 and layer.type != "WindowData", "random crop"),
            (layer.type == "DummyData" and any(one.type != "constant" for one in fillers), "random DummyData"),
            (layer.type == "Dropout" and train, "dropout"),
            (
                layer.type == "Pooling" and train and param.pooling_param.pool == pb.PoolingParameter.STOCHASTIC,
                "stochastic pooling",
            ),
        )
        found.update((what, None) for is_so, what in facts if is_so)
    return list(found)


def _skips(param: pb.LayerParameter) -> bool:
    return bool(param.data_param.rand_skip or param.image_data_param.rand_skip)


def find_model(learned_net: str, state: Path, root: Path) -> Path:
    """The weights that a solverstate names: where Caffe looks, started in `root`, else beside the solverstate.

    Raises:
        RebirthError: they are at neither place.
    """
    own = state.name.replace(".solverstate", ".caffemodel")
    places = [root / learned_net, state.parent / Path(learned_net).name] if learned_net else [state.parent / own]
    for place in places:
        if place.is_file() and place.name != state.name:
            return place
    looked = " and ".join(dict.fromkeys(map(str, places)))
    raise RebirthError(f"{state}: its weights are missing (looked at {looked}); put the caffemodel beside it")


def check_prefix(plan: Plan) -> None:
    """Refuses a place for snapshots that cannot be written, before any work is done.

    Raises:
        RebirthError: it is no directory, or not writable.
    """
    folder = (plan.root / plan.prefix).parent
    while not folder.exists() and folder != folder.parent:
        folder = folder.parent
    if not folder.is_dir() or not os.access(folder, os.W_OK | os.X_OK):
        raise RebirthError(
            f"{plan.path}: cannot write snapshots to {plan.prefix}: {folder} is not a directory one can write to; "
            "change snapshot_prefix"
        )


def _prefix(path: Path, param: pb.SolverParameter, root: Path) -> str:
    """`snapshot_prefix`; without one the solver's own path, and inside a directory the solver's name."""
    if not param.HasField("snapshot_prefix"):
        place = path.with_suffix("").absolute()
        base = root.absolute()
        return place.relative_to(base).as_posix() if place.is_relative_to(base) else str(place)
    if param.snapshot_prefix and (root / param.snapshot_prefix).is_dir():
        return str(Path(param.snapshot_prefix) / path.stem)
    return param.snapshot_prefix


def weights_of(param: pb.SolverParameter, root: Path) -> Sequence[Path]:
    """The caffemodels that the solver itself names, in order; one field may hold several, with commas."""
    return [root / name.strip() for names in param.weights for name in names.split(",")]
