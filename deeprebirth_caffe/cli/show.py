"""How results look to people: a line a rewrite and a refusal, then a small table."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from typing import TYPE_CHECKING

import click

from deeprebirth_caffe.cli.layout import print_columns, say, terminal_width
from deeprebirth_caffe.cli.text import printable
from deeprebirth_caffe.wording import mib, without

if TYPE_CHECKING:
    from deeprebirth_caffe.nets.manifest import Manifest, RefitReport, Rewritten, Totals
    from deeprebirth_caffe.rewrite.pipeline import Refused

STYLE = {"exact": "green", "relearn": "yellow"}


def show_conversion(raw: Manifest, *, dry_run: bool = False, nothing: str = "nothing to merge") -> None:
    """Prints a manifest.

    Args:
        raw: the manifest of the result.
        dry_run: whether nothing was written.
        nothing: what to say where no rewrite was made.
    """
    manifest = printable(raw)
    weights = manifest.source.weights
    for rewrite in manifest.rewrites:
        text = f"{rewrite.stage}: {rewrite.pass_}: {_change(rewrite)}{_macs(rewrite)}"
        say(text, word=f"{rewrite.kind:<7}", colour=STYLE[rewrite.kind])
        for note in rewrite.notes:
            say(f"        {note}")
    show_refusals(manifest.refusals)
    if not manifest.rewrites:
        blind = not weights and any("give -w" in one.reason for one in manifest.refusals)
        click.echo(f"{nothing} without the net's weights; give them: -w" if blind else nothing)
    if manifest.check is not None and not manifest.check:
        click.echo("nothing exact to check")
    for check in manifest.check or ():
        agree = f"{check.blobs} blobs agree, the worst to {check.worst:.1e} ({check.worst_blob})"
        say(f"{', '.join(check.passes)}: {agree}", word="checked", colour="green")
    if manifest.refit is not None:
        show_refit(manifest.refit)
    click.echo()
    show_totals(manifest.before, manifest.after)
    ledger = manifest.ledger
    what = "weights of layers" if weights else "layers that have weights"
    click.echo()
    say(
        f"{what}: {ledger.copied} copied, {ledger.folded} folded, {ledger.relearned} to relearn, "
        f"{ledger.dropped} dropped"
    )
    for note in manifest.notes:
        say(f"note: {note}", indent=6)
    verb = "would write" if dry_run else "wrote"
    say(f"{verb} {manifest.outputs.directory}: {', '.join(dict.fromkeys(manifest.outputs.files))}")
    if not dry_run:
        _say_next(raw)


def say_next(*words: object) -> None:
    """Prints the command that comes next, fit for a shell."""
    click.echo(printable(f"then: {shlex.join(['rebirth', *map(str, words)])}"))


def _say_next(manifest: Manifest) -> None:
    """Prints what to do with a conversion: relearn it where that is needed, else time it."""
    outputs, folder = manifest.outputs, manifest.outputs.directory
    relearns = any(rewrite.kind == "relearn" for rewrite in manifest.rewrites) or bool(manifest.lr_mult)
    if relearns and outputs.solver:
        say_next("finetune", folder / outputs.solver)
    elif manifest.rewrites and (net := outputs.net or outputs.deploy):
        weights = ("-w", folder / outputs.weights) if outputs.weights else ()
        say_next("time", folder / net, *weights, "--vs", manifest.source.net)


def show_refit(report: RefitReport) -> None:
    """Prints the report of a refit: a line a layer and an output."""
    report = printable(report)
    width = max((len(row.layer) for row in report.layers), default=0)
    for row in report.layers:
        click.echo(
            f"{row.how:<7} {row.layer:<{width}}  error {_error(row.before)} to {_error(row.after)} "
            f"({row.rows} rows, {row.features} inputs)"
        )
    for left in report.left:
        click.echo(f"left    {left.layer}: {left.reason}")
    for output in report.outputs:
        agree = ""
        if output.agree_after is not None:
            agree = f"; the original's class for {output.agree_before:.1%} to {output.agree_after:.1%} of the images"
        click.echo(f"output  {output.blob}: error {_error(output.before)} to {_error(output.after)}{agree}")


def show_refusals(refusals: Sequence[Refused], word: str = "refused") -> None:
    """A line a reason; layers that are refused by one pass for the same reason share it."""
    groups: dict[tuple[str, str], list[Refused]] = {}
    for refusal in printable(refusals):
        groups.setdefault((refusal.pass_, refusal.reason), []).append(refusal)
    for (name, reason), found in groups.items():
        stages = some(list(dict.fromkeys(refusal.stage for refusal in found)), 4)
        layers = some([refusal.layer for refusal in found], 4)
        say(f"{stages}: {name}: {layers}: {reason}", word=word, colour="red")


def show_totals(before: Totals, after: Totals, names: Sequence[str] = ("before", "after")) -> None:
    """Layers, parameters, and multiply-adds and memory of one image, of two nets side by side."""
    rows = [("", names[0], names[1], "")]
    for label, key, form in (
        ("layers", "layers", str),
        ("parameters", "params", _count),
        ("file size", "params", _file_size),
        ("multiply-adds an image", "macs", _count),
        ("memory an image", "memory_bytes", mib),
    ):
        old, new = getattr(before, key), getattr(after, key)
        ratio = (
            f"{old / new:.2f}x less"
            if old and new and old > new
            else f"{new / old:.2f}x more"
            if old and new and new > old
            else ""
        )
        rows.append(
            (label, form(old) if old is not None else "unknown", form(new) if new is not None else "unknown", ratio)
        )
    print_columns(rows)
    left = [without(one.uncounted) for one in (before, after)]
    for name, words in [("both", left[0])] if left[0] == left[1] else zip(names, left, strict=True):
        if words:
            click.echo(f"{name} {words}")


def _change(rewrite: Rewritten) -> str:
    removed, made = rewrite.removed, rewrite.rebirth
    if not made:
        return f"{some(removed)} out" if removed else "inputs"
    return f"{some(removed)} -> {some(made)}" if removed else some(made)


def some(names: Sequence[str], limit: int | None = None) -> str:
    """Names the first ones and counts the others; fewer on a terminal, where they wrap, than in a pipe."""
    if limit is None:
        limit = 12 if terminal_width() is None else 4
    more = f" and {len(names) - limit} more" if len(names) > limit else ""
    return ", ".join(names[:limit]) + more


def _macs(rewrite: Rewritten) -> str:
    before, after = rewrite.macs_before, rewrite.macs_after
    if not before or not after or before == after:
        return ""
    return (
        f" ({before / after:.2f}x fewer multiply-adds)"
        if before > after
        else f" ({after / before:.2f}x the multiply-adds)"
    )


def _count(value: int) -> str:
    for unit, size in (("G", 10**9), ("M", 10**6), ("k", 10**3)):
        if value >= size:
            return f"{value / size:.2f} {unit}"
    return str(value)


def _file_size(params: int) -> str:
    return mib(4 * params)


def _error(value: float | None) -> str:
    return "unknown" if value is None else f"{value:.3f}"
