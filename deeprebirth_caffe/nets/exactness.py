"""Which exact passes run, and in what order."""

from __future__ import annotations

from collections.abc import Collection

from deeprebirth_caffe.passes.exact.compose_convolutions import ComposeConvolutions
from deeprebirth_caffe.passes.exact.drop_identities import DropIdentities
from deeprebirth_caffe.passes.exact.fold_ahead import FoldAhead
from deeprebirth_caffe.passes.exact.fold_average import FoldAverage
from deeprebirth_caffe.passes.exact.fold_batchnorm import FoldBatchNorm
from deeprebirth_caffe.passes.exact.inner_to_convolution import InnerToConvolution
from deeprebirth_caffe.passes.exact.join_siblings import JoinSiblings
from deeprebirth_caffe.passes.exact.sum_siblings import SumSiblings
from deeprebirth_caffe.passes.exact.widen_branches import WidenBranches
from deeprebirth_caffe.rewrite import Pass

PREPARING: tuple[type[Pass], ...] = (DropIdentities, FoldBatchNorm, SumSiblings, FoldAhead)
"""What only takes layers away: it also runs in front of passes that have to be relearned.

What does nothing goes first, so that it stands between nothing. Affine layers then go to the layer in front, which
takes any, and only the others (those behind a ReLU) to the layers behind. What is added up behind convolutions can be
one of them once nothing affine stands between.
"""

FINISHING: tuple[type[Pass], ...] = (
    ComposeConvolutions,
    FoldAverage,
    WidenBranches,
    JoinSiblings,
    InnerToConvolution,
)
"""What gives the net another shape: at the end, since it hides branches, reducers and pools from other passes.

Layers in a row become one before siblings are looked for, and a small branch looks for a larger one before it joins its
like.
"""

EXACT_NAMES = tuple(one.name for one in (*PREPARING, *FINISHING))


def preparing(skip: Collection[str] = ()) -> list[Pass]:
    """The exact passes that may run before others."""
    return [one() for one in PREPARING if one.name not in skip]


def all_exact(skip: Collection[str] = ()) -> list[Pass]:
    """All exact passes that a net for inference wants."""
    return [one() for one in (*PREPARING, *FINISHING) if one.name not in skip]
