"""All that can be found wrong with a schedule before anything runs."""

from __future__ import annotations

import importlib.util
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from deeprebirth_caffe.commands.convert import convert
from deeprebirth_caffe.engines.caffe import python_layers
from deeprebirth_caffe.engines.choose import choose
from deeprebirth_caffe.engines.policy import check_policy, check_rule
from deeprebirth_caffe.errors import RebirthError
from deeprebirth_caffe.extras import pip_install
from deeprebirth_caffe.formats.solver import parse_solver
from deeprebirth_caffe.inputs.labels import check_labels
from deeprebirth_caffe.nets.load import layers_without_weights, load_net
from deeprebirth_caffe.nets.selection import Selection
from deeprebirth_caffe.options.shared import OWN_PHASES
from deeprebirth_caffe.runs.schedule.accuracy import check_metric
from deeprebirth_caffe.runs.schedule.recipes import convert_options, looks_at_images
from deeprebirth_caffe.runs.schedule.solvers import check_count, relearning

if TYPE_CHECKING:
    from deeprebirth_caffe.runs.schedule.context import Inputs
    from deeprebirth_caffe.runs.schedule.model import Budget, Calibrate, Learn, Time


def check(inputs: Inputs) -> None:
    """Looks through a schedule; everything but `read_inputs` has looked at already.

    Raises:
        RebirthError: the first thing that is wrong, with the step that says it.
        UsageError: a stage or a device that is not there.
    """
    schedule = inputs.schedule
    whole = load_net(inputs.net, inputs.weights, schedule.input_shapes)
    if missing := layers_without_weights(whole):
        raise RebirthError(f"{inputs.weights}: holds nothing for {', '.join(missing)}; are these the net's weights?")
    python_layers.check((layer.param for layer in whole.layers), inputs.net)
    for view in (inputs.train, inputs.test):
        check_labels(view, inputs.root)
    check_metric(schedule.test.metric, inputs.metrics, "test.metric")
    choose(inputs.engine, [inputs.train, inputs.test])
    for where, learn, budget in _learning(inputs):
        _check_learn(inputs, learn, budget, where)
        if budget.metric is not None:
            check_metric(budget.metric, inputs.metrics, where)
    for step in schedule.steps:
        inputs.iterations(step.distil, f"step {step.name}: distil", lent=False)
        if looks_at_images(step) and not step.skip:
            _check_calibrate(inputs, step.calibrate, f"step {step.name}")
    if schedule.tucker is not None:
        Selection(schedule.tucker.only, schedule.tucker.skip).check(whole)
        if schedule.tucker.calibrate is not None:
            _check_calibrate(inputs, schedule.tucker.calibrate, "tucker")
        ranks = schedule.tucker.ranks
        if ranks not in (None, "vbmf") and not inputs.file(str(ranks)).is_file():
            raise RebirthError(f"tucker: there is no file {inputs.file(str(ranks))}")
        if importlib.util.find_spec("tensorly") is None:
            raise RebirthError(f"tucker: it needs tensorly: {pip_install('tucker')}")
    if schedule.deploy is not None and schedule.deploy.check:
        _check_caffe(inputs)
    if schedule.time is not None:
        _check_time(inputs, schedule.time)
    check_conversions(inputs)


def _learning(inputs: Inputs) -> Iterator[tuple[str, Learn, Budget]]:
    schedule = inputs.schedule
    for step in schedule.steps:
        if not step.skip:
            yield f"step {step.name}", step.finetune, step.budget
    if schedule.joint is not None:
        yield "joint", schedule.joint.finetune, schedule.joint.budget
    if schedule.tucker is not None:
        yield "tucker", schedule.tucker.finetune, schedule.tucker.budget


def _check_learn(inputs: Inputs, learn: Learn, budget: Budget, where: str) -> None:
    iterations = inputs.iterations(learn, where)
    check_count(round(iterations * budget.factor**budget.retries), f"{where}: its last retry")
    solver = parse_solver(relearning(learn, inputs.lent, ())(iterations, 1, inputs.net, inputs.root)).message
    try:
        check_policy(solver)
        check_rule(solver)
    except RebirthError as error:
        raise RebirthError(f"{where}: {error}") from error
    if learn.tests and iterations and not inputs.test_batches():
        raise RebirthError(f"{where}: how many test images there are is not known; give test.iterations")
    if learn.teacher is None or not iterations:
        return
    if inputs.engine.name == "caffe":
        raise RebirthError(f"{where}: a teacher needs the embedded engine; set engine.name to torch")
    for path in inputs.teacher_files(learn.teacher):
        if not path.is_file():
            raise RebirthError(f"{where}: the teacher's {path} is not there")


def _check_calibrate(inputs: Inputs, given: Calibrate, where: str) -> None:
    for name in (given.source, given.mean_file, given.transform_from):
        own = name == given.source and name in OWN_PHASES
        if name is not None and not own and not inputs.file(name).exists():
            raise RebirthError(f"{where}: calibrate: there is nothing at {inputs.file(name)}")


def _check_time(inputs: Inputs, given: Time) -> None:
    from deeprebirth_caffe.bench.targets import open_target

    open_target(given.on, caffe=inputs.engine.caffe)
    if given.on == "local" and "caffe" in given.engines:
        _check_caffe(inputs)


def _check_caffe(inputs: Inputs) -> None:
    from deeprebirth_caffe.engines import engine

    engine("caffe", caffe=inputs.engine.caffe)


def check_conversions(inputs: Inputs) -> None:
    """Merges all steps one after the other, without weights: what one of them refuses would stop the run in the end.

    Raises:
        RebirthError: it names the step.
    """
    net = inputs.net
    with tempfile.TemporaryDirectory(prefix="rebirth-run-") as folder:
        for number, step in enumerate(inputs.schedule.steps):
            if step.skip:
                continue
            out = Path(folder) / str(number)
            try:
                found = convert(convert_options(inputs, step, net, None, out))
            except RebirthError as error:
                error.within(f"step {step.name}")
                raise
            if not found.outcome.rewrites:
                why = "; ".join(dict.fromkeys(f"{one.layer}: {one.reason}" for one in found.outcome.refusals))
                about = f" ({why})" if why else ""
                raise RebirthError(f"step {step.name}: there is nothing to merge in {', '.join(step.stages)}{about}")
            net = out / inputs.net.name
