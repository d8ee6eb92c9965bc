"""`rebirth test`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from deeprebirth_caffe.cli.help import Command
from deeprebirth_caffe.cli.options import (
    FILE,
    MAX_INT,
    chosen_engine,
    engine_options,
    json_option,
    print_json,
    replace_option,
)


class Iterations(click.ParamType):  # type: ignore[type-arg, unused-ignore]
    """A number, or all."""

    name = "N|all"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        if isinstance(value, int):
            return value
        text = "0" if value == "all" else str(value)
        if not (text.isascii() and text.isdigit() and int(text) <= MAX_INT):
            self.fail(f"{value!r} is not a number of batches, nor all", param, ctx)
        return int(text)


@click.command("test", cls=Command)
@click.argument("net", type=FILE)
@click.option("-w", "--weights", type=FILE, required=True, help="The learned weights.")
@click.option(
    "--iterations",
    type=Iterations(),
    default=50,
    show_default=True,
    help="How many batches; all (or 0): each record once.",
)
@engine_options
@click.option(
    "--per-image", type=click.Path(dir_okay=False, path_type=Path), help="Write a CSV table with a row an image."
)
@click.option("--stage", "stages", multiple=True, help="A stage of NetState; may be repeated.")
@click.option("--level", type=click.IntRange(0, MAX_INT), default=0, help="The level of NetState.")
@replace_option
@json_option
def command(
    net: Path,
    weights: Path,
    iterations: int,
    per_image: Path | None,
    stages: tuple[str, ...],
    level: int,
    force: bool,
    as_json: bool,
    **engine: Any,
) -> None:
    """Run NET over its test data and average every output blob, as caffe test does; top-1 and top-5 besides."""
    from deeprebirth_caffe.cli.data_progress import shown_progress
    from deeprebirth_caffe.cli.progress import note, spell_score
    from deeprebirth_caffe.cli.text import printable
    from deeprebirth_caffe.commands.test import TestOptions, test
    from deeprebirth_caffe.wording import counted

    options = TestOptions(net, weights, iterations, chosen_engine(**engine), per_image, stages, level, force)
    with shown_progress() as show:
        result = test(options, note, show)
    if as_json:
        print_json(result)
        return
    for name, value in result["outputs"].items():
        click.echo(printable(f"{name} = {spell_score(value)}"))
    if "images" in result:
        click.echo(f"top-1 {result['top1']:.4%}, top-5 {result['top5']:.4%} of {counted(result['images'], 'image')}")
    click.echo(f"{result['engine']}: {counted(result['iterations'], 'batch')}")
    if per_image is not None:
        click.echo(printable(f"wrote {per_image}"))
