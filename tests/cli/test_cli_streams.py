"""`-` for standard input and output, `--quiet` and `--verbose`, exit codes of diff, and what comes next."""

from __future__ import annotations

import io
import sys
from pathlib import Path

import click
import pytest
from cli_tools import Cli, SmallNet, complaint, files_under, listing
from tiny import NET

from deeprebirth_caffe.cli import COMMANDS, rebirth
from deeprebirth_caffe.engines.random_weights import random_weights
from deeprebirth_caffe.ir.probe import save_weights
from deeprebirth_caffe.nets.load import load_net
from deeprebirth_caffe.wording import about


@pytest.fixture
def given(monkeypatch: pytest.MonkeyPatch) -> object:
    """`given(path)`: a file's bytes on standard input."""

    def put(path: str) -> None:
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(Path(path).read_bytes())))

    return put


def test_a_net_from_standard_input(cli: Cli, net28: SmallNet, given, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    def read(*arguments: object) -> object:
        given(net28.deploy)
        result = cli(*arguments)
        assert result.code == 0, result.err
        return result.out.replace("<stdin>", net28.deploy)

    assert read("inspect", "-") == cli("inspect", net28.deploy).out
    assert read("doctor", "-") == cli("doctor", net28.deploy).out
    for more in (("-", net28.train_val), (net28.train_val, "-")):
        files = [net28.deploy if one == "-" else one for one in more]
        assert read("diff", *more, "--json") == cli("diff", *files, "--json").out
    read("deploy", "-", "-w", net28.weights, "-o", "phone")
    assert cli("deploy", net28.deploy, "-w", net28.weights, "-o", "other").code == 0
    assert Path("phone/deploy.prototxt").read_bytes() == Path("other/deploy.prototxt").read_bytes()
    read("convert", "-", "-o", "out")
    assert listing("out") == ["deploy.prototxt", "manifest.json", "net.prototxt"]
    assert '"net": "<stdin>"' in Path("out/manifest.json").read_text(encoding="utf-8")
    assert not any("rebirth-stdin" in name for name in files_under(tmp_path))
    Path("broken").write_text("layer {", encoding="utf-8")
    given("broken")
    assert complaint(cli("inspect", "-"), 1).startswith("<stdin>:1:7: ")


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("diff", "-", "-"), "standard input can be read once"),
        (("convert", "-"), "say where the results go: -o DIR"),
        (("convert", "{deploy}", "-o", "-"), "- means nothing here: a folder is written"),
        (("deploy", "{deploy}", "-w", "{weights}", "-o", "-"), "- means nothing here: a folder is written"),
        (("finetune", "-"), "- means nothing here: this file is read more than once"),
        (("inspect", "{deploy}", "-w", "-"), "- means nothing here: this file is read more than once"),
        (("finetune", "{solver}", "--log", "-"), "- means nothing here: a log is gone on with"),
        (("data", "digits", "-o", "-"), "- means nothing here: a folder is written"),
        (("time", "{deploy}", "--csv", "-", "--json"), "standard output takes one result"),
        (("time", "{deploy}", "--csv", "-", "--html", "-"), "standard output takes one result"),
        (("inspect", "{deploy}", "-q", "-v"), "--quiet and --verbose exclude each other"),
    ],
)
def test_where_a_dash_means_nothing(cli: Cli, net28: SmallNet, given, arguments: tuple[str, ...], said: str) -> None:  # type: ignore[no-untyped-def]
    given(net28.deploy)
    named = {"deploy": net28.deploy, "weights": net28.weights, "solver": net28.solver}
    assert said in complaint(cli(*(one.format(**named) for one in arguments)), 2)
    assert listing() == ["googlenet28"]


def test_results_on_standard_output(cli: Cli, net28: SmallNet) -> None:
    for part in ("train_val", "deploy", "solver"):
        printed = cli("zoo", "googlenet28", "-o", "-", "--part", part)
        assert printed.out == Path(f"googlenet28/{part}.prototxt").read_text(encoding="utf-8")
    common = ("plan", net28.train_val, "-w", net28.weights, "--input-shape", net28.shape)
    printed = cli(*common, "-o", "-")
    assert cli(*common, "-o", "plan.yaml").code == 0
    assert printed.out == Path("plan.yaml").read_text(encoding="utf-8") and "wrote -" in printed.err
    quiet = cli(*common, "-o", "-", "-q")
    assert (quiet.out, quiet.err) == (printed.out, "") and not Path("-").exists()


def test_quiet_and_verbose(cli: Cli, net28: SmallNet) -> None:
    common = ("convert", net28.train_val, "--input-shape", net28.shape)
    for number, quiet in enumerate((("-q",), ("--quiet",))):
        result = cli(*common, "-o", str(number), *quiet)
        assert (result.code, result.out, result.err) == (0, "", "")
    assert cli("-q", *common, "-o", "2").out == "" and listing("2") == listing("0")
    assert cli(*common, "--dry-run", "-q", "--json").data["rewrites"]
    assert complaint(cli(*common, "-o", "0", "-q"), 1).startswith("0: this directory is not empty")
    # What a command is for is said all the same.
    assert cli("inspect", net28.deploy, "-q").out == cli("inspect", net28.deploy).out != ""
    assert cli("zoo", "list", "-q").out
    said = cli(*common, "-o", "3", "-v").err.splitlines()
    assert f"read {net28.train_val}" in said and any(line.startswith("wrote 3: ") for line in said)
    assert "Traceback" in cli("inspect", net28.solver, "-v").err
    assert "read" not in cli(*common, "-o", "4").err, "it is forgotten with the command"


def test_every_command_can_be_quiet() -> None:
    for name in COMMANDS:
        command = rebirth.get_command(click.Context(rebirth), name)
        inner = list(command.commands.values()) if isinstance(command, click.Group) else []
        for one in (command, *inner):
            assert one is not None and {"quiet", "verbose"} <= {param.name for param in one.params}, name


def test_diff_tells_by_its_exit_code(cli: Cli, net28: SmallNet) -> None:
    same, other = (net28.deploy, net28.deploy), (net28.deploy, net28.train_val)
    assert [cli("diff", *nets).code for nets in (same, other)] == [0, 0]
    assert [cli("diff", *nets, "--exit-code").code for nets in (same, other)] == [0, 3]
    assert cli("diff", *other, "--exit-code", "--json").data["removed"]


def test_what_comes_next(cli: Cli, net28: SmallNet) -> None:
    common = (net28.train_val, "--input-shape", net28.shape, "-w", net28.weights)
    assert (
        cli("convert", *common, "-o", "my net").out.splitlines()[-1]
        == "then: rebirth finetune 'my net/solver.prototxt'"
    )
    deployed = cli("deploy", *common, "-o", "phone").out.splitlines()[-1]
    assert deployed == f"then: rebirth time phone/deploy.prototxt -w phone/deploy.caffemodel --vs {net28.train_val}"
    assert "then:" not in cli("convert", *common, "--dry-run").out


@pytest.mark.parametrize(
    ("seconds", "words"),
    [
        (0.2, "about 1 s"),
        (59, "about 59 s"),
        (150, "about 2 min"),
        (7800, "about 2 h 10 min"),
        (3600, "about 1 h 00 min"),
        (90000, "about 1 d 1 h"),
    ],
)
def test_a_time_ahead(seconds: float, words: str) -> None:
    assert about(seconds) == words


def test_what_run_says_to_other_files(cli: Cli, net28: SmallNet) -> None:
    pytest.importorskip("pydantic")
    net, weights = net28.train_val, net28.weights
    assert f"this is a net, and no schedule; write one with: rebirth plan {net} -w" in complaint(cli("run", net), 1)
    assert f"weights, and no schedule; write one with: rebirth plan NET -w {weights}" in complaint(
        cli("run", weights), 1
    )
    said = complaint(cli("run", net28.solver), 1)
    assert said.endswith(f"this is a solver, and no schedule; run it with: rebirth finetune {net28.solver}")


def test_exact_without_weights_asks_for_them(cli: Cli, small) -> None:  # type: ignore[no-untyped-def]
    net = small("resnet64")
    result = cli("convert", net.deploy, "--exact", "--dry-run")
    assert "nothing to merge without the net's weights; give them: -w" in result.out.splitlines()


def test_a_plan_for_a_net_without_labels_says_what_to_do(cli: Cli, net28: SmallNet) -> None:
    pytest.importorskip("pydantic")
    lines = [line for line in NET.splitlines() if "Accuracy" not in line]
    blind = "\n".join(lines).replace("SoftmaxWithLoss", "EuclideanLoss").replace("num_output: 4", "num_output: 1")
    Path("blind.prototxt").write_text(blind, encoding="utf-8")
    given = 'layer { name: "data" type: "Input" top: "data" input_param { shape { dim: 1 dim: 1 dim: 8 dim: 8 } } }'
    alone = [lines[0], given, *lines[5:]]
    fed = "\n".join(alone).replace('bottom: "label"', 'bottom: "fc2"').replace("SoftmaxWithLoss", "EuclideanLoss")
    Path("fed.prototxt").write_text(fed, encoding="utf-8")
    for path in ("blind.prototxt", "fed.prototxt", net28.deploy):
        net = load_net(path, shapes={} if path != "blind.prototxt" else {"data": (1, 8, 8)})
        save_weights(Path("w.caffemodel"), net, random_weights(net))
        more = ("--input-shape", "data=1,8,8") if path == "blind.prototxt" else ()
        said = complaint(cli("plan", path, "-w", "w.caffemodel", "-o", "p.yaml", *more), 2)
        assert said.startswith(f"{path}: ") and "rebirth distil DIR --calibrate PICTURES" in said
    assert not Path("p.yaml").exists()
