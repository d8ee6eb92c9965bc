"""`rebirth plan`: a schedule for `rebirth run` out of a net, as the paper goes, or the merges that a target needs."""

from __future__ import annotations

import re
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from deeprebirth_caffe.collector import uncollected
from deeprebirth_caffe.commands.convert import PASS_NAMES, passes_of
from deeprebirth_caffe.errors import RebirthError, RefusedError, UsageError
from deeprebirth_caffe.extras import pip_install
from deeprebirth_caffe.formats.outputs import check_output, write_output
from deeprebirth_caffe.inputs.roots import find_root
from deeprebirth_caffe.inputs.sources import source_layers, source_of
from deeprebirth_caffe.ir import Net
from deeprebirth_caffe.nets.exactness import check_names
from deeprebirth_caffe.nets.load import both_phases, load_net, upgrade_notes
from deeprebirth_caffe.nets.manifest import Left
from deeprebirth_caffe.nets.ranking import find_classifier
from deeprebirth_caffe.nets.selection import Selection
from deeprebirth_caffe.options.plan import PlanOptions
from deeprebirth_caffe.results import Result
from deeprebirth_caffe.rewrite import AnyPass, Kind
from deeprebirth_caffe.runs.planning.candidates import (
    Merge,
    exactly,
    find_merges,
    find_variants,
    step_name,
    together,
)
from deeprebirth_caffe.runs.planning.choosing import points
from deeprebirth_caffe.runs.planning.options import PlannedStep
from deeprebirth_caffe.runs.planning.recipes import RECIPES
from deeprebirth_caffe.runs.planning.target import Reached, Search, TargetError
from deeprebirth_caffe.runs.planning.trials import Show, Trials
from deeprebirth_caffe.runs.planning.writing import plan_text, run_words
from deeprebirth_caffe.runs.schedule.accuracy import check_metric, metrics_of
from deeprebirth_caffe.runs.schedule.files import parse_schedule

FEW_CLASSES = 20
"""With so many classes or fewer nearly every image is a hit for top-5: top-1 is what counts."""
LONGEST = 60
"""Letters of a step's name."""

WITHOUT_LABELS = (
    "; without labels there is another way: rebirth convert NET -w WEIGHTS --init refit --calibrate PICTURES, then "
    "rebirth distil DIR --calibrate PICTURES"
)
"""What an error says to those who have pictures and no labels."""

Say = Callable[[str], None]


@dataclass(frozen=True, kw_only=True)
class StepRow:
    """A step of the schedule.

    Attributes:
        stages: what it merges.
    """

    name: str
    stages: Sequence[Merge]


@dataclass(frozen=True, kw_only=True)
class CandidateRow:
    """A merge that was measured.

    Attributes:
        passes: that run there.
        error: of the main head's scores, when this alone is merged and refitted: as a part of their norm.
        points: points that it is expected to cost; null where accuracy is no target.
    """

    stage: str
    passes: Sequence[str]
    saved_ms: float
    error: float
    points: float | None
    chosen: bool


@dataclass(frozen=True, kw_only=True)
class TargetRow:
    """What was asked for, and what was found.

    Attributes:
        speedup: what was asked for.
        accuracy: what was asked for: points that may be lost.
        engine: what ran the nets that were timed.
        on: where.
        threads: with how many threads.
        reached_speedup: of the chosen merges together, measured.
        expected_points: what they are expected to cost; null where accuracy is no target.
        recovery: the part of the points lost at first that relearning is expected to bring back; likewise.
        base: the metric of the net as it is, in percent; likewise.
        total_ms: a pass of the net as it is.
        stages_ms: of each stage; empty where the engine tells no layers.
        candidates: what was measured.
        unmet: with `--nearest`: why the target cannot be met; null where it is.
    """

    speedup: float | None
    accuracy: float | None
    engine: str
    on: str
    threads: int | None
    reached_speedup: float
    expected_points: float | None
    recovery: float | None
    base: float | None
    total_ms: float
    stages_ms: Mapping[str, float]
    candidates: Sequence[CandidateRow]
    unmet: str | None


@dataclass(frozen=True, kw_only=True)
class Planned(Result):
    """What `rebirth plan` wrote.

    Attributes:
        net: path.
        weights: path.
        schedule: path of what was written.
        run: the command that runs it, word by word.
        recipe: `--recipe`.
        metric: what budgets and targets go by: `top1`, `top5` or an output; null where the net tests no accuracy.
        steps: of the schedule, in order.
        left: places that no pass can merge.
        target: null without `--target`.
        notes: for people.
    """

    net: Path
    weights: Path
    schedule: Path
    run: Sequence[str]
    recipe: str
    metric: str | None
    steps: Sequence[StepRow]
    left: Sequence[Left]
    target: TargetRow | None
    notes: Sequence[str]


@uncollected
def plan(options: PlanOptions, say: Say, show: Show) -> Planned:
    """Writes a schedule.

    Args:
        options: what to do.
        say: is told what people should know.
        show: is told what is done, how much of it, and of how much.

    Raises:
        RebirthError: bad input; nothing is written.
        RefusedError: there is nothing to merge, or the target cannot be reached; nothing is written.
    """
    check_names(options.skip_passes, PASS_NAMES)
    _check_libraries()
    read = (options.net, options.weights, options.solver, Path(options.images.source))
    check_output(options.out, options.force, read)
    if options.recipe not in RECIPES:
        raise UsageError(f"--recipe {options.recipe}: there is {', '.join(RECIPES)}")
    net = load_net(options.net, options.weights, options.input_shapes)
    if not net.trains:
        raise UsageError(
            f"{options.net}: a schedule relearns; give the net that trains (train_val.prototxt){WITHOUT_LABELS}"
        )
    if net.absent:
        raise UsageError(both_phases(net, options.net))
    selection = Selection(options.only, options.skip)
    selection.check(net)
    _check_data(options.net, net)
    metric = _metric(options, net)
    passes = passes_of(options.conversion)
    found = find_merges(net, passes, selection)
    if not found.merges:
        reasons = "; ".join(f"{layer}: {reason}" for layer, reason in found.left)
        raise RefusedError(f"{options.net}: there is nothing to merge{': ' if reasons else ''}{reasons}")
    merges, reached, unmet = list(found.merges), None, ""
    if options.target is not None:
        variants = find_variants(net, passes, selection, found.merges)
        try:
            reached = _reach(options, net, passes, variants, metric or "", say, show)
        except TargetError as error:
            if not options.nearest:
                raise
            reached, unmet = error.nearest, str(error)
        chosen = {(stage, offer.passes) for stage, offer in reached.chosen.items()}
        known = {(merge.stage, merge.passes): merge for some in variants for merge in some}
        merges = [known[merge.stage, passes] for merge in found.merges for passes in _passes_of(merge, chosen)]
    steps = list(_steps(net, found.merges, merges))
    text = plan_text(options, net.header.name, steps, found.left, metric, reached, unmet)
    # Written by hand, for its comments: so it is read before anybody else does.
    parse_schedule(text, str(options.out))
    write_output(options.out, text)
    return Planned(
        net=options.net,
        weights=options.weights,
        schedule=options.out,
        run=run_words(options),
        recipe=options.recipe,
        metric=metric,
        steps=[StepRow(name=step.name, stages=step.merges) for step in steps],
        left=[Left(layer=layer, reason=reason) for layer, reason in found.left],
        target=None if reached is None else _target_row(options, reached, unmet),
        notes=[*upgrade_notes(net), *([reached.doubt] if reached is not None and reached.doubt else [])],
    )


def _check_libraries() -> None:
    """Says at once what would otherwise be found missing at the end."""
    try:
        import pydantic  # noqa: F401
        import yaml  # noqa: F401
    except ImportError as error:
        raise RebirthError(f"schedules need {error.name}: {pip_install('run')}") from error


def _check_data(path: Path, net: Net) -> None:
    """Refuses a net that no run can train and test.

    Raises:
        UsageError: it has no data in a phase, or tests no accuracy.
    """
    for phase in ("TRAIN", "TEST"):
        if not source_layers(net.view(phase)):
            raise UsageError(f"{path}: it has no data layer that reads a source in {phase}{WITHOUT_LABELS}")
    if not metrics_of(net.view("TEST")):
        raise UsageError(f"{path}: it has no Accuracy and no loss over classes in TEST{WITHOUT_LABELS}")


def _metric(options: PlanOptions, net: Net) -> str | None:
    """What budgets and targets go by; None where the net tests no accuracy.

    Raises:
        RebirthError: the net does not have the metric that is asked for.
    """
    view = net.view("TEST")
    known = metrics_of(view)
    needed = options.target is not None and options.target.accuracy is not None
    if options.metric is not None or (needed and not known):
        check_metric(options.metric or "top1", known, str(options.net))
        return options.metric
    classifier = find_classifier(view)
    if classifier is None:
        return known[0] if known else None
    value = view.blob(classifier.scores)
    shape = value.shape if value is not None else None
    return "top5" if shape is not None and shape[classifier.axis] > FEW_CLASSES else "top1"


def _reach(
    options: PlanOptions,
    net: Net,
    passes: Sequence[AnyPass],
    variants: Sequence[Sequence[Merge]],
    metric: str,
    say: Say,
    show: Show,
) -> Reached:
    # The refit needs much that a plan without a target does not.
    from deeprebirth_caffe.runs.planning.errors import Fidelity

    with tempfile.TemporaryDirectory(prefix="rebirth-plan-") as folder:
        path = Path(folder) / options.net.name
        path.write_text(_rooted(net, options.net), "utf-8", "surrogateescape")
        trials = Trials(
            replace(options.conversion, net=path, init="inherit"),
            [one.name for one in passes if one.kind is Kind.RELEARN],
            list(dict.fromkeys(layer.stage for layer in net.layers)),
            options.timing,
            show,
        )
        choices = [{merge.stage: merge.passes for merge in some} for some in variants]
        judge = Fidelity(trials, options.calibration)
        return Search(trials, judge, options, metric, say).run(choices)


def _rooted(net: Net, path: Path) -> str:
    """The net's text with absolute paths to its data: for a copy that lies elsewhere."""
    twin = net.copy()
    root = find_root([source_of(layer) for view in net.views for layer in source_layers(view)], path).absolute()
    for layer in twin.layers:
        param = layer.param
        for part, name in (
            ("data_param", "source"),
            ("image_data_param", "source"),
            ("image_data_param", "root_folder"),
            ("hdf5_data_param", "source"),
            ("window_data_param", "source"),
            ("window_data_param", "root_folder"),
            ("transform_param", "mean_file"),
        ):
            if param.HasField(part) and getattr(getattr(param, part), name):
                message = getattr(param, part)
                # What stands behind a folder's name is put right behind it.
                end = "/" if getattr(message, name).endswith("/") else ""
                setattr(message, name, f"{root / getattr(message, name)}{end}")
    return twin.text()


def _passes_of(merge: Merge, chosen: set[tuple[str, tuple[str, ...]]]) -> list[tuple[str, ...]]:
    return [passes for stage, passes in chosen if stage == merge.stage]


def _steps(net: Net, whole: Sequence[Merge], merges: Sequence[Merge]) -> Iterator[PlannedStep]:
    """The steps."""
    from deeprebirth_caffe.runs.schedule.model import RESERVED

    stages = list(dict.fromkeys(layer.stage for layer in net.layers))
    taken = set(RESERVED)
    done = {merge.stage: merge for merge in merges}
    for group in together(net, whole):
        ways: dict[tuple[str, ...], list[Merge]] = {}
        for merge in group:
            if merge.stage in done:
                left = tuple(name for name in merge.passes if name not in done[merge.stage].passes)
                ways.setdefault(left, []).append(done[merge.stage])
        for left, some in ways.items():
            names = [merge.stage for merge in some]
            name = _free(step_name(names, [merge.stage for merge in group]), taken)
            yield PlannedStep(name, tuple(exactly(one, stages) for one in names), tuple(some), left)


def _free(name: str, taken: set[str]) -> str:
    """A name that can be a folder's and is not taken yet; it is then."""
    clean = re.sub(r"[^A-Za-z0-9._+-]+", "_", name).lstrip("._+-")[:LONGEST] or "step"
    number, found = 1, clean
    while found in taken:
        number += 1
        found = f"{clean[: LONGEST - 4]}-{number}"
    taken.add(found)
    return found


def _target_row(options: PlanOptions, reached: Reached, unmet: str) -> TargetRow:
    assert options.target is not None
    accuracy = options.target.accuracy is not None
    return TargetRow(
        speedup=options.target.speedup,
        accuracy=options.target.accuracy,
        engine=options.timing.engine,
        on=options.timing.on,
        threads=options.timing.threads,
        reached_speedup=reached.speedup,
        expected_points=points(reached.chosen) if accuracy else None,
        recovery=options.recovery if accuracy else None,
        base=reached.base,
        total_ms=reached.times.total_ms,
        stages_ms=reached.times.stages_ms,
        candidates=[
            CandidateRow(
                stage=offer.stage,
                passes=offer.passes,
                saved_ms=offer.saved_ms,
                error=offer.error,
                points=offer.points,
                chosen=reached.chosen.get(offer.stage) is offer,
            )
            for offer in reached.offers
        ],
        unmet=unmet or None,
    )
