"""Runs inside the Python that has pycaffe, in a process of its own: a failed CHECK in Caffe ends the process.

It is started by `client.py` as a plain script (Python 3.9 or newer) and imports nothing of this package. Both
sides speak frames: four bytes of length (little-endian), a JSON header of that length, then the bytes of the
arrays that the header lists, one after the other. Requests are {"op", "kw", "arrays": [{"name", "dtype",
"shape"}]}, answers {"ok", "result" or "error", "arrays"}.
"""

from __future__ import annotations

import ctypes
import fcntl
import importlib
import json
import os
import re
import select
import struct
import sys
import time
import types
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

# The directory of this file comes first on sys.path, where its neighbours would hide modules of their names.
sys.path.pop(0)

# Whatever a library prints goes to stderr; the protocol has descriptors that nobody else knows.
_REQUESTS = os.fdopen(os.dup(0), "rb")
_ANSWERS = os.fdopen(os.dup(1), "wb")
_null = os.open(os.devnull, os.O_RDONLY)
os.dup2(_null, 0)
os.close(_null)
os.dup2(2, 1)

PROTOCOL = 2

Arrays = list[tuple[Any, Any]]
Answer = tuple[dict[str, Any], Arrays]

# Imported by `start`, where their absence can be told to the client.
np: Any = None
caffe: Any = None
_users: list[str] = []
"""The user's PYTHONPATH."""
_python_layers = os.environ.get("REBIRTH_PYTHON_LAYERS") == "1"
_starts: list[str] = []
"""Where the paths of nets started, the last first: Python layers may lie there."""


class WorkerError(Exception):
    """A mistake of the caller's; the process goes on."""


def _die_with_parent(descriptor: int) -> None:
    """Lets the kernel end this process when the other end of a pipe closes, which a killed parent does too.

    The end of the requests would be seen only after the operation at work, which may hang for ever. PR_SET_PDEATHSIG
    would go by the thread that started this process, not by the parent.
    """
    try:
        fcntl.fcntl(descriptor, fcntl.F_SETOWN, os.getpid())
        # SIGIO, which comes then, ends a process that does not handle it.
        fcntl.fcntl(descriptor, fcntl.F_SETFL, fcntl.fcntl(descriptor, fcntl.F_GETFL) | os.O_ASYNC)
    except (AttributeError, OSError):
        return  # a system, or an emulator of one, that cannot do it
    if select.select([descriptor], [], [], 0)[0]:
        os._exit(1)


# ---------------------------------------------------------------- frames


def _read_exactly(size: int) -> bytearray:
    data = bytearray(size)
    view = memoryview(data)
    done = 0
    while done < size:
        count = _REQUESTS.readinto(view[done:])
        if not count:
            raise EOFError
        done += count
    return data


def _receive() -> tuple[str, dict[str, Any], Arrays]:
    header = json.loads(_read_exactly(struct.unpack("<I", bytes(_read_exactly(4)))[0]).decode("utf-8"))
    arrays = []
    for spec in header.get("arrays", []):
        dtype = np.dtype(spec["dtype"])
        count = int(np.prod(spec["shape"], dtype=np.int64))
        data = _read_exactly(count * dtype.itemsize)
        arrays.append((spec["name"], np.frombuffer(data, dtype=dtype).reshape(spec["shape"])))
    return header["op"], header.get("kw", {}), arrays


def _send(header: dict[str, Any], arrays: Sequence[tuple[Any, Any]] = ()) -> None:
    # ascontiguousarray makes a vector of a scalar, so shapes are taken before it.
    header["arrays"] = [{"name": n, "dtype": a.dtype.str, "shape": list(a.shape)} for n, a in arrays]
    text = json.dumps(header).encode("utf-8")
    _ANSWERS.write(struct.pack("<I", len(text)))
    _ANSWERS.write(text)
    for _, array in arrays:
        if array.size:
            _ANSWERS.write(np.ascontiguousarray(array).reshape(-1).view(np.uint8))
    _ANSWERS.flush()


# ---------------------------------------------------------------- nets

_nets: dict[int, Held] = {}
_next_handle = int(sys.argv[1]) if len(sys.argv) > 1 else 1


class Held:
    """A loaded net and what pycaffe does not tell about it."""

    def __init__(self, net: Any) -> None:
        self.net = net
        self.names = list(net._layer_names)
        # By index, not through pycaffe's own dicts: losses without a named top all write a blob "(automatic)".
        self.blob_names = list(net._blob_names)
        self.types = [layer.type for layer in net.layers]
        self.bottoms = [[self.blob_names[i] for i in net._bottom_ids(n)] for n in range(len(self.names))]
        self.tops = [[self.blob_names[i] for i in net._top_ids(n)] for n in range(len(self.names))]
        # Caffe inserts a Split behind every blob with several readers; its tops are only copies.
        self.copies: dict[str, str] = {}
        for name, kind, bottoms, tops in zip(self.names, self.types, self.bottoms, self.tops):
            inserted = [f"{name}_{n}" for n in range(len(tops))]
            if kind == "Split" and name.endswith("_split") and tops == inserted:
                self.copies.update((top, bottoms[0]) for top in tops)

    def blob(self, name: str) -> Any:
        if name not in self.net.blobs:
            raise WorkerError(f"the net has no blob {name!r}; it has {_few(self.net.blobs)}")
        return self.net.blobs[name]

    def layer(self, name: str) -> int:
        if name not in self.names:
            raise WorkerError(f"the net has no layer {name!r}; it has {_few(self.names)}")
        return self.names.index(name)

    def original(self, blob: str) -> str:
        return self.copies.get(blob, blob)

    def shown(self) -> list[str]:
        return [name for name in self.blob_names if name not in self.copies]

    def first_step(self) -> int:
        """The first layer that computes: in front of it stand only the net's inputs."""
        return next((n for n, bottoms in enumerate(self.bottoms) if bottoms), len(self.names))


def _few(names: Iterable[str]) -> str:
    names = list(names)
    return ", ".join(names[:8]) + (f", ... ({len(names)} in all)" if len(names) > 8 else "")


def _shape_text(shape: Iterable[int]) -> str:
    return "x".join(str(d) for d in shape) or "scalar"


def _held(handle: int) -> Held:
    if handle not in _nets:
        raise WorkerError(f"no net with handle {handle}: it was closed, or the process has started anew")
    return _nets[handle]


def _put(blob: Any, array: Any, what: str) -> None:
    if tuple(blob.shape) != tuple(array.shape):
        raise WorkerError(f"{what} is {_shape_text(blob.shape)}, got {_shape_text(array.shape)}")
    blob.data[...] = array


def _guard_labels(held: Held, rules: dict[str, list[Any]]) -> None:
    """Has labels looked at before a layer takes them for indices: Caffe reads and writes beyond its arrays there.

    Args:
        held: the net.
        rules: by layer, the axis of the classes (None: all axes behind the first) and the label that means none.
    """
    guarded = {held.layer(name): rule for name, rule in rules.items() if name in held.names}
    if not guarded:
        return

    def look(number: int) -> None:
        if number not in guarded:
            return
        axis, ignored = guarded[number]
        scores, labels = (held.net._blobs[i] for i in list(held.net._bottom_ids(number))[:2])
        shape = tuple(scores.shape)
        classes = int(np.prod(shape[1:])) if axis is None else shape[axis]
        values = labels.data.reshape(-1).astype(np.int64)
        wrong = (values < 0) | (values >= classes)
        if ignored is not None:
            wrong &= values != ignored
        if wrong.any():
            name, place = held.names[number], int(wrong.argmax())
            record = place // max(1, values.size // (labels.shape[0] if len(labels.shape) else 1))
            raise WorkerError(
                f"layer {name!r}: record {record} of the batch has the label {values[place]}, and there are "
                f"{classes} classes (0 to {classes - 1}); correct the data or the net"
            )

    held.net.before_forward(look)


def _import_from(cwd: str) -> None:
    """Has modules of Python layers looked for in a directory, as where Caffe is started with PYTHONPATH=. in it.

    Only where the user allows their code to run: else a module there would stand in for one of Python's own.
    """
    if _python_layers and cwd not in sys.path:
        sys.path.insert(0, cwd)
        _starts.insert(0, cwd)


@contextmanager
def _directory(cwd: str | None) -> Iterator[None]:
    """The paths inside nets and solvers are relative to the directory Caffe is started in."""
    before = Path.cwd()
    if cwd:
        os.chdir(cwd)
        _import_from(cwd)
    try:
        yield
    finally:
        os.chdir(before)


def _log_position() -> int:
    return os.fstat(2).st_size


def _log_since(position: int) -> str:
    """What went to stderr since then; the client makes that a file, which can be read back."""
    try:
        size = os.fstat(2).st_size
        start = max(position, size - (1 << 22))
        return os.pread(2, size - start, start).decode("utf-8", "replace")
    except (OSError, TypeError, ValueError):
        return ""


def _text(error: Exception, log: str) -> str:
    """What went wrong inside Caffe; where that was as it made a Python layer, of which layer.

    Args:
        error: what arrived here.
        log: what was printed meanwhile. Caffe logs the net first, then each layer's name as it makes it.
    """
    text = f"{type(error).__name__}: {error}"
    if isinstance(error, SystemError):
        # Boost has printed what really happened, and lost it.
        lines = [line for line in log.splitlines() if line.strip() and not line.startswith("SystemError")]
        text = lines[-1] if lines else text
    start = log.rfind("] Creating layer ")
    if start < 0 or "Network initialization done" in log[start:]:
        return text
    name = log[start:].split("] Creating layer ", 1)[1].splitlines()[0]
    block = re.search(
        rf'\n  name: "{re.escape(name)}"\n(?:  .*\n)*?  python_param \{{\n    module: "(.*)"\n    layer: "(.*)"', log
    )
    if block is None:
        return text
    module, kind = block.groups()
    try:
        found = importlib.import_module(module)
    except Exception as reason:
        where = ", ".join([*_starts, *_users]) or "Python's own directories"
        return (
            f"layer {name!r}: its Python module {module!r} cannot be imported ({type(reason).__name__}: {reason}); "
            f"looked for in {where}; put it there or name its directory in PYTHONPATH"
        )
    if not hasattr(found, kind):
        return f"layer {name!r}: its Python module {module!r} ({found.__file__}) has no class {kind!r}; correct either"
    return f"layer {name!r} ({module}.{kind} in {found.__file__}): {text}"


def _need_file(path: str | None, what: str) -> None:
    if path is not None and not Path(path).is_file():
        raise WorkerError(f"the {what} {path} does not exist")


# ---------------------------------------------------------------- operations


def op_info(arrays: Arrays) -> Answer:
    """Versions, the matrix library, the layer types."""
    libraries = _matrix_libraries()
    blas: dict[str, Any] = {"libraries": libraries}
    openblas = _openblas(libraries)
    if openblas is not None:
        blas.update(_facts(openblas[1]), threads=int(openblas[1].openblas_get_num_threads()))
    return {
        "caffe": caffe.__version__,
        "python": ".".join(str(n) for n in sys.version_info[:3]),
        "numpy": np.__version__,
        "machine": os.uname().machine,
        "blas": blas,
        "layer_types": sorted(caffe.layer_type_list()),
        "pid": os.getpid(),
    }, []


def op_check_products(arrays: Arrays) -> Answer:
    """Which kernels OpenBLAS uses, and what is wrong with a few products of awkward shapes; {} of another library."""
    openblas = _openblas(_matrix_libraries())
    if openblas is None:
        return {}, []
    path, library = openblas
    return {"library": path, "wrong": _wrong_product(library), **_facts(library)}, []


def _matrix_libraries() -> list[str]:
    libraries = set()
    with Path("/proc/self/maps").open() as maps:
        for line in maps:
            path = line.split(None, 5)[-1].strip() if "/" in line else ""
            base = Path(path).name
            if base.startswith("lib") and any(word in base for word in ("blas", "atlas", "mkl", "lapack")):
                libraries.add(path)
    return sorted(libraries)


def _openblas(libraries: list[str]) -> tuple[str, ctypes.CDLL] | None:
    """The OpenBLAS among some libraries: its file, and it as it is loaded."""
    return next(((path, ctypes.CDLL(path)) for path in libraries if "openblas" in Path(path).name), None)


def _facts(library: ctypes.CDLL) -> dict[str, str]:
    facts = {}
    for key, function in (("config", "openblas_get_config"), ("core", "openblas_get_corename")):
        call = getattr(library, function)
        call.restype = ctypes.c_char_p
        facts[key] = call().decode("ascii", "replace").strip()
    return facts


# Rows, columns and sums that no kernel's tiles divide, and what convolutions of real nets have.
SHAPES = ((1, 1, 1), (3, 5, 7), (17, 33, 65), (31, 129, 257), (64, 3025, 147), (96, 200, 363), (5, 99, 1))


def _wrong_product(library: ctypes.CDLL) -> str:
    """The first of some products in float32 that is further from float64 than any order of adding up; "": none."""
    random = np.random.RandomState(1)
    for rows, columns, inner in SHAPES:
        for turned in range(4):
            # As in cblas.h: 101 is row by row, 111 as it lies, 112 turned.
            flags = [112 if turned & bit else 111 for bit in (1, 2)]
            a = random.standard_normal((inner, rows) if turned & 1 else (rows, inner)).astype(np.float32)
            b = random.standard_normal((columns, inner) if turned & 2 else (inner, columns)).astype(np.float32)
            c = random.standard_normal((rows, columns)).astype(np.float32)
            left, right = (a.T if turned & 1 else a), (b.T if turned & 2 else b)
            # Not a product of numpy's own, which may be this library's.
            exact = np.stack([(row[:, None] * right.astype(np.float64)).sum(0) for row in left.astype(np.float64)])
            wanted = 0.5 * exact + 2.0 * c
            half, two = ctypes.c_float(0.5), ctypes.c_float(2.0)
            operands = (_pointer(a), a.shape[1], _pointer(b), b.shape[1])
            library.cblas_sgemm(101, *flags, rows, columns, inner, half, *operands, two, _pointer(c), columns)
            if not _same(wanted, c, inner):
                return f"is wrong in sgemm of {rows} x {columns} x {inner}"
        matrix = random.standard_normal((rows, inner)).astype(np.float32)
        for flag, size, length in ((111, inner, rows), (112, rows, inner)):
            x = random.standard_normal(size).astype(np.float32)
            y = random.standard_normal(length).astype(np.float32)
            turned_matrix = (matrix if flag == 111 else matrix.T).astype(np.float64)
            wanted = 0.5 * (turned_matrix * x.astype(np.float64)).sum(1) + 2.0 * y
            operands = (_pointer(matrix), inner, _pointer(x), 1)
            library.cblas_sgemv(101, flag, rows, inner, half, *operands, two, _pointer(y), 1)
            if not _same(wanted, y, size):
                return f"is wrong in sgemv of {rows} x {inner}"
    return ""


def _pointer(array: Any) -> ctypes.c_void_p:
    return ctypes.c_void_p(array.ctypes.data)


def _same(wanted: Any, found: Any, terms: int) -> bool:
    """Whether a result is as near as float32 gets, whichever way that many numbers are added up."""
    limit = 1.2e-7 * (4 + 2 * terms**0.5) * max(1.0, float(np.abs(wanted).max()))
    return bool(np.isfinite(found).all() and np.abs(wanted - found).max() <= 4 * limit)


def op_load(
    arrays: Arrays,
    net: str,
    phase: str,
    weights: str | None,
    level: int,
    stages: list[str],
    seed: int | None,
    cwd: str | None,
) -> Answer:
    """Loads a net and describes it."""
    global _next_handle
    with _directory(cwd):
        _need_file(net, "net")
        _need_file(weights, "weights file")
        if seed is not None:
            caffe.set_random_seed(seed)
        number = caffe.TRAIN if phase == "TRAIN" else caffe.TEST
        loaded = caffe.Net(net, number, level=level, stages=stages)
        if weights is not None:
            loaded.copy_from(weights)
    held = Held(loaded)
    handle, _next_handle = _next_handle, _next_handle + 1
    _nets[handle] = held
    return {
        "handle": handle,
        "blobs": [[name, list(blob.shape)] for name, blob in zip(held.blob_names, loaded._blobs)],
        "inputs": [held.blob_names[index] for index in loaded._inputs],
        "outputs": [held.blob_names[index] for index in loaded._outputs],
    }, []


def op_guard_labels(arrays: Arrays, handle: int, rules: dict[str, list[Any]]) -> Answer:
    """See `_guard_labels`."""
    _guard_labels(_held(handle), rules)
    return {}, []


def op_close(arrays: Arrays, handle: int) -> Answer:
    """Frees a net."""
    _nets.pop(handle, None)
    return {}, []


def op_reshape(arrays: Arrays, handle: int, shapes: dict[str, list[int]]) -> Answer:
    """Reshapes blobs and whatever follows from them."""
    held = _held(handle)
    for name, shape in shapes.items():
        held.blob(name).reshape(*shape)
    held.net.reshape()
    return {"blobs": [[name, list(blob.shape)] for name, blob in zip(held.blob_names, held.net._blobs)]}, []


def op_forward(arrays: Arrays, handle: int, blobs: list[str] | None = None) -> Answer:
    """Sets blobs, runs the net, gives blobs."""
    held = _held(handle)
    wanted = held.shown() if blobs is None else blobs
    for name in wanted:
        held.blob(name)
    for name, array in arrays:
        _put(held.blob(name), array, f"blob {name!r}")
    held.net._forward(0, len(held.names) - 1)
    return {}, [(name, held.blob(name).data) for name in wanted]


def _fill(held: Held) -> int:
    """Random values wherever a net that was only loaded has none, so that its layers work on real numbers.

    Labels become zero, for losses take no other random value. Weights that are not zero throughout are kept.
    Gives the first layer that computes.
    """
    random = np.random.RandomState(0)
    first = held.first_step()
    labels: set[str] = set()
    for kind, bottoms in zip(held.types, held.bottoms):
        if kind.endswith("Loss") or kind == "Accuracy":
            labels.update(held.original(name) for name in bottoms[1:])
    for bottoms, tops in zip(held.bottoms, held.tops):
        if not bottoms:
            for name in tops:
                data = held.blob(name).data
                data[...] = 0 if name in labels else random.standard_normal(data.shape)
    for kind, layer in zip(held.types, held.net.layers):
        blobs = list(layer.blobs)
        if not blobs or any(b.data.any() for b in blobs):
            continue
        if kind == "BatchNorm":
            # Zeros would divide by sqrt(eps): a few such layers in a row overflow.
            blobs[1].data[...] = 1
            blobs[2].data[...] = 1
        else:
            weight = blobs[0].data
            fan_in = max(1, weight.size // max(1, weight.shape[0] if weight.ndim else 1))
            weight[...] = random.standard_normal(weight.shape) * (2.0 / fan_in) ** 0.5
    return first


def op_time(arrays: Arrays, handle: int, iterations: int, warmup: int, per_layer: bool = False) -> Answer:
    """Times forward passes of a filled net."""
    held = _held(handle)
    first = _fill(held)
    net, last = held.net, len(held.names) - 1
    if first > last:
        raise WorkerError("the net has no layer that computes anything")
    clock = time.perf_counter
    for _ in range(warmup):
        net._forward(first, last)
    if not per_layer:
        times = []
        for _ in range(iterations):
            begin = clock()
            net._forward(first, last)
            times.append((clock() - begin) * 1000)
        return {"ms": times}, []
    steps = range(first, last + 1)
    rows: dict[int, list[float]] = {n: [] for n in steps}
    for _ in range(iterations):
        for n in steps:
            begin = clock()
            net._forward(n, n)
            rows[n].append((clock() - begin) * 1000)
    return {"layers": [[held.names[n], rows[n]] for n in steps]}, []


# ---------------------------------------------------------------- a solver, step by step

_running: Running | None = None


class Running:
    """A solver that is driven from outside."""

    def __init__(self, solver: Any, iter_size: int) -> None:
        self.solver = solver
        self.net = Held(solver.net)
        self.tests = [Held(net) for net in solver.test_nets]
        self.iter_size = iter_size
        self.losses: list[float] = []
        if iter_size > 1:
            # Caffe's step runs all batches at once and tells nothing of those before the last.
            last = len(self.net.names) - 1
            solver.net.after_forward(lambda layer: self.losses.append(self.loss()) if layer == last else None)

    def loss(self) -> float:
        """The weighted total loss of the last batch."""
        net = self.net.net
        return float(sum(w * float(b.data.sum()) for b, w in zip(net._blobs, net._blob_loss_weights) if w))


def _solver() -> Running:
    if _running is None:
        raise WorkerError("no solver is open")
    return _running


def _sources(held: Held) -> list[list[Any]]:
    """Layers that bring data in: name, type, and the first axis of what they give."""
    found = []
    for name, kind, bottoms, tops in zip(held.names, held.types, held.bottoms, held.tops):
        if tops and not bottoms and kind not in ("Input", "Parameter"):
            shape = list(held.net.blobs[tops[0]].shape)
            found.append([name, kind, shape[0] if shape else 1])
    return found


def op_enter(arrays: Arrays, cwd: str) -> Answer:
    """Goes to a directory for good: data layers open files there whenever they come to them."""
    if not Path(cwd).is_dir():
        raise WorkerError(f"there is no directory {cwd}")
    os.chdir(cwd)
    _import_from(cwd)
    return {}, []


def op_open_solver(
    arrays: Arrays,
    solver: str,
    iter_size: int,
    weights: list[str],
    state: str | None,
    labels: list[dict[str, list[Any]]],
) -> Answer:
    """Sets a solver up, from weights or from a solverstate; `labels`: see `_guard_labels`, for each net."""
    global _running
    for path in weights:
        _need_file(path, "weights file")
    opened = caffe.get_solver(solver)
    for path in weights:
        # The test nets too: a layer of theirs may have no namesake in the training net.
        for net in [opened.net, *opened.test_nets]:
            net.copy_from(path)
    if state is not None:
        opened.restore(state)
    _running = running = Running(opened, iter_size)
    for held, rules in zip([running.net, *running.tests], labels):
        _guard_labels(held, rules)
    return {
        "iteration": int(opened.iter),
        "layers": [
            [name, [list(b.shape) for b in layer.blobs]] for name, layer in zip(running.net.names, opened.net.layers)
        ],
        "sources": [_sources(held) for held in [running.net, *running.tests]],
    }, []


def op_step(arrays: Arrays) -> Answer:
    """Does one iteration."""
    running = _solver()
    del running.losses[:]
    running.solver.step(1)
    losses = running.losses if running.iter_size > 1 else [running.loss()]
    net = running.net.net
    # By index: several losses without a named top would be one in pycaffe's own dict.
    outputs = [[running.net.blob_names[i], float(net._blobs[i].data.mean())] for i in net._outputs]
    return {"iteration": int(running.solver.iter), "loss": sum(losses) / len(losses), "outputs": outputs}, []


def op_test(arrays: Arrays, index: int, batches: int, seconds: float) -> Answer:
    """Adds the outputs of a test net up, for some seconds at most, in single precision as Caffe does.

    The arrays are the sums so far, none at first.
    """
    running = _solver()
    held = running.tests[index]
    held.net.share_with(running.net.net)
    last = len(held.names) - 1
    sums = [a for _, a in arrays]
    end = time.monotonic() + seconds
    done = 0
    while done < batches and (not done or time.monotonic() < end):
        held.net._forward(0, last)
        now = [held.net._blobs[i].data for i in held.net._outputs]
        sums = [a + b for a, b in zip(sums, now)] if sums else [a.copy() for a in now]
        done += 1
    return {"done": done}, [(held.blob_names[i], a) for i, a in zip(held.net._outputs, sums)]


def op_advance(arrays: Arrays, net: int, layer: str, batches: int, seconds: float) -> Answer:
    """Runs one data layer (of the training net: 0, of the test nets: from 1), for some seconds at most."""
    running = _solver()
    held = [running.net, *running.tests][net]
    number = held.layer(layer)
    end = time.monotonic() + seconds
    done = 0
    while done < batches and (not done or time.monotonic() < end):
        held.net._forward(number, number)
        done += 1
    return {"done": done}, []


def op_snapshot(arrays: Arrays) -> Answer:
    """Lets Caffe write its two files, to where the solver file says."""
    _solver().solver.snapshot()
    return {}, []


# ---------------------------------------------------------------- the loop


def main() -> None:
    """Answers requests until there are no more."""
    while True:
        try:
            op, kw, arrays = _receive()
        except EOFError:
            return
        position = _log_position()
        try:
            function = globals().get("op_" + op)
            if function is None:
                raise WorkerError(f"no operation {op!r}")
            result, answer = function([(tuple(n) if isinstance(n, list) else n, a) for n, a in arrays], **kw)
        except Exception as error:  # pycaffe raises RuntimeError, Boost its own; the caller is told which
            text = str(error) if isinstance(error, WorkerError) else _text(error, _log_since(position))
            _send({"ok": False, "error": " ".join(text.split())})
            continue
        _send({"ok": True, "result": result}, answer)


class _LazyIO(types.ModuleType):
    """Stands for `caffe.io` until somebody uses it: it imports skimage and SciPy, half of the time of a start."""

    def __getattr__(self, name: str) -> Any:
        if name == "__path__":
            raise AttributeError(name)  # it is no package
        del sys.modules[self.__name__]
        self.__dict__.update(vars(importlib.import_module(self.__name__)))
        self.__class__ = types.ModuleType  # type: ignore[assignment]
        return getattr(self, name)


def start() -> None:
    """Imports pycaffe, says so, and answers requests."""
    global caffe, np, _users
    if len(sys.argv) > 2:
        _die_with_parent(int(sys.argv[2]))
    try:
        sys.modules["caffe.io"] = _LazyIO("caffe.io")
        import caffe  # type: ignore[import-not-found]
        import numpy as np

        caffe.set_mode_cpu()
        # Our Caffe's Python is started so that it ignores PYTHONPATH, which may hold another Python's NumPy. Behind all
        # of its own it does no harm, and Python layers may need it.
        if _python_layers:
            _users = [str(Path(path).absolute()) for path in os.environ.get("PYTHONPATH", "").split(os.pathsep) if path]
            sys.path.extend(path for path in _users if path not in sys.path)
    except Exception as error:
        message = json.dumps({"ok": False, "error": f"{type(error).__name__}: {error}", "arrays": []}).encode()
        _ANSWERS.write(struct.pack("<I", len(message)) + message)
        _ANSWERS.flush()
    else:
        _send({"ok": True, "result": {"protocol": PROTOCOL, "pid": os.getpid()}})
        main()


if __name__ == "__main__":
    start()
