"""The solver that relearns a converted net: the paper's settings, the rest lent from the user's own solver."""

from __future__ import annotations

import contextlib
from dataclasses import dataclass
from pathlib import Path

from deeprebirth_caffe.errors import RebirthError
from deeprebirth_caffe.formats.prototxt import format_message
from deeprebirth_caffe.formats.solver import SolverSource, read_solver
from deeprebirth_caffe.inputs.roots import find_root
from deeprebirth_caffe.inputs.sources import batch_of, count_records, source_layers, source_of
from deeprebirth_caffe.ir import Net
from deeprebirth_caffe.ir.state import NetState
from deeprebirth_caffe.options.shared import SolverOptions
from deeprebirth_caffe.proto import caffe_pb2 as pb

# What the paper does not say either and a solver without a source still needs: bvlc_googlenet's.
WEIGHT_DECAY = 0.0002
DISPLAY = 40
SNAPSHOT = 10_000
TESTED = 1000
"""How many images are tested where nobody knows how many there are."""
TESTS = 20
"""How often a net is tested while it relearns."""


OTHER_FILE = "is another file"
"""The part of a note that says that a solver's test net is not converted."""


@dataclass(frozen=True)
class Testing:
    """How a net is tested while it relearns.

    Attributes:
        iterations: batches of a test.
        state: in which the net is tested.
        said: for people.
    """

    iterations: int
    state: NetState
    said: str


def testing_of(net: Net, path: Path) -> Testing | None:
    """How a net can be tested: over all records that its data layer for TEST reads, where they are there.

    Args:
        net: that relearns.
        path: of the file that it was read from, for where its own paths start.

    Returns:
        None for a net that has no data, or puts nothing out, in TEST.
    """
    view = next((view for view in net.views if view.state.phase == "TEST" and source_layers(view)), None)
    if view is None or not view.outputs:
        return None
    layers = source_layers(view)
    batch = max(1, batch_of(layers[0]))
    records = None
    if len(layers) == 1:
        # What cannot be read here may be read where it trains.
        with contextlib.suppress(RebirthError, OSError, ImportError, ValueError):
            records = count_records(layers[0], find_root([source_of(layers[0])], path))
    iterations = -(-(records or TESTED) // batch)
    source, size = source_of(layers[0]), f"tests take {iterations} batches of {batch}"
    said = f"{size}: {source} has {records} records"
    if records is None:
        said = f"{size}, for {source} cannot be counted here; correct test_iter in the solver to test on all of it"
    return Testing(iterations, view.state, said)


@dataclass(frozen=True)
class Lent:
    """The user's own solver.

    Attributes:
        source: lends all that is not fixed: test_iter, display, weight_decay, type, ….
        notes: what the user should know about it.
    """

    source: SolverSource
    notes: tuple[str, ...] = ()


def lend_solver(path: Path, net: Path) -> Lent:
    """Reads the solver that `--solver` names.

    Args:
        path: of the solver.
        net: the net that is converted; a test_net of another file is not.

    Raises:
        RebirthError: it cannot be read, or is no solver.
    """
    source = read_solver(path)
    top = {name.split(".")[0] for name in source.unknown}
    if not source.message.ListFields() or not top.isdisjoint(("layer", "layers", "input")):
        raise RebirthError(f"{path}: this is {'a net' if 'layer' in top else 'not a solver'}; --solver wants a solver")
    notes = []
    if top:
        notes.append(f"{path}: kept, though Caffe 1.0 does not know it: {', '.join(sorted(top))}")
    others = [test for test in source.message.test_net if Path(test).name != net.name]
    if others:
        notes.append(f"{path}: test_net {', '.join(others)} {OTHER_FILE}: convert it as well and name it there")
    return Lent(source, tuple(notes))


def make_solver(
    options: SolverOptions,
    net: str,
    prefix: str,
    lent: Lent | None = None,
    weights: str | None = None,
    testing: Testing | None = None,
    test: str | None = None,
) -> str:
    """The text of a solver.

    Args:
        options: what is fixed.
        net: the path of the net, as Caffe will look it up: from the directory it is started in.
        prefix: of the snapshots, likewise.
        lent: the user's solver.
        weights: where a lent solver names weights to start from, the path of those that belong to the net.
        testing: how it is tested on the way, where no solver is lent; None: it is not.
        test: likewise the path of the test net, where it is another file that was converted along.

    Raises:
        RebirthError: protobuf cannot hold the path.
    """
    try:
        net.encode()
    except UnicodeEncodeError:
        raise RebirthError(f"{net}: a solver cannot name this file, for its path is not UTF-8; rename it") from None
    if lent is None:
        message = pb.SolverParameter(weight_decay=WEIGHT_DECAY, display=DISPLAY, snapshot=SNAPSHOT, solver_mode="CPU")
        _fix(message, options, net, prefix)
        if testing is not None:
            message.test_iter.append(testing.iterations)
            message.test_interval = max(1, options.max_iter // TESTS)
            if testing.state.stages or testing.state.level:
                message.test_state.add(stage=sorted(testing.state.stages), level=testing.state.level)
        note = "# Relearns the rebirth layers. Paths are looked up from the directory that caffe is started in.\n"
        return note + format_message(message)
    message = pb.SolverParameter()
    message.CopyFrom(lent.source.message)
    _fix(message, options, net, prefix)
    if test is not None:
        message.test_net[:] = [test] * len(message.test_net)
    if message.weights and weights is not None:
        del message.weights[:]
        message.weights.append(weights)
    return lent.source.render(message)


def _fix(message: pb.SolverParameter, options: SolverOptions, net: str, prefix: str) -> None:
    if message.HasField("train_net"):
        message.train_net = net
    else:
        message.net = net
    for index, test in enumerate(message.test_net):
        if Path(test).name == Path(net).name:
            message.test_net[index] = net
    if message.test_net_param:
        # Caffe tests inline nets first; test_iter and test_state keep their order.
        tests = [net] * len(message.test_net_param) + list(message.test_net)
        del message.test_net[:]
        message.test_net.extend(tests)
    for name in ("net_param", "train_net_param", "test_net_param", "stepvalue", "power"):
        message.ClearField(name)
    message.base_lr = options.base_lr
    message.lr_policy = "step"
    message.stepsize = options.falls_every
    message.gamma = options.gamma
    message.momentum = options.momentum
    message.max_iter = options.max_iter
    message.snapshot_prefix = prefix
    cut_gradients(message, options.clip_gradients, options.usual_clip)


def cut_gradients(message: pb.SolverParameter, norm: float | None, usual: float) -> None:
    """Sets what gradients are cut to.

    Args:
        message: the solver, which may say something already.
        norm: what is asked for; 0: not at all; None: as the solver says.
        usual: what holds where neither says anything; 0: not at all.
    """
    if norm is not None:
        message.ClearField("clip_gradients")
    norm = usual if norm is None else norm
    if norm and not message.HasField("clip_gradients"):
        message.clip_gradients = norm
