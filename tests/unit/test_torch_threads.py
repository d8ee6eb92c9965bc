"""How PyTorch's threads wait is settled before PyTorch is loaded."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

import deeprebirth_caffe

PACKAGE = Path(deeprebirth_caffe.__file__).parent
SCRIPT = """
import os, sys
from deeprebirth_caffe.engines.torch import engine
assert "torch" not in sys.modules
print(os.environ["OMP_WAIT_POLICY"])
"""


@pytest.mark.parametrize(("given", "found"), [(None, "PASSIVE"), ("ACTIVE", "ACTIVE")])
def test_threads_wait_asleep_unless_told_otherwise(given: str | None, found: str) -> None:
    environ = {name: value for name, value in os.environ.items() if name != "OMP_WAIT_POLICY"}
    if given is not None:
        environ["OMP_WAIT_POLICY"] = given
    done = subprocess.run([sys.executable, "-c", SCRIPT], env=environ, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == found


def test_only_the_embedded_engine_imports_torch() -> None:
    room = PACKAGE / "engines" / "torch"
    importing = [
        path for path in PACKAGE.rglob("*.py") if re.search(r"^\s*(import|from) torch\b", path.read_text("utf-8"), re.M)
    ]
    assert importing and all(path.is_relative_to(room) for path in importing)
