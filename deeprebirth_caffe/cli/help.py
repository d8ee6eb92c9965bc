"""Help pages: options in groups, examples at the end, and a suggestion where a command is mistyped."""

from __future__ import annotations

import difflib

import click

from deeprebirth_caffe.cli.examples import EXAMPLES
from deeprebirth_caffe.options.fields import OUTPUT, TITLES

FEW = 16
"""A page of at most so many options needs no groups."""


class Command(click.Command):
    """A command whose help has groups and examples."""

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Writes the options, in groups where they are many."""
        groups: dict[str, list[tuple[str, str]]] = {"Options": [], **{title: [] for title in TITLES}}
        records = [
            (_title(param), record)
            for param in self.get_params(ctx)
            if isinstance(param, click.Option) and (record := param.get_help_record(ctx)) is not None
        ]
        for title, record in records:
            groups[title if len(records) > FEW else "Options"].append(record)
        for title, rows in groups.items():
            if rows:
                with formatter.section(title):
                    formatter.write_dl(rows)

    def format_epilog(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Writes the examples."""
        examples = EXAMPLES.get(ctx.command_path.removeprefix("rebirth "), ())
        if examples:
            with formatter.section("Examples"), formatter.indentation():
                for example in examples:
                    formatter.write(f"{' ' * formatter.current_indent}rebirth {example}\n")
        super().format_epilog(ctx, formatter)


def _title(param: click.Option) -> str:
    """The title of an option's group; what no model has (`--json`, `--help`) is about what the command puts out."""
    return getattr(param, "title", OUTPUT) or "Options"


class Group(click.Group):
    """A group that suggests what a mistyped command may have been."""

    command_class = Command

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """Finds the command that the arguments name."""
        name = args[0]
        if self.get_command(ctx, name) is None and not name.startswith("-"):
            near = difflib.get_close_matches(name, self.list_commands(ctx), n=3)
            hint = f" (did you mean {' or '.join(near)}?)" if near else ""
            raise click.UsageError(f"there is no command {name!r}{hint}", ctx)
        return super().resolve_command(ctx, args)
