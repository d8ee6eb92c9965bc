"""The parts that `convert --reparam` gave layers while they learned: which a net has, and folding them.

The manifest beside a net names them, since only they tell a BatchNorm whose learning is over from one that the net
was trained with, which stays.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from pathlib import Path

from deeprebirth_caffe.engines.random_weights import random_weights
from deeprebirth_caffe.ir import Net
from deeprebirth_caffe.ir.stages import whole_name
from deeprebirth_caffe.nets.manifest import read_earlier
from deeprebirth_caffe.passes.exact.fold_batchnorm import FoldBatchNorm
from deeprebirth_caffe.passes.exact.sum_siblings import SumSiblings
from deeprebirth_caffe.passes.relearn.reparametrize import Reparametrize
from deeprebirth_caffe.rewrite import AnyPass, Rewriter
from deeprebirth_caffe.rewrite.pipeline import Outcome, run

Parts = dict[str, list[str]]
"""The names of the layers that learn as one, by what that one is called when they are folded."""


def fold_parts(
    rewriter: Rewriter, parts: Mapping[str, Collection[str]], skip: Collection[str] = (), *, keep_exact: bool = False
) -> Outcome:
    """Makes one layer again of each that learned as several: their step is over.

    Their BatchNorms keep the statistics that they have, in every phase; so the net computes in TEST what it did.

    Args:
        rewriter: of the net. Without weights, it is folded as if it had some.
        parts: of an earlier conversion.
        skip: exact passes that do not run; nothing is folded without `fold-batchnorm`.
        keep_exact: whether to keep the nets before and after, for a check.
    """
    net = rewriter.net
    names = frozenset(name for each in parts.values() for name in each)
    if not names or FoldBatchNorm.name in skip:
        return Outcome()
    for layer in net.layers:
        if layer.name in names and layer.type == "BatchNorm":
            rewriter.change(layer).batch_norm_param.use_global_stats = True
    rewriter.commit()
    made_up = net.weights is None
    if made_up:
        net.weights = random_weights(net)
    passes: list[AnyPass] = [FoldBatchNorm(layers=names), SumSiblings(layers=names)]
    outcome = run(rewriter, [one for one in passes if one.name not in skip], keep_exact=keep_exact)
    if made_up:
        net.weights = None
    return outcome


def make_whole(net: Net, path: Path) -> Net:
    """Folds in a net, in place, what the manifest beside it names as parts; gives the net.

    The origins in a later conversion's manifest are names of this net.

    Args:
        net: with its weights.
        path: where it was read.
    """
    fold_parts(Rewriter(net), read_earlier(path).reparam)
    return net


def parts_left(net: Net, earlier: Mapping[str, Collection[str]], outcome: Outcome) -> Parts:
    """The parts that a net has after a conversion.

    Args:
        net: it.
        earlier: the parts that it had before.
        outcome: what was done.
    """
    there = {layer.name for layer in net.layers}
    found = {whole: list(names) for whole, names in earlier.items() if not there.isdisjoint(names)}
    for one in outcome.rewrites:
        if one.pass_name == Reparametrize.name:
            found[whole_name(one.applied.rebirth[0])] = list(one.applied.rebirth)
    return found
