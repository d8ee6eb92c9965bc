"""A teacher for a training run: where its scores and blobs meet the student's, settled before anything starts."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from deeprebirth_caffe.engines.lesson import Head, Lesson
from deeprebirth_caffe.errors import RebirthError, UsageError
from deeprebirth_caffe.ir import Layer, Net, Value, View, Weights
from deeprebirth_caffe.ir.probe import probe
from deeprebirth_caffe.ir.subnet import above
from deeprebirth_caffe.nets.load import ALL_OF_A_TEACHER, check_weights, need_weights
from deeprebirth_caffe.ops import Shape
from deeprebirth_caffe.ops.base import axis_of, by
from deeprebirth_caffe.options.finetune import TeacherOptions
from deeprebirth_caffe.proto import caffe_pb2 as pb
from deeprebirth_caffe.relearn.matching import matching_blobs

WITH_LABELS = 0.5
"""What the teacher's scores count where the student has losses of its own."""


@dataclass(frozen=True)
class _Scores:
    """Something that makes probabilities of scores, and the scores."""

    name: str
    param: pb.LayerParameter
    value: Value
    axis: int
    weight: float


def plan_lesson(options: TeacherOptions, student: View) -> tuple[Lesson, list[str]]:
    """Finds out what the student learns from the teacher.

    Heads belong together that are layers of one name, else whose scores are blobs of one name, else the only ones of
    both nets.

    Args:
        options: what the user says.
        student: the net that learns, in TRAIN, with the shapes of its data.

    Returns:
        The lesson, and what people should know about it.

    Raises:
        RebirthError: a file cannot be read, or the two nets do not fit each other.
        UsageError: the options leave nothing to learn from it, or want labels that the student does not have.
    """
    net = Net.read(options.net)
    _tell_shapes(net, student)
    teacher = net.view("TEST")
    labelled = any(any(_weights_of(layer)) for layer in student.layers)
    alpha = _alpha(options, labelled)
    pairs = list(_pairs(_heads(student), _heads(teacher))) if alpha else []
    blobs = matching_blobs(student, teacher) if options.match_blobs else []
    _something(options, pairs, blobs, labelled, alpha)
    wanted = dict.fromkeys([*(its.value for _, its in pairs), *(its for _, its in blobs)])
    inputs = _inputs(options.net, above(teacher, wanted), student)
    shapes = {name: value.shape for name, value in inputs.items() if value.shape is not None}
    cut = probe(net, teacher, shapes=shapes, up_to=wanted)
    cut.header.ClearField("force_backward")
    cut.weights = _weights(options, cut)
    view = cut.view("TEST")
    for mine, its in pairs:
        _comparable(options.net, mine.value, view.blobs[its.value.name])
    heads = [
        Head(mine.name, mine.param, mine.value.name, its.value.name, mine.axis, mine.weight) for mine, its in pairs
    ]
    same = [mine.name for mine, its in blobs if mine.shape is not None and mine.shape == view.blobs[its.name].shape]
    if options.match_blobs and not same:
        raise RebirthError(
            f"{options.net}: no output of a rebirth layer of the student has a blob of its name and shape there, so "
            "--match-blobs has nothing to compare; leave it out, or give the net that was converted"
        )
    lesson = Lesson(
        cut,
        {name: value.name for name, value in inputs.items()},
        tuple(heads),
        tuple(same),
        options.temperature,
        alpha,
        options.match_weight,
    )
    return lesson, [*_lines(options, lesson), *_transform_lines(teacher, student)]


def _lines(options: TeacherOptions, lesson: Lesson) -> Iterator[str]:
    own = f"{1 - lesson.alpha:g} x the net's own losses + " if lesson.alpha < 1 else ""
    match = f" + {lesson.match_weight:g} x blobs" if lesson.blobs else ""
    yield f"teacher {options.net}: the loss is {own}{lesson.alpha:g} x divergence{match}, T = {lesson.temperature:g}"
    if lesson.heads:
        yield "compared: " + ", ".join(f"{head.name} ({head.student} with {head.teacher})" for head in lesson.heads)
    if lesson.blobs:
        yield f"blobs compared: {', '.join(lesson.blobs)}"


def _alpha(options: TeacherOptions, labelled: bool) -> float:
    if labelled:
        return WITH_LABELS if options.alpha is None else options.alpha
    if options.alpha not in (None, 1.0):
        raise UsageError(
            f"--alpha {options.alpha:g} leaves a part to the net's own losses, and it has none; leave --alpha out"
        )
    return 1.0


def _something(
    options: TeacherOptions,
    pairs: Sequence[tuple[_Scores, _Scores]],
    blobs: Sequence[tuple[Value, Value]],
    labelled: bool,
    alpha: float,
) -> None:
    """Refuses a lesson in which nothing is learned."""
    if pairs or blobs:
        return
    if not alpha and not options.match_blobs:
        raise UsageError("--alpha 0 lets the teacher say nothing; give more, or leave --teacher out")
    what = "" if labelled else ", and the net has no losses of its own"
    raise RebirthError(
        f"{options.net}: none of its scores belongs to a head of the student: no layers with probabilities of one "
        f"name, no scores that are blobs of one name, and not one of each{what}; give the net that was converted"
    )


def _heads(view: View) -> list[_Scores]:
    """Where a net has scores: at its losses over classes that count, else at a Softmax, else at its only output."""
    for trained in (True, False):
        found = []
        for layer in view.layers:
            if layer.type != ("SoftmaxWithLoss" if trained else "Softmax") or (trained and not any(_weights_of(layer))):
                continue
            value = view.ins[layer][0]
            if view.blob(value.name) is value:  # else an in-place layer overwrites them
                weight = _weights_of(layer)[0] if trained else 1.0
                found.append(_Scores(layer.name, layer.param, value, _axis(layer, value.shape), weight))
        if found:
            return found
    outputs = view.results
    if len(outputs) == 1 and not any(_weights_of(layer) for layer in view.layers if layer.traits.loss):
        value = outputs[0]
        return [_Scores(value.name, pb.LayerParameter(), value, 1, 1.0)]
    return []


def _axis(layer: Layer, shape: Shape | None) -> int:
    """Of the classes; where the shape is not known, as the file says it."""
    axis = layer.param.softmax_param.axis
    return axis if shape is None else axis_of(layer.param, axis, shape)


def _pairs(mine: Sequence[_Scores], its: Sequence[_Scores]) -> Iterator[tuple[_Scores, _Scores]]:
    by_layer = {one.name: one for one in its}
    by_blob = {one.value.name: one for one in its}
    found = False
    for one in mine:
        other = by_layer.get(one.name) or by_blob.get(one.value.name)
        if other is not None:
            found = True
            yield one, other
    if not found and len(mine) == len(its) == 1:
        yield mine[0], its[0]


def _weights_of(layer: Layer) -> list[float]:
    """The loss weights of a layer's tops."""
    from deeprebirth_caffe.engines.torch.graph import loss_weights  # the room sets the environment up for PyTorch

    return loss_weights(layer)


def _given(value: Value) -> bool:
    """Whether a value is data."""
    return value.producer is None or value.producer.fed


def _is_label(value: Value) -> bool:
    """Whether losses and Accuracy alone read a value, to compare something with it; or nobody does."""
    return all(
        index > 0 and layer.op is not None and (layer.op.loss or layer.type == "Accuracy")
        for layer, index in value.uses
    )


def _tell_shapes(net: Net, student: View) -> None:
    """Takes the shapes of a teacher's own data layers from the student's data, which they will get."""
    data = {value.name: value for value in student.values if _given(value) and value.shape is not None}
    pictures = [value for value in data.values() if not _is_label(value)]
    for layer in net.layers:
        if not layer.traits.reads:
            continue
        first = data.get(layer.tops[0]) or (pictures[0] if len(pictures) == 1 else None)
        if first is not None and first.shape is not None:
            known = {top: data[top].shape[1:] for top in layer.tops if top in data}  # type: ignore[index]
            net.data[layer] = known if layer.type == "HDF5Data" else first.shape[1:]  # type: ignore[assignment]
    net.changed()


def _inputs(file: Path, needed: Mapping[Value, None], student: View) -> dict[str, Value]:
    """For each input of the teacher the student's data that go there."""
    data = {value.name: value for value in student.values if _given(value)}
    pictures = [value for value in data.values() if not _is_label(value)]
    wanted = [value for value in needed if _given(value)]
    found: dict[str, Value] = {}
    for value in wanted:
        given = data.get(value.name)
        if given is None and len(wanted) == 1 and len(pictures) == 1:
            given = pictures[0]
        if given is None:
            raise RebirthError(
                f'{file}: the teacher reads blob "{value.name}", and the student\'s data are '
                f"{', '.join(data) or 'none'}; rename one"
            )
        if given.shape is None:
            raise RebirthError(f'the shape of the student\'s data "{given.name}" is not known: {given.unknown}')
        found[value.name] = given
    return found


def _weights(options: TeacherOptions, net: Net) -> Weights:
    """The teacher's, which must be there for every layer that has some."""
    weights = Weights.read(options.weights, [layer.param for layer in net.layers])
    check_weights(net, weights)
    net.weights = weights
    need_weights(net, options.net, options.weights, {layer.name for layer in net.layers}, ALL_OF_A_TEACHER)
    return weights


def _comparable(file: Path, mine: Value, its: Value) -> None:
    if mine.shape is not None and its.shape is not None and mine.shape != its.shape:
        raise RebirthError(
            f'{file}: the student\'s scores "{mine.name}" are {by(mine.shape)} and the teacher\'s "{its.name}" '
            f"{by(its.shape)}; a teacher knows the same classes"
        )


def _transform_lines(teacher: View, student: View) -> Iterator[str]:
    """Whether a teacher that has data layers of its own was given its pictures otherwise."""
    theirs = next((layer for layer in teacher.layers if _transforms(layer)), None)
    mine = next((layer for layer in student.layers if _transforms(layer)), None)
    if theirs is None or mine is None:
        return
    for field in ("scale", "mean_value", "mean_file"):
        one, other = (getattr(layer.param.transform_param, field) for layer in (mine, theirs))
        if one != other:
            yield (
                f"the teacher's own data layer has another {field} than the student's, whose data it gets now; are its "
                "weights made for that?"
            )


def _transforms(layer: Layer) -> bool:
    return layer.traits.reads and layer.type != "HDF5Data"
