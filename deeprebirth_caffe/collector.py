"""Switches Python's garbage collector off for work that makes many objects and no garbage.

A net of 20,000 layers is a million objects. The collector walks through all of them again and again while they
are made, so large nets take more time a layer than small ones. None of them are cycles that need it.
"""

from __future__ import annotations

import gc
from collections.abc import Callable
from functools import wraps
from typing import ParamSpec, TypeVar

P = ParamSpec("P")
R = TypeVar("R")


def uncollected(function: Callable[P, R]) -> Callable[P, R]:
    """Switches the collector off while the function runs, and on again afterwards if it was on."""

    @wraps(function)
    def run(*args: P.args, **kwargs: P.kwargs) -> R:
        if not gc.isenabled():
            return function(*args, **kwargs)
        gc.disable()
        try:
            return function(*args, **kwargs)
        finally:
            gc.enable()

    return run
