"""`rebirth test`: a net over its test data, as `caffe test` runs it, with results for each image."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from deeprebirth_caffe.engines.choose import choose
from deeprebirth_caffe.errors import RebirthError
from deeprebirth_caffe.formats.outputs import check_output, output_file
from deeprebirth_caffe.inputs.labels import check_labels
from deeprebirth_caffe.inputs.roots import check_regular, find_root
from deeprebirth_caffe.inputs.sources import (
    batch_of,
    check_sources,
    count_records,
    files_of,
    keys_known,
    read_keys,
    read_shapes,
    source_layers,
    source_of,
)
from deeprebirth_caffe.ir import Layer, Net, View, Weights
from deeprebirth_caffe.nets.load import check_weights, layers_without_weights
from deeprebirth_caffe.nets.ranking import Ranking, find_classifier
from deeprebirth_caffe.options.test import TestOptions
from deeprebirth_caffe.results import ABSENT, Absent, Figures, Result, to_json
from deeprebirth_caffe.wording import counted

if TYPE_CHECKING:
    from deeprebirth_caffe.engines.base import FloatArray

Say = Callable[[str], None]
Show = Callable[[str, int, int], None]


@dataclass(frozen=True, kw_only=True)
class Scored(Result):
    """What `rebirth test` found.

    Attributes:
        engine: `"caffe"` or `"torch"`.
        net: path.
        weights: path.
        iterations: how many batches.
        outputs: the mean over the batches of each output blob, element by element: a number where it has one element;
            null where it is NaN or infinite.
        images: how many images count in `top1` and `top5`; these three only where the net has an Accuracy or a loss
            over classes, and one score for each image and class.
        top1: for how many of them the right class had the highest score, from 0 to 1.
        top5: for how many it was among the first five.
    """

    engine: str
    net: Path
    weights: Path
    iterations: int
    outputs: Figures
    images: int | Absent = ABSENT
    top1: float | Absent = ABSENT
    top5: float | Absent = ABSENT


def test(options: TestOptions, say: Say, show: Show) -> Scored:
    """Runs a net in phase TEST.

    Args:
        options: what to do.
        say: is told what people should know.
        show: is told how many batches are done, and of how many.

    Raises:
        RebirthError: something is missing or does not fit.
    """
    check_regular(options.net)
    net = Net.read(options.net)
    root = find_root([source_of(layer) for layer in net.layers if layer in _sources(net)], options.net)
    if root != Path():
        say(f"paths in {options.net} start in {root}")
    read_shapes(net, root)
    view = net.view("TEST", options.stages, options.level, stand_in=False)
    classifier = find_classifier(view)
    if classifier is None and options.per_image is not None:
        raise RebirthError(
            f"{options.net}: --per-image needs an Accuracy or a loss over classes, and it has none in TEST"
        )
    if options.per_image is not None:
        read = (path for layer in view.layers for path in files_of(layer, root))
        check_output(options.per_image, options.force, (options.net, options.weights, *read))
    _check(options, net, view, root)
    for name in layers_without_weights(net):
        say(f"{options.weights}: holds nothing for {name}, which runs with what its filler makes")
    choice = choose(options.engine, [view])
    if choice.reason:
        say(f"engine {choice.engine.name}: {choice.reason}")
    source = _image_source(view)
    records = count_records(source, root) if source is not None else None
    iterations = _iterations(options, source, records, say)
    outputs = sorted(value.name for value in view.outputs)  # as Caffe lists them
    wanted = None if classifier is None else list(dict.fromkeys([*outputs, classifier.scores, classifier.labels]))
    totals: dict[str, NDArray[np.float64]] = {}
    ranking: Ranking | None = None
    with ExitStack() as stack:
        if classifier is not None:
            rows = stack.enter_context(output_file(options.per_image)) if options.per_image else None
            ranking = Ranking(classifier, None if options.iterations else records, rows)
        keys = _keys(source, root, iterations) if options.per_image else iter(())
        batches = choice.engine.batches(
            options.net,
            options.weights,
            iterations,
            wanted,
            root=root,
            stages=options.stages,
            level=options.level,
        )
        for done, blobs in enumerate(batches, 1):
            _add(totals, blobs, outputs if classifier is not None else list(blobs))
            if ranking is not None and classifier is not None:
                ranking = _rank(ranking, blobs, next(keys, []), options.per_image is not None, say)
            show("testing", done, iterations)
    return _result(options, choice.engine.name, iterations, totals, ranking)


def _sources(net: Net) -> list[Layer]:
    """The layers that read files, in the first state for TEST where there is one."""
    view = next((view for view in net.views if view.state.phase == "TEST"), net.views[0])
    return source_layers(view)


def _check(options: TestOptions, net: Net, view: View, root: Path) -> None:
    fed = [value.name for value in view.inputs]
    fed += [top for layer in view.layers if layer.type == "Input" for top in layer.tops]
    if fed:
        raise RebirthError(
            f'{options.net}: nothing in it fills blob "{fed[0]}" in {view.state}; give a net with a data layer '
            "(train_val.prototxt), or run pictures through this one with rebirth forward"
        )
    check_sources(source_layers(view), root)
    check_weights(net, Weights.read(options.weights, [layer.param for layer in net.layers]), (view,))
    check_labels(view, root)


def _image_source(view: View) -> Layer | None:
    """The data layer whose records are the images; None where there is not one alone."""
    found = source_layers(view)
    return found[0] if len(found) == 1 else None


def _iterations(options: TestOptions, source: Layer | None, records: int | None, say: Say) -> int:
    if records is None or source is None:
        if not options.iterations:
            raise RebirthError(f"{options.net}: how many records its data has is not known; give --iterations a number")
        return options.iterations
    batch = batch_of(source)
    iterations = options.iterations or -(-records // batch)
    if options.iterations and iterations * batch != records:
        taken = f"{counted(iterations, 'batch')} of {batch} {'is' if iterations == 1 else 'are'}"
        say(f"{taken} {counted(iterations * batch, 'record')}, and {source_of(source)} has {records}")
    elif iterations * batch != records:
        twice = iterations * batch - records
        say(
            f"the last batch begins {source_of(source)} anew: {counted(twice, 'record')} "
            f"{'counts' if twice == 1 else 'count'} twice in the means of the outputs, and once in top1 and top5"
        )
    return iterations


def _keys(source: Layer | None, root: Path, iterations: int) -> Iterator[list[str]]:
    """The keys of each batch, read before an engine opens the source: a LevelDB can be open once only."""
    if source is None or not keys_known(source):
        return iter(())
    return iter(list(islice(read_keys(source, root), iterations)))


def _add(totals: dict[str, NDArray[np.float64]], blobs: Mapping[str, FloatArray], names: Sequence[str]) -> None:
    for name in names:
        values = np.asarray(blobs[name], np.float64).reshape(-1)
        totals[name] = totals[name] + values if name in totals else values


def _rank(
    ranking: Ranking, blobs: Mapping[str, FloatArray], keys: Sequence[str], asked: bool, say: Say
) -> Ranking | None:
    classifier = ranking.classifier
    try:
        ranking.add(blobs[classifier.scores], blobs[classifier.labels], keys)
    except RebirthError as error:
        if asked or ranking.images:
            raise
        say(f"no top-1 and top-5: {error}")
        return None
    return ranking


def _result(
    options: TestOptions,
    engine: str,
    iterations: int,
    totals: Mapping[str, NDArray[np.float64]],
    ranking: Ranking | None,
) -> Scored:
    means = {name: (total / iterations).tolist() for name, total in totals.items()}
    tested = Scored(
        engine=engine,
        net=options.net,
        weights=options.weights,
        iterations=iterations,
        outputs=to_json({name: mean[0] if len(mean) == 1 else mean for name, mean in means.items()}),
    )
    if ranking is None or not ranking.images:
        return tested
    top1, top5 = (hits / ranking.images for hits in ranking.hits)
    return replace(tested, images=ranking.images, top1=top1, top5=top5)
