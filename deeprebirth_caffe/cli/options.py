"""Options and outputs that several commands share."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click
from click.core import ParameterSource

from deeprebirth_caffe.cli.streams import PathOrDash

if TYPE_CHECKING:
    from deeprebirth_caffe.engines.base import Engine
    from deeprebirth_caffe.engines.choose import EngineOptions
    from deeprebirth_caffe.inputs.pictures import PictureOptions
    from deeprebirth_caffe.nets.solver import SolverOptions
    from deeprebirth_caffe.relearn.calibration import CalibrationOptions

Command = TypeVar("Command", bound=Callable[..., Any])

MAX_INT = 2**31 - 1
"""The largest number that Caffe counts to."""

PYTHON_LAYERS = "REBIRTH_PYTHON_LAYERS"
"""The environment variable that says what `--python-layers` says."""

FILE = PathOrDash(exists=True, dir_okay=False, why="this file is read more than once, or from where it lies; save it")
NET = PathOrDash(exists=True, dir_okay=False)
"""A net, which may come through standard input."""
FOLDER = PathOrDash(file_okay=False, why="a folder is written, with several files")
OUT = click.Path(path_type=Path)
"""A file to write; - is standard output."""

caffe_place_option = click.option(
    "--caffe",
    metavar="PATH",
    help="Where real Caffe is: its prefix, its binary or a Python with pycaffe. [env: REBIRTH_CAFFE]",
)


def _allow_python_layers(context: click.Context, _: click.Parameter, asked: bool) -> None:
    """Opens the gate of `engines.caffe.python_layers` while a command lasts, for what it starts too."""
    if asked:
        before = os.environ.get(PYTHON_LAYERS)
        os.environ[PYTHON_LAYERS] = "1"
        context.call_on_close(lambda: _put_back(PYTHON_LAYERS, before))


def _put_back(name: str, value: str | None) -> None:
    if value is None:
        os.environ.pop(name, None)
    else:
        os.environ[name] = value


python_layers_option = click.option(
    "--python-layers",
    is_flag=True,
    expose_value=False,
    callback=_allow_python_layers,
    help="Let real Caffe run the code of the net's Python layers. [env: REBIRTH_PYTHON_LAYERS=1]",
)


def caffe_option(function: Command) -> Command:
    """Adds what every command has that starts real Caffe: where it is, and whether Python layers may run in it."""
    return caffe_place_option(python_layers_option(function))


json_option = click.option("--json", "as_json", is_flag=True, help="Print JSON instead (docs/json.md).")
fixed_size_option = click.option(
    "--fixed-size",
    is_flag=True,
    help="Images always have the size in the file: make exact rewrites that hold at that size alone (docs/exact.md).",
)
force_option = click.option("--force", is_flag=True, help="Write into an output directory that is not empty.")

replace_option = click.option("--force", is_flag=True, help="Replace the file if it is there.")


class Number(click.FloatRange):
    """A number that Caffe's single precision can hold, within a range."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        found = super().convert(value, param, ctx)
        if not abs(found) < 1e38:
            self.fail(f"{value!r} is not a number that Caffe can use", param, ctx)
        return found


POSITIVE = Number(min=0, min_open=True)
COUNT = click.IntRange(1, MAX_INT)


class InputShape(click.ParamType):  # type: ignore[type-arg, unused-ignore]
    """BLOB=C,H,W."""

    name = "BLOB=C,H,W"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        if isinstance(value, tuple):
            return value
        blob, _, dims = str(value).rpartition("=")
        try:
            shape = tuple(int(dim) for dim in dims.replace("x", ",").split(","))
        except ValueError:
            shape = ()
        if not blob or not shape or min(shape) < 1 or max(shape) > MAX_INT:
            self.fail(f"{value!r} is not of the form data=3,224,224", param, ctx)
        return blob, shape


class Size(click.ParamType):  # type: ignore[type-arg, unused-ignore]
    """N or HxW."""

    name = "N|HxW"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        if isinstance(value, tuple):
            return value
        numbers = str(value).lower().split("x")
        if len(numbers) > 2 or not all(one.isascii() and one.isdigit() and 0 < int(one) < 2**15 for one in numbers):
            self.fail(f"{value!r} is not a size: 256 or 240x320, height first, at most 32767", param, ctx)
        return int(numbers[0]), int(numbers[-1])


def shapes_option(function: Command) -> Command:
    """Adds `--input-shape`."""
    return click.option(
        "--input-shape",
        "input_shapes",
        type=InputShape(),
        multiple=True,
        help="Shape of a data layer's blob without the batch, where the file does not say it; may be repeated.",
    )(function)


def caffe_engine(path: str | None) -> Engine:
    """Real Caffe, or an error that says how to get it."""
    from deeprebirth_caffe.engines import engine

    return engine("caffe", caffe=path)


def print_json(data: Any) -> None:
    """JSON on stdout."""
    from deeprebirth_caffe.wording import json_bytes

    # Bytes: JSON is UTF-8, whatever the terminal's encoding is.
    click.echo(json_bytes(data), nl=False)


def engine_options(function: Command) -> Command:
    """Adds the options that choose an engine and say how it runs; `chosen_engine` reads them."""
    for option in reversed(
        [
            click.option(
                "--engine",
                type=click.Choice(["auto", "caffe", "torch"]),
                default="auto",
                show_default=True,
                help="Real Caffe, or the embedded one; auto: the faster one that runs the net.",
            ),
            click.option("--device", type=click.Choice(["cpu", "cuda", "mps"]), help="Of the embedded engine."),
            click.option("--precision", type=click.Choice(["fp32", "bf16"]), help="Of the embedded engine."),
            click.option("--threads", type=click.IntRange(1, 1024), help="Of either. [default: as many as it takes]"),
            caffe_option,
        ]
    ):
        function = option(function)
    return function


def chosen_engine(
    engine: str, device: str | None, precision: str | None, threads: int | None, caffe: str | None
) -> EngineOptions:
    """What `engine_options` say."""
    from deeprebirth_caffe.engines.choose import EngineOptions

    return EngineOptions(engine, device, precision, threads, caffe)


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


def picture_options(function: Command) -> Command:
    """Adds how pictures are prepared; `pictures` reads them."""
    for option in reversed(
        [
            click.option(
                "--mean-value", type=Means(), help="Numbers to take off pixels: blue, green, red, or one for all."
            ),
            click.option(
                "--mean-file", "--mean", "mean", type=FILE, help="Or a mean picture (binaryproto) to take off."
            ),
            click.option("--scale", type=Number(), help="What values are multiplied by then."),
            click.option("--raw-pixels", "raw", is_flag=True, help="Take pixels as they are, from 0 to 255."),
            click.option(
                "--transform-from", type=FILE, help="Prepare pictures as this net's data layer for TEST does."
            ),
        ]
    ):
        function = option(function)
    return function


def pictures(given: dict[str, Any]) -> PictureOptions:
    """What `picture_options` say, and resize and crop, taken out of the arguments of a command."""
    from deeprebirth_caffe.inputs.pictures import PictureOptions

    names = ("mean", "mean_value", "scale", "raw", "transform_from", "resize", "crop")
    said = {name: given.pop(name) for name in names if name in given}
    if said["mean"] is not None and said["mean_value"]:
        raise click.UsageError("--mean-file and --mean-value exclude each other")
    if said["raw"] and (said["mean"] is not None or said["mean_value"] or said["scale"] is not None):
        raise click.UsageError("--raw-pixels excludes --mean-value, --mean-file and --scale")
    return PictureOptions(**{**said, "mean_value": said["mean_value"] or ()})


def calibrate_options(samples: int, what: str) -> Callable[[Command], Command]:
    """Adds `--calibrate` and how its images are taken; `calibration` reads them.

    Args:
        samples: how many, by default.
        what: what the help says the source is for.
    """

    def add(function: Command) -> Command:
        for option in reversed(
            [
                click.option(
                    "--calibrate",
                    metavar="SOURCE",
                    help=f"{what}: LMDB, pictures, a list, own (the net's data layer in TRAIN) or own-test.",
                ),
                click.option(
                    "--samples",
                    type=click.IntRange(1, 1_000_000),
                    default=samples,
                    show_default=True,
                    help="Images of it.",
                ),
                picture_options,
            ]
        ):
            function = option(function)
        return function

    return add


def calibration(given: dict[str, Any], engine: EngineOptions) -> CalibrationOptions | None:
    """What `calibrate_options` say, taken out of the arguments of a command; None without a source.

    Args:
        given: the arguments.
        engine: what runs the net.
    """
    from deeprebirth_caffe.inputs.pictures import PictureOptions
    from deeprebirth_caffe.relearn.calibration import OWN_PHASES, CalibrationOptions

    source, samples, prepared = given.pop("calibrate"), given.pop("samples"), pictures(given)
    if source is None and prepared != PictureOptions():
        raise click.UsageError("how pictures are prepared is said of --calibrate's; give it too")
    if source in OWN_PHASES and prepared != PictureOptions():
        raise click.UsageError(f"--calibrate {source} is prepared as the net's data layer says; leave the rest out")
    chosen = click.get_current_context().get_parameter_source("samples")
    if source is None and chosen is not ParameterSource.DEFAULT:
        raise click.UsageError("--samples says how many of --calibrate's images count; give it too")
    return None if source is None else CalibrationOptions(source, samples, prepared, engine)


def relearn_options(function: Command) -> Command:
    """Adds what the solver and the data layers of a rewritten net are told; `solver_options` reads it."""
    for option in reversed(
        [
            click.option("--batch", type=COUNT, help="Batch size of the training data layers."),
            click.option(
                "--base-lr", type=POSITIVE, default=0.001, show_default=True, help="The solver's learning rate."
            ),
            click.option(
                "--stepsize",
                type=COUNT,
                help="Iterations until it falls, and falls again. [default: 4/9 of --max-iter, as in the paper]",
            ),
            click.option(
                "--gamma", type=POSITIVE, default=0.1, show_default=True, help="What it is multiplied by then."
            ),
            click.option(
                "--momentum", type=Number(0, 1, max_open=True), default=0.9, show_default=True, help="Of SGD."
            ),
            click.option("--max-iter", type=COUNT, default=90_000, show_default=True, help="Iterations in all."),
            click.option(
                "--lr-factor",
                type=POSITIVE,
                default=10,
                show_default=True,
                help="lr_mult of rebirth layers times this.",
            ),
            click.option(
                "--step-over",
                is_flag=True,
                help="Let rebirth layers of an earlier conversion learn at their own rates, also if none is new.",
            ),
            click.option(
                "--clip-gradients",
                type=Number(0),
                help="Gradients are cut to this norm; 0: not. [default: the solver's, else 5; 0 with convert --paper]",
            ),
        ]
    ):
        function = option(function)
    return function


def solver_options(given: dict[str, Any]) -> SolverOptions:
    """What `relearn_options` say of the solver, taken out of the arguments of a command."""
    from deeprebirth_caffe.nets.solver import SolverOptions

    names = ("base_lr", "stepsize", "gamma", "momentum", "max_iter", "lr_factor", "clip_gradients")
    return SolverOptions(**{name: given.pop(name) for name in names})
