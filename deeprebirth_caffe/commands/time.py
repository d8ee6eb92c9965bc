"""`rebirth time`: how long nets take, where the time goes, and what they cost beside it."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass, field
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Any

from deeprebirth_caffe import __version__
from deeprebirth_caffe.bench import machine, stats
from deeprebirth_caffe.bench.breakdown import layer_times, tensor_share
from deeprebirth_caffe.bench.costs import Costs, costs, storage_bytes
from deeprebirth_caffe.bench.energy import EnergyMeter, per_pass
from deeprebirth_caffe.bench.protocol import Measured, Plan, Subject, idle_watts, interleave
from deeprebirth_caffe.bench.targets import Job, open_target
from deeprebirth_caffe.engines.prepare import Ready, plain
from deeprebirth_caffe.engines.random_weights import random_weights
from deeprebirth_caffe.engines.runners import RUNNERS
from deeprebirth_caffe.errors import RebirthError, UsageError
from deeprebirth_caffe.nets.exactness import FINISHING
from deeprebirth_caffe.nets.load import check_fit, layers_without_weights, load_net, upgrade_notes
from deeprebirth_caffe.nets.strip import strip
from deeprebirth_caffe.ops import Shape

if TYPE_CHECKING:
    from deeprebirth_caffe.ir import Net

ALONE = 0.9
"""A process with one thread that got less of a core than this shared it with something else."""
UNSTEADY = 0.25
"""A spread from p10 to p90 that deserves a word."""

Progress = Callable[[int, int], None]
"""Told how many turns are done, and how many there are."""


@dataclass(frozen=True)
class TimeOptions:
    """What `rebirth time` is told; see its help.

    Attributes:
        nets: each with its weights; None for random ones. The first is what the others are compared with.
        on: where; see `open_target`.
        cpus: processors that each net may run on; None: any.
        batch: of every net; None: the first net's own.
        fit_bytes: memory for which to find the largest batch.
    """

    nets: Sequence[tuple[Path, Path | None]]
    engine: str = "caffe"
    on: str = "local"
    plan: Plan = field(default_factory=Plan)
    threads: int | None = None
    cpus: Sequence[int] | None = None
    batch: int | None = None
    input_shapes: Mapping[str, Shape] = field(default_factory=dict)
    fit_bytes: int | None = None
    caffe: str | None = None
    timeout: float | None = None


@dataclass(frozen=True)
class Prepared:
    """A net that is ready to be opened, without its weights: they lie on the disk.

    Attributes:
        source: as the user named it.
        weights: likewise.
        ready: the plain deploy net.
        job: for the target.
        stages: of each layer, by name.
        costs: see `bench.costs`.
        storage_bytes: of its caffemodel.
        with_heads_bytes: of that of the net that trains; None where it was made from none.
        notes: for people.
    """

    source: Path
    weights: Path | None
    ready: Ready
    job: Job
    stages: Mapping[str, str]
    costs: Costs
    storage_bytes: int
    with_heads_bytes: int | None
    notes: tuple[str, ...]


def time_nets(options: TimeOptions, progress: Progress = lambda done, total: None) -> dict[str, Any]:
    """Times nets against each other.

    Args:
        options: what to do.
        progress: told after each turn.

    Returns:
        What `--json` prints; see docs/json.md.

    Raises:
        EngineError: the engine is not there, or cannot run a net.
        UsageError: there is no such engine or place.
    """
    if options.engine not in RUNNERS:
        raise UsageError(f"--engine {options.engine}: there is {', '.join(RUNNERS)}")
    with ExitStack() as stack:
        target = stack.enter_context(open_target(options.on, caffe=options.caffe, timeout=options.timeout))
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="rebirth-time-")))
        nets: list[Prepared] = []
        for number, (path, weights) in enumerate(options.nets):
            like = nets[0].ready.batch if nets and options.batch is None else None
            nets.append(_prepare(path, weights, options, folder / str(number), like))
        place = target.describe()
        meter = target.meter()
        before = machine.state(target.read_files(machine.STATE))
        idle = idle_watts(meter) if not isinstance(meter, str) else None
        subjects: list[Subject] = []
        for net in nets:
            subject = target.open(net.job)
            stack.callback(subject.close)
            subjects.append(subject)
        # Asked now: one that is interrupted later cannot answer.
        told = [dict(subject.describe()) for subject in subjects]
        found = _measure(subjects, options.plan, meter, progress)
        after = machine.state(target.read_files(machine.STATE))
        rows = [
            _net_row(net, one, subject, facts, options, meter, idle)
            for net, one, subject, facts in zip(nets, found, subjects, told, strict=True)
        ]
    return {
        "version": 1,
        "rebirth": __version__,
        "machine": {**_place(place), "before": before.to_dict(), "after": after.to_dict()},
        "protocol": {**_protocol(options.plan), "fit_bytes": options.fit_bytes},
        "nets": rows,
        "ratios": _ratios(options, found),
        "interrupted": any(one.interrupted for one in found),
        "warnings": [*machine.warnings(place, before, after), *_doubts(rows, found)],
    }


def _prepare(path: Path, weights: Path | None, options: TimeOptions, folder: Path, like: int | None) -> Prepared:
    """Reads a net and writes what is run.

    Args:
        path: of the net.
        weights: its caffemodel.
        options: what to do.
        folder: to write into.
        like: the batch of the net that this one is compared with.
    """
    net = load_net(path, weights, options.input_shapes)
    notes = upgrade_notes(net)
    if net.weights is None:
        net.weights = random_weights(net)
        net.weights.path = f"{path}: random weights"
        if net.weights:  # else no shape is known, which is told below
            check_fit(net, net.weights)
        notes.append("random weights: they take as long as learned ones")
    with_heads = None
    if net.trains:
        with_heads = storage_bytes(net, net.weights)
        # The net as it was trained: `rebirth deploy` may join its branches, and is timed by its own files.
        net = strip(net, batch=options.batch, skip_passes=[one.name for one in FINISHING]).net
        notes.append("it trains: timed is what `rebirth deploy` makes of it")
    if missing := layers_without_weights(net):
        if weights is None:
            raise RebirthError(f"{path}: no random weights can be made for {', '.join(missing)}; give some with -w")
        raise RebirthError(f"{weights}: holds nothing for {', '.join(missing)}; are these the weights of this net?")
    ready = plain(net, batch=options.batch)
    if like not in (None, ready.batch):
        if ready.batch is None:
            raise RebirthError(f"{path}: its inputs have no batch in common; give all nets one with --batch")
        notes.append(f"batch {like}, as the first net, instead of its own {ready.batch}")
        ready = plain(net, batch=like)
    folder.mkdir()
    files = ready.write(folder)
    assert ready.net.weights is not None
    size = storage_bytes(ready.net, ready.net.weights)
    ready.net.weights = None  # a net of half a GiB need not be held while it is timed elsewhere
    job = Job(options.engine, *files, options.threads, options.cpus)
    return Prepared(path, weights, ready, job, _stages(net), costs(ready.net), size, with_heads, tuple(notes))


def _stages(net: Net) -> dict[str, str]:
    return {layer.name: layer.stage for layer in net.layers}


def _measure(subjects: Sequence[Subject], plan: Plan, meter: EnergyMeter | str, progress: Progress) -> list[Measured]:
    done, total = 0, plan.steps(len(subjects))
    progress(done, total)

    def tick() -> None:
        nonlocal done
        done += 1
        progress(done, total)

    return interleave(subjects, plan, meter=None if isinstance(meter, str) else meter, tick=tick)


def _place(facts: Mapping[str, Any]) -> dict[str, Any]:
    """What every target says, and what only devices say apart from it."""
    common = machine.facts({}).keys()
    own = {name: value for name, value in facts.items() if name not in common}
    return {name: facts.get(name) for name in common} | ({"device": own} if own else {})


def _protocol(plan: Plan) -> dict[str, Any]:
    return {
        "runs": plan.runs,
        "iterations": plan.iterations,
        "warmup": plan.warmup,
        "cooldown_s": plan.cooldown,
        "layer_iterations": plan.layer_iterations,
    }


def _net_row(
    net: Prepared,
    found: Measured,
    subject: Subject,
    told: dict[str, object],
    options: TimeOptions,
    meter: EnergyMeter | str,
    idle: float | None,
) -> dict[str, Any]:
    summary = stats.summarize(found.runs)
    timed = found.layers()
    layers = layer_times(timed, net.ready.view, net.stages) if timed is not None else ()
    threads = told.pop("threads", None)
    told.pop("engine", None)
    size = options.fit_bytes
    return {
        "net": str(net.source),
        "weights": None if net.weights is None else str(net.weights),
        "engine": options.engine,
        "on": options.on,
        "threads": threads if isinstance(threads, int) else options.threads,
        "batch": net.ready.batch,
        "runs_ms": list(summary.runs),
        "best_ms": summary.best,
        "median_ms": summary.median,
        "p10_ms": summary.p10,
        "p90_ms": summary.p90,
        "spread": summary.spread,
        "single_passes": subject.single,
        "cpu_ms": median(found.cpu_ms) if found.cpu_ms else None,
        "tensor_share": tensor_share(layers),
        "layers": [asdict(layer) for layer in layers],
        "peak_rss_bytes": found.peak_rss_bytes,
        "memory_bytes": net.costs.memory_bytes,
        "param_bytes": net.costs.param_bytes,
        "memory_required_for_data": net.costs.memory_required_for_data,
        "reused_bytes": net.costs.reused_bytes,
        "storage_bytes": net.storage_bytes,
        "storage_with_heads_bytes": net.with_heads_bytes,
        "fit_batch": net.costs.fit.largest(size) if size is not None and net.costs.fit is not None else None,
        "fit_model": asdict(net.costs.fit) if net.costs.fit is not None else None,
        "energy": _energy(found, options.plan, meter, idle),
        "runtime": dict(_flat(told)),
        "notes": [*net.notes, *subject.notes()],
    }


def _energy(found: Measured, plan: Plan, meter: EnergyMeter | str, idle: float | None) -> dict[str, Any]:
    none = {"mj": None, "low_mj": None, "high_mj": None, "idle_watts": None}
    if isinstance(meter, str):
        return {"method": meter, **none}
    used = per_pass(found.joules, plan.iterations + plan.warmup, idle)
    if used is None:
        return {"method": f"not available here: {meter.method}: the counter failed", **none}
    return {
        "method": meter.method,
        "mj": used.millijoules,
        "low_mj": used.low,
        "high_mj": used.high,
        "idle_watts": used.idle_watts,
    }


def _flat(told: Mapping[str, object], start: str = "") -> Iterable[tuple[str, str]]:
    """Facts of an engine as texts by dotted name."""
    for name, value in told.items():
        if isinstance(value, Mapping):
            yield from _flat(value, f"{start}{name}.")
        elif isinstance(value, (list, tuple)):
            yield f"{start}{name}", ", ".join(map(str, value))
        elif value not in (None, ""):
            yield f"{start}{name}", str(value)


def _ratios(options: TimeOptions, found: Sequence[Measured]) -> list[dict[str, Any]]:
    """The first net against each other one."""
    rows = []
    for (path, _), one in zip(options.nets[1:], found[1:], strict=True):
        ratio = stats.ratio(found[0].runs, one.runs)
        rows.append(
            {
                "net": str(options.nets[0][0]),
                "vs": str(path),
                "median": ratio.median,
                "low": ratio.low,
                "high": ratio.high,
                "verdict": ratio.verdict,
            }
        )
    return rows


def _doubts(rows: Sequence[Mapping[str, Any]], found: Sequence[Measured]) -> list[str]:
    """What the measuring itself showed."""
    doubts = []
    for row, one in zip(rows, found, strict=True):
        if row["threads"] == 1 and one.share and median(one.share) < ALONE:
            doubts.append(f"{row['net']}: it got {100 * median(one.share):.0f} % of a core: something else ran there")
        if one.restless:
            doubts.append(f"{row['net']}: its threads kept a core busy while other nets ran")
        if row["spread"] > UNSTEADY:
            doubts.append(f"{row['net']}: its passes vary by {100 * row['spread']:.0f} % of their median")
    if any(one.interrupted for one in found):
        doubts.append(f"interrupted: {len(found[0].runs)} whole runs were done")
    return doubts
