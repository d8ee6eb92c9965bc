"""Writes docs/passes.md: every pass, from its own code. A test keeps it up to date.

python scripts/list_passes.py
"""

from __future__ import annotations

import ast
import importlib
import inspect
import pkgutil
import re
from collections.abc import Iterator
from dataclasses import fields
from pathlib import Path
from typing import Any

from deeprebirth_caffe.passes import exact, relearn
from deeprebirth_caffe.rewrite import AnyPass, Pass

DOC = Path(__file__).parents[1] / "docs" / "passes.md"
HEAD = """# The passes

`scripts/list_passes.py` makes this page of the passes themselves. [exact.md](exact.md) tells more of the exact ones,
[architecture.md](architecture.md) what a pass is. Options are fields of the pass's class. A refusal with `…` names
layers or numbers there; what several passes ask (`passes/patterns.py`, `channels.py`, `windows.py` …) is not repeated.
"""


def passes() -> list[type[AnyPass]]:
    """Every pass of the package, the exact ones first, by name."""
    for room in (exact, relearn):
        for module in pkgutil.iter_modules(room.__path__, f"{room.__name__}."):
            importlib.import_module(module.name)
    found = [one for one in _below(Pass) if one.__module__.startswith("deeprebirth_caffe.passes.")]
    return sorted(found, key=lambda one: (one.kind.value, one.name))


def _below(base: Any) -> Iterator[type[AnyPass]]:
    for one in base.__subclasses__():
        yield one
        yield from _below(one)


def text() -> str:
    """The page."""
    return HEAD + "".join("\n" + "\n".join(_section(one)) + "\n" for one in passes())


def _section(one: type[AnyPass]) -> Iterator[str]:
    module = inspect.getmodule(one)
    assert module is not None and module.__doc__ is not None
    yield f"## {one.name} ({one.kind.name})\n"
    first, _, rest = module.__doc__.partition("\n\n")
    yield " ".join(first.split())
    if algebra := re.match(r"(?: {4}.*\n?|\n)+", rest):
        yield "\n```\n" + inspect.cleandoc(algebra[0]) + "\n```"
    said = _attributes(one)
    options = [field for field in fields(one) if field.init]  # type: ignore[arg-type]  # passes are dataclasses
    if options:
        yield ""
    for field in options:
        yield f"- `{field.name}`{_default(field.default)}: {said.get(field.name, 'see its class')}"
    reasons = list(dict.fromkeys(_reasons(ast.parse(inspect.getsource(module)))))
    if reasons:
        yield "\nRefusals of its own:\n"
        yield from (f"- {reason}" for reason in reasons)


def _default(value: object) -> str:
    return f" ({value!r})" if isinstance(value, bool | int | float | str | tuple | None) else ""


def _attributes(one: type[AnyPass]) -> dict[str, str]:
    """What the class's docstring says of its options."""
    _, _, block = inspect.getdoc(one).partition("Attributes:\n")  # type: ignore[union-attr]
    entries = re.findall(r"^ {4}([\w, ]+): (.*(?:\n {8}.*)*)", block, re.MULTILINE)
    return {name: " ".join(words.split()) for names, words in entries for name in names.split(", ")}


def _reasons(tree: ast.AST) -> Iterator[str]:
    """The texts that `Reason(…)` is given in a module, in the order of its lines."""
    calls = [node for node in ast.walk(tree) if isinstance(node, ast.Call) and ast.unparse(node.func) == "Reason"]
    for call in sorted(calls, key=lambda call: call.lineno):
        parts = call.args[0].values if isinstance(call.args[0], ast.JoinedStr) else call.args
        words = "".join(str(part.value) if isinstance(part, ast.Constant) else "…" for part in parts)
        if words.strip("… "):
            yield words


if __name__ == "__main__":
    DOC.write_text(text(), encoding="utf-8")
