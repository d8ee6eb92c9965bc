"""`rebirth convert`: a net and maybe its weights in, the merged net, its start, its solver and a manifest out."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from fnmatch import fnmatchcase
from pathlib import Path
from typing import ClassVar

from deeprebirth_caffe.collector import uncollected
from deeprebirth_caffe.engines.base import Engine
from deeprebirth_caffe.engines.random_weights import random_weights
from deeprebirth_caffe.errors import UsageError
from deeprebirth_caffe.ir import Net
from deeprebirth_caffe.nets.exactness import EXACT_NAMES, all_exact, preparing
from deeprebirth_caffe.nets.manifest import Reduction, RefitReport, RewriteRecord
from deeprebirth_caffe.nets.rewriting import Converted, RewriteOptions, Rewriting, Say, rebirth_origins
from deeprebirth_caffe.nets.solver import CLIP
from deeprebirth_caffe.ops.forks import forks_with_field
from deeprebirth_caffe.passes.exact.portable import Portable
from deeprebirth_caffe.passes.relearn.merge_branches import DEFAULT_REDUCE, MergeBranches
from deeprebirth_caffe.passes.relearn.pool_to_stride import PoolToStride
from deeprebirth_caffe.passes.relearn.prune_batchnorm import PruneBatchNorm
from deeprebirth_caffe.passes.relearn.remove_lrn import RemoveLrn
from deeprebirth_caffe.passes.relearn.reparametrize import PARTS, Reparametrize
from deeprebirth_caffe.passes.relearn.start import Start
from deeprebirth_caffe.relearn.calibration import CalibrationOptions
from deeprebirth_caffe.results import ABSENT
from deeprebirth_caffe.rewrite import Kind, Pass, Rewriter
from deeprebirth_caffe.rewrite.pipeline import Outcome, run


@dataclass(frozen=True)
class ConvertOptions(RewriteOptions):
    """What `rebirth convert` is told; see its help.

    `paper` sets what the paper does: pools are folded in nets of inception modules alone, and none behind a Concat or
    Eltwise; BatchNorm is pruned, and rebirth layers start from Xavier noise, unless `bn` or `init` say otherwise; 32
    images are learned at a time, unless `batch` says otherwise; gradients are cut only where somebody says so
    (`usual_clip`). `fixed_size` says that images always have the size of the file. `portable` first says in plain
    Caffe what a fork says, wherever that can be done, whatever `only` and `skip` name.
    """

    suffix: ClassVar[str] = "-rebirth"

    paper: bool = False
    exact: bool = False
    portable: bool = False
    fixed_size: bool = False
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
    calibrate: CalibrationOptions | None = None
    reparam: bool = False
    reparam_parts: tuple[str, ...] = PARTS

    def read_files(self) -> Iterator[Path | None]:
        """The files that the command reads."""
        yield from super().read_files()
        if self.calibrate is not None:
            yield from self.calibrate.read_files()

    def passes(self) -> list[Pass]:
        """The passes in the order they run: exact ones first, then branches, then what streamlines."""
        # What is refitted afterwards starts from what it inherits.
        start = Start("inherit" if self.start == REFIT else self.start, self.seed)
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
            found.append(RemoveLrn(joins=not self.paper, start=start))
            found.append(PoolToStride(kernel=self.kernel, paper=self.paper, force=self.force_merge, start=start))
        return [one for one in found if one.name not in self.skip_passes]

    @property
    def start(self) -> str:
        """How rebirth layers start: "inherit", "xavier" or `REFIT`."""
        return self.init or ("xavier" if self.paper else "inherit")

    def record(self) -> RewriteRecord:
        """What the manifest remembers of all this."""
        return RewriteRecord(
            passes=[
                *([Portable.name] if self.portable else []),
                *(one.name for one in self.passes()),
                *([Reparametrize.name] if self.reparam else []),
            ],
            only=self.only,
            skip=self.skip,
            paper=self.paper,
            fixed_size=self.fixed_size or ABSENT,
            kernel=self.kernel,
            reduce=self.reduce,
            reduce_patterns=[Reduction(pattern=pattern, ratio=ratio) for pattern, ratio in self.reduce_patterns],
            force_merge=self.force_merge,
            init=self.start,
            seed=self.seed,
            calibrate=self.calibrate.source if self.calibrate is not None else None,
            samples=self.calibrate.samples if self.calibrate is not None else None,
            reparam=self.reparam_parts if self.reparam else None,
            input_shapes=self.input_shapes,
            batch=self.batch,
            lr_factor=self.solver_options.lr_factor,
        )


PAPER_BATCH = 32
"""Images that the paper learns from at a time."""
REFIT = "refit"
"""The start that is fitted to calibration data (`relearn.refitting`)."""
PASS_NAMES = (*EXACT_NAMES, *(one.name for one in (PruneBatchNorm, MergeBranches, RemoveLrn, PoolToStride)))


def usual_clip(paper: bool) -> float:
    """What gradients are cut to where neither the user nor a lent solver says: the paper speaks of no such thing."""
    return 0.0 if paper else CLIP


@uncollected
def convert(options: ConvertOptions, engine: Engine | None = None, say: Say = lambda _: None) -> Converted:
    """Converts a net.

    Args:
        options: what to do.
        engine: real Caffe, to check the exact rewrites with; None does not check.
        say: takes progress of a refit, line by line.

    Raises:
        UsageError: options that do not go together.
        RebirthError: bad input, or the output directory is not empty; nothing is written.
        RefusedError: a stage that `only` names was refused, or the check does not hold; nothing is written.
    """
    _check_refit(options)
    solver = replace(options.solver_options, usual_clip=usual_clip(options.paper))
    options = replace(options, solver_options=solver)
    work = Rewriting(options)
    if options.paper and options.batch is None and work.net.trains:
        work.options = options = replace(options, batch=PAPER_BATCH)
    net, rewriter = work.net, work.rewriter
    net.fixed_size = options.fixed_size
    _check_patterns(options, net)
    random = engine is not None and net.weights is None
    if random:
        # A check needs some weights; these are never written.
        net.weights = random_weights(net)
    ported = _make_portable(options, rewriter, work.notes) if options.portable else Outcome()
    whole = work.fold_parts(options.skip_passes, keep_exact=engine is not None)
    outcome = run(rewriter, options.passes(), work.selection, keep_exact=engine is not None)
    outcome = ported.then(whole).then(outcome)
    refit = _refit(options, work, say) if options.start == REFIT else None
    if options.reparam:
        from deeprebirth_caffe.relearn.reparam import learn_wide

        outcome = outcome.then(
            learn_wide(options.net, rewriter, options.reparam_parts, options.seed, options.calibrate, work.notes)
        )
    return work.finish(outcome, options.record(), engine, _made_up(outcome) if random else "", refit)


def _check_refit(options: ConvertOptions) -> None:
    """Raises UsageError where a refit lacks something."""
    if options.start == REFIT and options.calibrate is None:
        raise UsageError("--init refit fits rebirth layers to pictures; name some: --calibrate SOURCE")
    if options.start == REFIT and options.weights is None:
        raise UsageError("--init refit needs the net's weights; give -w")
    if options.calibrate is not None and options.weights is None:
        raise UsageError("--calibrate runs the net, which needs its weights; give -w")


def _refit(options: ConvertOptions, work: Rewriting, say: Say) -> RefitReport:
    """Fits the rebirth layers, and gives the report."""
    from deeprebirth_caffe.nets.conversion import Pair
    from deeprebirth_caffe.relearn.refitting import RefitSettings, refit_layers

    assert options.calibrate is not None, "checked before"
    rewriter = work.rewriter
    rewriter.commit()
    pair = Pair(options.net, work.teacher, work.net, rebirth_origins(rewriter))
    arrays, report = refit_layers(pair, options.calibrate, RefitSettings(seed=options.seed), work.notes, say)
    for layer in rewriter.made:
        if layer.name in arrays:
            rewriter.set_weights(layer, arrays[layer.name])
    return report


def _made_up(outcome: Outcome) -> str:
    """What to say about a check on random weights."""
    folded = any(one.kind is Kind.EXACT and one.applied.rebirth for one in outcome.rewrites)
    how = ", and weights folded as if they were given" if folded else ""
    return f"checked on random weights{how}; convert with -w for the real ones"


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
