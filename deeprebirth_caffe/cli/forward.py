"""`rebirth forward`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from deeprebirth_caffe.cli.help import Command
from deeprebirth_caffe.cli.options import (
    FILE,
    MAX_INT,
    Number,
    Size,
    chosen_engine,
    engine_options,
    json_option,
    print_json,
    replace_option,
    shapes_option,
)


class Means(click.ParamType):  # type: ignore[type-arg, unused-ignore]
    """A number, or one for each channel."""

    name = "B,G,R"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        if isinstance(value, tuple):
            return value
        try:
            found = tuple(float(one) for one in str(value).split(","))
        except ValueError:
            found = ()
        if len(found) not in (1, 3) or not all(abs(one) < 1e38 for one in found):
            self.fail(f"{value!r} is not one number or three, as 104,117,123", param, ctx)
        return found


@click.command("forward", cls=Command)
@click.argument("net", type=FILE)
@click.argument("more", nargs=-1, metavar="[IMAGES]...")
@click.option("-w", "--weights", type=FILE, required=True, help="The learned weights.")
@click.option("-i", "--images", multiple=True, help="A picture, a folder or a pattern; may be repeated.")
@click.option("--blob", "blobs", multiple=True, help="Write this blob, not labels; may be repeated.")
@click.option("-o", "--out", type=click.Path(dir_okay=False, path_type=Path), help="The .npz for --blob.")
@click.option("--labels", type=FILE, help="What the classes are called, a line a class.")
@click.option("--top", type=click.IntRange(1, MAX_INT), default=5, show_default=True, help="How many classes.")
@click.option("--mean", type=FILE, help="A mean picture (binaryproto) to take off.")
@click.option("--mean-value", type=Means(), help="Numbers to take off: blue, green, red, or one for all.")
@click.option("--scale", type=Number(), help="What values are multiplied by then.")
@click.option("--resize", type=Size(), help="What pictures are resized to. [default: as the data, the mean or the net]")
@click.option("--crop", type=click.IntRange(0, 2**15), help="The middle square; 0: none. [default: the net's size]")
@click.option("--transform-from", type=FILE, help="Prepare pictures as this net's data layer for TEST does.")
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
    mean: Path | None,
    mean_value: tuple[float, ...] | None,
    scale: float | None,
    resize: tuple[int, int] | None,
    crop: int | None,
    transform_from: Path | None,
    input_shapes: tuple[tuple[str, tuple[int, ...]], ...],
    force: bool,
    as_json: bool,
    **engine: Any,
) -> None:
    """Run pictures through NET: the classes with the highest scores, or a blob.

    NET is a deploy.prototxt, or a train_val.prototxt, whose data layer for TEST then says how pictures are prepared.
    """
    from deeprebirth_caffe.cli.data_progress import shown_progress
    from deeprebirth_caffe.cli.progress import note
    from deeprebirth_caffe.cli.text import printable
    from deeprebirth_caffe.workflows.forward import ForwardOptions, forward
    from deeprebirth_caffe.workflows.pictures import PictureOptions

    if not images and not more:
        raise click.UsageError("no picture given: -i IMAGE")
    if mean is not None and mean_value:
        raise click.UsageError("--mean and --mean-value exclude each other")
    prepare = PictureOptions(mean, mean_value or (), scale, resize, crop, transform_from)
    options = ForwardOptions(
        net,
        weights,
        (*images, *more),
        blobs,
        out,
        labels,
        top,
        prepare,
        chosen_engine(**engine),
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
                click.echo(f"  {place['score']:.4f}  {place['label']}")
    for name, shape in result.get("blobs", {}).items():
        click.echo(printable(f"{name}: {'x'.join(map(str, shape))}"))
    if out is not None:
        click.echo(printable(f"wrote {out}"))
