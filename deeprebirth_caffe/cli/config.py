"""`rebirth config`."""

from __future__ import annotations

from pathlib import Path

import click

from deeprebirth_caffe.cli.reading import command as told
from deeprebirth_caffe.cli.text import print_json, printable
from deeprebirth_caffe.options.looking import ConfigListOptions, ConfigShowOptions


@click.group("config")
def command() -> None:
    """Schedules that come with rebirth: the paper's own and the best known, to run or to start from.

    `rebirth config show googlenet -o googlenet.yaml` writes one, `rebirth run googlenet.yaml` runs it.
    """


@told("list", ConfigListOptions, group=command)
def list_(options: ConfigListOptions, as_json: bool) -> None:
    """List the schedules."""
    from deeprebirth_caffe.commands.shipped import Configs, configs

    if as_json:
        print_json(Configs(configs=configs()))
        return
    from deeprebirth_caffe.cli.layout import print_columns

    print_columns([(config.name, config.description) for config in configs()], left=2)


@told("show", ConfigShowOptions, json=False, group=command)
def show(options: ConfigShowOptions) -> None:
    """Print the schedule NAME, or write it into a file for `rebirth run`."""
    from deeprebirth_caffe.commands.shipped import config_for, write_config

    if options.out is None:
        click.echo(config_for(options.name, f"{Path(options.name).stem}.yaml"), nl=False)
        return
    write_config(options.name, options.out, force=options.force)
    click.echo(
        printable(f"wrote {options.out}: its net and weights are named in it; rebirth run --net and -w name others")
    )
