"""`rebirth refit`."""

from __future__ import annotations

import click

from deeprebirth_caffe.cli.progress import note
from deeprebirth_caffe.cli.reading import command as told
from deeprebirth_caffe.cli.text import print_json, printable
from deeprebirth_caffe.options.refit import RefitOptions


@told("refit", RefitOptions)
def command(options: RefitOptions, as_json: bool) -> None:
    """Fit the rebirth layers of DIR, which rebirth convert wrote, to what the layers they replace put out.

    Least squares on unlabelled images, bottom to top, each layer on what it will really read. Writes a model to start
    relearning from.
    """
    from deeprebirth_caffe.commands.refit import refit

    result = refit(options, note)
    if as_json:
        print_json(result)
    else:
        from deeprebirth_caffe.cli.show import say_next, show_refit

        show_refit(result.refit)
        for line in result.notes:
            click.echo(printable(f"note: {line}"))
        click.echo(printable(f"wrote {result.model}"))
        solver = options.directory / "solver.prototxt"
        if solver.is_file():
            say_next("finetune", solver, "-w", result.model)
