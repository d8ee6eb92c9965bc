"""`rebirth time`: how long nets take, where the time goes, and what they cost beside it."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING

from deeprebirth_caffe.bench import machine, stats
from deeprebirth_caffe.bench.breakdown import Group, LayerTime, grouped, layer_times, tensor_share
from deeprebirth_caffe.bench.costs import Costs, costs, storage_bytes
from deeprebirth_caffe.bench.energy import EnergyMeter, per_pass
from deeprebirth_caffe.bench.protocol import Measured, Subject, idle_watts, interleave
from deeprebirth_caffe.bench.targets import Job, open_target
from deeprebirth_caffe.bench.targets.base import TimedDevice
from deeprebirth_caffe.engines.prepare import Ready, plain
from deeprebirth_caffe.engines.random_weights import random_weights
from deeprebirth_caffe.engines.runners import RUNNERS
from deeprebirth_caffe.errors import RebirthError, UsageError
from deeprebirth_caffe.ir.memory import Fit
from deeprebirth_caffe.nets.exactness import FINISHING
from deeprebirth_caffe.nets.load import check_fit, layers_without_weights, load_net, upgrade_notes
from deeprebirth_caffe.nets.strip import strip
from deeprebirth_caffe.options.time import Plan, TimingOptions
from deeprebirth_caffe.results import ABSENT, Absent, Signed, common

if TYPE_CHECKING:
    from deeprebirth_caffe.ir import Net

ALONE = 0.9
"""A process with one thread that got less of a core than this shared it with something else."""
UNSTEADY = 0.25
"""A spread from p10 to p90 that deserves a word."""

Progress = Callable[[int, int], None]
"""Told how many turns are done, and how many there are."""


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


@dataclass(frozen=True, kw_only=True)
class TimedMachine(machine.Facts):
    """Where nets ran.

    Attributes:
        device: what is true of devices alone; with `--on`.
        before: its state before the first run.
        after: its state after the last run.
    """

    device: TimedDevice | Absent
    before: machine.State
    after: machine.State


@dataclass(frozen=True, kw_only=True)
class Protocol:
    """How nets were timed.

    Attributes:
        runs: `--runs`: turns of each net.
        iterations: `--iterations`: passes in a turn.
        warmup: `--warmup`: passes before each turn that do not count.
        cooldown_s: `--cooldown`: seconds of rest before each turn.
        layer_iterations: passes after each turn in which layers were timed one by one.
        fit_bytes: `--fit`.
    """

    runs: int
    iterations: int
    warmup: int
    cooldown_s: float
    layer_iterations: int
    fit_bytes: int | None


@dataclass(frozen=True, kw_only=True)
class PassEnergy:
    """The energy of one pass.

    Attributes:
        method: what was counted and how, or "not available here" and why.
        mj: millijoules: the median over the runs.
        low_mj: the lowest run.
        high_mj: the highest run.
        idle_watts: of the machine at rest before the first run; that power is in the figures above.
    """

    method: str
    mj: float | None = None
    low_mj: float | None = None
    high_mj: float | None = None
    idle_watts: float | None = None


@dataclass(frozen=True, kw_only=True)
class TimedNet:
    """A net that was timed.

    Attributes:
        net: path.
        weights: path; null for random weights.
        engine: `--engine`.
        on: `--on`.
        threads: as the engine says, else as it was told; null where neither is known.
        batch: null where its inputs differ.
        runs_ms: the mean pass of each run.
        best_ms: the smallest of them: the paper's figure.
        median_ms: of all passes.
        p10_ms: a tenth of all passes are faster.
        p90_ms: a tenth of all passes are slower.
        spread: (p90 - p10) / median.
        single_passes: whether each pass was timed; false: only the mean of each run is known, and the four figures
            above are of those.
        cpu_ms: processor time of a pass in all threads, warm-up and filling the input included: the median over the
            runs.
        tensor_share: the part of the layers' time that tensor layers take, 0 to 1; null where the engine does not say.
        layers: empty where the engine does not say; the layers that only give data are left out.
        peak_rss_bytes: the most memory that its process had in use, the engine's own included.
        memory_bytes: what Caffe needs for an image.
        param_bytes: of learned numbers; shared ones once.
        memory_required_for_data: what Caffe logs under this name.
        reused_bytes: of the blobs of one image, were each buffer used again as soon as its last reader is done.
        storage_bytes: size of the caffemodel of the net that was timed.
        storage_with_heads_bytes: size of that of the net that trains, auxiliary heads included; null where a deploy net
            was given.
        fit_batch: the largest batch for `protocol.fit_bytes`; null without, or where the batch does not set the size of
            any blob.
        fit_model: what that comes from: process + parameters + workspace + constant + batch * image; null likewise.
        energy: of one pass.
        runtime: version, matrix library and its kernels, … as the engine says.
        notes: for people.
    """

    net: Path
    weights: Path | None
    engine: str
    on: str
    threads: int | None
    batch: int | None
    runs_ms: Sequence[float]
    best_ms: float
    median_ms: float
    p10_ms: float
    p90_ms: float
    spread: float
    single_passes: bool
    cpu_ms: float | None
    tensor_share: float | None
    layers: Sequence[LayerTime]
    peak_rss_bytes: int | None
    memory_bytes: int | None
    param_bytes: int | None
    memory_required_for_data: int | None
    reused_bytes: int | None
    storage_bytes: int
    storage_with_heads_bytes: int | None
    fit_batch: int | None
    fit_model: Fit | None
    energy: PassEnergy
    runtime: Mapping[str, str]
    notes: Sequence[str]

    def groups(self, by: str) -> dict[str, Group]:
        """Its layers added up by one of `breakdown.BY`."""
        return grouped(self.layers, by)


@dataclass(frozen=True, kw_only=True)
class NetRatio:
    """A net against another one.

    Attributes:
        net: path.
        vs: path.
        median: how many times as long `net` takes as `vs`: the median over pairs of runs.
        low: the lower end of the 95 % interval; null with fewer than 6 runs.
        high: the upper end.
        verdict: for people: `faster` or `slower` (of `vs`), or that it cannot be told.
    """

    net: Path
    vs: Path
    median: float
    low: float | None
    high: float | None
    verdict: str

    def line(self) -> str:
        """The comparison in words."""
        interval = ""
        if self.low is not None and self.high is not None:
            interval = f" ({self.low:.3f} to {self.high:.3f} with 95 % confidence)"
        verdict = f"{self.vs} is {self.verdict}" if self.verdict in ("faster", "slower") else self.verdict
        return f"{self.net} takes {self.median:.3f} times as long as {self.vs}{interval}: {verdict}"


@dataclass(frozen=True, kw_only=True)
class Times(Signed):
    """What `rebirth time` measured.

    Attributes:
        machine: where the nets ran.
        protocol: how it was measured.
        nets: NET, then each `--vs`, in their order.
        ratios: NET against each `--vs`.
        interrupted: whether Ctrl-C ended it early (the exit code is 130 then).
        warnings: for people: what makes the figures worth less.
    """

    machine: TimedMachine
    protocol: Protocol
    nets: Sequence[TimedNet]
    ratios: Sequence[NetRatio]
    interrupted: bool
    warnings: Sequence[str]


def time_nets(
    nets: Sequence[tuple[Path, Path | None]], options: TimingOptions, progress: Progress = lambda done, total: None
) -> Times:
    """Times nets against each other.

    Args:
        nets: each with its weights; None for random ones. The first is what the others are compared with.
        options: how.
        progress: told after each turn.

    Raises:
        EngineError: the engine is not there, or cannot run a net.
        UsageError: there is no such engine or place.
    """
    if options.engine not in RUNNERS:
        raise UsageError(f"--engine {options.engine}: there is {', '.join(RUNNERS)}")
    with ExitStack() as stack:
        target = stack.enter_context(open_target(options.on, caffe=options.caffe, timeout=options.timeout))
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="rebirth-time-")))
        prepared: list[Prepared] = []
        for number, (path, weights) in enumerate(nets):
            like = prepared[0].ready.batch if prepared and options.batch is None else None
            prepared.append(_prepare(path, weights, options, folder / str(number), like))
        place = target.describe()
        meter = target.meter()
        before = machine.state(target.read_files(machine.STATE))
        idle = idle_watts(meter) if not isinstance(meter, str) else None
        subjects: list[Subject] = []
        for net in prepared:
            subject = target.open(net.job)
            stack.callback(subject.close)
            subjects.append(subject)
        # Asked now: one that is interrupted later cannot answer.
        told = [dict(subject.describe()) for subject in subjects]
        found = _measure(subjects, options.plan, meter, progress)
        after = machine.state(target.read_files(machine.STATE))
        rows = [
            _net_row(net, one, subject, facts, options, meter, idle)
            for net, one, subject, facts in zip(prepared, found, subjects, told, strict=True)
        ]
    plan = options.plan
    device = TimedDevice(**common(place, TimedDevice)) if isinstance(place, TimedDevice) else ABSENT
    return Times(
        machine=TimedMachine(**common(place, machine.Facts), device=device, before=before, after=after),
        protocol=Protocol(
            runs=plan.runs,
            iterations=plan.iterations,
            warmup=plan.warmup,
            cooldown_s=plan.cooldown,
            layer_iterations=plan.layer_iterations,
            fit_bytes=options.fit_bytes,
        ),
        nets=rows,
        ratios=_ratios(nets, found),
        interrupted=any(one.interrupted for one in found),
        warnings=[*machine.warnings(place, before, after), *_doubts(rows, found)],
    )


def _prepare(path: Path, weights: Path | None, options: TimingOptions, folder: Path, like: int | None) -> Prepared:
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


def _net_row(
    net: Prepared,
    found: Measured,
    subject: Subject,
    told: dict[str, object],
    options: TimingOptions,
    meter: EnergyMeter | str,
    idle: float | None,
) -> TimedNet:
    summary = stats.summarize(found.runs)
    timed = found.layers()
    layers = layer_times(timed, net.ready.view, net.stages) if timed is not None else ()
    threads = told.pop("threads", None)
    told.pop("engine", None)
    size, fit = options.fit_bytes, net.costs.fit
    return TimedNet(
        net=net.source,
        weights=net.weights,
        engine=options.engine,
        on=options.on,
        threads=threads if isinstance(threads, int) else options.threads,
        batch=net.ready.batch,
        runs_ms=summary.runs,
        best_ms=summary.best,
        median_ms=summary.median,
        p10_ms=summary.p10,
        p90_ms=summary.p90,
        spread=summary.spread,
        single_passes=subject.single,
        cpu_ms=median(found.cpu_ms) if found.cpu_ms else None,
        tensor_share=tensor_share(layers),
        layers=layers,
        peak_rss_bytes=found.peak_rss_bytes,
        memory_bytes=net.costs.memory_bytes,
        param_bytes=net.costs.param_bytes,
        memory_required_for_data=net.costs.memory_required_for_data,
        reused_bytes=net.costs.reused_bytes,
        storage_bytes=net.storage_bytes,
        storage_with_heads_bytes=net.with_heads_bytes,
        fit_batch=fit.largest(size) if size is not None and fit is not None else None,
        fit_model=fit,
        energy=_energy(found, options.plan, meter, idle),
        runtime=dict(_flat(told)),
        notes=[*net.notes, *subject.notes()],
    )


def _energy(found: Measured, plan: Plan, meter: EnergyMeter | str, idle: float | None) -> PassEnergy:
    if isinstance(meter, str):
        return PassEnergy(method=meter)
    used = per_pass(found.joules, plan.iterations + plan.warmup, idle)
    if used is None:
        return PassEnergy(method=f"not available here: {meter.method}: the counter failed")
    return PassEnergy(
        method=meter.method, mj=used.millijoules, low_mj=used.low, high_mj=used.high, idle_watts=used.idle_watts
    )


def _flat(told: Mapping[str, object], start: str = "") -> Iterable[tuple[str, str]]:
    """Facts of an engine as texts by dotted name."""
    for name, value in told.items():
        if isinstance(value, Mapping):
            yield from _flat(value, f"{start}{name}.")
        elif isinstance(value, (list, tuple)):
            yield f"{start}{name}", ", ".join(map(str, value))
        elif value not in (None, ""):
            yield f"{start}{name}", str(value)


def _ratios(nets: Sequence[tuple[Path, Path | None]], found: Sequence[Measured]) -> list[NetRatio]:
    """The first net against each other one."""
    rows = []
    first = nets[0][0]
    for (path, _), one in zip(nets[1:], found[1:], strict=True):
        ratio = stats.ratio(found[0].runs, one.runs)
        rows.append(
            NetRatio(net=first, vs=path, median=ratio.median, low=ratio.low, high=ratio.high, verdict=ratio.verdict)
        )
    return rows


def _doubts(rows: Sequence[TimedNet], found: Sequence[Measured]) -> list[str]:
    """What the measuring itself showed."""
    doubts = []
    for row, one in zip(rows, found, strict=True):
        if row.threads == 1 and one.share and median(one.share) < ALONE:
            doubts.append(f"{row.net}: it got {100 * median(one.share):.0f} % of a core: something else ran there")
        if one.restless:
            doubts.append(f"{row.net}: its threads kept a core busy while other nets ran")
        if row.spread > UNSTEADY:
            doubts.append(f"{row.net}: its passes vary by {100 * row.spread:.0f} % of their median")
    if any(one.interrupted for one in found):
        doubts.append(f"interrupted: {len(found[0].runs)} whole runs were done")
    return doubts
