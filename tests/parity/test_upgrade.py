"""Upgrades against Caffe's own upgrade tools, on a corpus that has every type and every field of the old forms."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import upgrade_corpus as corpus
from google.protobuf import text_format

from deeprebirth_caffe.engines.caffe.locate import CaffeInstall
from deeprebirth_caffe.formats.caffemodel import read_caffemodel
from deeprebirth_caffe.formats.prototxt import parse_net, parse_solver
from deeprebirth_caffe.formats.upgrade import (
    UpgradeError,
    needs_upgrade,
    upgrade_net,
    upgrade_net_binary,
    upgrade_solver,
)
from deeprebirth_caffe.proto import caffe_pb2 as pb

NETS = {**corpus.v1_nets(), **corpus.v0_nets(), **corpus.today_nets()}
REFUSED = corpus.refused_nets()
SOLVERS = corpus.solvers()


class Tools:
    """Caffe's upgrade programs, run with the C library they came with."""

    def __init__(self, install: CaffeInstall) -> None:
        self._prefix = install.prefix

    def command(self, program: str) -> list[str]:
        if self._prefix is None:
            found = shutil.which(program)
            if found is None:
                pytest.skip(f"this Caffe has no {program}")
            return [found]
        [lib] = [path.parent for path in self._prefix.glob("lib/*/ld-2.31.so")]
        usr = self._prefix / "usr/lib" / lib.name
        places = [usr.parent, usr / "openblas-pthread", usr, lib, usr / "blas", usr / "lapack"]
        library_path = ":".join(map(str, places))
        start = [str(lib / "ld-2.31.so"), "--inhibit-cache", "--library-path", library_path]
        return [*start, str(self._prefix / "usr/bin" / program)]

    def run(self, program: str, data: bytes, folder: Path) -> tuple[int, bytes, str]:
        """Exit status, what it wrote, what it logged."""
        old, new = folder / "old", folder / "new"
        old.write_bytes(data)
        environment = {key: value for key, value in os.environ.items() if not key.startswith("LD_")}
        done = subprocess.run(
            [*self.command(program), str(old), str(new)],
            capture_output=True,
            timeout=60,
            check=False,
            env={**environment, "GLOG_logtostderr": "1"},
        )
        return done.returncode, new.read_bytes() if new.exists() else b"", done.stderr.decode("utf-8", "replace")


@pytest.fixture(scope="session")
def tools(caffe_install: CaffeInstall) -> Tools:
    return Tools(caffe_install)


def text_of(message: Any) -> bytes:
    return text_format.MessageToString(message).encode()


def same(mine: Any, theirs: Any) -> None:
    """Bit by bit, with a readable difference."""
    if mine.SerializeToString(deterministic=True) != theirs.SerializeToString(deterministic=True):
        assert text_format.MessageToString(mine) == text_format.MessageToString(theirs)
        raise AssertionError("the same text, other bytes")


def copy_of(net: pb.NetParameter) -> pb.NetParameter:
    return pb.NetParameter.FromString(net.SerializeToString())


def test_the_corpus_has_every_type_and_field(capsys: pytest.CaptureFixture[str]) -> None:
    lines = corpus.coverage_lines()
    with capsys.disabled():
        print("\nupgrade corpus: " + "; ".join(lines))
    for name, (have, want) in corpus.coverage().items():
        assert not want - have, name


@pytest.mark.parametrize("name", NETS)
def test_net_text(name: str, tools: Tools, tmp_path: Path) -> None:
    status, written, log = tools.run("upgrade_net_proto_text", text_of(NETS[name]), tmp_path)
    mine = copy_of(NETS[name])
    assert needs_upgrade(mine) == ("already in latest proto format" not in log)
    report = upgrade_net(mine)
    same(mine, text_format.Parse(written, pb.NetParameter()))
    assert report.complete == (status == 0)
    left_out = [str(note) for note in report.notes if "means nothing to a layer" in note.text]
    assert len(left_out) == len(re.findall(r"Unknown parameter", log))
    again = upgrade_net(mine)
    assert not [form for form in again.forms if form != "BatchNorm"]


@pytest.mark.parametrize("name", NETS)
def test_net_binary(name: str, tools: Tools, tmp_path: Path) -> None:
    data = NETS[name].SerializeToString()
    status, written, _ = tools.run("upgrade_net_proto_binary", data, tmp_path)
    mine, report = upgrade_net_binary(data)
    same(pb.NetParameter.FromString(mine), pb.NetParameter.FromString(written))
    assert report.complete == (status == 0)


@pytest.mark.parametrize("name", [name for name in NETS if NETS[name].layers and name != "input_bare"])
def test_text_written_in_todays_form(name: str, tools: Tools, tmp_path: Path) -> None:
    """What a reader of an old file gets, and what it writes, is Caffe's upgrade, too."""
    text = text_of(NETS[name])
    _, written, _ = tools.run("upgrade_net_proto_text", text, tmp_path)
    theirs = text_format.Parse(written, pb.NetParameter())
    source = parse_net(text.decode(), "old")
    mine = pb.NetParameter()
    mine.CopyFrom(source.header)
    mine.layer.extend(layer.message for layer in source.layers)
    same(mine, theirs)
    status, _, log = tools.run("upgrade_net_proto_text", source.text().encode(), tmp_path)
    assert status == 0 and "already in latest proto format" in log


@pytest.mark.parametrize("name", REFUSED)
def test_refused_where_caffe_aborts(name: str, tools: Tools, tmp_path: Path) -> None:
    net, reason = REFUSED[name]
    status, _, log = tools.run("upgrade_net_proto_text", text_of(net), tmp_path)
    assert status < 0 and "Check failure stack trace" in log
    with pytest.raises(UpgradeError, match=re.escape(reason)):
        upgrade_net(copy_of(net))


def test_weights_of_every_old_form_read_like_upgraded_ones(tools: Tools, tmp_path: Path) -> None:
    for number, form in enumerate(("V1", "V0")):
        net = pb.NetParameter(name=form)
        for kind, shape in (("conv", (2, 1, 1, 3)), ("innerproduct", (1, 1, 2, 3)), ("relu", ())):
            outer = net.layers.add(top=[kind])
            inner = outer.layer if form == "V0" else outer
            inner.name = f"{kind}{number}"
            inner.type = kind if form == "V0" else corpus.V0_TYPES[kind]
            if not shape:
                continue
            old = inner.blobs.add(data=[1, 2, 3, 4, 5, 6.5])
            old.num, old.channels, old.height, old.width = shape
            new = inner.blobs.add(double_data=[0.5, 1 / 3])
            new.shape.dim.append(2)
            inner.blobs.add(data=[7]).shape.SetInParent()
        data = net.SerializeToString()
        status, written, _ = tools.run("upgrade_net_proto_binary", data, tmp_path)
        assert status == 0
        (tmp_path / "mine").write_bytes(data)
        (tmp_path / "theirs").write_bytes(written)
        mine, theirs = read_caffemodel(tmp_path / "mine"), read_caffemodel(tmp_path / "theirs")
        assert mine.name == theirs.name
        assert [(one.name, one.type, one.legacy) for one in mine.layers] == [
            (one.name, one.type, one.legacy) for one in theirs.layers
        ]
        for one, two in zip(mine.layers, theirs.layers, strict=True):
            assert [bytes(raw) for raw in one.raw] == [bytes(raw) for raw in two.raw]
            assert [(blob.shape, blob.dtype, blob.tolist()) for blob in one.blobs] == [
                (blob.shape, blob.dtype, blob.tolist()) for blob in two.blobs
            ]


@pytest.mark.parametrize("name", SOLVERS)
def test_solver(name: str, tools: Tools, tmp_path: Path) -> None:
    text = text_of(SOLVERS[name])
    status, written, _ = tools.run("upgrade_solver_proto_text", text, tmp_path)
    theirs = text_format.Parse(written, pb.SolverParameter())
    mine = pb.SolverParameter.FromString(SOLVERS[name].SerializeToString())
    upgrade_solver(mine)
    assert status == 0
    same(mine, theirs)
    source = parse_solver(text.decode())
    same(source.message, theirs)
    assert parse_solver(source.text()).message == theirs


def test_solver_with_two_types_is_refused(tools: Tools, tmp_path: Path) -> None:
    solver = corpus.refused_solver()
    status, _, _ = tools.run("upgrade_solver_proto_text", text_of(solver), tmp_path)
    assert status < 0
    with pytest.raises(UpgradeError, match="both 'type' and 'solver_type'"):
        upgrade_solver(solver)
