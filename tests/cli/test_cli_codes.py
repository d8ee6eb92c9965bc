"""Exit codes: 0 done (or nothing to do), 1 failed, 2 usage, 3 refused or a check failed."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from cli_tools import Cli, Echo, Everything, SmallNet, complaint

from deeprebirth_caffe.engines import EngineError

CONV_ALONE = """name: "plain"
input: "data"
input_shape { dim: 1 dim: 3 dim: 8 dim: 8 }
layer { name: "conv" type: "Convolution" bottom: "data" top: "conv" convolution_param { num_output: 4 kernel_size: 3 } }
"""


@pytest.fixture
def plain() -> str:
    """A net in which there is nothing to merge."""
    Path("plain.prototxt").write_text(CONV_ALONE, encoding="utf-8")
    return "plain.prototxt"


def test_nothing_to_merge_is_0_and_said(cli: Cli, plain: str) -> None:
    result = cli("convert", plain)
    assert (result.code, result.err) == (0, "")
    assert "nothing to merge" in result.out.splitlines()
    # The layer keeps its text.
    assert Path("plain-rebirth/plain.prototxt").read_text(encoding="utf-8") == CONV_ALONE
    assert cli("convert", plain, "--only", "conv", "--dry-run").code == 0


def test_a_refusal_does_not_change_the_code(cli: Cli, net28: SmallNet) -> None:
    result = cli("convert", net28.deploy)
    assert result.code == 0
    assert any(line.startswith("refused inception_4a: pool-to-stride: pool5/") for line in result.out.splitlines())


def test_a_named_stage_that_is_refused_is_3(cli: Cli, net28: SmallNet, everything: Everything) -> None:
    before = everything()
    for more in ([], ["--dry-run"], ["--json"]):
        result = cli(
            "convert", net28.train_val, "--input-shape", net28.shape, "--only", "conv1", "--only", "loss1", *more
        )
        said = complaint(result, 3)
        assert said.startswith("stage loss1 is refused: ") and said.endswith("nothing was written")
        assert "; loss1/ave_pool: " in said and "it drops in TRAIN" in said
    assert everything() == before


def test_a_failed_check_is_3(
    cli: Cli, net28: SmallNet, everything: Everything, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = everything()
    monkeypatch.setattr("deeprebirth_caffe.nets.check.engine", lambda _, caffe: Echo(1e-3))
    common = ("-w", net28.weights, "--input-shape", net28.shape, "--check", "-o", "out")
    for command in ("convert", "deploy"):
        said = complaint(cli(command, net28.train_val, *common), 3)
        assert said.startswith("check failed after strip-training") and ': blob "echo" differs by ' in said
    assert everything() == before
    monkeypatch.setattr("deeprebirth_caffe.nets.check.engine", lambda _, caffe: Echo(1e-5))
    result = cli("deploy", net28.train_val, *common)
    assert result.code == 0
    assert "checked strip-training, join-siblings, inner-to-convolution: 1 blobs agree, the worst to " in result.out


def test_a_check_without_caffe_is_1(
    cli: Cli, net28: SmallNet, everything: Everything, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = everything()
    said = complaint(cli("convert", net28.deploy, "--check", "--caffe", "nowhere"), 1)
    assert "--caffe" in said and "nowhere does not exist" in said and "rebirth caffe install" in said

    class Broken(Echo):
        def forward(self, *arguments: object, **more: object) -> dict[str, np.ndarray]:
            raise EngineError("Caffe says\nno", stderr_tail="tail")

    monkeypatch.setattr("deeprebirth_caffe.nets.check.engine", lambda _, caffe: Broken())
    result = cli("deploy", net28.train_val, "-w", net28.weights, "--input-shape", net28.shape, "--check", "-o", "out")
    assert r"Caffe says\nno" in complaint(result, 1)
    assert everything() == before


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ("--only conv9", '--only: this net has no stage "conv9"; did you mean conv'),
        ("--skip stem", '--skip: this net has no stage "stem"; its stages are data, conv1, '),
        ("--reduce stem=0.5", '--reduce: this net has no layer "stem"'),
        ("--input-shape image=1,28,28", '--input-shape names blob "image"'),
        ("--input-shape conv1/5x5=1,28,28", 'blob "conv1/5x5", which is no input of this net'),
        ("--input-shape data", "'data' is not of the form data=3,224,224"),
        ("--input-shape data=0,1,1", "'data=0,1,1' is not of the form"),
        ("--input-shape data=1,99999999999,1", "is not of the form"),
        ("--exact --bn prune", "--exact and --bn prune exclude each other"),
        ("--no-pass fold", "there is no pass 'fold'; there are drop-identities, fold-batchnorm,"),
        ("--kernel 0", "'0' is not keep, receptive or a kernel size"),
        ("--kernel \N{SUPERSCRIPT TWO}", "is not keep, receptive or a kernel size"),
        ("--kernel wide", "'wide' is not keep, receptive or a kernel size"),
        ("--reduce 0", "'0' is not a ratio above 0 and at most 1"),
        ("--reduce nan", "'nan' is not a ratio"),
        ("--reduce conv1=1.5", "'conv1=1.5' is not a ratio"),
        ("--bn drop", "'drop' is not one of 'fold', 'prune'"),
        ("--init zero", "'zero' is not one of 'inherit', 'xavier'"),
        ("--seed -1", "-1 is not in the range"),
        ("--batch 0", "0 is not in the range"),
        ("--batch 99999999999", "99999999999 is not in the range"),
        ("--stepsize 2147483648", "2147483648 is not in the range"),
        ("--max-iter many", "'many' is not a valid integer"),
        ("--base-lr nan", "is not a number that Caffe can use"),
        ("--base-lr inf", "is not a number that Caffe can use"),
        ("--base-lr 1e39", "is not a number that Caffe can use"),
        ("--base-lr 0", "0.0 is not in the range"),
        ("--momentum 1", "1.0 is not in the range"),
        ("--gamma -1", "-1.0 is not in the range"),
        ("--lr-factor 0", "0.0 is not in the range"),
        ("-w nowhere", "File 'nowhere' does not exist"),
        ("-w googlenet28", "File 'googlenet28' is a directory"),
        ("--solver nowhere", "File 'nowhere' does not exist"),
        ("-o googlenet28/solver.prototxt", "is a file"),
    ],
)
def test_wrong_options_are_2(cli: Cli, net28: SmallNet, everything: Everything, arguments: str, said: str) -> None:
    before = everything()
    assert said in complaint(cli("convert", net28.train_val, *arguments.split()), 2)
    assert everything() == before


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ("inspect NET --stage few", '--stage: no rule of this net names the stage "few"; they name none'),
        ("inspect NET --input-shape image=1,2,3", '--input-shape names blob "image"'),
        ("diff NET NET --input-shape image=1,2,3", '--input-shape names blob "image", which neither net has'),
        ("deploy NET -w WEIGHTS -o out --input-shape image=1,2,3", '--input-shape names blob "image"'),
        ("deploy NET -w WEIGHTS -o out --batch 0", "0 is not in the range"),
    ],
)
def test_wrong_options_of_the_others_are_2(cli: Cli, net28: SmallNet, arguments: str, said: str) -> None:
    words = [{"NET": net28.train_val, "WEIGHTS": net28.weights}.get(word, word) for word in arguments.split()]
    assert said in complaint(cli(*words), 2)
