"""How timings look to people: figures, ratios, bars, costs, the machine."""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping, Sequence
from pathlib import PurePath
from typing import TYPE_CHECKING

import click

from deeprebirth_caffe.cli.layout import cut, print_columns, say, terminal_width
from deeprebirth_caffe.cli.text import printable
from deeprebirth_caffe.wording import mib, ms

if TYPE_CHECKING:
    from deeprebirth_caffe.bench.breakdown import Group
    from deeprebirth_caffe.commands.time import TimedNet, Times

BAR, SHORTEST = 24, 8
"""Letters of the longest bar, and what is left of it in a narrow window."""


def show_times(result: Times, by: str) -> None:
    """Prints a result."""
    result = printable(result)
    nets = result.nets
    heads = _heads([str(net.net) for net in nets])
    _figures(nets, heads)
    if (batch := nets[0].batch) not in (1, None):
        click.echo(f"times are of a pass of {batch} images")
    for ratio in result.ratios:
        say(ratio.line(), indent=4)
    _groups(nets, heads, by)
    _costs(nets, heads, result.protocol.fit_bytes)
    click.echo()
    _machine(result)
    for net in nets:
        for note in net.notes:
            say(f"note: {net.net}: {note}", indent=6)
    for warning in result.warnings:
        say(f"{warning}", word="warning:", colour="yellow")


def _heads(paths: Sequence[str]) -> list[str]:
    """Names over columns: paths without the folder that all of them share."""
    folders = {PurePath(path).parent for path in paths}
    if len(folders) < 2 or len({folder.is_absolute() for folder in folders}) > 1:
        return list(paths)
    shared = os.path.commonpath(folders)
    return [os.path.relpath(path, shared or ".") for path in paths]


def _figures(nets: Sequence[TimedNet], heads: Sequence[str]) -> None:
    rows = [("net", "best run ms", "median ms", "p10 ms", "p90 ms", "spread", "processor ms", "in tensor layers")]
    for head, net in zip(heads, nets):
        share = net.tensor_share
        rows.append(
            (
                head,
                ms(net.best_ms),
                ms(net.median_ms),
                ms(net.p10_ms),
                ms(net.p90_ms),
                f"{100 * net.spread:.1f} %",
                "unknown" if net.cpu_ms is None else ms(net.cpu_ms),
                "unknown" if share is None else f"{100 * share:.1f} %",
            )
        )
    print_columns(rows, turn=True)


def _groups(nets: Sequence[TimedNet], heads: Sequence[str], by: str) -> None:
    tables = [net.groups(by) for net in nets]
    if not any(tables):
        click.echo("\nthis engine does not say how long each layer takes")
        return
    names = list(dict.fromkeys(name for table in tables for name in table))
    longest = max((group.ms for table in tables for group in table.values()), default=0.0)
    room = _bar_room(max(map(len, names)), len(nets))
    rows: list[Sequence[str]] = [(by, *(cell for head in heads for cell in ("ms", cut(head, room))))]
    for name in names:
        cells = []
        for table in tables:
            group = table.get(name)
            cells += ["", ""] if group is None else [ms(group.ms), bar(group, longest, room)]
        rows.append((name, *cells))
    totals = [sum(group.ms for group in table.values()) for table in tables]
    rows.append(("total", *(cell for total in totals for cell in (ms(total) if total else "", ""))))
    click.echo()
    _print_bars(rows)
    solid, light = _marks()
    click.echo(f"{solid} tensor layers (weights in a matrix product), {light} the others")


def _print_bars(rows: Sequence[Sequence[str]]) -> None:
    """Names to the left, times to the right, bars to the left; a bar is not cut."""
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    for row in rows:
        cells = [
            cell.rjust(width) if column % 2 else cell.ljust(width)
            for column, (cell, width) in enumerate(zip(row, widths, strict=True))
        ]
        click.echo("  ".join(cells).rstrip())


def _marks() -> tuple[str, str]:
    encoding = (sys.stdout.encoding or "").lower().replace("-", "")
    return ("█", "░") if encoding.startswith("utf") else ("#", "-")


def _bar_room(names: int, nets: int) -> int:
    """How long bars may be, so that a row is one line of the window; in a pipe a row may be as long as it likes."""
    width = terminal_width()
    if width is None:
        return BAR
    return max(SHORTEST, min(BAR, (width - names) // nets - len("  1234.5  ")))


def bar(group: Group, longest: float, room: int = BAR) -> str:
    """Its tensor layers solid, the others light."""
    if not longest:
        return ""
    solid, light = _marks()
    whole = round(room * group.ms / longest)
    tensor = round(whole * group.tensor_ms / group.ms) if group.ms else 0
    return solid * tensor + light * (whole - tensor)


def _costs(nets: Sequence[TimedNet], heads: Sequence[str], fit_bytes: int | None) -> None:
    titles = ["MiB", "peak memory", "an image", "reused", "parameters", "file", "with heads", "energy"]
    if fit_bytes is not None:
        titles.append(f"batch in {mib(fit_bytes)}")
    rows = [titles]
    sizes = ("peak_rss", "memory", "reused", "param", "storage", "storage_with_heads")
    for head, net in zip(heads, nets):
        energy = net.energy.mj
        bytes_ = [getattr(net, f"{size}_bytes") for size in sizes]
        row = [head, *("-" if size is None else f"{size / 2**20:.2f}" for size in bytes_)]
        row.append("-" if energy is None else f"{energy:.1f} mJ")
        if fit_bytes is not None:
            row.append("-" if net.fit_batch is None else str(net.fit_batch))
        rows.append(row)
    click.echo()
    print_columns(rows, turn=True)
    for method in dict.fromkeys(net.energy.method for net in nets):
        say(f"energy: {method}")


def _machine(result: Times) -> None:
    machine, plan = result.machine, result.protocol
    first = result.nets[0]
    runtime = first.runtime
    core = runtime.get("blas.core") or runtime.get("blas.libraries") or ""
    words = [
        f"{first.engine} {runtime.get('version', '')}".strip(),
        f"{core} kernels{_chosen(runtime)}" if core else "",
        f"{first.threads} threads" if first.threads else "",
        f"on {first.on}: {machine.cpu or 'unknown processor'}",
        f"{machine.cores} cores" if machine.cores else "",
        f"governor {', '.join(machine.governors)}" if machine.governors else "",
        _range(machine.before.mhz, machine.after.mhz, "MHz"),
        _range(machine.before.celsius, machine.after.celsius, "degrees"),
    ]
    say(", ".join(word for word in words if word), indent=4)
    click.echo(
        f"{plan.runs} runs of {plan.iterations} passes after {plan.warmup} that do not count, "
        f"batch {' and '.join(dict.fromkeys(str(net.batch) for net in result.nets))}, phase TEST"
    )


def _chosen(runtime: Mapping[str, str]) -> str:
    """Who chose the kernels, where OpenBLAS did not."""
    by = runtime.get("blas.chosen_by")
    if by == "rebirth":
        return f" (chosen by rebirth; OpenBLAS picks {runtime.get('blas.openblas_picks')})"
    return " (set by OPENBLAS_CORETYPE)" if by == "user" else ""


def _range(before: Mapping[str, float], after: Mapping[str, float], unit: str) -> str:
    """The highest value before and after."""
    highest, then = (max(state.values(), default=None) for state in (before, after))
    return "" if highest is None or then is None else f"{highest:.0f} to {then:.0f} {unit}"
