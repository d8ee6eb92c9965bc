"""inspect, diff, zoo, doctor and deploy."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from cli_tools import Cli, Everything, SmallNet, complaint, listing

from deeprebirth_caffe import zoo
from deeprebirth_caffe.formats.caffemodel import read_caffemodel
from deeprebirth_caffe.ir import Net
from deeprebirth_caffe.nets.exactness import EXACT_NAMES, FINISHING


@pytest.fixture
def googlenet(cli: Cli) -> str:
    """The full GoogLeNet's folder."""
    assert cli("zoo", "googlenet", "-o", "g").code == 0
    return "g"


# inspect


def test_inspect_knows_googlenets_figures(cli: Cli, googlenet: str) -> None:
    found = cli("inspect", f"{googlenet}/deploy.prototxt", "--json").data
    # What real Caffe 1.0 says of it (tests/parity): net.params, net.blobs and its log.
    assert found["params"] == 6_998_552
    assert found["memory_bytes"] == 36_223_492 and found["memory_required_for_data"] == 55_149_248
    assert found["macs"] == 1_582_671_872
    layers = {layer["name"]: layer for layer in found["layers"]}
    assert layers["conv1/7x7_s2"] == {
        "name": "conv1/7x7_s2",
        "type": "Convolution",
        "stage": "conv1",
        "bottoms": ["data"],
        "tops": ["conv1/7x7_s2"],
        "top_shapes": [[1, 64, 112, 112]],
        "param_shapes": [[64, 3, 7, 7], [64]],
        "params": 9472,
        "macs": 118_013_952,
    }
    assert layers["inception_3a/output"]["top_shapes"] == [[1, 256, 28, 28]]
    assert found["state"] == {"phase": "TEST", "level": 0, "stages": []} and found["states"] == ["TEST"]


def test_inspect_counts_an_image(cli: Cli, googlenet: str) -> None:
    train, test = (
        cli("inspect", f"{googlenet}/train_val.prototxt", "--phase", phase, "--json").data
        for phase in ("TRAIN", "TEST")
    )
    batches = {name: found["layers"][0]["top_shapes"][0][0] for name, found in (("train", train), ("test", test))}
    assert (train["batch"], test["batch"]) == (batches["train"], batches["test"])
    assert train["batch"] != test["batch"] and train["macs"] == test["macs"]
    assert train["state"]["phase"] == "TRAIN" and set(train["states"]) == {"TRAIN", "TEST"}
    assert len(train["layers"]) < len(test["layers"])  # accuracies


def test_inspect_foretells_convert(cli: Cli, googlenet: str) -> None:
    told = cli("inspect", f"{googlenet}/deploy.prototxt", "--json").data
    done = cli("convert", f"{googlenet}/deploy.prototxt", "--dry-run", "--json").data
    assert told["merges"] == [
        {key: one[key] for key in ("pass", "kind", "stage", "removed", "rebirth")} for one in done["rewrites"]
    ]
    assert told["refusals"] == done["refusals"]
    assert told["params"] == done["before"]["params"] and told["macs"] == done["before"]["macs"]


def test_inspect_for_people(cli: Cli, net28: SmallNet) -> None:
    lines = cli("inspect", net28.deploy).out.splitlines()
    assert lines[0].split() == ["stage", "layer", "type", "output", "parameters", "multiply-adds", "an", "image"]
    assert ["conv1", "conv1/5x5", "Convolution", "1x24x28x28", "624", "470,400"] in [line.split() for line in lines]
    assert any(line.startswith("57 layers in TEST, 146,690 parameters, ") for line in lines)
    assert any(line.startswith("could merge conv1: remove-lrn (relearn): pool1/norm1") for line in lines)
    assert any(line.startswith("cannot merge inception_4a: pool-to-stride: pool5/3x3_s1: ") for line in lines)
    unknown = cli("inspect", net28.train_val).out
    assert "\nshape unknown: " in unknown and "give --input-shape data=CHANNELS,HEIGHT,WIDTH" in unknown


STAGED = """name: "staged"
layer { name: "data" type: "Input" top: "data" input_param { shape { dim: 1 dim: 3 dim: 8 dim: 8 } } }
layer { name: "conv" type: "Convolution" bottom: "data" top: "conv" convolution_param { num_output: 4 kernel_size: 3 } }
layer { name: "few" type: "InnerProduct" bottom: "conv" top: "out" inner_product_param { num_output: 2 }
        include { stage: "few" } }
layer { name: "many" type: "InnerProduct" bottom: "conv" top: "out" inner_product_param { num_output: 200 }
        include { not_stage: "few" } }
"""


def test_inspect_by_stage(cli: Cli) -> None:
    Path("staged.prototxt").write_text(STAGED, encoding="utf-8")
    names = {}
    for stages in ([], ["few"]):
        options = [word for stage in stages for word in ("--stage", stage)]
        found = cli("inspect", "staged.prototxt", "--json", *options).data
        assert found["state"]["stages"] == stages
        names[bool(stages)] = [layer["name"] for layer in found["layers"]]
    assert names == {False: ["data", "conv", "many"], True: ["data", "conv", "few"]}
    said = complaint(cli("inspect", "staged.prototxt", "--stage", "fev"), 2)
    assert said == '--stage: no rule of this net names the stage "fev"; they name few'


def test_names_cannot_move_the_cursor(cli: Cli) -> None:
    text = STAGED.replace('"InnerProduct" bottom', r'"Inner\033[2JProduct" bottom').replace('"staged"', r'"st\naged"')
    Path("evil.prototxt").write_text(text, encoding="utf-8")
    result = cli("inspect", "evil.prototxt")
    assert result.code == 0 and "\x1b" not in result.out and r"Inner\x1b[2JProduct" in result.out


# diff


def test_diff(cli: Cli, net28: SmallNet) -> None:
    assert cli("convert", net28.deploy, "--only", "conv1", "-o", "out").code == 0
    found = cli("diff", net28.deploy, "out/deploy.prototxt", "--json").data
    assert [layer["name"] for layer in found["removed"]] == ["conv1/5x5", "pool1/3x3_s2", "pool1/norm1"]
    assert [layer["name"] for layer in found["new"]] == ["conv1/5x5_merge"]
    assert [one["name"] for one in found["changed"]] == ["conv1/relu_5x5"]
    assert found["same"] == 57 - 4
    assert found["totals"]["a"]["layers"] == 57 and found["totals"]["b"]["layers"] == 55
    lines = cli("diff", net28.deploy, "out/deploy.prototxt").out.splitlines()
    line = "conv1/5x5 (Convolution) data -> conv1/5x5 1x24x28x28, 624 parameters, 470,400 multiply-adds"
    assert f"- {line}" in lines and any(line.startswith("+ conv1/5x5_merge (Convolution) ") for line in lines)
    assert "3 removed, 1 new, 1 changed, 53 the same" in lines


def test_diff_of_a_net_with_itself(cli: Cli, net28: SmallNet) -> None:
    found = cli("diff", net28.train_val, net28.train_val, "--json").data
    assert not found["removed"] and not found["new"] and not found["changed"] and found["same"] == 70


def test_diff_is_not_about_spelling(cli: Cli, net28: SmallNet) -> None:
    text = Path(net28.deploy).read_text(encoding="utf-8")
    Path("spelt.prototxt").write_text("# mine\n" + text.replace("\n", "  \n").replace('"', "'"), encoding="utf-8")
    assert "0 removed, 0 new, 0 changed, 57 the same" in cli("diff", net28.deploy, "spelt.prototxt").out


# zoo


def test_zoo_lists_all(cli: Cli) -> None:
    lines = cli("zoo", "list").out.splitlines()
    assert [line.split()[0] for line in lines] == zoo.names()
    assert [one["name"] for one in cli("zoo", "list", "--json").data["nets"]] == zoo.names()


def test_zoo_writes(cli: Cli, everything: Everything) -> None:
    result = cli("zoo", "googlenet28")
    assert result.out == "wrote googlenet28: train_val.prototxt, deploy.prototxt, solver.prototxt\n"
    assert listing("googlenet28") == ["deploy.prototxt", "solver.prototxt", "train_val.prototxt"]
    assert cli("zoo", "googlenet28", "-o", "deep/er", "--json").data["directory"] == "deep/er"
    before = everything()
    assert complaint(cli("zoo", "googlenet28"), 1).startswith("googlenet28: this directory is not empty")
    Path("googlenet28/solver.prototxt").write_text("mine", encoding="utf-8")
    assert cli("zoo", "googlenet28", "--force").code == 0
    assert everything() == before


# doctor


def test_doctor_says_what_is_missing(cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("REBIRTH_CAFFE", raising=False)
    monkeypatch.delenv("REBIRTH_CAFFE_PREFIX", raising=False)
    monkeypatch.delenv("XDG_DATA_HOME", raising=False)
    monkeypatch.setenv("HOME", str(Path("home").absolute()))
    monkeypatch.setenv("PATH", str(Path("bin").absolute()))
    findings = {one["name"]: one for one in cli("doctor", "--json").data["findings"]}
    for name in ("python", "protobuf", "numpy", "click", "rich"):
        assert findings[name]["found"] and findings[name]["version"] and not findings[name]["fix"]
    for name in ("caffe", "apt-get", "dpkg-deb", "qemu-aarch64-static"):
        assert not findings[name]["found"] and findings[name]["fix"] and not findings[name]["version"]
    assert "rebirth caffe install" in findings["caffe"]["fix"]
    lines = cli("doctor").out.splitlines()
    (line,) = (line for line in lines if line.split()[1] == "caffe")
    assert line.startswith("missing  caffe") and "rebirth caffe install" in line
    assert len(lines) == len(findings)


# deploy


def test_deploy(cli: Cli, small: Callable[[str], SmallNet], everything: Everything) -> None:
    net = small("resnet64")
    before = everything()
    given = ("deploy", net.train_val, "-w", net.weights, "--input-shape", net.shape)
    result = cli(*given, "-o", "out", "--batch", "3")
    assert (result.code, result.err) == (0, "")
    wrote, after = result.out.splitlines()[-2:]
    assert wrote == "wrote out: deploy.prototxt, deploy.caffemodel, manifest.json"
    assert after.startswith("then: rebirth time out/deploy.prototxt -w out/deploy.caffemodel --vs ")
    assert listing("out") == ["deploy.caffemodel", "deploy.prototxt", "manifest.json"]
    made = Net.read("out/deploy.prototxt")
    assert made.view().blobs["data"].shape == (3, 3, 64, 64)
    kinds = {layer.type for layer in made.layers}
    assert kinds.isdisjoint({"BatchNorm", "Scale", "Data", "Accuracy", "SoftmaxWithLoss"}) and "Softmax" in kinds
    assert {layer.name for layer in read_caffemodel("out/deploy.caffemodel").layers} == {
        layer.name for layer in made.layers if layer.op is not None and layer.op.tensor
    }
    after = everything()
    assert {path: after[path] for path in before} == before
    assert "not empty" in complaint(cli(*given, "-o", "out"), 1)
    assert cli(*given, "-o", "out", "--force").code == 0


def test_deploy_after_convert(cli: Cli, net28: SmallNet) -> None:
    """The three commands of the README, without the training between them."""
    result = cli("convert", net28.train_val, "-w", net28.weights, "--input-shape", net28.shape, "-o", "merged")
    assert result.code == 0
    weights = "merged/init.caffemodel"
    given = ("deploy", "merged/train_val.prototxt", "-w", weights, "--input-shape", net28.shape)
    # But for what gives the net another shape, it is the deploy net that was written beside it.
    left_out = [word for one in FINISHING for word in ("--no-pass", one.name)]
    assert cli(*given, "-o", "phone", *left_out).code == 0
    assert Path("phone/deploy.prototxt").read_bytes() == Path("merged/deploy.prototxt").read_bytes()
    names = [layer.name for layer in read_caffemodel("phone/deploy.caffemodel").layers]
    assert "conv1/5x5_merge" in names and not any(name.startswith("loss1") for name in names)


def test_deploy_leaves_passes_out(cli: Cli, net28: SmallNet) -> None:
    given = ("deploy", net28.train_val, "-w", net28.weights, "--input-shape", net28.shape, "--json")
    found = cli(*given, "-o", "all").data
    assert found["options"]["passes"] == ["strip-training", *EXACT_NAMES]
    assert {one["pass"] for one in found["rewrites"]} == {"strip-training", "join-siblings", "inner-to-convolution"}
    found = cli(*given, "-o", "some", "--no-pass", "join-siblings").data
    assert {one["pass"] for one in found["rewrites"]} == {"strip-training", "inner-to-convolution"}
    said = complaint(cli(*given, "-o", "none", "--no-pass", "joining"), 2)
    assert said.startswith("--no-pass: there is no pass 'joining'; there are drop-identities, ")


def test_deploy_needs_the_shape(cli: Cli, net28: SmallNet, everything: Everything) -> None:
    # The weights tell the channels, crop_size the rest.
    assert cli("deploy", net28.train_val, "-w", net28.weights, "-o", "out").code == 0
    text = Path(net28.train_val).read_text(encoding="utf-8").replace("crop_size: 28", "")
    Path("bare.prototxt").write_text(text, encoding="utf-8")
    before = everything()
    said = complaint(cli("deploy", "bare.prototxt", "-w", net28.weights, "-o", "out2"), 1)
    assert said.startswith("no deploy net can be made: ") and "--input-shape data=" in said
    assert everything() == before
