"""Help pages: options in groups, examples at the end, and a suggestion where a command is mistyped."""

from __future__ import annotations

import difflib

import click

from deeprebirth_caffe.cli.examples import EXAMPLES

GROUPS = {
    "What to merge": (
        "--only --skip --paper --exact --portable --no-streamline --no-branch --no-pass --bn --kernel --reduce "
        "--force-merge --ratio --ranks"
    ),
    "How new layers start": "--init --seed --reparam --reparam-parts --ridge --rounds --positions",
    "Calibration pictures": (
        "--calibrate --samples --transform-from --mean-file --mean-value --scale --raw-pixels --resize --crop"
    ),
    "Teacher": "--teacher --teacher-weights --temperature --alpha --match-blobs --match-weight",
    "Solver and training": (
        "--solver --batch --base-lr --stepsize --gamma --momentum --max-iter --lr-factor --step-over --clip-gradients "
        "--resume --cache --epochs --recipe --tucker"
    ),
    "Measuring": (
        "--on --iterations --runs --warmup --cooldown --cpus --time-with --time-threads --by --fit --test-batches "
        "--recovery --nearest --metric --target --check"
    ),
    "Engine": "--engine --device --precision --threads --caffe --python-layers",
    "Output": (
        "--out --log --per-image --blob --labels --top --csv --html --dry-run --json --force --schema --part "
        "--exit-code --quiet --verbose --help"
    ),
}
"""Titles, and the options below each one. What stands nowhere is what the command is about, and goes first."""

FEW = 16
"""A page of at most so many options needs no groups."""

_GROUP_OF = {option: title for title, options in GROUPS.items() for option in options.split()}


class Command(click.Command):
    """A command whose help has groups and examples."""

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Writes the options, in groups where they are many."""
        groups: dict[str, list[tuple[str, str]]] = {"Options": [], **{title: [] for title in GROUPS}}
        records = [
            (next((_GROUP_OF[option] for option in param.opts if option in _GROUP_OF), "Options"), record)
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
