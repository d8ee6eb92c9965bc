"""`rebirth refit`: new first weights for the rebirth layers of a converted net, fitted to calibration data."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from deeprebirth_caffe.errors import RefusedError
from deeprebirth_caffe.formats.outputs import DERIVED, MANIFEST, check_output, output_file
from deeprebirth_caffe.ir.probe import save_weights
from deeprebirth_caffe.nets.conversion import Opened, open_conversion
from deeprebirth_caffe.nets.manifest import Left, RefitReport, read_earlier
from deeprebirth_caffe.nets.rewriting import Say
from deeprebirth_caffe.nets.selection import Selection
from deeprebirth_caffe.numerics.refit import FitOptions
from deeprebirth_caffe.options.refit import RefitOptions
from deeprebirth_caffe.relearn.refitting import RefitSettings, refit_layers
from deeprebirth_caffe.results import Signed

MODEL = DERIVED[0]


@dataclass(frozen=True, kw_only=True)
class Teacher:
    """The original of a converted net.

    Attributes:
        net: path.
        weights: path.
    """

    net: Path
    weights: Path


@dataclass(frozen=True, kw_only=True)
class Refit(Signed):
    """What `rebirth refit` did.

    Attributes:
        net: path of the converted net.
        start: path of the weights that it started from.
        teacher: the original.
        model: path of what was written.
        refit: what was fitted.
        notes: for people.
    """

    net: Path
    start: Path
    teacher: Teacher
    model: Path
    refit: RefitReport
    notes: Sequence[str]


def refit(options: RefitOptions, say: Say = lambda _: None) -> Refit:
    """Fits the rebirth layers of a converted net anew, and writes a model to start from.

    Args:
        options: what to do.
        say: takes progress, line by line.

    Raises:
        RebirthError: bad input, or the model is there already; nothing is written.
        RefusedError: no layer can be fitted, with the reasons; nothing is written.
    """
    out = options.out if options.out is not None else options.directory / MODEL
    nets = open_conversion(options.directory, options.weights, options.teacher, options.teacher_weights)
    found, student = nets.found, nets.pair.student
    read = (found.net, nets.start, nets.pair.path, nets.teacher_weights, options.directory / MANIFEST)
    check_output(out, options.force, (*read, *options.calibrate.read_files()))
    selection = Selection(options.only, options.skip)
    selection.check(student)
    notes: list[str] = []
    arrays, report = refit_layers(nets.pair, options.calibrate, _settings(options), notes, say, selection)
    report = replace(report, left=[*report.left, *_gone(nets)])
    if not arrays:
        raise RefusedError(f"{found.net}: nothing can be fitted; {_reasons(report.left)}")
    assert student.weights is not None, "they were loaded"
    for layer, made in arrays.items():
        student.weights.set(layer, made)
    weights = student.weights
    with output_file(out) as file:
        save_weights(file, student, weights)
    return Refit(
        net=found.net,
        start=nets.start,
        teacher=Teacher(net=nets.pair.path, weights=nets.teacher_weights),
        model=out,
        refit=report,
        notes=notes,
    )


def _settings(options: RefitOptions) -> RefitSettings:
    """How layers are fitted."""
    return RefitSettings(FitOptions(options.ridge, options.rounds), options.positions, options.seed)


def _gone(nets: Opened) -> list[Left]:
    """Rows of `refit.left` for rebirth layers that the net does not have under their names."""
    there = {layer.name for layer in nets.pair.student.layers}
    parts = read_earlier(nets.found.net).reparam
    several = "it learns as several parts; refit before --reparam does that"
    none = "the converted net has no such layer"
    gone = [name for name in nets.found.origins if name not in there]
    return [Left(layer=name, reason=several if name in parts else none) for name in gone]


def _reasons(left: Sequence[Left]) -> str:
    """Why layers are left, in one line: each reason once, with the layers that have it."""
    layers: dict[str, list[str]] = {}
    for row in left:
        layers.setdefault(row.reason, []).append(row.layer)
    return "; ".join(f"{', '.join(names)}: {reason}" for reason, names in layers.items()) or "it has no rebirth layer"
