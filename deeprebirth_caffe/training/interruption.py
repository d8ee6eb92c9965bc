"""Ctrl-C and `kill` while something runs that must end in good order."""

from __future__ import annotations

import queue
import signal
import sys
import threading
from collections.abc import Callable
from types import FrameType, TracebackType
from typing import Any

SIGNALS = (signal.SIGINT, signal.SIGTERM)
TOLD = 1.0
"""Seconds that telling people may take, so that what is said next comes behind it."""


class Interrupted(Exception):
    """A signal came, and what runs need not be finished."""


class Interruption:
    """While it is entered, a first SIGINT or SIGTERM is only noted; a second one ends the program at once."""

    def __init__(self, on_first: Callable[[signal.Signals], None]) -> None:
        """Args:
        on_first: called with it, from a thread of its own, when the first one comes.
        """
        self._signal: signal.Signals | None = None
        self._on_first = on_first
        self._before: dict[signal.Signals, Any] = {}
        # A handler may interrupt the main thread in the middle of a write, and must not write to that stream itself.
        # SimpleQueue.put is what a handler may safely call.
        self._queue: queue.SimpleQueue[signal.Signals | None] = queue.SimpleQueue()
        self._teller = threading.Thread(target=self._tell, daemon=True)

    def __enter__(self) -> Interruption:
        # Python hands signals to the main thread alone.
        if threading.current_thread() is threading.main_thread():
            self._teller.start()
            self._before = {number: signal.signal(number, self._note) for number in SIGNALS}
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)
        if self._before:
            self._queue.put(None)
            self._teller.join()

    @property
    def signal(self) -> signal.Signals | None:
        """The signal that came, once people are told of it; None as long as none did."""
        if self._signal is not None:
            self._teller.join(TOLD)
        return self._signal

    def check(self) -> None:
        """Does nothing as long as no signal came.

        Raises:
            Interrupted: one did.
        """
        if self.signal is not None:
            raise Interrupted

    def _note(self, number: int, frame: FrameType | None) -> None:
        if self._signal is None:
            self._signal = signal.Signals(number)
            self._queue.put(self._signal)
        elif number == signal.SIGINT:
            raise KeyboardInterrupt
        else:
            sys.exit(128 + number)

    def _tell(self) -> None:
        first = self._queue.get()
        if first is not None:
            self._on_first(first)
