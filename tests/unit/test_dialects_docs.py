"""docs/forks.md names everything that the table has."""

from __future__ import annotations

from pathlib import Path

import pytest

from deeprebirth_caffe.ops.forks import FORKS, Fork

TEXT = (Path(__file__).parents[2] / "docs" / "forks.md").read_text(encoding="utf-8")


@pytest.mark.parametrize("fork", FORKS, ids=lambda fork: fork.name)
def test_the_fork_is_documented(fork: Fork) -> None:
    section = TEXT.split(f"### {fork.title}")[1].split("\n### ")[0].split("\n## ")[0]
    for kind in fork.types:
        assert f"`{kind.type}`" in section
    for entry in fork.fields:
        path = entry.path.removesuffix(".*")
        block, _, name = path.rpartition(".")
        assert f"`{path}`" in section or (f"`{name}" in section and f"`{block}`" in section), path
    for name in fork.header:
        assert f"`{name}`" in section
    assert fork.name in TEXT
