"""This machine as a target: the `caffe` program as a process that is bounded, measured and always ended."""

from __future__ import annotations

import os
import time
from pathlib import Path

import pytest

from deeprebirth_caffe.bench.targets import Job, open_target
from deeprebirth_caffe.bench.targets.local import LocalTarget
from deeprebirth_caffe.engines.base import EngineError
from deeprebirth_caffe.errors import UsageError


@pytest.fixture
def program(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A script in Caffe's place."""
    monkeypatch.setattr("deeprebirth_caffe.engines.caffe.locate._which", lambda names, env: None)
    path = tmp_path / "caffe"
    path.touch(0o755)
    return path


def says(path: Path, script: str) -> LocalTarget:
    path.write_text(f"#!/bin/sh\n{script}\n")
    return LocalTarget(str(path))


def test_what_it_prints_and_how_it_ends(program: Path) -> None:
    with says(program, 'echo "$@"; echo "$X" >&2; exit 3') as target:
        done = target.run_caffe(["time", "$(touch pwned); `id`", "a b"], env={"X": "y"})
    assert (done.rc, done.stdout, done.stderr) == (3, b"time $(touch pwned); `id` a b\n", b"y\n")
    assert done.peak_rss_bytes is not None and done.peak_rss_bytes > 2**16


def test_the_end_by_a_signal(program: Path) -> None:
    with says(program, "kill -9 $$") as target:
        assert target.run_caffe([]).rc == -9


def test_one_that_takes_too_long_is_ended(program: Path) -> None:
    with says(program, "echo $$ > pid; sleep 60") as target, pytest.raises(EngineError, match=r"longer than 0\.3 s"):
        target.run_caffe([], cwd=program.parent, timeout=0.3)
    pid = int((program.parent / "pid").read_text())
    for _ in range(100):
        if not Path(f"/proc/{pid}").exists():
            break
        time.sleep(0.05)
    assert not Path(f"/proc/{pid}").exists()


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="this system does not bind processes")
def test_it_stays_on_its_processors(program: Path) -> None:
    here = os.sched_getaffinity(0)
    first = min(here)
    with says(program, "grep Cpus_allowed_list /proc/self/status") as target:
        done = target.run_caffe([], cpus=[first])
        assert done.stdout.split()[-1] == str(first).encode()
        with pytest.raises(EngineError, match="processors 4095"):
            target.run_caffe([], cpus=[4095])
    assert os.sched_getaffinity(0) == here


def test_pushed_files_go_away(program: Path, tmp_path: Path) -> None:
    (tmp_path / "a").write_text("x")
    with says(program, "") as target:
        folder = target.push({"net.prototxt": tmp_path / "a"})
        assert (folder / "net.prototxt").read_text() == "x"
    assert not folder.exists()


NET = """
layer { name: "data" type: "Input" top: "data" input_param { shape { dim: 1 dim: 2 dim: 8 dim: 8 } } }
layer { name: "a" type: "Convolution" bottom: "data" top: "a" convolution_param { num_output: 2 kernel_size: 1 } }
"""


@pytest.mark.parametrize(
    ("script", "words"),
    [
        ("echo 'F0821 11:42:33.123456  4242 net.cpp:5] Check failed: a < b' >&2; kill -6 $$", "signal 6: Check failed"),
        ("echo 'ERROR: unknown command line flag phase' >&2; exit 1", "status 1: ERROR: unknown command line flag"),
        ("exit 2", "it printed nothing"),
        ("exit 0", "no row of `caffe time`"),
        ("printf ' a\\tforward: 1 ms.\\n' >&2", "cut off"),
    ],
)
def test_what_goes_wrong_is_said_in_a_line(program: Path, tmp_path: Path, script: str, words: str) -> None:
    net = tmp_path / "net.prototxt"
    net.write_text(NET)
    with says(program, script) as target:
        subject = target.open(Job("caffe", net, net, threads=1))
        with pytest.raises(EngineError) as caught:
            subject.run(5, 0)
    assert words in str(caught.value) and "\n" not in str(caught.value)


def test_the_inputs_row_is_left_out(program: Path, tmp_path: Path) -> None:
    net = tmp_path / "net.prototxt"
    net.write_text(NET)
    log = "data\\tforward: 2 ms.\\n a\\tforward: 5 ms.\\nAverage Forward pass: 7.5 ms.\\n"
    with says(program, f'printf "{log}" >&2; echo "$OPENBLAS_NUM_THREADS $@" > {tmp_path}/asked') as target:
        subject = target.open(Job("caffe", net, net, threads=3))
        assert subject.run(5, 2) == [5.5] and not subject.single
        assert subject.layers(5) == [("a", 5.0)] and subject.layers(5) is None
        assert subject.peak_rss_bytes() and subject.pid is None
        subject.close()
    threads, command, *rest = (tmp_path / "asked").read_text().split()
    assert (threads, command) == ("3", "time") and rest[2:] == ["-iterations", "5", "-phase", "TEST"]


def test_only_caffe_has_a_program(program: Path, tmp_path: Path) -> None:
    from deeprebirth_caffe.bench.caffe_time import CaffeTimeSubject

    with says(program, "") as target, pytest.raises(EngineError, match="mnn does not run on local"):
        CaffeTimeSubject(target, Job("mnn", tmp_path, tmp_path))


def test_places() -> None:
    assert open_target("local").name == "local"
    for spec in ("", "moon", "Local", "local:1"):
        with pytest.raises(UsageError, match="no such place"):
            open_target(spec)
