"""docs/passes.md says what the passes are now."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from types import ModuleType

import pytest
from nets import PASSES

SCRIPT = Path(__file__).parents[2] / "scripts" / "list_passes.py"


@pytest.fixture(scope="module")
def lister() -> ModuleType:
    spec = importlib.util.spec_from_file_location("list_passes", SCRIPT)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_list_is_up_to_date(lister: ModuleType) -> None:
    assert lister.DOC.read_text(encoding="utf-8") == lister.text(), "run scripts/list_passes.py"


def test_every_pass_is_in_it(lister: ModuleType) -> None:
    assert {one.name for one in lister.passes()} >= PASSES.keys()
    assert all(f"## {one.name} ({one.kind.name})" in lister.text() for one in lister.passes())
