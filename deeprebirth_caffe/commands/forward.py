"""`rebirth forward`: pictures through a net, to labels or to a blob."""

from __future__ import annotations

import zipfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

import numpy as np

from deeprebirth_caffe.engines.choose import choose
from deeprebirth_caffe.errors import RebirthError, UsageError
from deeprebirth_caffe.formats.files import read_regular_text
from deeprebirth_caffe.formats.outputs import check_output, output_file
from deeprebirth_caffe.inputs.feeding import at_once, picture_input, preprocessing_for, through, with_zeros
from deeprebirth_caffe.inputs.pictures import data_layer, find_pictures
from deeprebirth_caffe.inputs.roots import find_root
from deeprebirth_caffe.inputs.sources import files_of, source_of
from deeprebirth_caffe.ir import Net, View
from deeprebirth_caffe.nets.load import layers_without_weights, load_net
from deeprebirth_caffe.nets.ranking import find_classifier
from deeprebirth_caffe.ops import Shape
from deeprebirth_caffe.ops.base import by
from deeprebirth_caffe.options.forward import ForwardOptions
from deeprebirth_caffe.results import ABSENT, Absent, Result, to_json

if TYPE_CHECKING:
    from deeprebirth_caffe.engines.base import FloatArray

Say = Callable[[str], None]
Show = Callable[[str, int, int], None]


@dataclass(frozen=True)
class Scores:
    """Where a net has a score for each class.

    Attributes:
        blob: its name.
        softmax: whether they still have to be made probabilities.
        sure: whether the net says that they are scores of classes; else they are only what it puts out last.
    """

    blob: str
    softmax: bool
    sure: bool = True


@dataclass(frozen=True, kw_only=True)
class Class:
    """A class that a picture may be of.

    Attributes:
        label: its line of `--labels`, else its index.
        index: which class.
        score: a probability where the net ends in a Softmax or trains with one.
    """

    label: str
    index: int
    score: float | None


@dataclass(frozen=True, kw_only=True)
class Picture:
    """A picture that went through the net.

    Attributes:
        file: path.
        top: without `--blob`: the classes with the highest scores, the highest first.
    """

    file: Path
    top: Sequence[Class] | Absent = ABSENT


@dataclass(frozen=True, kw_only=True)
class Forwarded(Result):
    """What `rebirth forward` found.

    Attributes:
        engine: `"caffe"` or `"torch"`.
        net: path.
        weights: path.
        preprocessing: for people: what was done to the pictures.
        inputs: the pictures, in order.
        output: with `--blob`: path of the .npz.
        blobs: with `--blob`: the shape of each array in it, one row a picture.
    """

    engine: str
    net: Path
    weights: Path
    preprocessing: str
    inputs: Sequence[Picture]
    output: Path | Absent = ABSENT
    blobs: Mapping[str, Shape] | Absent = ABSENT


def forward(options: ForwardOptions, say: Say, show: Show) -> Forwarded:
    """Runs pictures through a net.

    Args:
        options: what to do.
        say: is told what people should know.
        show: is told how many pictures are done, and of how many.

    Raises:
        RebirthError: something is missing or does not fit.
    """
    if bool(options.blobs) != (options.out is not None):
        raise UsageError("--blob and -o belong together: which blob, and the .npz it goes into")
    files = find_pictures(options.named)
    labels = _labels(options.labels)
    _check_out(options, files)
    net = load_net(options.net, options.weights, options.input_shapes)
    view = net.view("TEST")
    for name in layers_without_weights(net):
        if any(layer.name == name for layer in view.layers):
            say(f"{options.weights}: holds nothing for {name}, which runs with what its filler makes")
    target = picture_input(options.net, view)
    preprocessing = preprocessing_for(options.pictures, options.net, net, target)
    say(preprocessing.said)
    choice = choose(options.engine, [view])
    if choice.reason:
        say(f"engine {choice.engine.name}: {choice.reason}")
    scores = None if options.blobs else _scores(options.net, view)
    if scores is not None and not (scores.sure or labels):
        say(
            f'blob "{scores.blob}" is ranked as it is, for nothing in this net says that it holds scores of classes; '
            "--blob writes one, --labels names classes"
        )
    wanted = list(dict.fromkeys(options.blobs)) if scores is None else [scores.blob]
    for name in wanted:
        if name not in view.blobs:
            raise UsageError(f'--blob names "{name}", which {options.net} does not have in TEST')
    found: dict[str, list[FloatArray]] = {name: [] for name in wanted}
    size, done = at_once(view, target), 0
    batches = (
        with_zeros(view, {target.name: preprocessing.read(files[start : start + size])})
        for start in range(0, len(files), size)
    )
    for batch, blobs in through(choice.engine, net, view, batches, wanted, options.weights):
        count = len(batch[target.name])
        for name in wanted:
            if blobs[name].shape[:1] != (count,):
                raise RebirthError(f'blob "{name}" ({by(blobs[name].shape)}) has no row for each picture')
            found[name].append(blobs[name])
        done += count
        show("pictures", done, len(files))
    arrays = {name: np.concatenate(parts) for name, parts in found.items()}
    output: Path | Absent = ABSENT
    shapes: Mapping[str, Shape] | Absent = ABSENT
    if scores is None:
        assert options.out is not None
        with output_file(options.out) as out:
            _write_npz(out, arrays)
        inputs = [Picture(file=path) for path in files]
        output, shapes = options.out, {name: array.shape for name, array in arrays.items()}
    else:
        table = _probabilities(arrays[scores.blob], scores, options.net)
        if labels and len(labels) != table.shape[1]:
            raise RebirthError(f"{options.labels}: has {len(labels)} lines, and the net knows {table.shape[1]} classes")
        rows = zip(files, table, strict=True)
        inputs = [Picture(file=path, top=_top(row, labels, options.top)) for path, row in rows]
    return Forwarded(
        engine=choice.engine.name,
        net=options.net,
        weights=options.weights,
        preprocessing=preprocessing.said,
        inputs=inputs,
        output=output,
        blobs=shapes,
    )


def _write_npz(file: BinaryIO, arrays: Mapping[str, FloatArray]) -> None:
    """Writes what `np.load` reads; `np.savez` takes some names for arguments of its own."""
    with zipfile.ZipFile(file, "w") as archive:
        for name, array in arrays.items():
            with archive.open(zipfile.ZipInfo(f"{name}.npy"), "w", force_zip64=True) as entry:
                np.lib.format.write_array(entry, np.ascontiguousarray(array), allow_pickle=False)


def _labels(path: Path | None) -> list[str]:
    if path is None:
        return []
    try:
        return [line.strip() for line in read_regular_text(path).splitlines() if line.strip()]
    except OSError as error:
        raise RebirthError(f"{path}: cannot read these labels: {error.strerror or error}") from error


def _check_out(options: ForwardOptions, files: Sequence[Path]) -> None:
    if options.out is None:
        return
    prepare = options.pictures
    read = [options.net, options.weights, options.labels, prepare.mean_file, prepare.transform_from, *files]
    for path in (options.net, prepare.transform_from):
        own = None if path is None else data_layer(Net.read(path))
        if own is not None and path is not None:
            read += files_of(own, find_root([own.param.transform_param.mean_file, source_of(own)], path))
    check_output(options.out, options.force, read)


def _scores(path: Path, view: View) -> Scores:
    """The last Softmax, else what the last Accuracy or loss reads, else the last output."""
    softmax = [layer for layer in view.layers if layer.type == "Softmax"]
    if softmax:
        return Scores(view.outs[softmax[-1]][0].name, False)
    judged = find_classifier(view)
    if judged is not None:
        losses = [layer for layer in view.layers if layer.type == "SoftmaxWithLoss"]
        return Scores(judged.scores, any(view.ins[layer][0].name == judged.scores for layer in losses))
    if not view.results:
        raise RebirthError(f"{path}: it puts nothing out")
    return Scores(view.results[-1].name, False, False)


def _probabilities(scores: FloatArray, where: Scores, path: Path) -> FloatArray:
    table = scores.reshape(len(scores), -1)
    if scores.ndim < 2 or table.shape[1] != scores.shape[1]:
        raise RebirthError(
            f'{path}: blob "{where.blob}" ({by(scores.shape)}) is not one score for each picture and class; '
            "name a blob with --blob"
        )
    if not where.softmax:
        return table
    with np.errstate(invalid="ignore"):  # NaN and infinity give NaN
        powers = np.exp(table - table.max(axis=1, keepdims=True))
        return np.asarray(powers / powers.sum(axis=1, keepdims=True), np.float32)


def _top(row: FloatArray, labels: Sequence[str], count: int) -> list[Class]:
    best = np.argsort(-row, kind="stable")[:count]
    return [
        Class(label=labels[index] if labels else str(index), index=int(index), score=to_json(float(row[index])))
        for index in best
    ]
