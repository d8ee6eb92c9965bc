"""`rebirth inspect`."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from deeprebirth_caffe.cli.reading import command as told
from deeprebirth_caffe.cli.text import print_json
from deeprebirth_caffe.options.looking import InspectOptions

if TYPE_CHECKING:
    from deeprebirth_caffe.commands.inspect import Inspection


@told("inspect", InspectOptions)
def command(options: InspectOptions, as_json: bool) -> None:
    """Show NET's layers, shapes, parameters, multiply-adds, memory and stages, and what could merge and why not."""
    from deeprebirth_caffe.commands.inspect import inspect

    found = inspect(
        options.net, options.weights, phase=options.phase, stages=options.stages, shapes=options.input_shapes
    )
    if as_json:
        print_json(found)
        return
    _show(found)


def _show(found: Inspection) -> None:
    from deeprebirth_caffe.cli.layout import print_columns, say
    from deeprebirth_caffe.cli.show import show_refusals, some
    from deeprebirth_caffe.cli.text import printable
    from deeprebirth_caffe.wording import mib, without

    found = printable(found)
    rows = [("stage", "layer", "type", "output", "parameters", "multiply-adds an image")]
    for layer in found.layers:
        shapes = [("x".join(map(str, shape)) or "scalar") if shape is not None else "?" for shape in layer.top_shapes]
        figures = _number(layer.params), _number(layer.macs)
        rows.append((layer.stage, layer.name, layer.type, " ".join(shapes), *figures))
    print_columns(rows, left=3, spare=(0,))
    click.echo()
    say(
        f"{len(found.layers)} layers in {found.state.phase}, {_number(found.params) or '0'} parameters, "
        f"{_number(found.macs) or '0'} multiply-adds an image, {mib(found.memory_bytes)} of memory an image"
    )
    say(f'batch {found.batch}, of which Caffe logs "Memory required for data": {mib(found.memory_required_for_data)}')
    if found.uncounted:
        click.echo(f"at least: {without(found.uncounted)}")
    for note in found.notes:
        say(f"note: {note}", indent=6)
    for reason in found.unknown:
        say(f"shape unknown: {reason}")
    for merge in found.merges:
        say(f"could merge {merge.stage}: {merge.pass_} ({merge.kind}): {some(merge.removed)}")
    show_refusals(found.refusals, "cannot merge")


def _number(value: int | None) -> str:
    return "?" if value is None else f"{value:,}" if value else ""
