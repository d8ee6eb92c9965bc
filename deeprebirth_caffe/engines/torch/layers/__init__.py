"""One module a family of layer types; each registers what it makes with `base.lowers`."""

from __future__ import annotations

import importlib
import pkgutil


def load_all() -> None:
    """Imports all families, once; with them PyTorch."""
    for module in pkgutil.iter_modules(__path__):
        importlib.import_module(f"{__name__}.{module.name}")
