"""The process that a HostedRunner starts (`isolation.python_words`), for no one else.

It either converts a net for an engine, or opens what was converted and answers until nobody asks any more. What engines
print goes to stderr; questions and answers have pipes of their own.
"""

from __future__ import annotations

import os
import signal
import sys
import threading
from multiprocessing.connection import Connection
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from deeprebirth_caffe.engines.runners import Runner

OPERATIONS = ("forward", "time", "layers", "describe")
"""The methods of a runner that can be asked for."""


def main(arguments: list[str]) -> None:
    """Runs the process.

    Args:
        arguments: "convert" or "load", the engine, the folder, the threads (or ""), the processors (comma-separated, or
            ""), and the descriptors of the pipes: questions, answers, and one that closes when the parent dies.
    """
    job, engine, folder, threads, cpus, *pipes = arguments
    questions, answers, lifeline = map(int, pipes)
    if cpus:
        # Before anything starts threads: they inherit it.
        os.sched_setaffinity(0, [int(cpu) for cpu in cpus.split(",")])
    threading.Thread(target=_die_with_parent, args=(lifeline,), daemon=True).start()
    asked, told = Connection(questions, writable=False), Connection(answers, readable=False)
    try:
        if job == "convert":
            _convert(engine, Path(folder))
            told.send((True, None))
            return
        from deeprebirth_caffe.engines.runners import load

        runner = load(Path(folder), int(threads) if threads else None)
    except Exception as error:
        told.send((False, _text(error)))
        return
    told.send((True, {"inputs": runner.inputs, "outputs": runner.outputs}))
    _serve(runner, asked, told)


def _convert(engine: str, folder: Path) -> None:
    from deeprebirth_caffe.engines.prepare import Ready
    from deeprebirth_caffe.engines.runners import convert

    convert(engine, Ready.read(folder), folder)


def _serve(runner: Runner, asked: Connection, told: Connection) -> None:
    while True:
        try:
            operation, values = asked.recv()
        except EOFError:
            runner.close()
            return
        try:
            if operation not in OPERATIONS:
                raise ValueError(f"no operation {operation!r}")
            told.send((True, getattr(runner, operation)(*values)))
        except Exception as error:
            told.send((False, _text(error)))


def _text(error: BaseException) -> tuple[str, str]:
    """What the parent makes an error of: the class, by which it knows refusals, and one line."""
    from deeprebirth_caffe.errors import RebirthError

    line = " ".join(str(error).split())
    return type(error).__name__, line if isinstance(error, RebirthError) else f"{type(error).__name__}: {line}"


def _die_with_parent(lifeline: int) -> None:
    """Ends this process when the other end of the pipe closes, whatever it is doing."""
    os.read(lifeline, 1)
    if os.getpgrp() == os.getpid():
        # With whatever we have started: a converter may be at work.
        os.killpg(os.getpid(), signal.SIGKILL)
    os._exit(1)


if __name__ == "__main__":
    main(sys.argv[1:])
