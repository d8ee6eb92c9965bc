"""Fixtures that every test directory shares: real Caffe, where there is one."""

from __future__ import annotations

import os
import re
import signal
import threading
from collections.abc import Iterator
from contextlib import suppress
from typing import TYPE_CHECKING

import pytest

from deeprebirth_caffe.engines.caffe.kernels import VARIABLE, choose_kernels
from deeprebirth_caffe.engines.caffe.locate import CaffeInstall, CaffeNotFoundError, find_caffe

if TYPE_CHECKING:
    from measured_caffe import MeasuringWorker

_skipped: list[str] = []
_CAFFE_FIXTURES = {"caffe", "caffe_install"}


def pytest_addoption(parser: pytest.Parser) -> None:
    """Adds `--quick`, which `make test-quick` says."""
    parser.addoption("--quick", action="store_true", help="each test with its first case alone, and none marked slow")


def _quick(items: list[pytest.Item]) -> list[pytest.Item]:
    """A fair cross-section: of each test the first case (of each type, where cases are numbered by it)."""
    first = {re.sub(r"\[([A-Z]\w+-)?.*", r"\1", item.nodeid): item for item in reversed(items)}
    kept = set(first.values())
    return [item for item in items if item in kept and not item.get_closest_marker("slow")]


def pytest_configure(config: pytest.Config) -> None:
    """Registers our marker, and lets Ctrl-C through.

    A shell that starts the tests in the background has SIGINT ignored, and what they start would inherit that.
    """
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN and threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGINT, signal.default_int_handler)
    if os.environ.get("PYTEST_XDIST_WORKER"):
        # As many processes as cores run tests: threads of PyTorch's besides would only wait for each other.
        os.environ.setdefault("OMP_NUM_THREADS", "1")
    # The caffe program that tests start shall compute as our workers do, and none of them has to find out how.
    with suppress(CaffeNotFoundError):
        kernels = choose_kernels(find_caffe())
        if kernels.name:
            os.environ[VARIABLE] = kernels.name
    config.addinivalue_line("markers", "slow: takes some seconds; left out by --quick")
    config.addinivalue_line("markers", "caffe: needs real Caffe (skipped where there is none)")


def _why_no_caffe() -> str | None:
    try:
        find_caffe().need_python()
    except CaffeNotFoundError as error:
        return str(error)
    return None


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Skips what needs Caffe where there is none; using the fixture counts as needing it."""
    if config.getoption("quick"):
        kept = _quick(items)
        config.hook.pytest_deselected(items=[item for item in items if item not in set(kept)])
        items[:] = kept
    needy = [
        item
        for item in items
        if item.get_closest_marker("caffe") or _CAFFE_FIXTURES.intersection(getattr(item, "fixturenames", ()))
    ]
    reason = _why_no_caffe() if needy else None
    if reason is None:
        return
    for item in needy:
        item.add_marker(pytest.mark.skip(reason=reason))
    _skipped[:] = [reason] * len(needy)


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Says what a missing Caffe left untested, so that a green run does not pass for a whole one."""
    skipped = terminalreporter.stats.get("skipped", [])
    # Asked anew: where pytest-xdist collects in other processes, this one has skipped nothing itself.
    reason = (_why_no_caffe() or "") if skipped else ""
    count = len(_skipped) or sum(1 for report in skipped if reason and reason in str(report.longrepr))
    if count:
        reason = _skipped[0] if _skipped else reason
        terminalreporter.write_line(f"{count} tests need real Caffe and were skipped: {reason}", yellow=True)


@pytest.fixture(scope="session")
def caffe_install() -> CaffeInstall:
    """The Caffe under test."""
    return find_caffe()


@pytest.fixture(scope="session")
def caffe(caffe_install: CaffeInstall) -> Iterator[MeasuringWorker]:
    """A running pycaffe process that all tests share; it starts anew after a test made it abort."""
    from measured_caffe import MeasuringWorker

    with MeasuringWorker(caffe_install, threads=1, timeout=300, respawn=True) as worker:
        yield worker
