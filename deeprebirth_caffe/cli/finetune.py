"""`rebirth finetune`."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

import click

from deeprebirth_caffe.cli.reading import command as told
from deeprebirth_caffe.cli.text import print_json
from deeprebirth_caffe.options.finetune import FinetuneOptions

if TYPE_CHECKING:
    from deeprebirth_caffe.commands.finetune import Finetuned


@told("finetune", FinetuneOptions)
def command(options: FinetuneOptions, as_json: bool) -> None:
    """Run SOLVER: train its net, test and save as it says, in real Caffe or in the embedded engine.

    With --teacher it learns from another net's answers besides its labels, or without any. Everything is checked before
    it starts. Ctrl-C finishes the iteration, saves and says how to go on.
    """
    from deeprebirth_caffe.cli.progress import training_progress
    from deeprebirth_caffe.commands.finetune import finetune

    result = finetune(options, training_progress())
    if as_json:
        print_json(result)
    else:
        _show(result)
    if result.stopped is not None:
        import signal

        sys.exit(128 + signal.Signals[result.stopped])


def _show(result: Finetuned) -> None:
    from deeprebirth_caffe.cli.progress import accuracy_name, of_test, spell_score
    from deeprebirth_caffe.cli.text import printable

    test = result.test or {}
    name = accuracy_name(test)
    facts = [f"{result.iteration} of {result.max_iter} iterations"]
    if result.loss is not None:
        facts.append(f"train loss {result.loss:.6g}")
    if name and result.test_iteration == result.iteration:
        facts.append(f"{of_test(name)} {spell_score(test[name])}")
    elif name:
        facts[-1] += f" (test at iteration {result.test_iteration}: {name} {spell_score(test[name])})"
    if result.images_per_second is not None:
        facts.append(f"{result.images_per_second:.1f} images/s")
    click.echo(printable(f"{result.engine}: {', '.join(facts)}"))
    if result.model is not None:
        click.echo(printable(f"wrote {result.model}"))
