"""What a step of a schedule means as options of the commands that do it."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from deeprebirth_caffe.options.convert import ConvertOptions
from deeprebirth_caffe.options.fields import taken
from deeprebirth_caffe.options.finetune import TeacherOptions
from deeprebirth_caffe.options.tucker import VBMF, TuckerOptions

if TYPE_CHECKING:
    from deeprebirth_caffe.runs.schedule.context import Inputs
    from deeprebirth_caffe.runs.schedule.model import Recipe, Step, Teacher, TuckerStep


def convert_options(inputs: Inputs, step: Step, net: Path, weights: Path | None, out: Path) -> ConvertOptions:
    """How a step converts.

    Args:
        inputs: the schedule with its files.
        step: of it.
        net: what it converts.
        weights: of that; None: only to see whether it can, so nothing is fitted to data either.
        out: where to.
    """
    return taken(
        ConvertOptions,
        step,
        net=net,
        weights=weights,
        out=out,
        only=step.stages,
        input_shapes=inputs.schedule.input_shapes,
        batch=step.finetune.batch or inputs.batch,
        force=True,
        step_over=True,
        reduce_patterns=tuple(step.reduce_patterns.items()),
        seed=inputs.schedule.seed,
        **_started(inputs, step, weights is not None),
    )


def _started(inputs: Inputs, recipe: Recipe, real: bool) -> dict[str, Any]:
    """The start of rebirth layers, and what they are while they relearn."""
    found: dict[str, Any] = {"init": recipe.init if real or recipe.init != "refit" else "inherit"}
    if real and looks_at_images(recipe):
        found["calibrate"] = inputs.calibration(recipe.calibrate)
    return found


def looks_at_images(recipe: Recipe) -> bool:
    """Whether a step's start depends on images: a least squares fit, or the statistics of parallel kernels."""
    return bool(recipe.init == "refit" or recipe.reparam)


def tucker_options(inputs: Inputs, step: TuckerStep, net: Path, weights: Path, out: Path) -> TuckerOptions:
    """How the net is decomposed; see `convert_options`."""
    return taken(
        TuckerOptions,
        step,
        net=net,
        weights=weights,
        out=out,
        only=step.only,
        skip=step.skip,
        input_shapes=inputs.schedule.input_shapes,
        batch=step.finetune.batch or inputs.batch,
        force=True,
        step_over=True,
        ranks=str(inputs.file(step.ranks)) if step.ranks not in (None, VBMF) else step.ranks,
        calibrate=inputs.calibration(step.calibrate) if step.calibrate is not None else None,
    )


def teacher_options(inputs: Inputs, given: Teacher) -> TeacherOptions:
    """What a relearning net follows."""
    net, weights = inputs.teacher_files(given)
    return taken(TeacherOptions, given, net=net, weights=weights)
