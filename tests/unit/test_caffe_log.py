"""The parser of `caffe time` against logs as each fork writes them (tests/logs)."""

from __future__ import annotations

from pathlib import Path

import pytest

from deeprebirth_caffe.bench.caffe_log import PREFIX, Benchmark, CaffeLogError, Row, parse, parse_one

LOGS = Path(__file__).parents[1] / "logs"

SMALL = {"data": 0.002, "conv1": 3.41667, "relu1": 0.08, "pool1": 1.114, "fc8": 0.756, "prob": 0.0097}
"""Milliseconds of the net that most logs are of."""
TOTAL = 5.37837


def read(name: str) -> list[Benchmark]:
    return parse((LOGS / f"{name}.log").read_bytes())


def table(found: Benchmark) -> dict[str, float]:
    assert len({row.name for row in found.rows}) == len(found.rows)
    return {row.name: row.forward_ms for row in found.rows}


@pytest.mark.parametrize(
    "name",
    [
        "bvlc_1.0",
        "bvlc_2026_year_prefix",
        "bvlc_no_prefix",
        "nvcaffe_0.17",
        "intel_1.1",
        "noise",
        "crlf",
    ],
)
def test_the_same_net_in_each_dialect(name: str) -> None:
    (found,) = read(name)
    assert table(found) == SMALL
    assert found.iterations == 50
    assert found.forward_ms == pytest.approx(TOTAL + 0.01, rel=1e-4)
    found.check()


def test_the_oldest_caffe_prints_sums() -> None:
    (found,) = read("bvlc_2014_sums")
    assert table(found) == pytest.approx(SMALL, abs=5e-5)
    assert found.forward_ms == pytest.approx(TOTAL + 2 / 50, rel=1e-4)
    found.check()


def test_missing_backward_lines() -> None:
    (found,) = read("missing_backward_rows")
    assert table(found) == SMALL
    (found,) = read("intel_forward_only")
    found.check()


def test_exponents() -> None:
    (found,) = read("exponents")
    assert found.rows == (
        Row("data", 1e-05),
        Row("flat", 0.000666667),
        Row("conv1", 1250),
        Row("drop6", 0),
    )
    found.check()


def test_names_of_any_character() -> None:
    (found,) = read("names")
    assert [row.name for row in found.rows] == [
        "a\tforward: 3 ms.",
        "two words",
        'say "x"',
        "n: a: b",
        "größe/größe",
        "層一",
        "$(touch pwned); `id`",
        "x]y] z",
        "-w",
        "name with a trailing space ",
        "    four leading spaces",
    ]
    assert [row.forward_ms for row in found.rows] == [1.5 + number for number in range(11)]
    found.check()


def test_bytes_that_are_no_text() -> None:
    (found,) = read("bytes_not_utf8")
    assert found.rows[-1].name.encode("utf-8", "surrogateescape") == b"caf\xe9s"


def test_inserted_splits_are_rows() -> None:
    (found,) = read("splits")
    assert found.rows[2] == Row("conv1_relu1_0_split", 0.0004)
    assert len(found.rows) == 6


def test_two_layers_of_one_name() -> None:
    (found,) = read("same_name_twice")
    assert found.rows[:2] == (Row("data", 0.5), Row("data", 0.25))


def test_several_nets() -> None:
    first, second = read("two_nets")
    assert table(first) == SMALL and second.iterations == 10
    assert second.rows[1] == Row("conv1", 6.83334)
    for found in (first, second):
        found.check()
    with pytest.raises(CaffeLogError, match="2 benchmarks"):
        parse_one((LOGS / "two_nets.log").read_bytes())


def test_a_benchmark_that_was_cut_off_before_another() -> None:
    first, second = read("cut_then_again")
    assert first.forward_ms is None and len(first.rows) < len(SMALL)
    assert table(second) == SMALL


@pytest.mark.parametrize("name", ["truncated_in_table", "truncated_in_total"])
def test_truncated(name: str) -> None:
    with pytest.raises(CaffeLogError, match="cut off"):
        parse_one((LOGS / f"{name}.log").read_bytes())


@pytest.mark.parametrize("name", ["empty", "crashed"])
def test_no_benchmark(name: str) -> None:
    with pytest.raises(CaffeLogError, match="no row"):
        read(name)


@pytest.mark.parametrize("name", ["unit_layers_in_us", "unit_layers_in_s", "unit_total_in_us"])
def test_wrong_units_are_caught(name: str) -> None:
    (found,) = read(name)
    with pytest.raises(CaffeLogError, match="has a wrong unit"):
        found.check()


def test_units_that_are_said_are_believed() -> None:
    (found,) = read("unit_said_us")
    assert table(found)["conv1"] == pytest.approx(3.41667)
    found.check()


def test_a_lost_line_is_caught() -> None:
    (found,) = read("lost_line")
    with pytest.raises(CaffeLogError, match="lines were lost"):
        found.check()


def test_every_log_is_looked_at() -> None:
    names = {path.stem for path in LOGS.glob("*.log")}
    here = Path(__file__).read_text(encoding="utf-8")
    assert len(names) >= 15
    assert {name for name in names if f'"{name}"' not in here and f"{name}.log" not in here} == set()


@pytest.mark.parametrize("letter", "IWEF")
@pytest.mark.parametrize("day", ["0821", "20260821"])
def test_prefixes(letter: str, day: str) -> None:
    line = f"{letter}{day} 01:02:03.000001 139872 caffe.cpp:400] rest] of it"
    start = PREFIX.match(line)
    assert start and line[start.end() :] == "rest] of it"


@pytest.mark.parametrize("number", ["nan", "-nan", "inf", "-1"])
def test_times_that_are_none(number: str) -> None:
    log = f"  conv1\tforward: {number} ms.\nAverage Forward pass: {number} ms.\n"
    with pytest.raises(CaffeLogError, match="no number"):
        parse_one(log)


def test_short_passes_need_not_add_up() -> None:
    # 1e-3 ms a row and 0.3 ms between them: a clock's grain, no wrong unit.
    parse_one("  conv1\tforward: 0.001 ms.\nAverage Forward pass: 0.3 ms.\n")


@pytest.mark.parametrize("start", ["x\tforward: ", "Average Forward pass: ", "Total Time: "])
@pytest.mark.parametrize("row", ["1" * 400_000, "1." + "1" * 400_000, "." + "1" * 400_000, "1e" + "1" * 400_000])
def test_rows_without_end_take_no_longer_than_others(start: str, row: str) -> None:
    """Quadratic, each would take hours."""
    with pytest.raises(CaffeLogError, match="there is no row"):
        parse(f"{start}{row} h\n{start}{row} ms\n")


def test_many_rows_of_one_name() -> None:
    [found] = parse("x\tforward: 1 ms\n" * 100_000 + "x\tbackward: 2 ms\n" * 100_000)
    assert len(found.rows) == 100_000


@pytest.mark.parametrize("time", ["1e308", "inf", "-inf", "nan", "1e16", "-1"])
def test_times_that_cannot_be(time: str) -> None:
    text = f"a\tforward: {time} ms.\nb\tforward: 1e308 ms.\nc\tforward: inf ms.\nAverage Forward pass: {time} ms.\n"
    [found] = parse(text)
    assert not found.sum_ms < 1e308
    with pytest.raises(CaffeLogError, match="a time that is negative, endless or no number"):
        found.check()
