"""The text of a planned schedule: YAML with comments, for people to read and edit."""

from __future__ import annotations

import os
import shlex
import textwrap
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from deeprebirth_caffe.options.fields import scheduled
from deeprebirth_caffe.options.plan import PlanOptions
from deeprebirth_caffe.options.shared import OWN_PHASES
from deeprebirth_caffe.runs.planning.candidates import Merge
from deeprebirth_caffe.runs.planning.choosing import points
from deeprebirth_caffe.runs.planning.options import PlannedStep
from deeprebirth_caffe.runs.planning.recipes import EPOCHS, JOINT_TIMES, RECIPES, TUCKER_RATIO
from deeprebirth_caffe.runs.planning.target import Reached, worth_of
from deeprebirth_caffe.wording import ms, printable

WIDTH = 110
FILES = ("mean_file", "transform_from")
"""The keys of `calibrate` that name files."""


def plan_text(
    options: PlanOptions,
    name: str,
    steps: Sequence[PlannedStep],
    left: Sequence[tuple[str, str]],
    metric: str | None,
    reached: Reached | None,
    unmet: str = "",
) -> str:
    """The schedule.

    Args:
        options: what the user says.
        name: the net's own.
        steps: in their order.
        left: why places stay as they are, by layer.
        metric: what budgets go by; None where there is none.
        reached: what a target needs; None without one.
        unmet: why the target cannot be met, where this only comes nearest to it.
    """
    recipe = RECIPES[options.recipe]
    parts = [_comment(_title(options, name or options.net.stem, reached, unmet)), _yaml(_head(options, name))]
    if metric is not None:
        parts.append(_comment(["How accuracy is measured after each step."]) + _yaml({"test": {"metric": metric}}))
    words = f"What holds for each step that does not say otherwise; {recipe.about}."
    parts.append(_comment([words]) + _yaml({"defaults": _defaults(options)}))
    parts.append("steps:\n" + "\n".join(_step(step, reached) for step in steps))
    parts += _after(options)
    if reached is not None and (rest := list(_not_taken(reached))):
        parts.append(_comment(["Measured and not taken:", *rest], "  "))
    if left:
        parts.append(_comment(["Left alone:", *(f"  {layer}: {reason}" for layer, reason in left)], "  "))
    return "\n".join(parts)


def _title(options: PlanOptions, name: str, reached: Reached | None, unmet: str) -> Iterator[str]:
    yield f"A schedule for `rebirth run`: {name}, recipe {options.recipe}, written by `rebirth plan`."
    yield ""
    yield (
        "Each step merges some stages, relearns, and is tested, from the bottom of the net to its top. Edit it as you "
        "like: `skip: true` leaves a step out, stages may change places and steps. Relative paths start in the folder "
        "of this file. docs/run.md tells all keys."
    )
    if len(run_words(options)) > 3:
        yield ""
        yield (
            "It names a program or a device, which the command line must name too; from the folder in which it was "
            f"planned: {shlex.join(run_words(options))}"
        )
    if reached is None:
        return
    yield ""
    if unmet:
        yield f"This does not meet its target, and comes nearest to it. {unmet}."
    timing = options.timing
    place = f"{timing.engine}, {timing.on}, {timing.threads or 'all'} {'thread' if timing.threads == 1 else 'threads'}"
    yield (
        f"Target: {options.target}. Together the merges below make the net {reached.speedup:.2f} times as fast "
        f"({place}; {ms(reached.times.total_ms)} ms as it is; by the times of their stages it would be "
        f"{reached.foreseen:.2f}). Taken were those that save most time for the error of the net's scores when each is "
        f"merged and refitted by itself, on {options.images.samples} images, before it relearns."
    )
    if reached.doubt:
        yield reached.doubt
    if reached.base is not None:
        yield (
            f"They are expected to cost {points(reached.chosen):.2f} points, if relearning brings back "
            f"{100 * options.recovery:g} % of what each loses at first: an assumption, so the budget below keeps to it."
        )


def run_words(options: PlanOptions) -> list[str]:
    """The command that runs the schedule, from the current folder, with the programs and devices it needs."""
    words = ["rebirth", "run", str(options.out)]
    if options.engine.caffe is not None:
        words += ["--caffe", options.engine.caffe]
    return words if options.timing.on == "local" else [*words, "--on", options.timing.on]


def _head(options: PlanOptions, name: str) -> dict[str, Any]:
    folder = options.out.parent
    found: dict[str, Any] = {"version": 1, "name": name or options.net.stem}
    found["net"] = _from(folder, options.net)
    found["weights"] = _from(folder, options.weights)
    if options.solver is not None:
        found["solver"] = _from(folder, options.solver)
    if options.input_shapes:
        found["input_shapes"] = {blob: list(shape) for blob, shape in options.input_shapes.items()}
    found["seed"] = 1
    engine = scheduled(options.engine)
    if "caffe" in engine and Path(engine["caffe"]).exists():
        engine["caffe"] = _from(folder, Path(engine["caffe"]))
    return {**found, **({"engine": engine} if engine else {})}


def _defaults(options: PlanOptions) -> dict[str, Any]:
    recipe = RECIPES[options.recipe]
    found: dict[str, Any] = dict(recipe.defaults)
    if options.skip_passes:
        found["skip_passes"] = list(options.skip_passes)
    if recipe.looks:
        found["calibrate"] = _calibrate(options)
    found["finetune"] = {**_length(options), **recipe.finetune}
    if options.target is not None and options.target.accuracy is not None:
        # Retried once, for it is dear to take a merge back.
        found["budget"] = {"total": options.target.accuracy, "retries": 1, "then": "rollback"}
    return found


def _calibrate(options: PlanOptions) -> dict[str, Any]:
    folder, images = options.out.parent, options.images
    prepared = scheduled(images.pictures)
    return {
        "source": images.source if images.source in OWN_PHASES else _from(folder, Path(images.source)),
        "samples": images.samples,
        **{key: value for key, value in prepared.items() if key not in FILES},
        **{key: _from(folder, Path(prepared[key])) for key in FILES if key in prepared},
    }


def _length(options: PlanOptions, times: int = 1) -> dict[str, Any]:
    if options.iterations is not None:
        return {"iterations": times * options.iterations}
    epochs = times * (EPOCHS if options.epochs is None else options.epochs)
    return {"epochs": int(epochs) if epochs.is_integer() else epochs}


def _step(step: PlannedStep, reached: Reached | None) -> str:
    data: dict[str, Any] = {"stages": list(step.patterns)}
    if step.patterns != (step.name,):
        data = {"name": step.name, **data}
    if step.left_out:
        data["skip_passes"] = list(step.left_out)
    words = [_merge(merge, reached) for merge in step.merges]
    return textwrap.indent(_comment(words, "  ") + _yaml([data]), "  ")


def _merge(merge: Merge, reached: Reached | None) -> str:
    words = f"{merge.stage}: {', '.join(merge.passes)}; without {', '.join(merge.removed)}"
    if merge.macs_before and merge.macs_after is not None:
        words += f"; {merge.macs_after / merge.macs_before:.2f} times the multiply-adds"
    if reached is None:
        return words
    now = reached.times.stages_ms.get(merge.stage)
    return f"{words}; {worth_of(reached.chosen[merge.stage], now)}"


def _after(options: PlanOptions) -> Iterator[str]:
    joint = RECIPES[options.recipe].joint
    if joint is not None:
        learn = {**_length(options, JOINT_TIMES), **joint}
        words = "At the end the whole net relearns, everything at its own rate and for longer: that brings back most."
        yield _comment([words]) + _yaml({"joint": {"finetune": learn}})
    if options.tucker if options.tucker is not None else options.target is None:
        yield _comment(["Tucker-2 and SVD on the merged net, then relearning."]) + _yaml(
            {"tucker": {"ratio": TUCKER_RATIO}}
        )
    yield _comment(["The net for the phone, and its speed beside that of the net that the run began with."]) + _yaml(
        {"deploy": {"batch": 1}, "time": _time(options)}
    )


def _time(options: PlanOptions) -> dict[str, Any]:
    timing = options.timing
    return {
        "engines": [timing.engine],
        "threads": [timing.threads or 1],
        # To YAML a bare `on` means true, so it stands in quotes, and only where it must.
        **({"on": timing.on} if timing.on != "local" else {}),
        "runs": timing.plan.runs,
        "iterations": timing.plan.iterations,
    }


def _not_taken(reached: Reached) -> Iterator[str]:
    for offer in reached.offers:
        # Of a stage that is merged, other ways to do it are no news.
        if offer.stage not in reached.chosen:
            yield f"  {offer}: {worth_of(offer)}"


def _from(folder: Path, path: Path) -> str:
    """A path as the schedule names it: from its own folder, unless it was given whole."""
    return str(path) if path.is_absolute() else os.path.relpath(path, folder)


def _comment(paragraphs: Iterator[str] | Sequence[str], hang: str = "") -> str:
    """Paragraphs as comment lines; an empty one is an empty line.

    Args:
        paragraphs: what it says; spaces in front of one stay.
        hang: what stands in front of all lines of one but the first.
    """
    lines: list[str] = []
    for one in paragraphs:
        indent = " " * (len(one) - len(one.lstrip())) + hang
        text = printable(one)
        lines += textwrap.wrap(text, WIDTH - 2, subsequent_indent=indent, break_on_hyphens=False) or [""]
    return "".join(f"# {line}".rstrip() + "\n" for line in lines)


def _yaml(data: Mapping[str, Any] | Sequence[Any]) -> str:
    """Mappings and lists of plain values stand on one line, those at the top never."""
    import yaml

    node = yaml.compose(yaml.safe_dump(data, sort_keys=False, allow_unicode=True, default_flow_style=None))
    for top in (node, *node.value) if isinstance(node, yaml.SequenceNode) else (node,):
        top.flow_style = False
    text: str = yaml.serialize(node, Dumper=yaml.SafeDumper, allow_unicode=True, width=WIDTH)
    return text
