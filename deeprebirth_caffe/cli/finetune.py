"""`rebirth finetune`."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import click

from deeprebirth_caffe.cli.options import FILE, MAX_INT, chosen_engine, engine_options, json_option, print_json


@click.command("finetune")
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
@click.option("--max-iter", type=click.IntRange(1, MAX_INT), help="In place of the solver's max_iter.")
@click.option(
    "--log", type=click.Path(dir_okay=False, path_type=Path), help="Append a JSON object an iteration (docs/json.md)."
)
@json_option
@click.option("--force", is_flag=True, help="Write over an older run's snapshots and log.")
def command(
    solver: Path,
    weights: tuple[Path, ...],
    resume: Path | None,
    max_iter: int | None,
    log: Path | None,
    as_json: bool,
    force: bool,
    **engine: Any,
) -> None:
    """Run SOLVER: train its net, test and save as it says, in real Caffe or in the embedded engine.

    Everything is checked before it starts. Ctrl-C finishes the iteration, saves and says how to go on.
    """
    from deeprebirth_caffe.cli.progress import training_progress
    from deeprebirth_caffe.workflows.finetune import FinetuneOptions, finetune

    options = FinetuneOptions(solver, weights, resume, chosen_engine(**engine), max_iter, log, force)
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
