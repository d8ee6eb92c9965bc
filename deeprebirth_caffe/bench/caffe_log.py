"""Reads the log of `caffe time`, also of forks.

The rows are `name<TAB>forward: X ms.` behind a glog prefix, the name right-aligned to ten bytes. A name may hold any
character but a line break. Times are averages over the iterations; only the oldest Caffe prints sums.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator
from dataclasses import dataclass

from deeprebirth_caffe.errors import RebirthError

PREFIX = re.compile(r"[IWEF](?:\d{4}|\d{8}) \d\d:\d\d:\d\d(?:\.\d+)?\s+\d+ [^\]\s]+:\d+\] ?")
"""glog's prefix: a letter, the day (with the year since glog 0.5), the time, the thread, file and line."""

# At most as long as a printed double: an endless row of digits would be tried from each of its places.
_NUMBER = r"([-+]?(?:\d{1,310}(?:\.\d{0,310})?|\.\d{1,310})(?:[eE][-+]?\d{1,4})?|[-+]?nan|[-+]?inf)"
_UNIT = r"(ms|us|µs|ns|s|milli ?seconds?|micro ?seconds?|nano ?seconds?|seconds?)"
_ROW = re.compile(rf"(.*)\tforward: {_NUMBER} ?{_UNIT}\.?\s*", re.DOTALL)
_TOTAL = re.compile(rf"(Average )?Forward(?: pass)?: {_NUMBER} ?{_UNIT}\.?\s*")
_ITERATIONS = re.compile(r"Testing for (\d{1,9}) iterations\.?\s*")
_BEGIN = "*** Benchmark begins ***"
_END = "*** Benchmark ends ***"
_TABLE = "Average time per layer"
_MS = {"s": 1000.0, "ms": 1.0, "us": 1e-3, "µs": 1e-3, "ns": 1e-6}
_LONG = {"milli": "ms", "micro": "us", "nano": "ns", "secon": "s"}
_PADDED = 10
"""Caffe pads a name to this many bytes."""
_LOOSE = 1.5
"""Different clocks time layers and their sum, and round; a larger ratio means another unit or a lost line."""
_LONGEST_MS = 1e15
_SLACK_MS = 0.5
"""The allowed difference of short passes: the total also has the time between layers."""


class CaffeLogError(RebirthError):
    """A log has no benchmark, or a wrong benchmark."""


@dataclass(frozen=True)
class Row:
    """The row of a layer.

    Attributes:
        name: of the layer; inserted Split layers have rows too.
        forward_ms: mean milliseconds of its forward pass.
    """

    name: str
    forward_ms: float


@dataclass(frozen=True)
class Benchmark:
    """A table of a log.

    Attributes:
        rows: the layers in the order of the log; names may repeat.
        iterations: how many passes were averaged; None where the log does not say.
        forward_ms: mean milliseconds of a whole forward pass; None where the log ends before it.
    """

    rows: tuple[Row, ...]
    iterations: int | None = None
    forward_ms: float | None = None

    @property
    def sum_ms(self) -> float:
        """The sum of all rows' forward times; infinite if it is no number or beyond a double."""
        try:
            return math.fsum(row.forward_ms for row in self.rows)
        except (OverflowError, ValueError):
            return math.inf

    def check(self) -> None:
        """Compares the sum of the layers with the whole pass.

        Raises:
            CaffeLogError: the log ends too early, has an impossible time or a wrong unit, or lost lines.
        """
        whole = self.forward_ms
        if whole is None:
            raise CaffeLogError("the log of `caffe time` ends before its totals; was it cut off?")
        if not all(0 <= ms < _LONGEST_MS for ms in (whole, *(row.forward_ms for row in self.rows))):
            raise CaffeLogError("the log of `caffe time` holds a time that is negative, endless or no number")
        parts = self.sum_ms
        if abs(parts - whole) <= _SLACK_MS or (whole and parts and 1 / _LOOSE <= parts / whole <= _LOOSE):
            return
        told = f"the layers of this log sum up to {parts:g} ms, and the whole forward pass took {whole:g} ms"
        ratio = parts / whole if whole else math.inf
        for factor in (1e6, 1e3, 1e-3, 1e-6):
            if 1 / _LOOSE <= ratio / factor <= _LOOSE:
                raise CaffeLogError(f"{told}: one of the two has a wrong unit")
        raise CaffeLogError(f"{told}: lines were lost, or a unit is wrong")


def parse(log: str | bytes) -> list[Benchmark]:
    """Finds every benchmark in a log.

    Args:
        log: stderr of `caffe time` (and stdout, if both were captured).

    Raises:
        CaffeLogError: the log has no benchmark.
    """
    text = log.decode("utf-8", "surrogateescape") if isinstance(log, bytes) else log
    tables: list[_Table] = []
    for line in _messages(text):
        if line.startswith(_BEGIN) or not tables:
            tables.append(_Table())
        elif line.startswith(_TABLE) and tables[-1].rows:
            # Two benchmarks, the first of which was cut off before it said so.
            tables.append(_Table(tables[-1].iterations))
        tables[-1].take(line)
        if line.startswith(_END):
            tables.append(_Table())
    benchmarks = [table.benchmark() for table in tables if table.rows]
    if not benchmarks:
        raise CaffeLogError("there is no row of `caffe time` in this log; did it stop before it timed anything?")
    return benchmarks


def parse_one(log: str | bytes) -> Benchmark:
    """The only benchmark of a log, checked.

    Raises:
        CaffeLogError: the log has none or several, or it is wrong.
    """
    benchmarks = parse(log)
    if len(benchmarks) > 1:
        raise CaffeLogError(f"this log holds {len(benchmarks)} benchmarks; one was expected")
    benchmarks[0].check()
    return benchmarks[0]


def _messages(text: str) -> Iterator[str]:
    """The lines without glog's prefix, and without the text of other programs before it."""
    # Not splitlines: a layer's name may hold a form feed or Unicode's line separator.
    for line in text.split("\n"):
        line = line.removesuffix("\r")
        start = PREFIX.search(line)
        yield line[start.end() :] if start else line


class _Table:
    """A benchmark while it is read."""

    def __init__(self, iterations: int | None = None) -> None:
        self.rows: list[tuple[str, float]] = []
        self.iterations = iterations
        self.forward: float | None = None
        self.summed = False

    def take(self, line: str) -> None:
        """Reads one line."""
        if row := _ROW.fullmatch(line):
            padded, number, unit = row.groups()
            self.rows.append((_unpadded(padded), _ms(number, unit)))
        elif total := _TOTAL.fullmatch(line):
            average, number, unit = total.groups()
            self.forward, self.summed = _ms(number, unit), not average
        elif iterations := _ITERATIONS.fullmatch(line):
            self.iterations = int(iterations[1])

    def benchmark(self) -> Benchmark:
        """What was read; sums become averages."""
        count = (self.iterations or 1) if self.summed else 1
        rows = tuple(Row(name, ms / count) for name, ms in self.rows)
        return Benchmark(rows, self.iterations, None if self.forward is None else self.forward / count)


def _unpadded(name: str) -> str:
    """A name without Caffe's padding; the spaces of a longer name belong to it."""
    try:
        size = len(name.encode("utf-8", "surrogateescape"))
    except UnicodeEncodeError:  # surrogates that stand for no byte: this text does not come from a log's bytes
        size = len(name)
    return name.lstrip(" ") if size <= _PADDED else name


def _ms(number: str, unit: str) -> float:
    return float(number) * _MS[_LONG.get(unit[:5], unit)]
