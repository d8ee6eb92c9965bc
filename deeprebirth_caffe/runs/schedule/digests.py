"""What a result depends on, as a digest: what did not change need not be made again."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any

from deeprebirth_caffe.formats.files import open_regular

BLOCK = 1 << 16
BLOCKS = 16
"""Of data, so many blocks of this size count, spread over each file: reading all of it would take minutes."""
MOST_FILES = 64
"""Of a folder with more files than that, only names and sizes count."""


def digest(facts: Mapping[str, object]) -> str:
    """Of plain data."""
    text = json.dumps(facts, sort_keys=True, separators=(",", ":"), ensure_ascii=True)
    return hashlib.sha256(text.encode()).hexdigest()


def file_digest(path: Path) -> str:
    """Of a file's content."""
    facts = path.stat()
    return _whole(str(path.absolute()), facts.st_size, facts.st_mtime_ns, facts.st_ino)


@lru_cache(maxsize=256)
def _whole(path: str, size: int, changed: int, number: int) -> str:
    """Of a file that is the same file as long as these numbers are."""
    found = hashlib.sha256()
    with open_regular(path) as file:
        while block := file.read(1 << 20):
            found.update(block)
    return found.hexdigest()


def data_digest(paths: Iterable[Path]) -> str:
    """Of data sources: databases, lists, folders of pictures; by names, sizes and samples of their content."""
    found = hashlib.sha256()
    for path in paths:
        files = sorted(one for one in path.rglob("*") if one.is_file()) if path.is_dir() else [path]
        for file in files:
            if not file.is_file() or file.name in ("lock.mdb", "LOCK", "LOG", "LOG.old"):
                continue  # which a database writes though nobody changes it
            size = file.stat().st_size
            found.update(f"{file.name}\0{size}\0".encode("utf-8", "surrogateescape"))
            if len(files) <= MOST_FILES:
                _sample(found, file, size)
    return found.hexdigest()


def _sample(found: Any, file: Path, size: int) -> None:
    with open_regular(file) as opened:
        for index in range(BLOCKS):
            opened.seek(max(0, (size - BLOCK) * index // (BLOCKS - 1)))
            found.update(opened.read(BLOCK))
            if size <= BLOCK:
                return
