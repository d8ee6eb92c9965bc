"""Whatever is in a log, the parser gives rows or its own error."""

from __future__ import annotations

import contextlib
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from deeprebirth_caffe.bench.caffe_log import Benchmark, CaffeLogError, parse, parse_one

LOGS = sorted((Path(__file__).parents[1] / "logs").glob("*.log"))
NAMES = st.text(st.characters(exclude_characters="\n\r", exclude_categories=["Cs"]), min_size=1, max_size=30)


def survive(log: str | bytes) -> list[Benchmark]:
    found: list[Benchmark] = []
    with contextlib.suppress(CaffeLogError):
        found = parse(log)
    for one in found:
        assert one.rows
        with contextlib.suppress(CaffeLogError):
            one.check()
    return found


@pytest.mark.parametrize("path", LOGS, ids=[path.stem for path in LOGS])
def test_truncations(path: Path) -> None:
    log = path.read_bytes()
    rows = 0
    for end in range(0, len(log), 7):
        found = survive(log[:end])
        now = sum(len(one.rows) for one in found)
        # What was whole does not go away; but the start of a name may look like a row.
        assert now >= rows or path.stem == "names"
        rows = now
        survive(log[end:])


@settings(max_examples=300, deadline=None)
@given(st.data())
def test_mutations(data: st.DataObject) -> None:
    log = bytearray(data.draw(st.sampled_from(LOGS)).read_bytes())
    for _ in range(data.draw(st.integers(1, 8))):
        place = data.draw(st.integers(0, len(log)))
        length = data.draw(st.integers(0, 40))
        log[place : place + length] = data.draw(st.binary(max_size=12))
    survive(bytes(log))


@settings(max_examples=200, deadline=None)
@given(st.binary(max_size=300))
def test_bytes(log: bytes) -> None:
    survive(log)


@settings(max_examples=200, deadline=None)
@given(st.text(max_size=300))
def test_text(log: str) -> None:
    survive(log)


@settings(max_examples=300, deadline=None)
@given(st.lists(st.tuples(NAMES, st.floats(0, 1e6), st.none() | st.floats(0, 1e6)), min_size=1, max_size=8))
def test_what_is_written_is_read(rows: list[tuple[str, float, float | None]]) -> None:
    prefix = "I0821 11:42:33.123456  4242 caffe.cpp:400] "
    lines = [prefix + "*** Benchmark begins ***", prefix + "Testing for 3 iterations."]
    for name, forward, backward in rows:
        padded = " " * max(0, 10 - len(name.encode())) + name
        lines.append(f"{prefix}{padded}\tforward: {forward!r} ms.")
        if backward is not None:
            lines.append(f"{prefix}{padded}\tbackward: {backward!r} ms.")
    total = sum(forward for _, forward, _ in rows)
    lines += [f"{prefix}Average Forward pass: {total!r} ms.", prefix + "*** Benchmark ends ***"]
    found = parse_one("\n".join(lines))
    assert [row.forward_ms for row in found.rows] == [forward for _, forward, _ in rows]
    for row, (name, _, _) in zip(found.rows, rows, strict=True):
        # Spaces in front of a short name are lost in Caffe's padding.
        assert row.name in (name, name.lstrip(" "))
