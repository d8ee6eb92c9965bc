"""Defaults that a command's help shows and its options class has; nothing is imported, so that help stays light."""

from __future__ import annotations

REFIT_SAMPLES = 512
"""Images of a fit."""

DISTIL_ITERATIONS = 2000

DISTIL_BASE_LR = 0.0002
"""Adam's: blocks differ in how large their gradients are, and it takes steps of one size for all."""
