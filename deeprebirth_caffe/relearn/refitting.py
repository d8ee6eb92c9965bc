"""Starting rebirth layers from a least-squares fit to what the layers that they replace put out.

One pass of the data through the teacher stores, at sampled places, what every rebirth layer is to put out
(`relearn.targets`) and the net's outputs. Then the layers are fitted bottom-up (`numerics.refit`), each on what it will
really read: those that do not depend on each other share one pass of the student, cut off above them. Images, rows and
goals lie in temporary files, so memory does not grow with the number of images, and each layer's time grows with it.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from time import monotonic
from typing import TYPE_CHECKING, Any

import numpy as np

from deeprebirth_caffe.engines.base import Engine
from deeprebirth_caffe.engines.choose import choose
from deeprebirth_caffe.errors import RebirthError
from deeprebirth_caffe.inputs.feeding import at_once, picture_input, through
from deeprebirth_caffe.ir import Layer, Value, View
from deeprebirth_caffe.ir.subnet import above, ancestors
from deeprebirth_caffe.nets.conversion import Pair
from deeprebirth_caffe.nets.manifest import Left, RefitOutput, RefitReport, Refitted
from deeprebirth_caffe.nets.rewriting import Say
from deeprebirth_caffe.nets.selection import Selection
from deeprebirth_caffe.numerics.refit import MAX_FEATURES, Fit, FitOptions, fit, rescale
from deeprebirth_caffe.numerics.rows import RowFile, at_places, patches, sample_places
from deeprebirth_caffe.ops import conv_geometry
from deeprebirth_caffe.options.shared import CalibrationOptions
from deeprebirth_caffe.relearn.calibration import calibration_inputs, len_of
from deeprebirth_caffe.relearn.targets import RELU, Target, find_targets, reads_input, taught, value_names
from deeprebirth_caffe.wording import WORTH_TELLING, about

if TYPE_CHECKING:
    from deeprebirth_caffe.engines.base import FloatArray

_BLOB_BYTES = 1 << 28
"""What the blobs of a net may take at a time."""


@dataclass(frozen=True)
class RefitSettings:
    """How layers are fitted.

    Attributes:
        fit: the solver's options.
        positions: places of each image that count, per layer.
        seed: of the choice of places.
    """

    fit: FitOptions = field(default_factory=FitOptions)
    positions: int = 64
    seed: int = 0


def refit_layers(
    pair: Pair,
    calibrate: CalibrationOptions,
    settings: RefitSettings,
    notes: list[str],
    say: Say,
    selection: Selection | None = None,
) -> tuple[dict[str, list[FloatArray]], RefitReport]:
    """Fits the rebirth layers of a net.

    Args:
        pair: the nets; neither is changed.
        calibrate: the images.
        settings: how.
        notes: takes what people should know.
        say: takes progress, line by line.
        selection: of stages; others stay as they are.

    Returns:
        The new arrays by layer, and the report.

    Raises:
        RebirthError: the data cannot be read, or there is no room for temporary files.
    """
    work = _Refitting(pair, calibrate, settings, notes, say, selection or Selection())
    return work.run()


@dataclass(frozen=True)
class _Output:
    """An output of both nets.

    Attributes:
        blob: its name.
        teacher: the teacher's value.
        student: the student's.
    """

    blob: str
    teacher: Value
    student: Value


class _Refitting:
    """One refit on its way."""

    def __init__(
        self,
        pair: Pair,
        calibrate: CalibrationOptions,
        settings: RefitSettings,
        notes: list[str],
        say: Say,
        selection: Selection,
    ) -> None:
        self.pair, self.calibrate, self.settings, self.notes, self.say = pair, calibrate, settings, notes, say
        self.teacher = pair.teacher.view("TEST")
        self.student = pair.student.view("TEST")
        self.net = pair.student.copy()  # takes the new weights
        self.layers = {layer.name: layer for layer in self.student.layers}
        found, self.left = find_targets(self.teacher, pair.student, pair.origins)
        self.targets: list[Target] = []
        for target in found:
            layer = self.layers[target.layer]
            reason = _too_wide(self.student, layer)
            if not selection(layer.stage):
                reason = "its stage was not asked for"
            if reason:
                self.left[target.layer] = reason
            else:
                self.targets.append(target)
        self.outputs = _outputs(self.teacher, self.student)
        self._check_inputs()
        self.engine: Engine = choose(calibrate.engine, [self.teacher, self.student]).engine
        self.images: dict[str, tuple[RowFile, tuple[int, ...]]] = {}
        self.goals: dict[str, RowFile] = {}
        self.wanted: dict[str, RowFile] = {}
        self.count = 0

    def _check_inputs(self) -> None:
        """Refuses a pair where the student reads something that the teacher is not given."""
        ends = [self.student.ins[self.layers[target.layer]][0] for target in self.targets]
        ends += [one.student for one in self.outputs]
        read = above(self.student, ends)
        given = {value.name for value in self.teacher.fed}
        for value in self.student.fed:
            if value in read and value.name not in given:
                raise RebirthError(f'the original net has no input "{value.name}", which the converted one reads')

    def run(self) -> tuple[dict[str, list[FloatArray]], RefitReport]:
        """Does all of it."""
        arrays: dict[str, list[FloatArray]] = {}
        layers: list[Refitted] = []
        outputs: list[RefitOutput] = []
        if not self.targets:
            self.notes.append("refit: there is nothing to fit")
            return arrays, self._report(layers, outputs)
        with tempfile.TemporaryDirectory(prefix="rebirth-refit-") as name, ExitStack() as files:
            self.folder, self.files = Path(name), files
            with self.engine.session():
                self._teach()
                before = self._compare()
                levels = list(self._levels())
                began = monotonic()
                for number, level in enumerate(levels):
                    layers += self._fit_level(level, arrays)
                    ahead = (monotonic() - began) / (number + 1) * (len(levels) - number - 1)
                    if not number and ahead > WORTH_TELLING:
                        self.say(f"refit: {about(ahead)} for {len(levels) - 1} more levels of layers")
                after = self._compare()
        for blob in (one.blob for one in self.outputs):
            (old, agreed), (new, agrees) = before[blob], after[blob]
            outputs.append(RefitOutput(blob=blob, before=old, after=new, agree_before=agreed, agree_after=agrees))
        return arrays, self._report(layers, outputs)

    def _report(self, layers: Sequence[Refitted], outputs: Sequence[RefitOutput]) -> RefitReport:
        settings = self.settings
        return RefitReport(
            engine=self.engine.name,
            source=self.calibrate.source,
            samples=self.calibrate.samples,
            ridge=settings.fit.ridge,
            rounds=settings.fit.rounds,
            prior=settings.fit.prior,
            positions=settings.positions,
            seed=settings.seed,
            images=self.count,
            layers=layers,
            left=[Left(layer=name, reason=reason) for name, reason in self.left.items()],
            outputs=outputs,
        )

    # The teacher.

    def _teach(self) -> None:
        """Runs the data through the teacher once; stores images, goals and outputs."""
        names = value_names(self.teacher)
        recipes = [recipe for target in self.targets for recipe in target.recipes]
        net = taught(self.pair.teacher, self.teacher, recipes, [one.teacher for one in self.outputs])
        blobs = [recipe.blob for recipe in recipes] + [names[one.teacher] for one in self.outputs]
        view, blobs = net.view("TEST"), list(dict.fromkeys(blobs))
        for batch, found in through(self.engine, net, view, self._images(), blobs):
            self._store(batch, found, names)
        if not self.count:
            raise RebirthError(f"{self.calibrate.source}: there is no image to calibrate on")

    def _images(self) -> Iterator[Mapping[str, FloatArray]]:
        """The data, so many images at a time as there is room for."""
        most = at_once(self.teacher, picture_input(self.pair.path, self.teacher), _BLOB_BYTES)
        for batch in calibration_inputs(self.pair.path, self.pair.teacher, self.calibrate, self.notes):
            for start in range(0, len_of(batch), most):
                yield {name: array[start : start + most] for name, array in batch.items()}
            self.say(f"refit: {self.count} images through the original net")

    def _store(
        self, batch: Mapping[str, FloatArray], found: Mapping[str, FloatArray], names: Mapping[Value, str]
    ) -> None:
        size = len_of(batch)
        for name, array in batch.items():
            if name not in self.images:
                self.images[name] = (self._file(f"image{len(self.images)}", _width(array)), array.shape[1:])
            self.images[name][0].append(array)
        for target in self.targets:
            goals = self._goals(target, found, size)
            if target.layer not in self.goals:
                self.goals[target.layer] = self._file(f"goals{len(self.goals)}", goals.shape[1])
            self.goals[target.layer].append(goals)
        for one in self.outputs:
            array = found[names[one.teacher]]
            if one.blob not in self.wanted:
                self.wanted[one.blob] = self._file(
                    f"output{len(self.wanted)}", int(np.prod(array.shape[1:], dtype=int))
                )
            self.wanted[one.blob].append(array)
        self.count += size

    def _goals(self, target: Target, found: Mapping[str, FloatArray], size: int) -> FloatArray:
        """What a layer is to put out at the sampled places: (places, channels), as `numerics.refit.fit` takes it."""
        blob = target.after if target.activation in (None, RELU) or target.before is None else target.before
        places = self._places(target.layer, found[blob], range(self.count, self.count + size))
        goals: FloatArray = at_places(found[blob], places)
        if target.activation == RELU and target.before is not None:
            raw = at_places(found[target.before], places)
            goals = np.where(goals > 0, goals, np.minimum(raw, 0))
        return goals

    def _places(self, layer: str, blob: FloatArray, images: range) -> Any:
        count = int(np.prod(blob.shape[2:], dtype=int))
        return sample_places(self.settings.seed, layer, images, count, self.settings.positions)

    # The student.

    def _levels(self) -> Iterator[list[Target]]:
        """The targets bottom-up; those of one level do not depend on each other."""
        depth: dict[Layer, int] = {}
        for target in self.targets:
            layer = self.layers[target.layer]
            below = ancestors(self.student, self.student.ins[layer])
            depth[layer] = 1 + max((depth[one] for one in below if one in depth), default=0)
        for level in sorted(set(depth.values())):
            yield [target for target in self.targets if depth[self.layers[target.layer]] == level]

    def _fit_level(self, level: Sequence[Target], arrays: dict[str, list[FloatArray]]) -> list[Refitted]:
        """Fits some layers on what they read, and gives them their new weights."""
        values = [self.student.ins[self.layers[target.layer]][0] for target in level]
        report = []
        with ExitStack() as stack:
            rows: dict[str, RowFile] = {}
            for first, found in self._passes(values):
                for target, value in zip(level, values, strict=True):
                    taken = self._rows(self.layers[target.layer], found[value.name], first)
                    if target.layer not in rows:
                        path = self.folder / f"rows{len(rows)}"
                        rows[target.layer] = stack.enter_context(RowFile(path, taken.shape[1]))
                    rows[target.layer].append(taken)
            for target in level:
                report.append(self._fit(target, rows[target.layer], arrays))
        return report

    def _rows(self, layer: Layer, bottom: FloatArray, first: int) -> FloatArray:
        """What a layer reads at the sampled places."""
        if layer.type == "InnerProduct":
            return bottom.reshape(len(bottom), -1)
        geometry = conv_geometry(layer.param)
        size = geometry.output(bottom.shape[2:])
        places = sample_places(
            self.settings.seed,
            layer.name,
            range(first, first + len(bottom)),
            int(np.prod(size)),
            self.settings.positions,
        )
        return patches(bottom, places, size[1], geometry.kernel, geometry.stride, geometry.pad, geometry.dilation)

    def _fit(self, target: Target, rows: RowFile, arrays: dict[str, list[FloatArray]]) -> Refitted:
        layer, goals = self.layers[target.layer], self.goals[target.layer]
        assert self.net.weights is not None, "layers without weights have no target"
        blobs = self.net.weights[target.layer]
        weight, bias = blobs[0], blobs[1] if len(blobs) > 1 else None
        group = conv_geometry(layer.param).group if layer.type == "Convolution" else 1
        outputs = goals.width
        relu = target.activation == RELU
        flat, flat_bias = weight.reshape(outputs, -1), None if bias is None else bias.reshape(-1)
        scaled = reads_input(self.student, layer)
        found: Fit
        if scaled:
            found = rescale(rows, goals, flat, flat_bias, group, relu)
        else:
            found = fit(rows, goals, flat, flat_bias, group, relu, self.settings.fit)
        if found.note:
            self.notes.append(f"refit: {target.layer}: {found.note}")
        elif not scaled and rows.count < rows.width // group:
            few = f"{rows.count} places for {rows.width // group} inputs are few; the ridge settles the rest"
            self.notes.append(f"refit: {target.layer}: {few}")
        made = [found.weight.reshape(weight.shape).astype(np.float32)]
        if bias is not None and found.bias is not None:
            made.append(found.bias.reshape(bias.shape).astype(np.float32))
        arrays[target.layer] = made
        self.net.weights.set(target.layer, made)
        self.say(f"refit: {target.layer}: relative error {_spell(found.before)} to {_spell(found.after)}")
        return Refitted(
            layer=target.layer,
            how="scaled" if scaled else "fitted",
            parts=target.parts,
            rows=rows.count,
            features=rows.width // group,
            before=found.before,
            after=found.after,
        )

    def _compare(self) -> dict[str, tuple[float | None, float | None]]:
        """Of each output: its relative error, and for what part of the images its largest number is the teacher's."""
        error = {one.blob: 0.0 for one in self.outputs}
        size, same = dict(error), dict(error)
        files: dict[str, Iterator[FloatArray]] = {}
        if not self.outputs:
            return {}
        step = self._step()
        for one in self.outputs:
            files[one.blob] = self.wanted[one.blob].chunks(step)
        for _, found in self._passes([one.student for one in self.outputs]):
            for one in self.outputs:
                wanted = next(files[one.blob])
                given = found[one.student.name].reshape(len(wanted), -1)
                error[one.blob] += float(np.square(given - wanted, dtype=np.float64).sum())
                size[one.blob] += float(np.square(wanted, dtype=np.float64).sum())
                same[one.blob] += int((given.argmax(axis=1) == wanted.argmax(axis=1)).sum())
        return {
            one.blob: (
                _finite(np.sqrt(error[one.blob] / size[one.blob])) if size[one.blob] else None,
                same[one.blob] / self.count if _classes(one.student) else None,
            )
            for one in self.outputs
        }

    def _step(self) -> int:
        """How many images run at a time."""
        return at_once(self.student, picture_input(self.pair.path, self.student), _BLOB_BYTES)

    def _passes(self, values: Sequence[Value]) -> Iterator[tuple[int, dict[str, FloatArray]]]:
        """The stored images through the student up to some values: the number of the first image, and the blobs."""
        step = self._step()
        files = {value.name: self.images[value.name] for value in self.student.fed if value.name in self.images}
        chunks = {name: file.chunks(step) for name, (file, _) in files.items()}
        batches = (
            {name: next(chunks[name]).reshape(-1, *shape) for name, (_, shape) in files.items()}
            for _ in range(0, self.count, step)
        )
        blobs = list(dict.fromkeys(value.name for value in values))
        runs = through(self.engine, self.net, self.student, batches, blobs, up_to=values)
        for number, (_, found) in enumerate(runs):
            yield number * step, found

    def _file(self, name: str, width: int) -> RowFile:
        return self.files.enter_context(RowFile(self.folder / name, width))


def _outputs(teacher: View, student: View) -> list[_Output]:
    """What both nets put out: of a loss or an accuracy, what it reads."""
    found: dict[str, _Output] = {}
    for value in teacher.results:
        maker = value.producer
        if maker is None or maker.op is None or maker.op.data:
            continue
        if maker.op.loss or maker.type == "Accuracy":
            value = teacher.ins[maker][0]
        twin = student.blob(value.name)
        if twin is None or twin.shape is None or value.shape is None or twin.shape[1:] != value.shape[1:]:
            continue
        found[value.name] = _Output(value.name, value, twin)
    return list(found.values())


def _width(array: FloatArray) -> int:
    """How many numbers an image has."""
    return int(np.prod(array.shape[1:], dtype=int))


def _classes(value: Value) -> bool:
    """Whether an output is a number for each class."""
    shape = value.shape or ()
    return len(shape) > 1 and shape[1] > 1 and int(np.prod(shape[2:], dtype=int)) == 1


def _too_wide(view: View, layer: Layer) -> str:
    """Why a layer has too many inputs to fit; empty when it has not."""
    shape = view.ins[layer][0].shape
    if shape is None:
        return "what it reads has no known shape"
    if layer.type == "InnerProduct":
        features = int(np.prod(shape[1:]))
    else:
        geometry = conv_geometry(layer.param)
        features = shape[1] // geometry.group * int(np.prod(geometry.kernel))
    return (
        f"it has {features} inputs, and {MAX_FEATURES} are the most that is fitted" if features > MAX_FEATURES else ""
    )


def _finite(value: Any) -> float | None:
    return float(value) if np.isfinite(value) else None


def _spell(value: float | None) -> str:
    return "none" if value is None else f"{value:.4f}"
