"""What `--portable` writes, character by character.

A case is a folder with fork.prototxt and plain.prototxt. To write plain.prototxt anew after a wanted change, and then
read the diff:

    REBIRTH_GOLDEN=update pytest tests/golden && git diff tests/golden
"""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from deeprebirth_caffe.commands.convert import convert
from deeprebirth_caffe.options.convert import ConvertOptions

HERE = Path(__file__).parent / "portable"
CASES = sorted(path.parent for path in HERE.glob("*/fork.prototxt"))
UPDATE = os.environ.get("REBIRTH_GOLDEN") == "update"


@pytest.mark.parametrize("case", CASES, ids=lambda path: path.name)
def test_portable_writes_exactly(case: Path, tmp_path: Path) -> None:
    convert(ConvertOptions(case / "fork.prototxt", out=tmp_path, portable=True, exact=True))
    result = (tmp_path / "fork.prototxt").read_text()
    plain = case / "plain.prototxt"
    if UPDATE:
        plain.write_text(result)
    assert result == plain.read_text()


@pytest.mark.parametrize("case", CASES, ids=lambda path: path.name)
def test_portable_is_done_after_one_run(case: Path, tmp_path: Path) -> None:
    convert(ConvertOptions(case / "plain.prototxt", out=tmp_path, portable=True, exact=True))
    assert (tmp_path / "plain.prototxt").read_text() == (case / "plain.prototxt").read_text()
