"""solver.prototxt: the paper's settings, the rest lent by `--solver`."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest
from cli_tools import Cli, Everything, SmallNet, complaint, listing

from deeprebirth_caffe.formats.solver import read_solver
from deeprebirth_caffe.proto import caffe_pb2 as pb

Convert = Callable[..., list[str]]


def solver(path: str = "out/solver.prototxt") -> pb.SolverParameter:
    """What a solver says."""
    return read_solver(path).message


@pytest.fixture
def convert(cli: Cli, net28: SmallNet) -> Convert:
    """Converts the training net into `out`; gives the notes."""

    def run(*options: object) -> list[str]:
        result = cli("convert", net28.train_val, "--input-shape", net28.shape, "-o", "out", "--json", *options)
        assert result.code == 0, result
        notes: list[str] = result.data["notes"]
        return notes

    return run


def test_the_papers_settings(convert: Convert) -> None:
    convert()
    found = solver()
    assert (found.net, found.snapshot_prefix) == ("out/train_val.prototxt", "out/rebirth")
    assert (found.base_lr, found.gamma, found.momentum) == pytest.approx((0.001, 0.1, 0.9))
    assert (found.lr_policy, found.stepsize, found.max_iter) == ("step", 40_000, 90_000)
    # The database is not there: 1,000 images in batches of 71.
    assert list(found.test_iter) == [15] and found.test_interval == 4500
    assert found.solver_mode == pb.SolverParameter.CPU
    text = Path("out/solver.prototxt").read_text(encoding="utf-8")
    assert text.startswith("# ") and "base_lr: 0.001\n" in text


@pytest.mark.parametrize("lent", [False, True])
@pytest.mark.parametrize(
    ("options", "alone", "with_lent"),
    [((), 5, 35), (("--clip-gradients", 2), 2, 2), (("--clip-gradients", 0), None, None), (("--paper",), None, 35)],
)
def test_the_norm_that_gradients_are_cut_to(
    convert: Convert, lent: bool, options: tuple[object, ...], alone: float | None, with_lent: float | None
) -> None:
    Path("mine.prototxt").write_text(LENT, encoding="utf-8")
    convert(*options, *(["--solver", "mine.prototxt"] if lent else []))
    found = solver()
    assert (found.clip_gradients if found.HasField("clip_gradients") else None) == (with_lent if lent else alone)


def test_paths_are_as_the_user_typed_them(cli: Cli, net28: SmallNet) -> None:
    for out in ("deep/er", str(Path("deep/absolute").absolute())):
        assert cli("convert", net28.train_val, "-o", out).code == 0
        assert solver(f"{out}/solver.prototxt").net == os.path.join(out, "train_val.prototxt")


LENT = """# mine
net: "models/old/train_val.prototxt"  # the old one
test_iter: 12
test_interval: 34
base_lr: 0.01

# how it falls
lr_policy: "multistep"
stepvalue: 1000
stepvalue: 2000
gamma: 0.96
power: 0.5
max_iter: 1000000
momentum: 0.95
weight_decay: 0.0001
clip_gradients: 35
type: "Nesterov"
iter_size: 2
snapshot: 555
snapshot_prefix: "models/old/snap"
random_seed: 1701
solver_mode: GPU
"""


def test_what_a_solver_lends(convert: Convert) -> None:
    Path("mine.prototxt").write_text(LENT, encoding="utf-8")
    assert convert("--solver", "mine.prototxt") == []
    text = Path("out/solver.prototxt").read_text(encoding="utf-8")
    assert "# mine\n" in text and "# the old one\n" in text and "\n# how it falls\n" in text
    found, old = solver(), solver("mine.prototxt")
    for name in ("test_iter", "test_interval", "weight_decay", "clip_gradients", "type", "iter_size", "snapshot"):
        assert getattr(found, name) == getattr(old, name), name
    assert found.random_seed == 1701 and found.solver_mode == pb.SolverParameter.GPU
    assert (found.net, found.snapshot_prefix) == ("out/train_val.prototxt", "out/rebirth")
    assert (found.lr_policy, found.stepsize, found.max_iter) == ("step", 40_000, 90_000)
    assert (found.base_lr, found.gamma, found.momentum) == pytest.approx((0.001, 0.1, 0.9))
    # What belongs to another policy would only mislead.
    assert not found.stepvalue and not found.HasField("power")
    assert Path("mine.prototxt").read_text(encoding="utf-8") == LENT


def test_separate_nets_for_training_and_testing(convert: Convert) -> None:
    text = 'train_net: "a/train_val.prototxt"\ntest_net: "a/train_val.prototxt"\ntest_iter: 3\n'
    Path("two.prototxt").write_text(text, encoding="utf-8")
    assert convert("--solver", "two.prototxt") == []
    found = solver()
    assert not found.HasField("net") and found.train_net == "out/train_val.prototxt"
    assert list(found.test_net) == ["out/train_val.prototxt"] and list(found.test_iter) == [3]
    Path("two.prototxt").write_text(text.replace('test_net: "a/train_val', 'test_net: "a/test'), encoding="utf-8")
    (note,) = convert("--solver", "two.prototxt", "--force")
    assert "test_net a/test.prototxt is another file" in note
    assert list(solver().test_net) == ["a/test.prototxt"]


def test_nets_inside_a_solver_go(convert: Convert) -> None:
    layer = 'layer { name: "x" type: "Silence" }'
    Path("inside.prototxt").write_text(
        f"net_param {{ {layer} }}\ntest_net_param {{ {layer} }}\ntest_iter: 3\n", encoding="utf-8"
    )
    convert("--solver", "inside.prototxt")
    found = solver()
    assert not found.HasField("net_param") and not found.test_net_param
    assert found.net == "out/train_val.prototxt"


def test_weights_that_a_solver_names(convert: Convert, net28: SmallNet) -> None:
    Path("start.prototxt").write_text('base_lr: 1\nweights: "old.caffemodel"\n', encoding="utf-8")
    convert("--solver", "start.prototxt")
    assert list(solver().weights) == ["old.caffemodel"]
    convert("--solver", "start.prototxt", "-w", net28.weights, "--force")
    assert list(solver().weights) == ["out/init.caffemodel"]


def test_fields_of_a_fork_are_kept_and_said(convert: Convert) -> None:
    Path("fork.prototxt").write_text("base_lr: 1\nwarmup_iter: 100\n", encoding="utf-8")
    (note,) = convert("--solver", "fork.prototxt")
    assert "warmup_iter" in note
    assert "warmup_iter: 100" in Path("out/solver.prototxt").read_text(encoding="utf-8")


def test_a_net_that_does_not_train_gets_none(cli: Cli, net28: SmallNet) -> None:
    result = cli("convert", net28.deploy, "--solver", net28.solver, "-o", "out", "--json")
    assert listing("out") == ["deploy.prototxt", "manifest.json"]
    assert "solver" not in result.data["outputs"] and result.data["lr_mult"] == {}
    assert any("no solver is written" in note for note in result.data["notes"])


def no_solver(name: str, text: str | bytes) -> str:
    """A file."""
    Path(name).write_bytes(text.encode() if isinstance(text, str) else text)
    return name


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "this is not a solver"),
        ("# only a comment\n", "this is not a solver"),
        ('name: "x"\nlayer { name: "a" type: "ReLU" }\n', "this is a net"),
        ('debug_info: true\nlayer { name: "a" type: "ReLU" }\n', "this is a net"),
        ("base_lr: 0.1\nmax_iter: lots\n", "s.prototxt:2:"),
        ("net_param {\n", "s.prototxt:1:11: '{' is never closed"),
        ("<!DOCTYPE html><html></html>", "this is a web page"),
        (b"\x0a\x00\x01\x02\xff" * 50, "this is a binary file"),
    ],
)
def test_a_solver_that_is_none(cli: Cli, net28: SmallNet, text: str | bytes, said: str, everything: Everything) -> None:
    path = no_solver("s.prototxt", text)
    before = everything()
    for more in ([], ["--dry-run"]):
        complaining = complaint(cli("convert", net28.train_val, "--solver", path, *more), 1)
        assert complaining.startswith("s.prototxt:") and said in complaining
    assert everything() == before
