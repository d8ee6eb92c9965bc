"""A training net as the net that is deployed: training layers and auxiliary heads out, BatchNorm folded."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

from deeprebirth_caffe.errors import RebirthError
from deeprebirth_caffe.ir import Net
from deeprebirth_caffe.nets.exactness import all_exact
from deeprebirth_caffe.nets.load import check_fit
from deeprebirth_caffe.passes.exact.strip_training import StripTraining
from deeprebirth_caffe.rewrite import AnyPass, Rewriter
from deeprebirth_caffe.rewrite.pipeline import Outcome, run

DEPLOY = "deploy.prototxt"
DEPLOY_WEIGHTS = "deploy.caffemodel"


@dataclass(frozen=True)
class Stripped:
    """A deploy net and how it came about."""

    net: Net
    rewriter: Rewriter
    outcome: Outcome


def strip(
    net: Net,
    *,
    batch: int | None = None,
    fold: bool = True,
    skip_passes: Collection[str] = (),
    keep_exact: bool = False,
) -> Stripped:
    """A copy of the net with what only training needs taken out, and all other exact passes where there are weights.

    Args:
        net: left as it is.
        batch: see `StripTraining`.
        fold: whether the other exact passes run too.
        skip_passes: which of them do not.
        keep_exact: whether to keep the nets before and after, for a check.

    Raises:
        RebirthError: the shape of the input is not known, or the weights do not fit a net of that batch.
    """
    rewriter = Rewriter(net.copy())
    passes: list[AnyPass] = [StripTraining(batch=batch)]
    if fold and net.weights is not None:
        passes += all_exact(skip_passes)
    outcome = run(rewriter, passes, keep_exact=keep_exact)
    for refused in outcome.refusals:
        if refused.pass_ == StripTraining.name:
            raise RebirthError(f"no deploy net can be made: {refused.reason}")
    if rewriter.net.weights:
        check_fit(rewriter.net, rewriter.net.weights)  # they may be as many as the images of a batch
    return Stripped(rewriter.net, rewriter, outcome)
