"""`rebirth finetune`."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import click

from deeprebirth_caffe.cli.help import Command
from deeprebirth_caffe.cli.options import (
    FILE,
    MAX_INT,
    POSITIVE,
    Number,
    chosen_engine,
    engine_options,
    json_option,
    print_json,
)
from deeprebirth_caffe.cli.streams import PathOrDash
from deeprebirth_caffe.errors import UsageError

LOG = PathOrDash(dir_okay=False, why="a log is gone on with when a run is resumed; name a file")


@click.command("finetune", cls=Command)
@click.argument("solver", type=FILE)
@click.option(
    "-w",
    "--weights",
    type=FILE,
    multiple=True,
    help="Start from these; may be repeated. [default: what the solver names, or init.caffemodel beside it]",
)
@click.option("--resume", type=FILE, help="Go on from this solverstate, of either engine.")
@engine_options
@click.option(
    "--cache",
    type=click.IntRange(0, MAX_INT),
    metavar="MiB",
    help="To keep what never changes in the embedded engine (layers with lr_mult 0, a teacher's answers); 0: nothing. "
    "[default: a quarter of the free memory]",
)
@click.option("--max-iter", type=click.IntRange(1, MAX_INT), help="In place of the solver's max_iter.")
@click.option("--log", type=LOG, help="Append a JSON object an iteration (docs/json.md).")
@click.option("--teacher", type=FILE, help="A net that says what it would answer: a train_val or a deploy prototxt.")
@click.option("--teacher-weights", type=FILE, help="Its weights.")
@click.option("--temperature", type=POSITIVE, help="What scores are divided by. [default: 2]")
@click.option(
    "--alpha",
    type=Number(0, 1),
    help="What the teacher's scores count; labels count the rest. [default: 0.5; 1 without losses]",
)
@click.option("--match-blobs", is_flag=True, help="Compare what rebirth layers put out with the teacher's blobs, too.")
@click.option("--match-weight", type=POSITIVE, help="What those count. [default: 1]")
@json_option
@click.option("--force", is_flag=True, help="Write over an older run's snapshots and log.")
def command(
    solver: Path,
    weights: tuple[Path, ...],
    resume: Path | None,
    cache: int | None,
    max_iter: int | None,
    log: Path | None,
    as_json: bool,
    force: bool,
    teacher: Path | None,
    teacher_weights: Path | None,
    temperature: float | None,
    alpha: float | None,
    match_blobs: bool,
    match_weight: float | None,
    **engine: Any,
) -> None:
    """Run SOLVER: train its net, test and save as it says, in real Caffe or in the embedded engine.

    With --teacher it learns from another net's answers besides its labels, or without any. Everything is checked before
    it starts. Ctrl-C finishes the iteration, saves and says how to go on.
    """
    from deeprebirth_caffe.cli.progress import training_progress
    from deeprebirth_caffe.commands.finetune import FinetuneOptions, finetune
    from deeprebirth_caffe.relearn.teaching import TeacherOptions

    numbers = {"temperature": temperature, "alpha": alpha, "match_weight": match_weight}
    said: dict[str, Any] = {name: value for name, value in numbers.items() if value is not None}
    taught = None
    if (teacher is None) != (teacher_weights is None):
        raise UsageError("--teacher and --teacher-weights belong together")
    if teacher is not None and teacher_weights is not None:
        taught = TeacherOptions(teacher, teacher_weights, match_blobs=match_blobs, **said)
    elif said or match_blobs:
        first = [*said, *["match_blobs"] * match_blobs][0].replace("_", "-")
        raise UsageError(f"--{first} needs --teacher")
    if match_weight is not None and not match_blobs:
        raise UsageError("--match-weight needs --match-blobs")
    running = replace(chosen_engine(**engine), cache=None if cache is None else cache << 20)
    options = FinetuneOptions(solver, weights, resume, running, max_iter, log, force, taught)
    result = finetune(options, training_progress())
    if as_json:
        print_json(result)
    else:
        _show(result)
    if result["stopped"] is not None:
        import signal

        sys.exit(128 + signal.Signals[result["stopped"]])


def _show(result: Mapping[str, Any]) -> None:
    from deeprebirth_caffe.cli.progress import accuracy_name, of_test, spell_score
    from deeprebirth_caffe.cli.text import printable

    test = result["test"] or {}
    name = accuracy_name(test)
    facts = [f"{result['iteration']} of {result['max_iter']} iterations"]
    if result["loss"] is not None:
        facts.append(f"train loss {result['loss']:.6g}")
    if name and result["test_iteration"] == result["iteration"]:
        facts.append(f"{of_test(name)} {spell_score(test[name])}")
    elif name:
        facts[-1] += f" (test at iteration {result['test_iteration']}: {name} {spell_score(test[name])})"
    if result["images_per_second"] is not None:
        facts.append(f"{result['images_per_second']:.1f} images/s")
    click.echo(printable(f"{result['engine']}: {', '.join(facts)}"))
    if result["model"] is not None:
        click.echo(printable(f"wrote {result['model']}"))
