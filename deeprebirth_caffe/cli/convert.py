"""`rebirth convert`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from deeprebirth_caffe.cli.help import Command
from deeprebirth_caffe.cli.options import (
    FILE,
    FOLDER,
    NET,
    caffe_engine,
    calibrate_options,
    calibration,
    chosen_engine,
    engine_options,
    fixed_size_option,
    force_option,
    json_option,
    print_json,
    relearn_options,
    shapes_option,
    solver_options,
)
from deeprebirth_caffe.cli.progress import note
from deeprebirth_caffe.cli.streams import from_stdin
from deeprebirth_caffe.commands.defaults import REFIT_SAMPLES


class Kernel(click.ParamType):  # type: ignore[type-arg, unused-ignore]
    """keep, receptive or a size."""

    name = "keep|receptive|N"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        if value in ("keep", "receptive") or isinstance(value, int):
            return value
        text = str(value)
        if not (text.isascii() and text.isdigit() and len(text) < 10 and int(text)):
            self.fail(f"{value!r} is not keep, receptive or a kernel size", param, ctx)
        return int(text)


class Reduce(click.ParamType):  # type: ignore[type-arg, unused-ignore]
    """A ratio, or PATTERN=ratio."""

    name = "R|PATTERN=R"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        if isinstance(value, tuple):
            return value
        pattern, _, text = str(value).rpartition("=")
        try:
            ratio = float(text)
        except ValueError:
            ratio = 0.0
        if not 0 < ratio <= 1:
            self.fail(f"{value!r} is not a ratio above 0 and at most 1, nor PATTERN=ratio", param, ctx)
        return pattern, ratio


class Parts(click.ParamType):  # type: ignore[type-arg, unused-ignore]
    """bn and kernels, with commas between them; gives the kernels."""

    name = "PART,PART"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        if isinstance(value, tuple):
            return value
        words = [word for word in str(value).lower().split(",") if word]
        for word in words:
            sides = word.split("x")
            digits = all(side.isascii() and side.isdigit() and 0 < int(side) < 1000 for side in sides if side != "k")
            if word != "bn" and not (len(sides) == 2 and digits):
                self.fail(f"{word!r} is no part: bn, or a kernel such as 1x1, 1xk, kxk, 3x1", param, ctx)
        return tuple(word for word in words if word != "bn")


@click.command("convert", cls=Command)
@click.argument("net", type=NET)
@click.option("-w", "--weights", type=FILE, help="Learned weights; gives init.caffemodel.")
@click.option("--solver", type=FILE, help="A solver that lends what the paper does not fix.")
@click.option("-o", "--out", type=FOLDER, help="Output directory. [default: <stem>-rebirth beside the net]")
@click.option("--only", multiple=True, metavar="STAGE", help="Only this stage (name, glob or block); may be repeated.")
@click.option("--skip", multiple=True, metavar="STAGE", help="Not this stage; may be repeated.")
@click.option(
    "--paper", is_flag=True, help="As the paper: pools of inception nets, BatchNorm pruned, Xavier start, batch 32."
)
@click.option("--exact", is_flag=True, help="Only rewrites that keep the net's function.")
@click.option("--portable", is_flag=True, help="Say what a fork of Caffe says in plain Caffe first (docs/forks.md).")
@click.option("--no-streamline", is_flag=True, help="Leave pooling and LRN (and BatchNorm to prune) alone.")
@click.option("--no-branch", is_flag=True, help="Leave branches alone.")
@click.option("--no-pass", "skip_passes", multiple=True, metavar="PASS", help="Leave one pass out; may be repeated.")
@fixed_size_option
@click.option("--bn", type=click.Choice(["fold", "prune"]), help="BatchNorm and Scale. [default: fold; --paper: prune]")
@click.option(
    "--kernel", type=Kernel(), default="keep", show_default=True, help="Kernel of a layer that takes a pool in."
)
@click.option("--reduce", "reduces", type=Reduce(), multiple=True, help="Scale of reducers. [default: 0.5]")
@click.option("--force-merge", is_flag=True, help="Merge even where the predicted cost rises.")
@click.option(
    "--init", type=click.Choice(["inherit", "xavier", "refit"]), help="Start. [default: inherit; --paper: xavier]"
)
@click.option(
    "--seed", type=click.IntRange(min=0), default=0, show_default=True, help="Of random numbers of the start."
)
@calibrate_options(REFIT_SAMPLES, "Pictures without labels, for --init refit and --reparam")
@click.option("--reparam", is_flag=True, help="Let rebirth layers learn as several, one when deployed.")
@click.option("--reparam-parts", type=Parts(), help="As what. [default: bn,1x1,1xk,kx1]")
@shapes_option
@relearn_options
@click.option("--check", is_flag=True, help="Compare each run of exact rewrites in real Caffe.")
@engine_options
@click.option("--dry-run", is_flag=True, help="Write nothing.")
@json_option
@force_option
def command(
    net: Path,
    check: bool,
    engine: str,
    device: str | None,
    precision: str | None,
    threads: int | None,
    caffe: str | None,
    as_json: bool,
    no_streamline: bool,
    no_branch: bool,
    reduces: tuple[tuple[str, float], ...],
    input_shapes: tuple[tuple[str, tuple[int, ...]], ...],
    **rest: Any,
) -> None:
    """Merge NET's pooling, LRN, BatchNorm and parallel branches into neighbouring convolutions.

    Writes the merged net under its own name, deploy.prototxt, for a training net solver.prototxt, with weights
    init.caffemodel, and manifest.json. Rewrites are exact or have to be relearned; each line says which. The engine
    only runs with --calibrate; --check always is real Caffe's.
    """
    from deeprebirth_caffe.commands.convert import PASS_NAMES, ConvertOptions, convert
    from deeprebirth_caffe.passes.relearn.merge_branches import DEFAULT_REDUCE
    from deeprebirth_caffe.passes.relearn.reparametrize import PARTS

    if from_stdin(net) and rest["out"] is None and not rest["dry_run"]:
        raise click.UsageError("a net from standard input lies in no folder; say where the results go: -o DIR")
    for name in rest["skip_passes"]:
        if name not in PASS_NAMES:
            raise click.UsageError(f"--no-pass: there is no pass {name!r}; there are {', '.join(PASS_NAMES)}")
    if rest["exact"] and rest["bn"] == "prune":
        raise click.UsageError("--exact and --bn prune exclude each other: a pruned BatchNorm has to be relearned")
    if rest["reparam_parts"] is not None and not rest["reparam"]:
        raise click.UsageError("--reparam-parts says what --reparam makes; give it too")
    if rest["exact"] and rest["reparam"]:
        raise click.UsageError("--exact and --reparam exclude each other: --reparam is for layers that are relearned")
    rest["reparam_parts"] = rest["reparam_parts"] if rest["reparam_parts"] is not None else PARTS
    if rest["calibrate"] is not None and rest["init"] != "refit" and not rest["reparam"]:
        raise click.UsageError("--calibrate is what --init refit and --reparam measure on; give one of them too")
    options = ConvertOptions(
        net=net,
        streamline=not no_streamline,
        branch=not no_branch,
        reduce=next((ratio for pattern, ratio in reversed(reduces) if not pattern), DEFAULT_REDUCE),
        reduce_patterns=tuple((pattern, ratio) for pattern, ratio in reduces if pattern),
        input_shapes=dict(input_shapes),
        solver_options=solver_options(rest),
        calibrate=calibration(rest, chosen_engine(engine, device, precision, threads, caffe)),
        **rest,
    )
    result = convert(options, caffe_engine(caffe) if check else None, note)
    if as_json:
        print_json(result.manifest)
    else:
        from deeprebirth_caffe.cli.show import show_conversion

        show_conversion(result.manifest, dry_run=options.dry_run)
