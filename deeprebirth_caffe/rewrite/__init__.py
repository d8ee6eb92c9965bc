"""Passes, the Rewriter that they change nets through, and the pipeline that runs them."""

from deeprebirth_caffe.rewrite.base import Applied, ExactPass, Kind, Match, Pass, Refusal
from deeprebirth_caffe.rewrite.rewriter import RewriteError, Rewriter, free_name

__all__ = ["Applied", "ExactPass", "Kind", "Match", "Pass", "Refusal", "RewriteError", "Rewriter", "free_name"]
