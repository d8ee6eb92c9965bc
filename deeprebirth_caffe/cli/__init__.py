"""The command `rebirth`. Each command's module is imported when it is called, so that `--help` starts at once."""

from __future__ import annotations

import contextlib
import importlib
import io
import os
import signal
import sys
import traceback
from typing import Any, NoReturn

import click

from deeprebirth_caffe import __version__
from deeprebirth_caffe.cli.help import Group
from deeprebirth_caffe.cli.streams import fitted, options, reset, verbose
from deeprebirth_caffe.cli.text import error_line, guarded
from deeprebirth_caffe.errors import RebirthError
from deeprebirth_caffe.isolation import leave_out_current_folder

COMMANDS = {
    "run": "The whole method from one file: merge and relearn step by step, deploy, time.",
    "status": "Say how far a run is.",
    "convert": "Merge a net's pooling, LRN, BatchNorm and branches into its convolutions.",
    "tucker": "Decompose convolutions and InnerProducts into thin ones (Tucker-2, SVD).",
    "refit": "Fit a converted net's new layers to what the old ones put out, on unlabelled images.",
    "distil": "Write a net in which a converted net learns from the original, without labels.",
    "deploy": "Make the net that goes to the phone out of a training net and its weights.",
    "finetune": "Relearn: run a solver, in real Caffe or in the embedded engine.",
    "test": "Run a net over its test data and average its outputs.",
    "forward": "Run pictures through a net: labels, or a blob.",
    "data": "Make LMDBs out of pictures.",
    "export": "Write a net and its weights as an ONNX model, checked against real Caffe.",
    "inspect": "Show layers, shapes, costs, stages, and what could merge and why not.",
    "time": "Time nets against each other, show where the time goes and what they cost.",
    "plan": "Write a schedule for rebirth run: what to merge step by step, or what a target needs.",
    "report": "Write what a run won and lost as one page and as Markdown.",
    "device": "List phones and boards, say what they are, put Caffe on them.",
    "diff": "Compare two nets by layer name.",
    "zoo": "List and write known nets.",
    "config": "List and write schedules that come with rebirth.",
    "caffe": "Install real Caffe for this user, say which one is used, remove it.",
    "doctor": "Say which engines and tools are found, or which fork of Caffe a net is written for.",
    "docs": "Print a page of the documentation.",
}
"""Each command and its one line of help, so that `rebirth --help` imports none of them."""


class LazyGroup(Group):
    """A group that imports a command's module when the command is needed."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in COMMANDS:
            return None
        module = importlib.import_module(f"deeprebirth_caffe.cli.{cmd_name}")
        return fitted(module.command, cmd_name)

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        if not args and not ctx.resilient_parsing:
            # Click's versions differ in what they do here.
            click.echo(ctx.get_help(), err=True)
            ctx.exit(2)
        return super().parse_args(ctx, args)

    def invoke(self, ctx: click.Context) -> Any:
        from deeprebirth_caffe.cli.scratch import scratch

        try:
            with scratch():
                return super().invoke(ctx)
        except BrokenPipeError:
            # Whoever read our output has gone (`rebirth … | head`): that is no failure, though click takes it for one,
            # and Python must not complain about it at the end either.
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            return None

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl(list(COMMANDS.items()))


@click.group(cls=LazyGroup, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(__version__, prog_name="rebirth")
def rebirth() -> None:
    """DeepRebirth for Caffe: makes trained nets several times faster on phones and CPUs.

    Exit codes: 0 done, 1 failed, 2 usage, 3 refused or a check failed. `rebirth docs PAGE` prints docs/PAGE.md.
    """


rebirth.params += options()


def main(arguments: list[str] | None = None) -> Any:
    """Runs `rebirth` and exits: with 0, 1, 2 or 3 as documented, 130 or 143 when interrupted."""
    leave_out_current_folder()
    _keep_stderr()
    for stream in (sys.stdout, sys.stderr):
        # A terminal that cannot show a letter of a layer's name is no reason to fail.
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
    reset()
    # `kill` and `timeout` end us as Ctrl-C does: whoever holds half-written files takes them away.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    with guarded():
        _run(arguments)


def _keep_stderr() -> None:
    """Gives our own words a descriptor beside the second one, which is closed to libraries now and then."""
    with contextlib.suppress(OSError, ValueError, AttributeError):  # captured, closed, or not there at all
        if sys.stderr.fileno() == 2:
            own = io.BufferedWriter(io.FileIO(os.dup(2), "w"))
            sys.stderr = io.TextIOWrapper(own, encoding=sys.stderr.encoding, line_buffering=True)


def _run(arguments: list[str] | None) -> None:
    try:
        code = rebirth.main(args=arguments, prog_name="rebirth", standalone_mode=False, color=_colour())
        if code:  # of ctx.exit(); commands return nothing
            sys.exit(code)
    except click.ClickException as error:
        _show_usage(error)
        sys.exit(error.exit_code)
    except (click.Abort, KeyboardInterrupt):
        _tell("interrupted; nothing half-written was left behind")
        sys.exit(130)
    except RebirthError as error:
        if verbose():
            traceback.print_exc()
        _fail(str(error), error.exit_code)
    except OSError as error:
        where = f"{os.fsdecode(error.filename)}: " if isinstance(error.filename, (str, bytes)) else ""
        _fail(f"{where}{error.strerror or error}")
    except MemoryError as error:
        # NumPy says how much it wanted, Python nothing.
        what = f" ({error})" if str(error) else ""
        _fail(f"there is not enough memory{what}; take smaller nets, batches or files, or a larger machine")
    except RuntimeError as error:
        if isinstance(error, RecursionError):
            _fail("a file is nested too deeply to be read")
        if "out of memory" not in str(error) and "allocate memory" not in str(error):  # PyTorch's words
            raise
        _fail(f"there is not enough memory ({str(error).splitlines()[0]}); take smaller nets or batches")


def _colour() -> bool | None:
    """Tells click whether to colour: no where the user does not want it, else as stdout is a terminal."""
    return False if os.environ.get("NO_COLOR") or os.environ.get("TERM") == "dumb" else None


def _fail(text: str, code: int = 1) -> NoReturn:
    _tell(error_line(f"error: {text}"))
    sys.exit(code)


def _show_usage(error: click.ClickException) -> None:
    """One line, as for every other error."""
    context = getattr(error, "ctx", None)
    hint = f"; see {context.command_path} --help" if context is not None else ""
    _tell(error_line(f"error: {error.format_message().rstrip('.')}{hint}"))


def _tell(line: str) -> None:
    """Says something on stderr, if anybody listens; the exit code must not hang on that."""
    try:
        click.echo(line, err=True)
    except (OSError, ValueError):
        # What waits in the buffer would be written, and fail, once more at the end.
        with contextlib.suppress(OSError, ValueError):
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stderr.fileno())
