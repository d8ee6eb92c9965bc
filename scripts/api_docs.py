"""Writes the reference in docs/api.md: the public functions, and the options of each, made of `options` and docstrings.

python scripts/api_docs.py
"""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from pathlib import Path

from deeprebirth_caffe import api
from deeprebirth_caffe.options.convert import ConvertOptions
from deeprebirth_caffe.options.deploy import DeployOptions
from deeprebirth_caffe.options.export import ExportOptions
from deeprebirth_caffe.options.fields import leaves
from deeprebirth_caffe.options.finetune import FinetuneOptions
from deeprebirth_caffe.options.forward import ForwardOptions
from deeprebirth_caffe.options.looking import DiffOptions, InspectOptions
from deeprebirth_caffe.options.refit import RefitOptions
from deeprebirth_caffe.options.test import TestOptions
from deeprebirth_caffe.options.time import TimeOptions
from deeprebirth_caffe.options.tucker import TuckerOptions

PAGE = Path(__file__).parents[1] / "docs" / "api.md"
MARK = "<!-- what follows is written by scripts/api_docs.py -->\n"
OPTIONS: dict[str, type] = {
    "convert": ConvertOptions,
    "deploy": DeployOptions,
    "diff": DiffOptions,
    "export": ExportOptions,
    "finetune": FinetuneOptions,
    "forward": ForwardOptions,
    "inspect": InspectOptions,
    "refit": RefitOptions,
    "test": TestOptions,
    "time": TimeOptions,
    "tucker": TuckerOptions,
}
"""The class of the options that each function takes."""


def reference() -> Iterator[str]:
    """The lines of the reference."""
    for name in api.__all__:
        public = getattr(api, name)
        if not callable(public) or (isinstance(public, type) and issubclass(public, Exception)):
            continue
        yield from ("", f"### `{name}{_signature(public)}`", "", *inspect.cleandoc(public.__doc__ or "").split("\n"))
        if isinstance(public, type):
            yield from _members(public)
        if name in OPTIONS:
            yield from ("", "| option | what it says |", "|---|---|", *_options(OPTIONS[name], public))


def _members(cls: type) -> Iterator[str]:
    for name, member in vars(cls).items():
        if not name.startswith("_"):
            text = inspect.getdoc(member) or ""
            call = name if isinstance(member, property) else f"{name}{_signature(member)}"
            yield from ("", f"- `{call}`: {' '.join(text.split())}")


def _options(model: type, function: object) -> Iterator[str]:
    named = set(inspect.signature(function).parameters)  # type: ignore[arg-type]
    for leaf in {leaf.option.name: leaf for leaf in leaves(model)}.values():
        option = leaf.option
        if option.name not in named and option.help:
            yield f"| `{option.name}` | {option.help.replace('|', chr(92) + '|')} |"


def _signature(function: object) -> str:
    return str(inspect.signature(function)).replace("'", "").replace(" -> None", "")  # type: ignore[arg-type]


def written(text: str) -> str:
    """The page with its reference brought up to date."""
    return text.partition(MARK)[0] + MARK + "\n".join([*reference(), ""])


if __name__ == "__main__":
    PAGE.write_text(written(PAGE.read_text(encoding="utf-8")), encoding="utf-8")
