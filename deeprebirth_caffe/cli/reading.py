"""Commands made of the models in `options`: what click is told, and a model's value from what click read."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import click
from click.core import ParameterSource

from deeprebirth_caffe.cli.help import Command
from deeprebirth_caffe.cli.streams import PathOrDash
from deeprebirth_caffe.errors import UsageError
from deeprebirth_caffe.options.fields import Leaf, leaves, read
from deeprebirth_caffe.options.kinds import Flag, Kind, OneOf, Place, Real, Spelled, Whole
from deeprebirth_caffe.options.shared import python_layers_allowed


class Number(click.FloatRange):
    """A number that Caffe's single precision can hold, within a range."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        number = super().convert(value, param, ctx)
        if not abs(number) < 1e38:
            self.fail(f"{value!r} is not a number that Caffe can use", param, ctx)
        return number


class _Parsed(click.ParamType):  # type: ignore[type-arg, unused-ignore]
    """What has a spelling of its own."""

    def __init__(self, kind: Spelled) -> None:
        self.name = kind.name
        self._kind = kind

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        if not isinstance(value, str):  # a default
            return value
        try:
            return self._kind.parse(value)
        except ValueError as error:
            self.fail(str(error), param, ctx)


def _type(kind: Kind) -> Any:
    """What click reads a kind of text with."""
    if isinstance(kind, Place):
        if kind.stdin or kind.dash:
            return PathOrDash(exists=kind.exists, dir_okay=kind.folder, file_okay=kind.file, why=kind.dash)
        return click.Path(exists=kind.exists, dir_okay=kind.folder, file_okay=kind.file, path_type=Path)
    if isinstance(kind, Whole):
        return click.IntRange(kind.least, kind.most) if kind != Whole() else click.INT
    if isinstance(kind, Real):
        return Number(kind.least, kind.most, min_open=kind.above, max_open=kind.below)
    if isinstance(kind, OneOf):
        return click.Choice(kind.words)
    return _Parsed(kind) if isinstance(kind, Spelled) else click.STRING


class Told(click.Option):
    """An option with the title of its group on a help page."""

    def __init__(self, words: Sequence[str], *, title: str, **rest: Any) -> None:
        super().__init__(words, **rest)
        self.title = title


def _parameter(leaf: Leaf) -> click.Parameter:
    told = leaf.option
    common: dict[str, Any] = {"required": told.needed, "metavar": told.metavar or None}
    if isinstance(told.kind, Flag):
        common |= {"is_flag": True, "default": leaf.typed}
    else:
        common["type"] = _type(told.kind)
        if leaf.typed not in (None, ()):  # else click would take it for an answer
            whole = isinstance(leaf.typed, float) and leaf.typed.is_integer()
            common["default"] = int(leaf.typed) if whole else leaf.typed
    if not told.flags:
        return click.Argument([told.name], nargs=-1 if told.many else 1, **common)
    return Told(
        [told.name, *told.flags],
        title=told.title or "",
        help=told.help,
        multiple=told.many,
        show_default=told.shown,
        **common,
    )


def _parameters(model: type[Any], json: bool) -> Iterator[click.Parameter]:
    """What click reads a model from; `--json` stands in front of `--force`."""
    different = {leaf.option.name: leaf for leaf in reversed([*leaves(model)])}
    shown = click.Option(["--json", "as_json"], is_flag=True, help="Print JSON instead (docs/json.md).")
    for leaf in reversed(different.values()):
        if json and leaf.option.name == "force":
            yield shown
        yield _parameter(leaf)
    if json and "force" not in different:
        yield shown


def command(
    name: str,
    model: type[Any],
    *,
    json: bool = True,
    group: click.Group | None = None,
    short_help: str | None = None,
    more: Sequence[click.Parameter] = (),
) -> Callable[[Callable[..., None]], click.Command]:
    """Makes a command of a function that takes a model's value, and `as_json` where there is `--json`.

    Args:
        name: of the command.
        model: the class of its options.
        json: whether it has `--json`.
        group: that the command belongs to.
        short_help: its line in the group's help.
        more: parameters that do something by themselves.
    """

    def made(function: Callable[..., None]) -> click.Command:
        @click.pass_context
        def run(context: click.Context, /, **values: Any) -> None:
            shown = {"as_json": values.pop("as_json")} if json else {}
            given = {key for key in values if context.get_parameter_source(key) is not ParameterSource.DEFAULT}
            if values.get("python_layers"):
                context.with_resource(python_layers_allowed())
            try:
                options = read(model, values, given)
            except UsageError as error:
                raise click.UsageError(str(error), context) from None
            function(options, **shown)

        params = [*_parameters(model, json), *more]
        told = Command(name, callback=run, params=params, help=function.__doc__, short_help=short_help)
        if group is not None:
            group.add_command(told)
        return told

    return made
