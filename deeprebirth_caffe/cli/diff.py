"""`rebirth diff`."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from deeprebirth_caffe.cli.reading import command as told
from deeprebirth_caffe.cli.text import print_json
from deeprebirth_caffe.options.looking import DiffOptions

if TYPE_CHECKING:
    from deeprebirth_caffe.commands.diff import Difference
    from deeprebirth_caffe.commands.inspect import LayerRow


@told("diff", DiffOptions)
def command(options: DiffOptions, as_json: bool) -> None:
    """Compare nets A and B by layer name: removed, new and changed layers, with shapes and costs."""
    from deeprebirth_caffe.commands.diff import diff

    found = diff(options.a, options.b, phase=options.phase, shapes=options.input_shapes)
    if as_json:
        print_json(found)
    else:
        _show(found)
    if options.exit_code and (found.removed or found.new or found.changed):
        click.get_current_context().exit(3)


def _show(found: Difference) -> None:
    from deeprebirth_caffe.cli.show import show_totals
    from deeprebirth_caffe.cli.text import printable

    found = printable(found)
    for row in found.removed:
        click.echo(click.style(f"- {_line(row)}", fg="red"))
    for row in found.new:
        click.echo(click.style(f"+ {_line(row)}", fg="green"))
    for change in found.changed:
        click.echo(click.style(f"~ {_line(change.a)}", fg="yellow"))
        click.echo(click.style(f"  {_line(change.b)}", fg="yellow"))
    counts = f"{len(found.removed)} removed, {len(found.new)} new, {len(found.changed)} changed"
    click.echo(f"{counts}, {found.same} the same\n")
    show_totals(found.totals.a, found.totals.b, ("A", "B"))


def _line(row: LayerRow) -> str:
    tops = ", ".join(
        f"{top} {'x'.join(map(str, shape)) if shape is not None else '?'}"
        for top, shape in zip(row.tops, row.top_shapes, strict=True)
    )
    macs = f", {row.macs:,} multiply-adds" if row.macs else ""
    params = f", {row.params:,} parameters" if row.params else ""
    return f"{row.name} ({row.type}) {', '.join(row.bottoms)} -> {tops}{params}{macs}"
