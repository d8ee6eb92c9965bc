"""Installs real Caffe into a directory of its own, by `install_caffe.sh` beside this file, and removes it again."""

from __future__ import annotations

import os
import select
import shutil
import subprocess
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from deeprebirth_caffe.engines.base import EngineError
from deeprebirth_caffe.engines.caffe.locate import STAMP, CaffeInstall, CaffeNotFoundError, default_prefix, find_caffe
from deeprebirth_caffe.errors import UsageError
from deeprebirth_caffe.options.caffe import InstallOptions, RemoveOptions

SCRIPT = Path(__file__).with_name("install_caffe.sh")
EVERY = 0.5
"""Seconds between two looks at how much is downloaded."""
UNFINISHED = ".work"
"""The folder in which the script works until it is done."""


def directory_of(options: RemoveOptions) -> Path:
    """Where Caffe goes, as an absolute path."""
    return (options.prefix or default_prefix(options.arch)).absolute()


def install(options: InstallOptions, say: Callable[[str], None], tick: Callable[[int], None]) -> CaffeInstall:
    """Runs the script: downloads, unpacks and checks Caffe. A finished directory is left alone.

    Args:
        options: what is wanted, and where.
        say: gets each line of the script.
        tick: gets the bytes downloaded so far, every half second while there come more.

    Raises:
        EngineError: it failed; the text is the script's own.
        UsageError: an option is wrong.
    """
    bash = shutil.which("bash")
    if bash is None:
        raise EngineError("installing Caffe needs bash, apt-get and dpkg-deb; docs/caffe.md says what to do without")
    given = {"arch": options.arch, "mirror": options.mirror, "keyring": options.keyring}
    words = [f"--{name}={value}" for name, value in given.items() if value is not None]
    command = [bash, str(SCRIPT), *words, "--", str(directory_of(options))]
    child = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    with child:
        try:
            errors = _follow(child, directory_of(options) / UNFINISHED / "archives", say, tick)
            code = child.wait()
        except BaseException:
            child.terminate()  # the script stops apt and says nothing that is still read
            raise
    if code:
        text = errors.strip().splitlines()[-1:] or [f"install_caffe.sh ended with {code}"]
        failure = UsageError if code == UsageError.exit_code else EngineError
        raise failure(text[0].removeprefix("install_caffe.sh: "))
    return replace(find_caffe(directory_of(options)), where="rebirth caffe install")


def _follow(
    child: subprocess.Popen[bytes], archives: Path, say: Callable[[str], None], tick: Callable[[int], None]
) -> str:
    """Hands on what the script says until it ends; gives what it wrote to stderr."""
    assert child.stdout is not None and child.stderr is not None
    downloaded = 0
    texts = {child.stdout.fileno(): b"", child.stderr.fileno(): b""}
    still = list(texts)
    while still:
        ready, _, _ = select.select(still, [], [], EVERY)
        if not ready and (size := _bytes_in(archives)) != downloaded:
            downloaded = size
            tick(size)
        for stream in ready:
            part = os.read(stream, 65536)
            if not part:
                still.remove(stream)
            texts[stream] += part
        *lines, texts[child.stdout.fileno()] = texts[child.stdout.fileno()].split(b"\n")
        for line in lines:
            say(os.fsdecode(line).removeprefix("caffe: "))
    return os.fsdecode(texts[child.stderr.fileno()])


def _bytes_in(folder: Path) -> int:
    """The size of the files below a folder, some of which may go away meanwhile."""
    total = 0
    for parent, _, files in os.walk(folder):
        for name in files:
            try:
                total += os.lstat(os.path.join(parent, name)).st_size
            except OSError:
                continue
    return total


def remove(prefix: Path) -> bool:
    """Deletes a directory that the script made, finished or not.

    Returns:
        Whether there was one.

    Raises:
        EngineError: it holds something else, or a run of the script is busy in it.
    """
    import fcntl

    prefix = prefix.resolve()
    if not prefix.exists():
        return False
    if not any((prefix / name).exists() for name in (STAMP, UNFINISHED)):
        raise CaffeNotFoundError(f"{prefix} holds no Caffe that rebirth installed: it stays as it is")
    with (prefix / ".lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            raise EngineError(f"an installation is busy in {prefix}: stop it first") from error
        # The stamp goes first: a removal that is interrupted must not leave what looks like a whole Caffe.
        (prefix / UNFINISHED).mkdir(exist_ok=True)
        (prefix / STAMP).unlink(missing_ok=True)
        shutil.rmtree(prefix)
    return True
