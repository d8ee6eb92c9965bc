"""`--check`: real Caffe runs the net before and after each run of exact rewrites, on random input."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from deeprebirth_caffe.engines import engine
from deeprebirth_caffe.engines.base import Engine
from deeprebirth_caffe.engines.footprint import check_pass
from deeprebirth_caffe.errors import RefusedError
from deeprebirth_caffe.ir import Net, Value, View
from deeprebirth_caffe.ir.probe import write_probe
from deeprebirth_caffe.passes.exact.portable import Portable
from deeprebirth_caffe.passes.heads import find_heads, find_results
from deeprebirth_caffe.results import HIDDEN
from deeprebirth_caffe.rewrite import Rewriter
from deeprebirth_caffe.rewrite.pipeline import ExactRun, run

TOLERANCE = 1e-4
"""Largest max|a-b| / max|a| of a blob that counts as the same."""


@dataclass(frozen=True)
class CheckResult:
    """What one comparison found.

    Attributes:
        passes: the exact passes between the two nets.
        blobs: how many blobs both nets have.
        worst: the largest max|a-b| / max|a| of a blob; at most 0.0001.
        worst_blob: that blob.
        failure: why the check does not hold, naming the first blob that diverges; empty when it holds.
    """

    passes: tuple[str, ...]
    blobs: int
    worst: float
    worst_blob: str
    failure: str = field(default="", metadata=HIDDEN)


def checking(wanted: bool, caffe: str | None, given: Engine | None = None) -> Engine | None:
    """What compares nets: real Caffe where a check is wanted, or an engine that the caller gives; None: nothing does.

    Args:
        wanted: whether the user wants a check.
        caffe: where real Caffe is, as the user says.
        given: by the caller.

    Raises:
        EngineError: there is no Caffe; it says how to get it.
    """
    return engine("caffe", caffe=caffe) if wanted and given is None else given


def check_runs(runs: Sequence[ExactRun], engine: Engine, *, seed: int = 0) -> list[CheckResult]:
    """Compares the nets of each run in TEST, at batch 1.

    Raises:
        EngineError: Caffe cannot load or run one of the nets.
    """
    if not runs:
        return []
    with engine.session():
        return [compare_nets(run.before, run.after, engine, passes=run.passes, seed=seed) for run in runs]


def compare_nets(
    before: Net, after: Net, engine: Engine, *, passes: tuple[str, ...] = (), batch: int = 1, seed: int = 0
) -> CheckResult:
    """Runs two nets on the same random input and compares every blob that both have, in the order of the first.

    The second must have all results of the first. What they say in a fork's way is said in plain Caffe first, which is
    what runs them.
    """
    kept = after.view("TEST").blobs
    lost = [value.name for value in find_results(before, find_heads(before)) if value.name not in kept]
    before, after = _in_plain_caffe(before), _in_plain_caffe(after)
    views = before.view("TEST"), after.view("TEST")
    for view in views:
        own = next((shape[0] for name in _input_names(view) if (shape := view.blobs[name].shape)), 0)
        check_pass(view, "--check", keeps=True, scale=batch / own if own else 1.0)
    with tempfile.TemporaryDirectory(prefix="rebirth-check-") as folder:
        results = []
        for name, net, view in zip(("before", "after"), (before, after), views, strict=True):
            path, weights = write_probe(Path(folder), name, net, view, batch)
            results.append(engine.forward(path, weights, _inputs(view, batch, seed)))
    return _compare(results[0], results[1], passes, set(_input_names(views[0])), lost)


def _in_plain_caffe(net: Net) -> Net:
    """The net itself, or a copy of it without what plain Caffe can say in its own way.

    Raises:
        RefusedError: something of a fork is left, so that Caffe would run another net, or none.
    """
    if not any(layer.op is None or layer.understood.fork for layer in net.layers):
        return net
    rewriter = Rewriter(net.copy())
    left = run(rewriter, [Portable()]).refusals
    if left:
        raise RefusedError(f"--check runs plain Caffe, which cannot run this net: {left[0].reason}; leave --check out")
    return rewriter.net


def _input_names(view: View) -> list[str]:
    return [value.name for value in view.fed]


def _is_label(value: Value) -> bool:
    """Whether only losses and metrics read it, beside the blob that they judge: it has to be a class number."""
    return all(index and (layer.traits.loss or layer.traits.metric) for layer, index in value.uses)


def _inputs(view: View, batch: int, seed: int) -> dict[str, np.ndarray]:
    """Normal noise for images, zeros for labels; the same for both nets, by blob name."""
    found = {}
    for name in _input_names(view):
        value = view.blobs[name]
        assert value.shape is not None
        shape = (batch, *value.shape[1:])
        # A stream for each name: the second net may have fewer inputs.
        rng = np.random.default_rng([seed, *name.encode()])
        random = len(shape) > 1 and not _is_label(value)
        found[name] = (rng.standard_normal(shape) if random else np.zeros(shape)).astype(np.float32)
    return found


def _compare(
    before: dict[str, np.ndarray],
    after: dict[str, np.ndarray],
    passes: tuple[str, ...],
    inputs: set[str],
    lost: Sequence[str],
) -> CheckResult:
    worst, worst_blob, failure, count = 0.0, "", "", 0
    for name, old in before.items():
        if name not in after or name in inputs:
            continue
        count += 1
        new = after[name]
        problem = ""
        if old.shape != new.shape:
            problem = f"has shape {new.shape} where it had {old.shape}"
        elif not (np.isfinite(old).all() and np.isfinite(new).all()):
            problem = "is not finite"
        elif old.size > 1 and old.min() == old.max():
            problem = "is constant, so that it proves nothing"
        else:
            scale = float(np.abs(old).max())
            error = float(np.abs(old.astype(np.float64) - new).max()) / (scale or 1.0)
            if error > worst or not worst_blob:
                worst, worst_blob = error, name
            if error > TOLERANCE:
                problem = f"differs by {error:.2e} of its largest value (at most {TOLERANCE:.0e} is allowed)"
        if problem and not failure:
            failure = f'blob "{name}" {problem}'
    if not count and not failure:
        failure = "the two nets have no blob in common"
    if lost and not failure:
        failure = f'blob "{lost[0]}", a result of the net, is gone'
    return CheckResult(passes, count, worst, worst_blob, failure)


def raise_failures(checks: list[CheckResult] | None) -> None:
    """Raises RefusedError with the first failure, if there is one."""
    for check in checks or []:
        if check.failure:
            raise RefusedError(f"check failed after {', '.join(check.passes)}: {check.failure}; nothing was written")
