"""A few threads make batches ahead of time; they come out in order."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Generic, TypeVar

J = TypeVar("J")
R = TypeVar("R")


class Prefetcher(Generic[J, R]):
    """Threads that take turns to read, and make batches in parallel.

    At most `depth` batches wait at a time. An error is raised in its turn, and again on each later call.
    """

    def __init__(self, read: Callable[[], J], make: Callable[[J], R], threads: int, depth: int) -> None:
        """Starts the threads.

        Args:
            read: returns the next job; called by a single thread at a time, in order.
            make: turns a job into a result; called by several threads at once.
            threads: how many.
            depth: the most batches to make ahead.
        """
        self._read = read
        self._make = make
        self._room = threading.Semaphore(depth)
        self._reading = threading.Lock()
        self._done = threading.Condition()
        self._results: dict[int, tuple[J | None, R | None, BaseException | None]] = {}
        self._started = 0
        self._given = 0
        self._failed = False
        self._stopping = False
        self._threads = [threading.Thread(target=self._work, name="rebirth-data", daemon=True) for _ in range(threads)]
        for thread in self._threads:
            thread.start()

    def next(self) -> tuple[J, R]:
        """The next job and its result; waits for it."""
        with self._done:
            while self._given not in self._results:
                self._done.wait()
            job, result, error = self._results[self._given]
            if error is not None:
                raise error
            del self._results[self._given]
            self._given += 1
        self._room.release()
        assert job is not None and result is not None
        return job, result

    def close(self) -> None:
        """Ends the threads and waits for them; batches made ahead are lost."""
        self._stopping = True
        for _ in self._threads:
            self._room.release()
        for thread in self._threads:
            thread.join()

    def _work(self) -> None:
        while True:
            self._room.acquire()
            with self._reading:
                if self._stopping or self._failed:
                    return
                number = self._started
                self._started += 1
                job, error = self._try_read()
                if error is not None:
                    self._failed = True
            result = None
            if job is not None:
                try:
                    result = self._make(job)
                except BaseException as caught:  # given out by next()
                    error = caught
            with self._done:
                self._results[number] = job, result, error
                self._done.notify_all()

    def _try_read(self) -> tuple[J | None, BaseException | None]:
        try:
            return self._read(), None
        except BaseException as error:  # given out by next()
            return None, error
