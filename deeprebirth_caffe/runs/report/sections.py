"""A run in sections: tables, texts and pictures, the same for the page and for Markdown: their figures agree."""

from __future__ import annotations

import shlex
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from deeprebirth_caffe.bench.breakdown import Group
from deeprebirth_caffe.formats.jsonfile import as_number
from deeprebirth_caffe.nets.manifest import Uncounted
from deeprebirth_caffe.pages.document import bars, spelled
from deeprebirth_caffe.pages.drawing import Panel
from deeprebirth_caffe.runs.report.curves import Line, plot
from deeprebirth_caffe.runs.report.figures import (
    Drop,
    Pair,
    by_stage,
    drop,
    groups_of,
    metrics,
    own_output,
    pairs,
    trade,
)
from deeprebirth_caffe.runs.report.gather import LEARNING, Run, Step
from deeprebirth_caffe.runs.report.graph import panels_of
from deeprebirth_caffe.runs.report.logs import Log
from deeprebirth_caffe.wording import counted, mib, ms, printable, without

NONE = "-"
"""In a cell where nothing is known."""
Row = Sequence[str]


@dataclass(frozen=True)
class Text:
    """A paragraph."""

    kind: ClassVar = "text"
    text: str


@dataclass(frozen=True)
class Table:
    """A table; the first row is its head."""

    kind: ClassVar = "table"
    rows: Sequence[Row]


@dataclass(frozen=True)
class Code:
    """Lines as they were typed."""

    kind: ClassVar = "code"
    text: str
    title: str = ""


@dataclass(frozen=True)
class Pictures:
    """Plots beside each other, of which Markdown has the tables alone."""

    kind: ClassVar = "pictures"
    svgs: Sequence[str]
    tensor_key: bool = False


@dataclass(frozen=True)
class Stages:
    """The stages of the net before and after, of which Markdown has a table."""

    kind: ClassVar = "stages"
    panels: Sequence[Panel]
    passes: Mapping[str, Sequence[str]]


Block = Text | Table | Code | Pictures | Stages


@dataclass(frozen=True)
class Section:
    """A heading and what is below it."""

    title: str
    blocks: Sequence[Block]


def sections(run: Run) -> list[Section]:
    """All sections that the run's files give something for.

    Args:
        run: as `gather` found it.

    Raises:
        RebirthError: a net of the run cannot be read.
    """
    timed = pairs(run)
    found = [
        Section("In short", list(_summary(run, timed))),
        Section("Accuracy by step", list(_accuracy(run))),
        Section("Accuracy against speed-up", list(_trade(run, timed))),
        *(Section(f"Time by stage: {pair.timing.label}", list(_stages(pair))) for pair in timed),
        Section("Memory, storage and energy", list(_costs(timed))),
        Section("The net before and after", list(_graph(run))),
        Section("Training", list(_training(run))),
        Section("What became of the weights", list(_ledger(run))),
        Section("Machine and versions", list(_machine(run, timed))),
        Section("To repeat it", list(_repeat(run))),
    ]
    return [section for section in found if section.blocks]


def percent(value: float) -> str:
    """A part of 1 in percent."""
    return f"{100 * value:.2f} %"


def interval(found: Drop | Pair | None) -> str:
    """The 95 % interval of a figure."""
    if found is None or found.low is None or found.high is None:
        return NONE
    doubt = ", not to be told from 1" if isinstance(found, Pair) and found.low <= 1 <= found.high else ""
    return f"{found.low:.2f} to {found.high:.2f}{doubt}"


def duration(seconds: float | None) -> str:
    """As people say it."""
    if seconds is None:
        return NONE
    if seconds < 60:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 60 else f"{minutes // 60} h {minutes % 60:02} min"


def _summary(run: Run, timed: Sequence[Pair]) -> Iterator[Block]:
    base, last = run.base, run.last
    rows: list[Row] = [("", "before", "after", "difference", "95 % interval")]
    if base is not None and last is not None and last is not base:
        for metric in metrics(run):
            if metric in base.test and metric in last.test:
                lost = drop(base, last, metric)
                cells = percent(base.test[metric]), percent(last.test[metric])
                rows.append((metric, *cells, f"{_points(lost)} lost", interval(lost)))
    for pair in timed:
        cells = (f"{ms(pair.before['median_ms'])} ms", f"{ms(pair.after['median_ms'])} ms")
        rows.append((f"forward pass, {pair.timing.label}", *cells, f"{pair.speedup:.2f}x", interval(pair)))
    rows += _totals(run)
    if len(rows) > 1:
        yield Table(rows)
    for name, figures in (("before", _before(run)), ("after", _after(run))):
        if words := without([Uncounted(name=one["name"], type=one["type"]) for one in figures.get("uncounted") or ()]):
            yield Text(f"The sums of the net {name} are {words}.")
    if base is not None and base.hits is not None and last is not None and last.hits is not None:
        images = counted(len(base.hits), "image")
        yield Text(f"Accuracies are of {images}; intervals are 95 %, from the same images in both nets.")
    states = [f"{step.name} ({step.status})" for step in run.steps if not step.counts]
    if states:
        yield Text(f"These steps do not count: {', '.join(states)}.")


def _totals(run: Run) -> Iterator[Row]:
    """Layers, parameters and costs of an image, of the first conversion's input and the last one's output."""
    before, after = _before(run), _after(run)
    for name, key, form in (
        ("layers", "layers", _count),
        ("parameters", "params", _count),
        (MACS, "macs", _count),
        (MEMORY, "memory_bytes", _mib),
    ):
        old, new = (one.get(key) for one in (before, after))
        if old and new:
            yield name, form(old), form(new), _times(old, new), NONE


MACS = "multiply-adds of an image"
MEMORY = "memory of an image in Caffe"


def _mib(value: float) -> str:
    return mib(round(value))


def _before(run: Run) -> Mapping[str, Any]:
    """The figures of the net that the run began with: of the first conversion's input."""
    found: Mapping[str, Any] = next((step.manifest.data for step in run.steps if step.manifest is not None), {})
    return dict(found.get("before", {}))


def _after(run: Run) -> Mapping[str, Any]:
    """The figures of the net that the run ended with: of the last conversion's output."""
    done = [step.manifest.data for step in run.steps if step.counts and step.manifest is not None]
    return dict(done[-1].get("after", {})) if done else {}


def _accuracy(run: Run) -> Iterator[Block]:
    base, shown = run.base, metrics(run)
    tested = [step for step in run.steps if step.kind in LEARNING]
    if base is None or not shown:
        return
    main = shown[0]
    distilled = any(step.after_distil for step in tested)
    head = ["step", *shown, "points lost", "95 % interval", "just converted", *(["distilled"] if distilled else [])]
    head += ["parameters", MACS, "iterations", "took", "status"]
    rows: list[Row] = [head]
    for step in tested:
        after = _before(run) if step is base else step.manifest.data.get("after", {}) if step.manifest else {}
        lost = None if step is base else drop(base, step, main)
        rows.append(
            (
                step.name,
                *(_score(step.test, name) for name in shown),
                _points(lost),
                interval(lost),
                _score(step.after_convert, main),
                *([_score(step.after_distil, main)] if distilled else []),
                *(_count(after.get(key)) for key in ("params", "macs")),
                NONE if step.iterations is None else str(step.iterations),
                duration(step.seconds),
                _status(step),
            )
        )
    yield Table(rows)
    for step in tested:
        if step.why:
            yield Text(f"{step.name}: {step.why}.")
    yield Text(f'"just converted" and "points lost" are of {main}, the latter against {base.name}.')
    steps = [step for step in tested if main in step.test and step.counts]
    if len(steps) > 1:
        yield Pictures(list(_step_plots(steps, main)))


def _points(lost: Drop | None) -> str:
    return NONE if lost is None else f"{lost.points:.2f}"


def _score(scores: Mapping[str, float], metric: str) -> str:
    return percent(scores[metric]) if metric in scores else NONE


def _step_plots(steps: Sequence[Step], metric: str) -> Iterator[str]:
    """Of the steps that count: relearned nets alone, so that small losses show; then with what each was before."""
    learned = _steps_line(steps, "relearned", "tensor", [step.test.get(metric) for step in steps])
    raw = _steps_line(steps, "just converted", "other", [step.after_convert.get(metric) for step in steps])
    words = [step.name for step in steps]
    for lines in [[learned], [learned, raw]] if raw.points else [[learned]]:
        yield plot(lines, f"{metric}, %", "", words=words, logarithmic=False)


def _steps_line(steps: Sequence[Step], label: str, style: str, values: Sequence[float | None]) -> Line:
    known = [(index, 100 * value) for index, value in enumerate(values) if value is not None]
    return Line(known, label, style, dots=True, names=[f"{steps[index].name}: {value:.2f} %" for index, value in known])


def _status(step: Step) -> str:
    tries = f", {counted(step.attempts, 'attempt')}" if step.attempts > 1 else ""
    return step.status + tries


def _count(value: float | None) -> str:
    if value is None:
        return NONE
    for unit, size in (("G", 1e9), ("M", 1e6), ("k", 1e3)):
        if value >= size:
            return f"{value / size:.2f} {unit}"
    return f"{value:.0f}"


def _trade(run: Run, timed: Sequence[Pair]) -> Iterator[Block]:
    shown = metrics(run)
    if not shown or not timed:
        return
    pair, metric = timed[0], shown[0]
    found = trade(run, pair, metric)
    if len(found) < 2:
        return
    rows: list[Row] = [("net after", "times as fast", metric, "")]
    for point in found:
        how = "timed" if point.measured else "put together"
        rows.append((point.name, f"{point.speedup:.2f}x", percent(point.accuracy), how))
    yield Table(rows)
    line = Line(
        [(point.speedup, 100 * point.accuracy) for point in found],
        dots=True,
        names=[f"{point.name}: {point.speedup:.2f}x, {percent(point.accuracy)}" for point in found],
    )
    yield Pictures([plot([line], f"{metric}, %", "times as fast", logarithmic=False)])
    together = " Put together: merged stages take their time in the last merged net, others theirs in the first net."
    yield Text(f"With {pair.timing.label}.{'' if all(point.measured for point in found) else together}")


def _stages(pair: Pair) -> Iterator[Block]:
    for warning in pair.timing.data["warnings"]:
        yield Text(f"Warning: {warning}.")
    before, after = by_stage(pair.before), by_stage(pair.after)
    if not before or not after:
        yield Text("This engine does not say how long each layer takes.")
        return
    rows: list[Row] = [("stage", "before ms", "after ms", "times as fast", "95 % interval")]
    for stage in dict.fromkeys([*before, *after]):
        old, new = before.get(stage), after.get(stage)
        rows.append((stage, _ms(old), _ms(new), _times(old, new), NONE))
    totals = sum(before.values()), sum(after.values())
    rows.append(("total", ms(totals[0]), ms(totals[1]), _times(*totals), NONE))
    whole = pair.before["median_ms"], pair.after["median_ms"]
    rows.append(("whole pass", ms(whole[0]), ms(whole[1]), f"{pair.speedup:.2f}x", interval(pair)))
    yield Table(rows)
    shares = [_share(net) for net in (pair.before, pair.after)]
    if all(shares):
        yield Text(f"In tensor layers: {shares[0]} of the time before, {shares[1]} after.")
    yield Pictures([bars(_beside(pair))], tensor_key=True)


def _beside(pair: Pair) -> dict[str, Group]:
    """Each stage twice: before, and after."""
    before, after = (groups_of(net) for net in (pair.before, pair.after))
    found: dict[str, Group] = {}
    for stage in dict.fromkeys([*before, *after]):
        found[f"{stage} before"] = before.get(stage, Group())
        found[f"{stage} after"] = after.get(stage, Group())
    return found


def _share(net: Mapping[str, Any]) -> str:
    return "" if net["tensor_share"] is None else f"{100 * net['tensor_share']:.0f} %"


def _times(old: float | None, new: float | None) -> str:
    """How many times as large the old one is; nothing where one of them is nothing."""
    return f"{old / new:.2f}x" if old and new else NONE


def _ms(value: float | None) -> str:
    return NONE if value is None else ms(value)


def _costs(timed: Sequence[Pair]) -> Iterator[Block]:
    sizes = (
        ("peak memory of the process", "peak_rss_bytes"),
        (MEMORY, "memory_bytes"),
        ("its blobs, were buffers used again", "reused_bytes"),
        ("parameters", "param_bytes"),
        ("weights file", "storage_bytes"),
    )
    for pair in timed:
        rows: list[Row] = [(pair.timing.label, "before", "after", "")]
        for name, key in sizes:
            old, new = pair.before[key], pair.after[key]
            if old is not None and new is not None:
                rows.append((name, mib(old), mib(new), _times(old, new)))
        energy = [net["energy"]["mj"] for net in (pair.before, pair.after)]
        if None not in energy:
            rows.append(("energy of a pass", *(f"{value:.1f} mJ" for value in energy), _times(*energy)))
        if len(rows) > 1:
            yield Table(rows)
    for method in dict.fromkeys(pair.after["energy"]["method"] for pair in timed):
        yield Text(f"Energy: {method}.")


def _graph(run: Run) -> Iterator[Block]:
    found = panels_of(run)
    if not found:
        return
    passes: dict[str, list[str]] = {}
    for step in run.steps:
        if step.counts and step.manifest is not None:
            for one in step.manifest.data["rewrites"]:
                mine = passes.setdefault(one["stage"], [])
                if one["pass"] not in mine:
                    mine.append(one["pass"])
    changed = [panel for panel in found if panel.changed]
    yield Text(f"{counted(len(changed), 'stage')} of {len(found)} changed.")
    yield Stages(found, passes)


def _training(run: Run) -> Iterator[Block]:
    shown = metrics(run)
    rows: list[Row] = [("step", "iterations", "first loss", "last loss", "remarks")]
    pictures: list[str] = []
    for step in run.steps:
        for log in step.logs:
            if not log.iterations:
                continue
            name = f"{step.name}, {log.label}"
            first, last = (f"{log.loss[index][1]:.4g}" if log.loss else NONE for index in (0, -1))
            rows.append((name, str(log.iterations), first, last, _remarks(log)))
            pictures += _log_plots(name, log, shown)
    if len(rows) > 1:
        yield Table(rows)
        yield Text("First and last loss are means over a stretch of the log; a dashed line is where the rate fell.")
        yield Pictures(pictures)


def _remarks(log: Log) -> str:
    remarks = [f"rate fell at {', '.join(map(str, log.falls))}"] if log.falls else []
    if log.bad:
        remarks.append(f"{log.bad} losses are no number")
    return "; ".join(remarks) or NONE


def _log_plots(name: str, log: Log, shown: Sequence[str]) -> list[str]:
    found: list[str] = []
    if log.loss:
        found.append(plot([Line(log.loss)], f"{name}: loss", "iteration", marks=log.falls))
    metric = own_output(shown[0], list(log.tests)) if shown else ""
    tested = [(done, 100 * value) for done, value in log.tests.get(metric, ())]
    if len(tested) > 1:
        line = Line(tested, dots=True)
        found.append(plot([line], f"{name}: {metric}, %", "iteration", marks=log.falls, logarithmic=False))
    return found


def _ledger(run: Run) -> Iterator[Block]:
    rows: list[Row] = [("step", "copied", "folded", "to relearn", "dropped", "rebirth layers")]
    for step in run.steps:
        ledger = step.manifest.data.get("ledger") if step.manifest is not None else None
        if ledger is not None:
            layers = ledger["layers"]["relearned"]
            numbers = (str(ledger[key]) for key in ("copied", "folded", "relearned", "dropped"))
            rows.append((step.name, *numbers, ", ".join(layers) or NONE))
    if len(rows) > 1:
        yield Table(rows)
        yield Text("Layers with weights: kept to the byte, folded exactly, rebirth layers to learn again, and gone.")


def _machine(run: Run, timed: Sequence[Pair]) -> Iterator[Block]:
    rows: list[Row] = [("", "")]
    for key in ("rebirth", "started", "engines", "machine"):
        value = run.info.get(key)
        for name, fact in _facts(key, value):
            if fact not in (None, "", []):
                rows.append((name.removesuffix("_bytes").replace("_", " "), _fact(name, fact)))
    yield Table(rows)
    for pair in timed:
        cpu = pair.timing.data["machine"].get("cpu")
        if cpu != _cpu(run):
            yield Text(f"Timed with {pair.timing.label} on {spelled(cpu)}.")


def _facts(name: str, value: Any) -> Iterator[tuple[str, Any]]:
    """What is inside something, under the names on the way to it."""
    if not isinstance(value, Mapping):
        yield name, value
        return
    for key, one in value.items():
        yield from _facts(str(key) if name in ("engines", "machine") else f"{name} {key}", one)


def _fact(name: str, value: Any) -> str:
    size = as_number(value) if name.endswith("_bytes") else None
    return spelled(value) if size is None else mib(size)


def _cpu(run: Run) -> object:
    machine = run.info.get("machine")
    return machine.get("cpu") if isinstance(machine, Mapping) else None


def _repeat(run: Run) -> Iterator[Block]:
    lines = [str(printable(shlex.join(one["command"]))) for one in run.info.get("commands", [])]
    if lines:
        yield Code("\n".join(dict.fromkeys(lines)))
    if run.schedule:
        yield Code(run.schedule.rstrip("\n"), "The schedule")
