"""`rebirth config`."""

from __future__ import annotations

from pathlib import Path

import click

from deeprebirth_caffe.cli.options import json_option, print_json, replace_option
from deeprebirth_caffe.cli.text import printable


@click.group("config")
def command() -> None:
    """Schedules that come with rebirth: the paper's own and the best known, to run or to start from.

    `rebirth config show googlenet -o googlenet.yaml` writes one, `rebirth run googlenet.yaml` runs it.
    """


@command.command("list")
@json_option
def list_(as_json: bool) -> None:
    """List the schedules."""
    from deeprebirth_caffe.commands.shipped import configs

    known = [(config.name, config.description) for config in configs()]
    if as_json:
        print_json({"version": 1, "configs": [{"name": name, "description": text} for name, text in known]})
        return
    from deeprebirth_caffe.cli.layout import print_columns

    print_columns(known, left=2)


@command.command("show")
@click.argument("name")
@click.option("-o", "--out", type=click.Path(dir_okay=False, path_type=Path), help="Write it here. [default: print it]")
@replace_option
def show(name: str, out: Path | None, force: bool) -> None:
    """Print the schedule NAME, or write it into a file for `rebirth run`."""
    from deeprebirth_caffe.commands.shipped import config_for, write_config

    if out is None:
        click.echo(config_for(name, f"{Path(name).stem}.yaml"), nl=False)
        return
    write_config(name, out, force=force)
    click.echo(printable(f"wrote {out}: its net and weights are named in it; rebirth run --net and -w name others"))
