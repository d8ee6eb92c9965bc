"""`rebirth forward`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from deeprebirth_caffe.cli.help import Command
from deeprebirth_caffe.cli.options import (
    FILE,
    MAX_INT,
    NET,
    Size,
    chosen_engine,
    engine_options,
    json_option,
    picture_options,
    pictures,
    print_json,
    replace_option,
    shapes_option,
)


@click.command("forward", cls=Command)
@click.argument("net", type=NET)
@click.argument("more", nargs=-1, metavar="[IMAGES]...")
@click.option("-w", "--weights", type=FILE, required=True, help="The learned weights.")
@click.option("-i", "--images", multiple=True, help="A picture, a folder or a pattern; may be repeated.")
@click.option("--blob", "blobs", multiple=True, help="Write this blob, not labels; may be repeated.")
@click.option("-o", "--out", type=click.Path(dir_okay=False, path_type=Path), help="The .npz for --blob.")
@click.option("--labels", type=FILE, help="What the classes are called, a line a class.")
@click.option("--top", type=click.IntRange(1, MAX_INT), default=5, show_default=True, help="How many classes.")
@click.option("--resize", type=Size(), help="What pictures are resized to. [default: as the data, the mean or the net]")
@click.option("--crop", type=click.IntRange(0, 2**15), help="The middle square; 0: none. [default: the net's size]")
@picture_options
@shapes_option
@engine_options
@replace_option
@json_option
def command(
    net: Path,
    more: tuple[str, ...],
    weights: Path,
    images: tuple[str, ...],
    blobs: tuple[str, ...],
    out: Path | None,
    labels: Path | None,
    top: int,
    input_shapes: tuple[tuple[str, tuple[int, ...]], ...],
    force: bool,
    as_json: bool,
    **rest: Any,
) -> None:
    """Run pictures through NET: the classes with the highest scores, or a blob.

    NET is a deploy.prototxt, or a train_val.prototxt, whose data layer for TEST then says how pictures are prepared.
    """
    from deeprebirth_caffe.cli.data_progress import shown_progress
    from deeprebirth_caffe.cli.progress import note
    from deeprebirth_caffe.cli.text import printable
    from deeprebirth_caffe.commands.forward import ForwardOptions, forward

    if not images and not more:
        raise click.UsageError("no picture given: -i IMAGE")
    prepare = pictures(rest)
    options = ForwardOptions(
        net,
        weights,
        (*images, *more),
        blobs,
        out,
        labels,
        top,
        prepare,
        chosen_engine(**rest),
        dict(input_shapes),
        force,
    )
    with shown_progress() as show:
        result = forward(options, note, show)
    if as_json:
        print_json(result)
        return
    for one in printable(result["inputs"]):
        if "top" in one:
            click.echo(one["file"])
            for place in one["top"]:
                score = "nan" if place["score"] is None else f"{place['score']:.4f}"
                click.echo(f"  {score}  {place['label']}")
    for name, shape in result.get("blobs", {}).items():
        click.echo(printable(f"{name}: {'x'.join(map(str, shape))}"))
    if out is not None:
        click.echo(printable(f"wrote {out}"))
