"""Where the command `rebirth` begins: a signal that comes while modules are still imported ends it in one line."""

from __future__ import annotations

import os
import signal

_CODES = {signal.SIGINT: 130, signal.SIGTERM: 143}


def main() -> None:
    """Runs `rebirth`; see `cli.main`."""
    for number in _CODES:
        if signal.getsignal(number) is not signal.SIG_IGN:  # as `nohup` and `&` leave it
            signal.signal(number, _end)
    from deeprebirth_caffe.cli import main as run

    if signal.getsignal(signal.SIGINT) is _end:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    run()


def _end(number: int, frame: object) -> None:
    """Nothing was begun, so nothing is to be ended in good order; an exception could be caught by what is imported."""
    os.write(2, b"interrupted; nothing half-written was left behind\n")
    os._exit(_CODES[signal.Signals(number)])
