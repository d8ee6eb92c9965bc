"""What an installed package needs and an editable one hides."""

from __future__ import annotations

from pathlib import Path

import deeprebirth_caffe

ROOT = Path(deeprebirth_caffe.__file__).parent


def test_every_folder_with_code_is_a_package() -> None:
    folders = {path.parent for path in ROOT.rglob("*.py")}
    assert len(folders) > 10
    assert [str(folder) for folder in folders if not (folder / "__init__.py").is_file()] == []
