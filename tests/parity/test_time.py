"""`rebirth time` in real Caffe: the same layers, the right figures, the fallback on `caffe time`, nothing left behind.

How well the times agree is measured by benchmarks/time_agreement.py: a busy machine fails no test.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from nets import data, layer

from deeprebirth_caffe import zoo
from deeprebirth_caffe.bench.caffe_time import dressed
from deeprebirth_caffe.commands.time import time_nets
from deeprebirth_caffe.engines.caffe.client import CaffeWorker
from deeprebirth_caffe.engines.caffe.locate import CaffeInstall
from deeprebirth_caffe.errors import RebirthError
from deeprebirth_caffe.formats.prototxt import format_message
from deeprebirth_caffe.ir import Net, summarize
from deeprebirth_caffe.options.time import Plan, TimingOptions

pytestmark = pytest.mark.caffe
QUICK = Plan(runs=2, iterations=2, warmup=1)
NETS = ("googlenet28", "alexnet64", "resnet64")


@pytest.fixture(params=NETS)
def net(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    zoo.write(request.param, tmp_path / "net")
    return tmp_path / "net/deploy.prototxt"


@pytest.fixture
def program(caffe_install: CaffeInstall, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A `caffe` that has no Python beside it."""
    script = tmp_path / "bin" / "caffe"
    script.parent.mkdir()
    script.write_text(f'#!/bin/sh\nexec "{caffe_install.need_binary()}" "$@"\n')
    script.chmod(0o755)
    monkeypatch.setattr("deeprebirth_caffe.engines.caffe.locate._which", lambda names, env: None)
    return script


def test_rows_are_caffes_layers(net: Path, caffe: CaffeWorker) -> None:
    found = time_nets([(net, None)], TimingOptions(plan=QUICK, threads=1)).nets[0]
    loaded = caffe.load(net)
    kinds = [(name, kind) for name, kind in loaded.layers if kind != "Input"]
    caffe.close(loaded)
    assert [(row.name, row.type) for row in found.layers] == kinds
    assert all(row.stage for row in found.layers)
    assert found.threads == 1 and found.runtime["version"].startswith("1.0")
    assert found.memory_bytes == summarize(Net.read(net).view("TEST")).memory_bytes
    assert found.memory_required_for_data == loaded.memory_required_for_data
    assert found.peak_rss_bytes > found.param_bytes + found.memory_bytes
    assert 0 < found.tensor_share < 1 and found.best_ms > 0
    # 2 runs of 2 passes and one that does not count
    assert len(found.runs_ms) == 2 and found.cpu_ms > 0


def test_each_net_has_a_process_of_its_own(tmp_path: Path) -> None:
    zoo.write("googlenet28", tmp_path / "net")
    net = tmp_path / "net/deploy.prototxt"
    result = time_nets([(net, None)] * 3, TimingOptions(plan=Plan(6, 2, 1), threads=1))
    assert [ratio.vs for ratio in result.ratios] == [net] * 2
    for ratio in result.ratios:
        assert ratio.low <= ratio.median <= ratio.high


@pytest.mark.parametrize("name", NETS)
def test_without_python(name: str, tmp_path: Path, program: Path) -> None:
    zoo.write(name, tmp_path / "net")
    net = tmp_path / "net/deploy.prototxt"
    found = time_nets([(net, None)], TimingOptions(plan=QUICK, threads=1, caffe=str(program))).nets[0]
    assert not found.single_passes and len(found.runs_ms) == 2
    assert any("`caffe time`" in note for note in found.notes)
    view = Net.read(net).view("TEST")
    names = [layer.name for layer in view.layers if layer.type != "Input"]
    assert [row.name for row in found.layers if row.type != "Split"] == names
    assert all(row.type for row in found.layers)
    assert sum(row.forward_ms for row in found.layers) > 0
    assert found.peak_rss_bytes > found.param_bytes


def test_without_python_only_caffe_can_be_timed(tmp_path: Path, program: Path) -> None:
    net = tmp_path / "net.prototxt"
    net.write_text(data(1) + layer("ArgMax", "a", "data"))
    # Caffe has no backward pass for it, and `caffe time` wants one
    with pytest.raises(RebirthError, match="caffe time on local: it "):
        time_nets([(net, None)], TimingOptions(plan=QUICK, caffe=str(program)))


def test_the_dressed_net_is_alive(net: Path, caffe: CaffeWorker, tmp_path: Path) -> None:
    message, made = dressed(Net.read(net))
    path = tmp_path / "dressed.prototxt"
    path.write_text(format_message(message), encoding="utf-8")
    loaded = caffe.load(path)
    blobs = caffe.forward(loaded)
    caffe.close(loaded)
    assert made == {"data"}
    for name, values in blobs.items():
        assert abs(values).max() < 1e6, name
        assert values.std() > 0, name


def test_ctrl_c_leaves_nothing_behind(tmp_path: Path, caffe_install: CaffeInstall) -> None:
    zoo.write("googlenet28", tmp_path / "net")
    temporary = tmp_path / "temporary"
    temporary.mkdir()
    command = [
        sys.executable,
        "-m",
        "deeprebirth_caffe.cli",
        "time",
        "net/deploy.prototxt",
        "--runs",
        "100000",
        "--json",
    ]
    process = subprocess.Popen(
        command,
        cwd=tmp_path,
        env={**os.environ, "TMPDIR": str(temporary)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
    )
    children: list[str] = []
    for _ in range(600):
        listed = Path(f"/proc/{process.pid}/task/{process.pid}/children")
        children = listed.read_text().split() if listed.exists() else []
        if children:
            break
        time.sleep(0.1)
    time.sleep(1.5)
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=60)
    # Before the first round there is nothing to show; after it there is. Neither is a traceback.
    assert process.returncode == 130 and "Traceback" not in err, err
    assert not out or '"interrupted": true' in out
    assert list(temporary.iterdir()) == []
    for child in children:
        assert not Path(f"/proc/{child}").exists()
