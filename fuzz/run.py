"""Fuzzing: `python fuzz/run.py TARGET [--runs N] [--jobs N] [--seed N]`; `targets.py` lists the targets.

Mutated files, and files that are built with values at the edges, go through everything that reads them. A finding is
any exception but RebirthError, any input that takes more than five seconds, and any that takes more than 1 GiB of
memory. Findings are kept as files in --keep, one for each kind; the exit status is 1 if there are any. An input that
kills its process is a finding, too: each job is a process of its own. With `--atheris` (and atheris installed) coverage
guides the mutations.
"""

from __future__ import annotations

import argparse
import multiprocessing
import resource
import signal
import sys
import tempfile
import time
import traceback
import warnings
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from random import Random
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent))

from targets import TARGETS, Target

from deeprebirth_caffe.errors import RebirthError

HANG_SECONDS = 5.0
MEMORY = 1 << 30
GRACE = 10.0
"""Seconds after a hang in which a process that does not even answer a signal is ended."""


class HangError(BaseException):
    """An input took too long; no code catches it."""


def make_input(target: Target, seeds: list[bytes], seed: int, index: int) -> bytes:
    """The input of that number: always the same."""
    return target.mutate(Random(f"{seed} {index}"), seeds)


def _alarm(*_: Any) -> None:
    raise HangError


def try_one(target: Target, data: bytes, folder: Path) -> tuple[str, str] | None:
    """Runs one input; (where it failed, traceback) of a finding, ("", kind) of an error that people may see."""
    signal.setitimer(signal.ITIMER_REAL, HANG_SECONDS)
    try:
        target.run(data, folder)
    except RebirthError as error:
        if "\n" in str(error):
            return "an error of several lines", str(error)
        return "", type(error).__name__
    except (Exception, HangError) as error:
        frames = traceback.extract_tb(error.__traceback__)
        own = [frame for frame in frames if "deeprebirth_caffe" in frame.filename] or frames[-1:]
        return f"{type(error).__name__} at {Path(own[-1].filename).name}:{own[-1].lineno}", traceback.format_exc()
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
    return None


def work(name: str, seed: int, first: int, step: int, runs: int, current: Any, pipe: Any) -> None:
    """One process: the inputs first, first + step, … below runs."""
    target = TARGETS[name]
    seeds = target.seeds()
    signal.signal(signal.SIGALRM, _alarm)
    warnings.simplefilter("error")  # nobody should meet one
    with tempfile.TemporaryDirectory() as folder:
        for data in seeds:  # everything is imported before memory is counted
            try_one(target, data, Path(folder))
        used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
        resource.setrlimit(resource.RLIMIT_AS, (used + MEMORY, used + MEMORY))
        kinds: Counter[str] = Counter()
        for index in range(first, runs, step):
            current.value = index
            data = make_input(target, seeds, seed, index)
            found = try_one(target, data, Path(folder))
            if found is None:
                kinds["ok"] += 1
            elif not found[0]:
                kinds[found[1]] += 1
            else:
                pipe.send((index, *found))
        pipe.send(dict(kinds))


class Job:
    """A process, started again behind an input that killed it."""

    def __init__(self, name: str, seed: int, first: int, step: int, runs: int) -> None:
        self.rest = (name, seed, step, runs)
        self.current = multiprocessing.Value("q", first)
        self.start(first)

    def start(self, first: int) -> None:
        name, seed, step, runs = self.rest
        self.pipe, other = multiprocessing.Pipe(duplex=False)
        self.seen, self.since = -1, time.monotonic()
        arguments = (name, seed, first, step, runs, self.current, other)
        self.process = multiprocessing.Process(target=work, args=arguments, daemon=True)
        self.process.start()
        other.close()

    def stuck(self) -> bool:
        """Whether it has been at one input for so long that it must be in code that signals do not reach."""
        if self.current.value != self.seen:
            self.seen, self.since = self.current.value, time.monotonic()
        return time.monotonic() - self.since > HANG_SECONDS + GRACE


def fuzz(
    name: str, runs: int, jobs: int, seed: int, found: Callable[[int, str, str], None], say: Callable[[str], None]
) -> Counter[str]:
    """Runs all inputs; calls `found` with each finding, gives back how the others ended."""
    kinds: Counter[str] = Counter()
    working = [Job(name, seed, first, jobs, runs) for first in range(jobs)]
    spoken = time.monotonic()
    while working:
        for job in list(working):
            try:
                while job.pipe.poll(0.02):
                    message = job.pipe.recv()
                    if isinstance(message, dict):
                        kinds.update(message)
                        working.remove(job)
                        job.process.join()
                        break
                    found(*message)
            except EOFError:
                job.process.join()
                index = job.current.value
                found(index, f"died ({job.process.exitcode})", "the process is gone")
                job.start(index + jobs)
            if job.stuck():
                job.process.kill()
        if time.monotonic() - spoken > 30:
            spoken = time.monotonic()
            say(f"{name}: at {max((job.current.value for job in working), default=runs)} of {runs}")
    return kinds


def with_atheris(name: str, runs: int) -> None:
    """Lets atheris find inputs, guided by coverage."""
    import atheris

    target = TARGETS[name]
    with tempfile.TemporaryDirectory() as folder:
        corpus = Path(folder, "corpus")
        corpus.mkdir()
        for index, data in enumerate(target.seeds()):
            (corpus / str(index)).write_bytes(data)

        def one(data: bytes) -> None:
            try:
                target.run(data, Path(folder))
            except RebirthError:
                return

        options = [f"-runs={runs}", f"-timeout={HANG_SECONDS:.0f}", f"-rss_limit_mb={MEMORY >> 20}", str(corpus)]
        atheris.instrument_all()
        atheris.Setup([sys.argv[0], *options], one)
        atheris.Fuzz()


def main(arguments: list[str] | None = None) -> int:
    """The command line; 1 if there are findings."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("target", choices=TARGETS)
    parser.add_argument("--runs", type=int, default=10_000)
    parser.add_argument("--jobs", type=int, default=2)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--keep", type=Path, help="folder for the inputs of findings")
    parser.add_argument("--atheris", action="store_true", help="let atheris mutate")
    parser.add_argument("--one", type=int, help="print the input of this number, run it, and stop")
    options = parser.parse_args(arguments)
    target = TARGETS[options.target]
    if options.atheris:
        with_atheris(options.target, options.runs)
        return 0
    if options.one is not None:
        data = make_input(target, target.seeds(), options.seed, options.one)
        sys.stdout.buffer.write(data + b"\n")
        with tempfile.TemporaryDirectory() as folder:
            target.run(data, Path(folder))
        return 0
    begin = time.monotonic()
    findings: Counter[str] = Counter()

    def found(index: int, what: str, details: str) -> None:
        findings[what] += 1
        if findings[what] > 1:
            return
        print(f"finding: {what}, input {index}\n{details}", flush=True)
        if options.keep:
            options.keep.mkdir(parents=True, exist_ok=True)
            data = make_input(target, target.seeds(), options.seed, index)
            (options.keep / f"{options.target}-{options.seed}-{index}").write_bytes(data)

    kinds = fuzz(options.target, options.runs, options.jobs, options.seed, found, lambda text: print(text, flush=True))
    seconds = time.monotonic() - begin
    ends = ", ".join(f"{kind} {count}" for kind, count in kinds.most_common())
    print(f"{options.target}: {options.runs} inputs in {seconds:.0f} s: {ends}; {sum(findings.values())} findings")
    for what, count in findings.most_common():
        print(f"  {count} x {what}")
    return 1 if findings else 0


if __name__ == "__main__":
    sys.exit(main())
