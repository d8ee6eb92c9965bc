"""The worker with what tests alone ask of Caffe: gradients, parameters, whole trainings, its schema.

It runs in the Python that has pycaffe, as `worker.py` does, and adds operations. It imports nothing of the package.
"""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any

_path = Path(__file__).parents[1] / "deeprebirth_caffe/engines/caffe/worker.py"
_spec = importlib.util.spec_from_file_location("worker", _path)
worker: Any = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(worker)
load = worker.op_load


def _params(held: worker.Held, name: str) -> list[Any]:
    return list(held.net.layers[held.layer(name)].blobs)


def _owners(held: worker.Held) -> dict[str, dict[str, list[Any]]]:
    """For parameters that several layers share: whose memory they are, as [layer, index]."""
    seen: dict[int, list[Any]] = {}
    shared: dict[str, dict[str, list[Any]]] = {}
    for name, layer in zip(held.names, held.net.layers):
        for index, blob in enumerate(layer.blobs):
            if not blob.count:
                continue
            owner = seen.setdefault(blob.data.ctypes.data, [name, index])
            if owner != [name, index]:
                shared.setdefault(name, {})[str(index)] = owner
    return shared


def op_load(arrays: worker.Arrays, **kw: Any) -> worker.Answer:
    """Loads a net and describes it in full."""
    position = worker._log_position()
    told, _ = load(arrays, **kw)
    log = worker._log_since(position)
    held = worker._held(told["handle"])
    blobs = [(name, layer.blobs) for name, layer in zip(held.names, held.net.layers)]
    memory = [line.rsplit(" ", 1)[1] for line in log.splitlines() if "Memory required for data: " in line]
    return {
        **told,
        "layers": list(zip(held.names, held.types)),
        "params": [[name, [list(blob.shape) for blob in own]] for name, own in blobs if len(own)],
        "bottoms": held.bottoms,
        "tops": held.tops,
        "copies": held.copies,
        "shared": _owners(held),
        "memory": int(memory[-1]) if memory else None,
    }, []


def op_schema(arrays: worker.Arrays) -> worker.Answer:
    """Gives the caffe.proto that pycaffe has compiled in."""
    schema = worker.caffe.proto.caffe_pb2.DESCRIPTOR.serialized_pb
    return {}, [("schema", worker.np.frombuffer(schema, dtype=worker.np.uint8))]


def op_set_params(arrays: worker.Arrays, handle: int) -> worker.Answer:
    """Sets all parameters of the layers that the arrays name."""
    held = worker._held(handle)
    # All is checked before anything is written.
    given: dict[str, dict[int, Any]] = {}
    for (name, index), array in arrays:
        given.setdefault(name, {})[index] = array
    for name, by_index in given.items():
        blobs = _params(held, name)
        if len(by_index) != len(blobs):
            raise worker.WorkerError(f"layer {name!r} has {len(blobs)} parameters, got {len(by_index)}")
        for index, array in by_index.items():
            if tuple(array.shape) != tuple(blobs[index].shape):
                want, got = worker._shape_text(blobs[index].shape), worker._shape_text(array.shape)
                raise worker.WorkerError(f"parameter {index} of layer {name!r} is {want}, got {got}")
    for name, by_index in given.items():
        for index, array in by_index.items():
            _params(held, name)[index].data[...] = array
    return {}, []


def op_get_params(arrays: worker.Arrays, handle: int, layers: list[str] | None = None) -> worker.Answer:
    """Gives parameters."""
    held = worker._held(handle)
    names = layers if layers is not None else [n for n, x in zip(held.names, held.net.layers) if len(x.blobs)]
    return {}, [((name, i), b.data) for name in names for i, b in enumerate(_params(held, name))]


def op_save(arrays: worker.Arrays, handle: int, path: str) -> worker.Answer:
    """Writes a caffemodel."""
    held = worker._held(handle)
    directory = Path(path).parent
    if not directory.is_dir():
        raise worker.WorkerError(f"cannot save to {path}: there is no directory {directory}")
    held.net.save(path)
    return {}, []


def op_backward(arrays: worker.Arrays, handle: int, blobs: list[str] | None = None) -> worker.Answer:
    """Runs the whole net backward from given gradients."""
    held = worker._held(handle)
    wanted = held.shown() if blobs is None else blobs
    given = dict(arrays)
    for name in list(given) + list(wanted):
        held.blob(name)
    # Diffs of an earlier pass would be added to or handed on. Those of losses stay: Caffe sets them once.
    losses = held.net.blob_loss_weights
    # A HingeLoss keeps in its input's diff what its forward pass has found out, for the backward pass.
    hinges = {bottoms[0] for kind, bottoms in zip(held.types, held.bottoms) if kind == "HingeLoss"}
    for name, blob in held.net.blobs.items():
        if not losses.get(name) and name not in hinges:
            blob.diff[...] = 0
    held.net.clear_param_diffs()
    for name, array in given.items():
        blob = held.blob(name)
        if tuple(blob.shape) != tuple(array.shape):
            want, got = worker._shape_text(blob.shape), worker._shape_text(array.shape)
            raise worker.WorkerError(f"the diff of blob {name!r} is {want}, got {got}")
        blob.diff[...] = array
    held.net._backward(len(held.names) - 1, 0)
    answer = [(["blob", name, 0], held.blob(name).diff) for name in wanted]
    for name, layer in zip(held.names, held.net.layers):
        answer.extend((["param", name, i], b.diff) for i, b in enumerate(layer.blobs))
    return {}, answer


def _measured(before: Any, gradient: Any, after: Any, rate: float) -> tuple[float | None, float | None]:
    """The least-squares a, b of step = rate * a * (gradient + b * weights): lr_mult and the decay."""
    step = (before - after).astype(worker.np.float64).ravel() / rate
    g, w = gradient.astype(worker.np.float64).ravel(), before.astype(worker.np.float64).ravel()
    if not step.any():
        return 0.0, None
    if not g.any():
        return None, None
    gg, gw, ww = g.dot(g), g.dot(w), w.dot(w)
    determinant = gg * ww - gw * gw
    if ww == 0 or determinant <= 1e-9 * gg * ww:
        return float(g.dot(step) / gg), None
    a = (ww * g.dot(step) - gw * w.dot(step)) / determinant
    c = (gg * w.dot(step) - gw * g.dot(step)) / determinant
    return float(a), (float(c / a) if a else None)


def op_train(
    arrays: worker.Arrays,
    solver: str,
    iterations: int,
    weights: str | None,
    watch: list[str] | None,
    seed: int | None,
    rates: bool,
    save: str | None,
    cwd: str | None,
) -> worker.Answer:
    """Trains with Caffe's own solver, iteration by iteration."""
    with worker._directory(cwd):
        worker._need_file(solver, "solver")
        worker._need_file(weights, "weights file")
        if seed is not None:
            worker.caffe.set_random_seed(seed)
        running = worker.caffe.get_solver(solver)
        net = running.net
        if weights is not None:
            net.copy_from(weights)
        names = [net._blob_names[index] for index in net._outputs] if watch is None else watch
        for name in names:
            if name not in net.blobs:
                raise worker.WorkerError(f"the training net has no blob {name!r}; it has {worker._few(net.blobs)}")
        gradients: dict[str, list[Any]] = {}
        before: dict[str, list[Any]] = {}
        layers = [(n, list(x.blobs)) for n, x in zip(net._layer_names, net.layers) if len(x.blobs)]

        def keep_gradients() -> None:
            # Between backward and update: a BatchNorm's statistics, which forward changes, move no more.
            if not gradients:
                gradients.update((n, [b.diff.copy() for b in blobs]) for n, blobs in layers)
                before.update((n, [b.data.copy() for b in blobs]) for n, blobs in layers)

        if rates:
            running.add_callback(lambda: None, keep_gradients)
        losses: list[float] = []
        outputs: dict[str, list[float]] = {n: [] for n in names}
        rate = None
        found: dict[str, list[float | None]] = {}
        decays: dict[str, list[float | None]] = {}
        for iteration in range(iterations):
            running.step(1)
            weighted = [(b, w) for b, w in zip(net._blobs, net._blob_loss_weights) if w]
            losses.append(float(sum(w * float(b.data.sum()) for b, w in weighted)))
            for name in names:
                outputs[name].append(float(net.blobs[name].data.mean()))
            if iteration == 0:
                rate = float(getattr(running, "lr", running.param.base_lr))
                for name, blobs in layers if rates else []:
                    pairs = [
                        _measured(b, g, blob.data, rate) for b, g, blob in zip(before[name], gradients[name], blobs)
                    ]
                    found[name], decays[name] = [p[0] for p in pairs], [p[1] for p in pairs]
                before.clear()
        if save is not None:
            net.save(save)
    return {"losses": losses, "outputs": outputs, "rate": rate, "rates": found, "decays": decays}, []


vars(worker).update({name: value for name, value in globals().items() if name.startswith("op_")})
worker.start()
