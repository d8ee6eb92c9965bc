"""What the files of a run have to hold for `rebirth run`, `status` and `report` to go on with them."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from deeprebirth_caffe.errors import RebirthError
from deeprebirth_caffe.formats.jsonfile import (
    ANYTHING,
    COUNT,
    FILE_NAME,
    FLAG,
    NUMBER,
    POSITIVE,
    TEXT,
    WHOLE,
    Each,
    Either,
    Maybe,
    Number,
    Shape,
    Text,
    held_against,
    read_json,
)
from deeprebirth_caffe.results import Figures

VERSION = 1
"""Of all of them; another one is refused."""
ADVICE = "remove it, and what it tells of is made again"

_FOLDER = Text(re.compile(r"\d{2,}-[^/\0]+"), "the folder of a step")
SCORES = Maybe(Each(Maybe(Either((NUMBER, [Maybe(NUMBER)])))))
"""What a test gave: of each output a number, or a list of them; null where it is none."""
FIGURES = Each(Maybe(NUMBER))

_TOTALS: Shape = {
    **{f"{name}?": Maybe(NUMBER) for name in ("layers", "params", "macs", "memory_bytes")},
    "uncounted?": [{"name": TEXT, "type": TEXT}],
}

RUN_SHAPE: Shape = {
    "name?": Maybe(TEXT),
    "schedule?": {"test?": {"metric?": Maybe(TEXT)}},
    "steps": [{"folder": _FOLDER, "name": TEXT, "kind": TEXT, "stages": [TEXT]}],
    "commands?": [{"command": [TEXT]}],
}
STEP_SHAPE: Shape = {
    "parts?": Each({"of?": ANYTHING, "done": FLAG, "seconds": NUMBER, "made?": Each(ANYTHING)}, FILE_NAME)
}
"""A part is called like the folder or file that it leaves."""
RESULT_SHAPE: dict[str, Shape] = {
    "step?": TEXT,
    "kind?": TEXT,
    "stages?": [TEXT],
    "status": TEXT,
    "net?": Maybe(TEXT),
    "weights?": Maybe(TEXT),
    "test?": SCORES,
    "after_convert?": SCORES,
    "after_distil?": SCORES,
    "drop?": Maybe(FIGURES),
    "iterations?": Maybe(COUNT),
    "seconds?": Maybe(NUMBER),
    "attempts?": Maybe([ANYTHING]),
    "why?": Maybe(TEXT),
    "per_image?": Maybe(FILE_NAME),
}
MANIFEST_SHAPE: Shape = {
    "outputs": {"net": FILE_NAME},
    "rewrites": [{"stage": TEXT, "pass": TEXT}],
    "before?": _TOTALS,
    "after?": _TOTALS,
    "ledger?": Maybe(
        {"layers": {"relearned": [TEXT]}, "copied": COUNT, "folded": COUNT, "relearned": COUNT, "dropped": COUNT}
    ),
}
TIME_SHAPE: Shape = {
    "machine": {"cpu?": ANYTHING},
    "nets": [
        {
            "net": TEXT,
            "engine": TEXT,
            "on": TEXT,
            "threads": Maybe(WHOLE),
            "batch": Maybe(WHOLE),
            "median_ms": POSITIVE,
            "layers": [
                {"name": TEXT, "type": TEXT, "stage": TEXT, "tensor": Maybe(FLAG), "forward_ms": Number(least=0)}
            ],
            "tensor_share": Maybe(NUMBER),
            "peak_rss_bytes": Maybe(NUMBER),
            "memory_bytes": Maybe(NUMBER),
            "reused_bytes": Maybe(NUMBER),
            "param_bytes": Maybe(NUMBER),
            "storage_bytes": Maybe(NUMBER),
            "energy": {"method": TEXT, "mj": Maybe(NUMBER)},
        }
    ],
    "ratios": [{"net": TEXT, "vs": TEXT, "median": POSITIVE, "low": Maybe(POSITIVE), "high": Maybe(POSITIVE)}],
    "warnings": [TEXT],
}
TIMES_SHAPE: Shape = {"times": [{"time": TIME_SHAPE}]}


def read_ours(path: Path, shape: Shape) -> dict[str, Any] | None:
    """What a file of a run holds; None where it is not there.

    Raises:
        RebirthError: it cannot be read, is of another version, or has another shape.
    """
    found = read_json(path, {}, ADVICE)
    if found is None:
        return None
    if (version := found.get("version", VERSION)) != VERSION:
        raise RebirthError(f"{path}: version {version!r:.40}, and this rebirth reads {VERSION}")
    return dict(held_against(path, found, shape, ADVICE))


def numbers(scores: Figures | None) -> dict[str, float]:
    """The outputs of a test that are one number."""
    return {name: value for name, value in (scores or {}).items() if isinstance(value, (int, float))}
