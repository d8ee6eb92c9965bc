"""`rebirth convert`: a net and maybe its weights in, the merged net, its start, its solver and a manifest out."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from fnmatch import fnmatchcase

from deeprebirth_caffe.collector import uncollected
from deeprebirth_caffe.engines.base import Engine
from deeprebirth_caffe.engines.random_weights import random_weights
from deeprebirth_caffe.errors import UsageError
from deeprebirth_caffe.ir import Net
from deeprebirth_caffe.nets.check import checking
from deeprebirth_caffe.nets.exactness import EXACT_NAMES, all_exact, check_names, preparing
from deeprebirth_caffe.nets.manifest import Reduction, RefitReport, RewriteRecord
from deeprebirth_caffe.nets.rewriting import Converted, Rewriting, Say, rebirth_origins
from deeprebirth_caffe.ops.forks import forks_with_field
from deeprebirth_caffe.options.convert import REFIT, ConvertOptions
from deeprebirth_caffe.options.fields import record
from deeprebirth_caffe.options.shared import CLIP
from deeprebirth_caffe.passes.exact.portable import Portable
from deeprebirth_caffe.passes.relearn.merge_branches import MergeBranches
from deeprebirth_caffe.passes.relearn.pool_to_stride import PoolToStride
from deeprebirth_caffe.passes.relearn.prune_batchnorm import PruneBatchNorm
from deeprebirth_caffe.passes.relearn.remove_lrn import RemoveLrn
from deeprebirth_caffe.passes.relearn.reparametrize import Reparametrize
from deeprebirth_caffe.passes.relearn.start import Start
from deeprebirth_caffe.rewrite import AnyPass, Kind, Rewriter
from deeprebirth_caffe.rewrite.pipeline import Outcome, run

PAPER_BATCH = 32
"""Images that the paper learns from at a time."""
PASS_NAMES = (*EXACT_NAMES, *(one.name for one in (PruneBatchNorm, MergeBranches, RemoveLrn, PoolToStride)))


def passes_of(options: ConvertOptions) -> list[AnyPass]:
    """The passes in the order they run: exact ones first, then branches, then what streamlines."""
    # What is refitted afterwards starts from what it inherits.
    start = Start("inherit" if options.start == REFIT else options.start, options.seed)
    bn = options.bn or ("prune" if options.paper else "fold")
    if options.exact:
        return all_exact(options.skip_passes)
    found: list[AnyPass] = preparing() if bn == "fold" else []
    if bn == "prune" and options.streamline:
        found.append(PruneBatchNorm(start=start))
    if options.branch:
        found.append(
            MergeBranches(
                reduce=options.reduce, patterns=options.reduce_patterns, force=options.force_merge, start=start
            )
        )
    if options.streamline:
        found.append(RemoveLrn(joins=not options.paper, start=start))
        found.append(PoolToStride(kernel=options.kernel, paper=options.paper, force=options.force_merge, start=start))
    return [one for one in found if one.name not in options.skip_passes]


def _record(options: ConvertOptions, passes: Sequence[AnyPass]) -> RewriteRecord:
    """What the manifest remembers of the options."""
    names = [
        *([Portable.name] if options.portable else []),
        *(one.name for one in passes),
        *([Reparametrize.name] if options.reparam else []),
    ]
    settled = {
        "reduce_patterns": [Reduction(pattern=pattern, ratio=ratio) for pattern, ratio in options.reduce_patterns],
        "init": options.start,
        "reparam": options.reparam_parts if options.reparam else None,
    }
    return RewriteRecord(passes=names, **{**record(options), **settled})


def usual_clip(paper: bool) -> float:
    """What gradients are cut to where neither the user nor a lent solver says: the paper speaks of no such thing."""
    return 0.0 if paper else CLIP


@uncollected
def convert(options: ConvertOptions, engine: Engine | None = None, say: Say = lambda _: None) -> Converted:
    """Converts a net.

    Args:
        options: what to do.
        engine: real Caffe, to check the exact rewrites with; None: that of `options`, where they want a check.
        say: takes progress of a refit, line by line.

    Raises:
        UsageError: options that do not go together.
        RebirthError: bad input, or the output directory is not empty; nothing is written.
        RefusedError: a stage that `only` names was refused, or the check does not hold; nothing is written.
    """
    check_names(options.skip_passes, PASS_NAMES)
    _check_refit(options)
    engine = checking(options.check, options.engine.caffe, engine)
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
    passes = passes_of(options)
    outcome = run(rewriter, passes, work.selection, keep_exact=engine is not None)
    outcome = ported.then(whole).then(outcome)
    refit = _refit(options, work, say) if options.start == REFIT else None
    if options.reparam:
        from deeprebirth_caffe.relearn.reparam import learn_wide

        outcome = outcome.then(
            learn_wide(options.net, rewriter, options.reparam_parts, options.seed, options.calibrate, work.notes)
        )
    return work.finish(outcome, _record(options, passes), engine, _made_up(outcome) if random else "", refit)


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
