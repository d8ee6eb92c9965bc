"""Which exact passes run, and in what order: those that the modules of `passes/exact` define."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from graphlib import TopologicalSorter
from importlib import import_module
from pkgutil import iter_modules
from typing import Any

from deeprebirth_caffe.errors import UsageError
from deeprebirth_caffe.passes import exact
from deeprebirth_caffe.rewrite import AnyPass, ExactPass


def _defined() -> Iterator[type[ExactPass[Any]]]:
    for module in iter_modules(exact.__path__, f"{exact.__name__}."):
        for value in vars(import_module(module.name)).values():
            if isinstance(value, type) and issubclass(value, ExactPass) and value.__module__ == module.name:
                yield value


def _ordered() -> Iterator[type[ExactPass[Any]]]:
    """Passes that reshape come last; among the others, and among them, `after` says the order, then the name."""
    by_name = {each.name: each for each in sorted(_defined(), key=lambda each: each.name)}
    for reshapes in (False, True):
        names = [name for name, each in by_name.items() if each.reshapes == reshapes]
        order = TopologicalSorter({name: [one for one in by_name[name].after if one in names] for name in names})
        yield from (by_name[name] for name in order.static_order())


EXACT = tuple(_ordered())
PREPARING = tuple(each for each in EXACT if not each.reshapes)
FINISHING = tuple(each for each in EXACT if each.reshapes)
EXACT_NAMES = tuple(each.name for each in EXACT)


def check_names(names: Collection[str], known: Sequence[str]) -> None:
    """Raises UsageError where `--no-pass` names a pass that there is not.

    Args:
        names: what it names.
        known: the passes that the command has.
    """
    for name in names:
        if name not in known:
            raise UsageError(f"--no-pass: there is no pass {name!r}; there are {', '.join(known)}")


def preparing(skip: Collection[str] = ()) -> list[AnyPass]:
    """The exact passes that may run before those that have to be relearned, without those named."""
    return [each() for each in PREPARING if each.name not in skip]


def all_exact(skip: Collection[str] = ()) -> list[AnyPass]:
    """All exact passes that a net for inference wants, without those named."""
    return [each() for each in EXACT if each.name not in skip]
