"""Signals while something runs that must end in good order."""

from __future__ import annotations

import io
import os
import signal

import pytest

from deeprebirth_caffe.training.interruption import SIGNALS, Interruption


class Interrupting(io.RawIOBase):
    """A stream whose first write is interrupted by a signal."""

    def __init__(self, number: signal.Signals) -> None:
        self.number: signal.Signals | None = number
        self.written = b""

    def writable(self) -> bool:
        return True

    def write(self, data: object) -> int:
        if self.number is not None:
            number, self.number = self.number, None
            os.kill(os.getpid(), number)
        chunk = bytes(data)  # type: ignore[call-overload]
        self.written += chunk
        return len(chunk)


@pytest.mark.parametrize("number", SIGNALS)
def test_what_is_said_may_go_to_the_stream_that_was_being_written(number: signal.Signals) -> None:
    raw = Interrupting(number)
    stream = io.BufferedWriter(raw)
    with Interruption(lambda got: print(stream.write(got.name.encode()))) as interruption:
        stream.write(b"a line, ")
        stream.flush()
    stream.flush()
    assert interruption.signal is number
    assert raw.written == b"a line, " + number.name.encode()


def test_handlers_are_put_back() -> None:
    before = [signal.getsignal(number) for number in SIGNALS]
    with Interruption(lambda number: None):
        assert [signal.getsignal(number) for number in SIGNALS] != before
    assert [signal.getsignal(number) for number in SIGNALS] == before


def test_a_second_signal_ends_at_once() -> None:
    with Interruption(lambda number: None), pytest.raises(SystemExit) as ending:
        os.kill(os.getpid(), signal.SIGTERM)
        os.kill(os.getpid(), signal.SIGTERM)
    assert ending.value.code == 143
