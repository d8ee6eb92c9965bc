"""`rebirth convert`: a net and maybe its weights in, the merged net, its start, its solver and a manifest out."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

from deeprebirth_caffe.engines.base import Engine
from deeprebirth_caffe.errors import RebirthError, RefusedError, UsageError
from deeprebirth_caffe.formats.collector import uncollected
from deeprebirth_caffe.formats.files import check_directory, publish_directory
from deeprebirth_caffe.ir import Net
from deeprebirth_caffe.ops import Shape
from deeprebirth_caffe.ops.forks import forks_with_field
from deeprebirth_caffe.passes.exact.portable import Portable
from deeprebirth_caffe.passes.relearn.merge_branches import DEFAULT_REDUCE, MergeBranches
from deeprebirth_caffe.passes.relearn.pool_to_stride import PoolToStride
from deeprebirth_caffe.passes.relearn.prune_batchnorm import PruneBatchNorm
from deeprebirth_caffe.passes.relearn.remove_lrn import RemoveLrn
from deeprebirth_caffe.passes.relearn.start import Start
from deeprebirth_caffe.rewrite import Kind, Pass, Rewriter
from deeprebirth_caffe.rewrite.learning import learn_faster, restore
from deeprebirth_caffe.rewrite.names import rename_changed_blobs
from deeprebirth_caffe.rewrite.pipeline import Outcome, run
from deeprebirth_caffe.workflows.check import check_runs
from deeprebirth_caffe.workflows.deploy import DEPLOY, deploy_text, raise_failures, strip
from deeprebirth_caffe.workflows.exactness import EXACT_NAMES, all_exact, preparing
from deeprebirth_caffe.workflows.ledger import make_ledger
from deeprebirth_caffe.workflows.load import layers_without_weights, load_net, upgrade_notes
from deeprebirth_caffe.workflows.manifest import MANIFEST, earlier_lr_mults, make_manifest, totals
from deeprebirth_caffe.workflows.probe import save_weights
from deeprebirth_caffe.workflows.publish import json_bytes
from deeprebirth_caffe.workflows.random_weights import random_weights
from deeprebirth_caffe.workflows.selection import Selection, names_stage
from deeprebirth_caffe.workflows.solver import Lent, SolverOptions, lend_solver, make_solver

SOLVER = "solver.prototxt"
INIT = "init.caffemodel"


@dataclass(frozen=True)
class ConvertOptions:
    """What `rebirth convert` is told; see its help.

    `paper` sets what the paper does: no pool behind a Concat or Eltwise is folded, BatchNorm is pruned, and rebirth
    layers start from Xavier noise, unless `bn` or `init` say otherwise. `portable` first says in plain Caffe what a
    fork says, wherever that can be done, whatever `only` and `skip` name.
    """

    net: Path
    weights: Path | None = None
    solver: Path | None = None
    out: Path | None = None
    only: tuple[str, ...] = ()
    skip: tuple[str, ...] = ()
    paper: bool = False
    exact: bool = False
    portable: bool = False
    streamline: bool = True
    branch: bool = True
    skip_passes: tuple[str, ...] = ()
    bn: str | None = None
    kernel: str | int = "keep"
    reduce: float = DEFAULT_REDUCE
    reduce_patterns: tuple[tuple[str, float], ...] = ()
    force_merge: bool = False
    init: str | None = None
    seed: int = 0
    input_shapes: Mapping[str, Shape] = field(default_factory=dict)
    batch: int | None = None
    solver_options: SolverOptions = SolverOptions()
    dry_run: bool = False
    force: bool = False

    @property
    def directory(self) -> Path:
        """Where the results go: -o, or <stem>-rebirth beside the net."""
        return self.out if self.out is not None else self.net.with_name(f"{self.net.stem}-rebirth")

    def passes(self) -> list[Pass]:
        """The passes in the order they run: exact ones first, then branches, then what streamlines."""
        start = Start(self.start, self.seed)
        bn = self.bn or ("prune" if self.paper else "fold")
        if self.exact:
            return all_exact(self.skip_passes)
        found: list[Pass] = preparing() if bn == "fold" else []
        if bn == "prune" and self.streamline:
            found.append(PruneBatchNorm(start=start))
        if self.branch:
            found.append(
                MergeBranches(reduce=self.reduce, patterns=self.reduce_patterns, force=self.force_merge, start=start)
            )
        if self.streamline:
            joins = not self.paper
            found.append(RemoveLrn(joins=joins, start=start))
            found.append(PoolToStride(kernel=self.kernel, joins=joins, force=self.force_merge, start=start))
        return [one for one in found if one.name not in self.skip_passes]

    @property
    def start(self) -> str:
        """How rebirth layers start: "inherit" or "xavier"."""
        return self.init or ("xavier" if self.paper else "inherit")

    def record(self) -> dict[str, Any]:
        """What the manifest remembers of all this."""
        return {
            "passes": [*([Portable.name] if self.portable else []), *(one.name for one in self.passes())],
            "only": list(self.only),
            "skip": list(self.skip),
            "paper": self.paper,
            "kernel": self.kernel,
            "reduce": self.reduce,
            "reduce_patterns": [{"pattern": pattern, "ratio": ratio} for pattern, ratio in self.reduce_patterns],
            "force_merge": self.force_merge,
            "init": self.start,
            "seed": self.seed,
            "input_shapes": {blob: list(shape) for blob, shape in self.input_shapes.items()},
            "batch": self.batch,
            "lr_factor": self.solver_options.lr_factor,
        }


PASS_NAMES = (*EXACT_NAMES, *(one.name for one in (PruneBatchNorm, MergeBranches, RemoveLrn, PoolToStride)))


@dataclass(frozen=True)
class Converted:
    """The result, in memory: what was (or, in a dry run, would be) written."""

    original: Net
    net: Net
    deploy: Net | None
    outcome: Outcome
    manifest: dict[str, Any]


@uncollected
def convert(options: ConvertOptions, engine: Engine | None = None) -> Converted:
    """Converts a net.

    Args:
        options: what to do.
        engine: real Caffe, to check the exact rewrites with; None does not check.

    Raises:
        RebirthError: bad input, or the output directory is not empty; nothing is written.
        RefusedError: a stage that `only` names was refused, or the check does not hold; nothing is written.
    """
    if not options.dry_run:
        check_directory(options.directory, options.force)
    net = load_net(options.net, options.weights, options.input_shapes)
    selection = Selection(options.only, options.skip)
    selection.check(net)
    _check_patterns(options, net)
    _check_name(options, net)
    lent = lend_solver(options.solver, options.net) if options.solver is not None and net.trains else None
    restore(net, earlier_lr_mults(options.net))
    original = net.copy()
    if engine is not None and net.weights is None:
        # A check needs some weights; these are never written.
        net.weights = random_weights(net)
    rewriter = Rewriter(net)
    notes = upgrade_notes(net)
    ported = _make_portable(options, rewriter, notes) if options.portable else Outcome()
    outcome = run(rewriter, options.passes(), selection, keep_exact=engine is not None)
    _refuse_named_stages(options, original, outcome)
    renamed = rename_changed_blobs(original, rewriter)
    outcome = Outcome(ported.rewrites + outcome.rewrites, ported.refusals + outcome.refusals, outcome.exact_runs)
    relearn = [layer for layer in net.layers if rewriter.made.get(layer) is Kind.RELEARN]
    notes += lent.notes if lent is not None else []
    if options.solver is not None and lent is None:
        notes.append("this net has nothing to train with: no solver is written, and --solver lends nothing")
    lr_mult = {}
    if net.trains:
        lr_mult = learn_faster(relearn, options.solver_options.lr_factor)
        frozen = [name for name, values in lr_mult.items() if not any(values)]
        if frozen:
            notes.append(f"frozen in the original (lr_mult 0), and so they will not relearn: {', '.join(frozen)}")
    if missing := layers_without_weights(net):
        notes.append(f"no weights for {', '.join(missing)}: left to what their fillers say")
    if options.batch is not None and not _set_batch(rewriter, options.batch):
        notes.append("this net has no data layer in TRAIN: --batch changes nothing")
    deploy_net, runs = _deploy_net(options, net, engine, notes)
    checks = None
    if engine is not None:
        checks = check_runs([*outcome.exact_runs, *runs], engine)
        raise_failures(checks)
    if options.weights is None and net.weights is not None:
        net.weights = None
        folded = any(one.kind is Kind.EXACT and one.applied.rebirth for one in outcome.rewrites)
        how = ", and weights folded as if they were given" if folded else ""
        notes.append(f"checked on random weights{how}; convert with -w for the real ones")
    outputs = _outputs(options, net, deploy_net)
    manifest = make_manifest(
        source={
            "net": str(options.net),
            "weights": str(options.weights) if options.weights else None,
            "solver": str(options.solver) if options.solver else None,
        },
        outputs={"directory": str(options.directory), **outputs},
        options=options.record(),
        outcome=outcome,
        renamed=renamed,
        ledger=make_ledger(original, rewriter),
        lr_mult=lr_mult,
        before=totals(original),
        after=totals(net),
        checks=checks,
        notes=notes,
    )
    if not options.dry_run:
        _write(options, net, deploy_net, lent, outputs, manifest)
    return Converted(original, net, deploy_net, outcome, manifest)


def _make_portable(options: ConvertOptions, rewriter: Rewriter, notes: list[str]) -> Outcome:
    """Says in plain Caffe what can be said in it. No check: plain Caffe loads the net only afterwards."""
    source = rewriter.net.source
    unknown = source.unknown if source is not None else []
    quiet = [name for name in unknown if forks_with_field(name, "")]
    if quiet:
        rewriter.cut_header(quiet)
        notes.append(f"portable: the net's own {', '.join(quiet)} went; nothing that is computed depends on them")
    if rest := [name for name in unknown if name not in quiet]:
        notes.append(f"portable: the net's own {', '.join(rest)} stay, and plain Caffe does not have them")
    return run(rewriter, [Portable()])


def _check_patterns(options: ConvertOptions, net: Net) -> None:
    """Raises UsageError for a pattern of `--reduce` that means no layer."""
    for pattern, _ in options.reduce_patterns:
        if not any(fnmatchcase(layer.name, pattern) for layer in net.layers):
            raise UsageError(f'--reduce: this net has no layer "{pattern}"; rebirth inspect lists them')


def _check_name(options: ConvertOptions, net: Net) -> None:
    """The net keeps its file name, so this must not be the name of another result."""
    taken = {SOLVER, INIT, MANIFEST} | ({DEPLOY} if net.trains else set())
    if options.net.name in taken:
        raise RebirthError(f"{options.net}: {options.net.name} is what another result will be called; rename the net")


def _refuse_named_stages(options: ConvertOptions, original: Net, outcome: Outcome) -> None:
    """Raises RefusedError for a stage that `--only` names and that nothing could be done about."""
    done = {rewrite.stage for rewrite in outcome.rewrites}
    for pattern in options.only:
        stages = {layer.stage for layer in original.layers if names_stage(pattern, layer.stage)}
        if stages & done:
            continue
        reasons = [f"{one.layer}: {one.reason}" for one in outcome.refusals if one.stage in stages]
        if reasons:
            raise RefusedError(f"stage {pattern} is refused: {'; '.join(dict.fromkeys(reasons))}; nothing was written")


def _set_batch(rewriter: Rewriter, batch: int) -> bool:
    """Sets batch_size of the data layers that training reads; returns whether there is one."""
    found = False
    for view in rewriter.net.views:
        if view.state.phase == "TRAIN":
            for layer in view.layers:
                rewriter.set_batch(layer, batch)
                found |= layer.op is not None and layer.op.data and layer.type not in ("Input", "DummyData")
    return found


def _deploy_net(
    options: ConvertOptions, net: Net, engine: Engine | None, notes: list[str]
) -> tuple[Net | None, list[Any]]:
    """The deploy net beside a converted training net, or a note why there is none."""
    try:
        # BatchNorm stays: the weights are not learned yet, and `rebirth deploy` folds them when they are.
        made = strip(net, fold=False, keep_exact=engine is not None)
    except RebirthError as error:
        notes.append(str(error))
        return None, []
    return made.net, made.outcome.exact_runs


def _outputs(options: ConvertOptions, net: Net, deploy_net: Net | None) -> dict[str, str]:
    found = {"net": options.net.name}
    if deploy_net is not None:
        found["deploy"] = DEPLOY
    if net.trains:
        found["solver"] = SOLVER
    if net.weights is not None:
        found["weights"] = INIT
    found["manifest"] = MANIFEST
    return found


def _write(
    options: ConvertOptions,
    net: Net,
    deploy_net: Net | None,
    lent: Lent | None,
    outputs: Mapping[str, str],
    manifest: dict[str, Any],
) -> None:
    directory = options.directory
    files: dict[str, Any] = {}
    if deploy_net is not None and options.net.name != DEPLOY:
        files[DEPLOY] = deploy_text(deploy_net)
    files[options.net.name] = net.text()
    if "solver" in outputs:
        path = os.path.join(directory, options.net.name)
        prefix = os.path.join(directory, "rebirth")
        start = os.path.join(directory, INIT) if net.weights is not None else None
        files[SOLVER] = make_solver(options.solver_options, path, prefix, lent, start)
    weights = net.weights
    if weights is not None:
        files[INIT] = lambda file: save_weights(file, net, weights)
    files[MANIFEST] = json_bytes(manifest)
    publish_directory(files, directory, force=options.force)
