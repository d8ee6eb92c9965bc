"""Pages that need nothing else, out of the templates beside this: light and dark, wide and narrow, without scripts."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from deeprebirth_caffe.bench.breakdown import Group
from deeprebirth_caffe.wording import ms, printable

if TYPE_CHECKING:
    from jinja2 import Environment
    from markupsafe import Markup

SHORT = 26
"""Letters of a name that fit beside a bar."""
NUMBER = re.compile(r"-?\d|-?$|unknown$")


def render(template: str, **values: Any) -> Markup:
    """What a template makes of some values.

    Every text among them is escaped, and letters that nobody sees, or that turn the writing direction, are spelled out.
    What `render` gave may stand in another template as it is.
    """
    from markupsafe import Markup

    return Markup(_environment().get_template(template).render(values))


@cache
def _environment() -> Environment:
    # Imported here: pages are rare.
    from jinja2 import Environment, FileSystemLoader, StrictUndefined
    from markupsafe import Markup

    made = Environment(
        loader=FileSystemLoader(Path(__file__).with_name("templates")),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        finalize=lambda value: value if isinstance(value, Markup) else printable(value),
    )
    made.globals["numeric"] = numeric
    made.filters |= {
        "lines": lambda text: Markup("\n").join(printable(text.split("\n"))),
        "ms": ms,
        "px": "{:.1f}".format,
        "short": short,
    }
    return made


def numeric(rows: Sequence[Sequence[str]]) -> list[bool]:
    """Of each column of a table whether it holds numbers (with their units), as far as it holds anything."""
    return [all(NUMBER.match(row[column]) for row in rows[1:]) for column in range(len(rows[0]))]


def bars(groups: Mapping[str, Group], longest: float | None = None) -> Markup:
    """A plot of times: a bar a row, its tensor layers first.

    Args:
        groups: by name, in their order.
        longest: the time of a bar of full length, in milliseconds; None for the longest of these.
    """
    longest = longest or max((group.ms for group in groups.values()), default=0.0) or 1.0
    return render("bars.svg", groups=groups, longest=longest)


def short(name: str, limit: int = SHORT) -> str:
    """A name cut to fit: its end tells names of one kind apart."""
    return name if len(name) <= limit else "…" + name[1 - limit :]


def spelled(value: object) -> str:
    """A fact of a machine in words."""
    if isinstance(value, (list, tuple)):
        return ", ".join(map(str, value))
    return "unknown" if value is None else str(value)
