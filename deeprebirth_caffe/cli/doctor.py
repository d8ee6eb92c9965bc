"""`rebirth doctor`."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import click

from deeprebirth_caffe.cli.reading import command as told
from deeprebirth_caffe.cli.text import print_json
from deeprebirth_caffe.options.looking import DoctorOptions

if TYPE_CHECKING:
    from deeprebirth_caffe.commands.dialects import Evidence

MOST = 5
"""How many places of one kind are shown."""


@told("doctor", DoctorOptions)
def command(options: DoctorOptions, as_json: bool) -> None:
    """Say which engines and tools are found, their versions, and what to type for those missing.

    With NET: say which fork of Caffe it is written for, and by what that is known.
    """
    if options.net is not None:
        _dialects(options.net, as_json)
        return
    from deeprebirth_caffe.commands.doctor import doctor

    found = doctor(options.caffe)
    if as_json:
        print_json(found)
        return
    from deeprebirth_caffe.cli.layout import print_columns
    from deeprebirth_caffe.cli.text import printable

    rows = []
    for one in printable(found.findings):
        facts = ", ".join(part for part in (one.version, one.where) if part)
        rest = facts if one.found else f"for {one.purpose}: {one.fix}"
        rows.append(("ok" if one.found else "missing", one.name, rest))
    print_columns(rows, left=3)


def _dialects(net: Path, as_json: bool) -> None:
    from deeprebirth_caffe.commands.dialects import dialects

    found = dialects(net)
    if as_json:
        print_json(found)
        return
    from deeprebirth_caffe.cli.text import printable

    found, name = printable(found), printable(str(net))
    for layer in found.python_layers[:MOST]:
        click.echo(f"{layer.where}: {layer.layer} runs the code of {layer.module}.{layer.class_} in real Caffe")
    if len(found.python_layers) > MOST:
        click.echo(f"and {len(found.python_layers) - MOST} more layers run code")
    if found.python_layers:
        click.echo("read that code before you allow it: --python-layers, or REBIRTH_PYTHON_LAYERS=1 (docs/security.md)")
    if found.plain:
        click.echo(f"{name}: plain Caffe")
        return
    for dialect in found.dialects:
        click.echo(f"{name}: {dialect.title}, by {', '.join(dialect.explains)}")
    groups: dict[tuple[str, str], list[Evidence]] = {}
    for one in found.evidence:
        groups.setdefault((one.kind, one.what), []).append(one)
    for (kind, what), places in groups.items():
        means = places[0].means or "nobody here knows it"
        click.echo(f"{kind} {what} ({means}): {_verdict(places[0])}")
        for one in places[:MOST]:
            click.echo(f"    {one.where}: {one.layer or 'the net'}")
        if len(places) > MOST:
            click.echo(f"    and {len(places) - MOST} more")
    if found.portable:
        click.echo(f"`rebirth convert --portable` says {_layers(found.portable)} in plain Caffe")
    reasons: dict[str, None] = dict.fromkeys(left.reason for left in found.not_portable)
    for reason in reasons:
        click.echo(f"not portable: {reason}")


def _verdict(one: Evidence) -> str:
    if not one.understood:
        return "goes through unchanged, and nothing next to it is merged"
    return "merged as plain Caffe's" if one.merges else "shapes and costs known, not merged"


def _layers(names: Sequence[str]) -> str:
    more = f" and {len(names) - MOST} more" if len(names) > MOST else ""
    return ", ".join(names[:MOST]) + more
