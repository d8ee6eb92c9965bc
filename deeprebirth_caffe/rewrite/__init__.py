"""Passes, the Rewriter that they change nets through, and the pipeline that runs them."""

from deeprebirth_caffe.rewrite.base import AnyPass, Applied, ExactPass, Kind, Match, Pass, Reason, Refusal
from deeprebirth_caffe.rewrite.rewriter import RewriteError, Rewriter, free_name

__all__ = [
    "AnyPass",
    "Applied",
    "ExactPass",
    "Kind",
    "Match",
    "Pass",
    "Reason",
    "Refusal",
    "RewriteError",
    "Rewriter",
    "free_name",
]
