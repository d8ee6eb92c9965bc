"""`rebirth doctor`."""

from __future__ import annotations

import click

from deeprebirth_caffe.cli.options import caffe_option, json_option, print_json


@click.command("doctor")
@caffe_option
@json_option
def command(caffe: str | None, as_json: bool) -> None:
    """Say which engines and tools are found, their versions, and what to type for those missing."""
    from deeprebirth_caffe.workflows.doctor import doctor

    found = doctor(caffe)
    if as_json:
        print_json(found)
        return
    from deeprebirth_caffe.cli.show import print_columns
    from deeprebirth_caffe.cli.text import printable

    rows = []
    for one in printable(found["findings"]):
        facts = ", ".join(part for part in (one["version"], one["where"]) if part)
        rest = facts if one["found"] else f"for {one['purpose']}: {one['fix']}"
        rows.append(("ok" if one["found"] else "missing", one["name"], rest))
    print_columns(rows, left=3)
