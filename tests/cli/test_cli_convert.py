"""Each option of `rebirth convert` does what its help says."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click
import pytest
from cli_tools import Cli, Echo, Everything, SmallNet, complaint, files_under, listing, lr_mults

from deeprebirth_caffe.cli.convert import command
from deeprebirth_caffe.engines.random_weights import random_weights
from deeprebirth_caffe.formats.caffemodel import read_caffemodel
from deeprebirth_caffe.ir import Net
from deeprebirth_caffe.ir.probe import save_weights
from deeprebirth_caffe.nets.exactness import EXACT_NAMES
from deeprebirth_caffe.proto import caffe_pb2 as pb

Convert = Callable[..., dict[str, Any]]


@pytest.fixture
def convert(cli: Cli, net28: SmallNet) -> Convert:
    """Converts the training net; gives the manifest."""

    def run(*options: object, net: str = net28.train_val, shape: str = net28.shape, out: str = "out") -> dict[str, Any]:
        given = ["--input-shape", shape] if shape else []
        result = cli("convert", net, *given, "-o", out, "--json", *options)
        assert (result.code, result.err) == (0, ""), result
        found: dict[str, Any] = result.data
        return found

    return run


def _random_weights(net: str, weights: str) -> None:
    found = Net.read(net)
    save_weights(Path(weights), found, random_weights(found))


def stages(manifest: dict[str, Any]) -> set[str]:
    """Where something was rewritten."""
    return {one["stage"] for one in manifest["rewrites"]}


def passes(manifest: dict[str, Any]) -> set[str]:
    """What was done."""
    return {one["pass"] for one in manifest["rewrites"]}


def param(path: str, name: str) -> pb.ConvolutionParameter:
    """The convolution_param of a layer."""
    (layer,) = Net.read(path).layer_named(name)
    return layer.param.convolution_param


def blobs(path: str = "out/init.caffemodel") -> dict[str, list[bytes]]:
    """The arrays of a file, by layer."""
    return {layer.name: [blob.tobytes() for blob in layer.blobs] for layer in read_caffemodel(path).layers}


def test_without_options(convert: Convert, everything: Everything) -> None:
    before = everything()
    found = convert()
    assert passes(found) == {"merge-branches", "remove-lrn", "pool-to-stride"}
    assert found["after"]["macs"] < 0.7 * found["before"]["macs"]
    assert listing("out") == ["deploy.prototxt", "manifest.json", "solver.prototxt", "train_val.prototxt"]
    # Everything else is as it was, and nothing is left in the temporary folder.
    after = everything()
    assert {path: after[path] for path in before} == before
    assert all("/work/out" in path for path in after.keys() - before.keys())


def test_out_is_beside_the_net_by_default(cli: Cli, net28: SmallNet) -> None:
    assert cli("convert", net28.deploy).code == 0
    assert listing("googlenet28/deploy-rebirth") == ["deploy.prototxt", "manifest.json"]


def option_weights(convert: Convert, net: SmallNet) -> None:
    found = convert("-w", net.weights)
    assert found["outputs"]["weights"] == "init.caffemodel"
    old, new = blobs(net.weights), blobs()
    ledger = found["ledger"]["layers"]
    assert set(new) == {*ledger["copied"], *ledger["relearned"]}
    assert set(old) == {*ledger["copied"], *ledger["dropped"]}
    assert all(new[name] == old[name] for name in ledger["copied"])


def option_solver(convert: Convert, net: SmallNet) -> None:
    convert("--solver", net.solver)
    assert "test_iter: 5" in Path("out/solver.prototxt").read_text(encoding="utf-8")


def option_out(convert: Convert, net: SmallNet) -> None:
    assert convert(out="some/where")["outputs"]["directory"] == "some/where"
    assert Path("some/where/manifest.json").exists()


def option_only(convert: Convert, net: SmallNet) -> None:
    assert stages(convert("--only", "conv1", "--dry-run")) == {"conv1"}
    assert stages(convert("--only", "conv1", "--only", "inception_4a", "--dry-run")) == {"conv1", "inception_4a"}
    assert stages(convert("--only", "inception_3*", "--dry-run")) == {"inception_3a", "inception_3b"}
    assert stages(convert("--only", "inception", "--dry-run")) == {"inception_3a", "inception_3b", "inception_4a"}


def option_skip(convert: Convert, net: SmallNet) -> None:
    whole = stages(convert("--dry-run"))
    assert stages(convert("--skip", "conv1", "--dry-run")) == whole - {"conv1"}
    assert stages(convert("--skip", "conv[12]", "--skip", "inception_4a", "--dry-run")) == {
        "inception_3a",
        "inception_3b",
    }
    assert stages(convert("--only", "inception", "--skip", "inception_3a", "--dry-run")) == {
        "inception_3b",
        "inception_4a",
    }
    assert stages(convert("--only", "conv1", "--skip", "conv1", "--dry-run")) == set()


def option_paper(convert: Convert, net: SmallNet) -> None:
    joined = {"pool3/3x3_s2"}  # a pool behind a Concat
    taken = [name for one in convert("--dry-run", net=net.deploy)["rewrites"] for name in one["removed"]]
    assert joined.issubset(taken)
    found = convert("--paper", "-w", net.weights, net=net.deploy)
    assert joined.isdisjoint(name for one in found["rewrites"] for name in one["removed"])
    (reason,) = (one["reason"] for one in found["refusals"] if one["layer"] in joined)
    assert "--paper" in reason
    assert "prune-batchnorm" in found["options"]["passes"] and found["options"]["init"] == "xavier"
    # What it sets can be said otherwise.
    found = convert("--paper", "--bn", "fold", "--init", "inherit", "--dry-run")
    assert "prune-batchnorm" not in found["options"]["passes"] and found["options"]["init"] == "inherit"


def option_exact(convert: Convert, net: SmallNet) -> None:
    found = convert("--exact")
    assert not found["rewrites"] and found["options"]["passes"] == list(EXACT_NAMES)
    assert Path("out/train_val.prototxt").read_bytes() == Path(net.train_val).read_bytes()


def option_portable(convert: Convert, net: SmallNet) -> None:
    found = convert("--portable", "--exact")
    assert found["options"]["passes"] == ["portable", *EXACT_NAMES]
    assert Path("out/train_val.prototxt").read_bytes() == Path(net.train_val).read_bytes()  # it is plain Caffe's


def option_fixed_size(convert: Convert, net: SmallNet) -> None:
    pool, reads = 'type: "Pooling" bottom: "data" top: "p" pooling_param { pool: AVE', 'bottom: "p" top: "c"'
    text = f'layer {{ name: "p" {pool} kernel_size: 2 stride: 2 }} }}\n'
    text += f'layer {{ name: "c" type: "Convolution" {reads} convolution_param {{ num_output: 1 kernel_size: 1 }} }}\n'
    Path("any.prototxt").write_text(f'input: "data" input_shape {{ dim: 1 dim: 64 dim: 16 dim: 16 }}\n{text}')
    _random_weights("any.prototxt", "any.caffemodel")
    given = {"net": "any.prototxt", "shape": ""}
    found = convert("--exact", "-w", "any.caffemodel", **given)
    assert not found["rewrites"] and "--fixed-size" in found["refusals"][0]["reason"]
    assert passes(convert("--exact", "-w", "any.caffemodel", "--fixed-size", **given, out="fixed")) == {"fold-average"}


def option_no_streamline(convert: Convert, net: SmallNet) -> None:
    assert passes(convert("--no-streamline")) == {"merge-branches"}


def option_no_branch(convert: Convert, net: SmallNet) -> None:
    assert passes(convert("--no-branch")) == {"remove-lrn", "pool-to-stride"}


def option_no_pass(convert: Convert, net: SmallNet) -> None:
    assert passes(convert("--no-pass", "remove-lrn", "--no-pass", "merge-branches")) == {"pool-to-stride"}


def option_kernel(convert: Convert, net: SmallNet) -> None:
    sizes = {}
    for kernel in ("keep", "receptive", "7"):
        convert("--kernel", kernel, "--only", "conv1", out=kernel)
        (sizes[kernel],) = param(f"{kernel}/train_val.prototxt", "conv1/5x5_merge").kernel_size
    # A 3 x 3 pool with stride 2 behind a 5 x 5 convolution sees 7 x 7.
    assert sizes == {"keep": 5, "receptive": 7, "7": 7}


def option_reduce(convert: Convert, net: SmallNet) -> None:
    sizes = {}
    for number, options in enumerate([[], ["1"], ["0.25"], ["1", "inception_3a/*=0.25"], ["0.9", "0.25"]]):
        convert(*(word for one in options for word in ("--reduce", one)), out=str(number))
        deploy = Net.read(f"{number}/deploy.prototxt")
        sizes[number] = [
            layer.param.convolution_param.num_output
            for stage in ("inception_3a", "inception_3b")
            for layer in deploy.layers
            if layer.name.startswith(f"{stage}/3x3_reduce")
        ]
    assert sizes == {0: [16, 20], 1: [32, 40], 2: [8, 10], 3: [8, 40], 4: [8, 10]}


def option_force_merge(convert: Convert, net: SmallNet) -> None:
    forced = convert("--reduce", "1", "--only", "inception_4a", "--force-merge", "--dry-run")
    (one,) = forced["rewrites"]
    assert one["pass"] == "merge-branches" and one["macs_after"] > one["macs_before"]
    kernel = ("--kernel", "31", "--only", "conv2", "--dry-run")
    refused, forced = convert(*kernel), convert(*kernel, "--force-merge")
    assert any("its predicted cost rises" in one["reason"] for one in refused["refusals"])
    (one,) = (one for one in forced["rewrites"] if one["pass"] == "pool-to-stride")
    assert one["macs_after"] > one["macs_before"]


def option_init(convert: Convert, net: SmallNet) -> None:
    arrays = {}
    for init in ("inherit", "xavier"):
        convert("-w", net.weights, "--init", init, out=init)
        arrays[init] = blobs(f"{init}/init.caffemodel")
    ours = "conv2/3x3_merge"
    old = blobs(net.weights)["conv2/3x3"]
    assert arrays["inherit"][ours] == old != arrays["xavier"][ours]
    assert set(arrays["xavier"][ours][1]) == {0}  # Xavier leaves biases at 0


def option_seed(convert: Convert, net: SmallNet) -> None:
    arrays = []
    for number, seed in enumerate([[], ["--seed", "0"], ["--seed", "1"]]):
        convert("-w", net.weights, "--init", "xavier", *seed, out=str(number))
        arrays.append(blobs(f"{number}/init.caffemodel"))
    assert arrays[0] == arrays[1] != arrays[2]


def option_reparam(convert: Convert, net: SmallNet) -> None:
    found = convert("-w", net.weights, "--reparam")
    assert found["options"]["reparam"] == ["1x1", "1xk", "kx1"] and "reparametrize" in found["options"]["passes"]
    names = found["reparam"]["conv2/3x3_merge"]
    assert names == [layer.name for layer in Net.read("out/train_val.prototxt").layers if layer.name in names]
    assert {"conv2/3x3_merge_main", "conv2/3x3_merge_main_bn", "conv2/3x3_merge_1x3", "conv2/3x3_merge_sum"} < set(
        names
    )
    assert any("--calibrate measures them" in note for note in found["notes"])
    told = lr_mults("out/train_val.prototxt")
    assert told["conv2/3x3_merge_1x1"] == told["conv2/3x3_merge_1x1_scale"] == [10]
    assert told["conv2/3x3_merge_main_scale"] == [10, 20] and "conv2/3x3_merge_main_bn" not in told
    none = convert("--reparam", "--only", "loss3", out="2")
    assert none["reparam"] == {} and any("no rebirth convolution" in note for note in none["notes"])


def option_reparam_parts(convert: Convert, net: SmallNet) -> None:
    def kernels(*options: str) -> set[str]:
        names = convert("--reparam", *options, "--dry-run")["reparam"]["conv2/3x3_merge"]
        return {name.rpartition("_")[2] for name in names} - {"main", "bn", "scale", "sum"}

    assert kernels() == {"1x1", "1x3", "3x1"}
    assert kernels("--reparam-parts", "bn") == set()
    assert kernels("--reparam-parts", "bn,kxk,1x1") == {"3x3", "1x1"}
    assert kernels("--reparam-parts", "1X3,1xk") == {"1x3"}


@pytest.mark.parametrize(
    ("options", "why"),
    [
        (("--reparam", "--reparam-parts", "1x"), "'1x' is no part: bn, or a kernel such as 1x1, 1xk, kxk, 3x1"),
        (("--reparam", "--reparam-parts", "0x1"), "'0x1' is no part"),
        (("--reparam", "--reparam-parts", "1x1x1"), "'1x1x1' is no part"),
        (("--reparam-parts", "1x1"), "--reparam-parts says what --reparam makes; give it too"),
        (("--reparam", "--exact"), "--exact and --reparam exclude each other"),
        (("--reparam", "--calibrate", "pictures"), "--calibrate runs the net, which needs its weights; give -w"),
    ],
)
def test_reparam_options_that_mean_nothing(cli: Cli, net28: SmallNet, options: tuple[str, ...], why: str) -> None:
    result = cli("convert", net28.train_val, "--input-shape", net28.shape, *options)
    assert why in complaint(result, 2)


def option_input_shape(convert: Convert, net: SmallNet) -> None:
    unknown = convert("--dry-run", shape="")
    assert unknown["before"]["macs"] is None and "deploy" not in unknown["outputs"]
    assert any("--input-shape" in one["reason"] for one in unknown["refusals"])
    assert convert("--dry-run")["before"]["macs"] == 7_191_168
    # A deploy net says its own, and may be told otherwise; x stands for the comma too.
    found = convert(net=net.deploy, shape="data=1x56x56")
    assert Net.read("out/deploy.prototxt").view().blobs["data"].shape == (1, 1, 56, 56)
    assert found["after"]["macs"] > 0


def option_batch(convert: Convert, net: SmallNet) -> None:
    convert("--batch", "7")
    sizes = [layer.param.data_param.batch_size for layer in Net.read("out/train_val.prototxt").layer_named("data")]
    assert sizes == [7, 71]
    assert any(
        "so its batch stays as it is" in note for note in convert("--batch", "7", net=net.deploy, out="2")["notes"]
    )


def option_lr_factor(convert: Convert, net: SmallNet) -> None:
    found = convert("--lr-factor", "2.5")
    assert found["lr_mult"]["conv1/5x5_merge"] == [1, 2]
    told = lr_mults("out/train_val.prototxt")
    assert told["conv1/5x5_merge"] == [2.5, 5] and told["conv2/3x3_reduce"] == [1, 2]


def solver_option(flag: str, value: str, says: str) -> Callable[[Convert, SmallNet], None]:
    """A test of an option that goes into the solver as it is."""

    def run(convert: Convert, net: SmallNet) -> None:
        for more in ([], ["--solver", net.solver]):
            convert(flag, value, *more, "--force")
            assert says in Path("out/solver.prototxt").read_text(encoding="utf-8").splitlines()

    return run


def option_step_over(convert: Convert, net: SmallNet) -> None:
    # test_cli_steps shows the effect on a net that was converted before.
    assert convert("--step-over")["lr_mult"]["conv1/5x5_merge"] == [1, 2]


def option_dry_run(convert: Convert, net: SmallNet) -> None:
    before = files_under(".")
    dry = convert("--dry-run")
    assert files_under(".") == before
    assert dry == convert()
    # What is wrong is still found.
    convert("--dry-run")


def option_bn(convert: Convert, net: SmallNet) -> None:
    # This net has no BatchNorm; test_batchnorm shows the effect.
    assert convert("--dry-run", "--bn", "prune")["options"]["passes"][0] == "prune-batchnorm"
    assert convert("--dry-run", "--bn", "fold")["options"]["passes"][:2] == ["drop-identities", "fold-batchnorm"]


OPTIONS: dict[str, Callable[[Convert, SmallNet], None]] = {
    name.removeprefix("option_"): function for name, function in list(globals().items()) if name.startswith("option_")
} | {
    "base_lr": solver_option("--base-lr", "0.25", "base_lr: 0.25"),
    "stepsize": solver_option("--stepsize", "77", "stepsize: 77"),
    "gamma": solver_option("--gamma", "0.5", "gamma: 0.5"),
    "momentum": solver_option("--momentum", "0", "momentum: 0"),
    "max_iter": solver_option("--max-iter", "88", "max_iter: 88"),
    "clip_gradients": solver_option("--clip-gradients", "7", "clip_gradients: 7"),
}


@pytest.mark.parametrize("option", OPTIONS)
def test_option(convert: Convert, net28: SmallNet, option: str) -> None:
    OPTIONS[option](convert, net28)


def test_each_option_has_its_test() -> None:
    here = {"as_json": "test_cli_json", "check": "below", "caffe": "below", "force": "below"}
    calibrated = ("calibrate", "samples", "transform_from", "mean_file", "mean_value", "scale", "raw_pixels")
    here |= dict.fromkeys(calibrated, "test_calibration_inputs, test_cli_refit")
    here |= dict.fromkeys(("engine", "device", "precision", "threads", "python_layers"), "test_cli_refit")
    named = {param.name for param in command.params if isinstance(param, click.Option)}
    # test_cli_streams looks at those that every command has.
    assert named - {"quiet", "verbose"} == {*OPTIONS, *here}


def test_check_and_caffe(cli: Cli, net28: SmallNet, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[object] = []
    monkeypatch.setattr("deeprebirth_caffe.nets.check.engine", lambda _, caffe: asked.append(caffe) or Echo())
    common = ("convert", net28.deploy, "--dry-run")
    assert cli(*common, "--caffe", "there").code == 0 and asked == []
    assert cli(*common, "--check").code == 0 and asked == [None]
    assert cli(*common, "--check", "--caffe", "there").code == 0 and asked == [None, "there"]


def test_a_check_without_weights_writes_none(
    cli: Cli, net28: SmallNet, monkeypatch: pytest.MonkeyPatch, everything: Everything
) -> None:
    monkeypatch.setattr("deeprebirth_caffe.nets.check.engine", lambda _, caffe: Echo())
    result = cli("convert", net28.train_val, "--check", "--input-shape", net28.shape, "-o", "out")
    assert result.code == 0 and "note: checked on random weights" in result.out
    assert listing("out") == ["deploy.prototxt", "manifest.json", "solver.prototxt", "train_val.prototxt"]
    assert not any("/temporary/" in path for path in everything())


def test_force_replaces_and_leaves_other_files(cli: Cli, net28: SmallNet) -> None:
    old = {"train_val.prototxt": "old", "note.txt": "mine", ".hidden": "mine", "deploy.caffemodel": "mine"}
    Path("out").mkdir()
    for name, text in old.items():
        Path("out", name).write_text(text, encoding="utf-8")
    before = files_under("out")
    common = ("convert", net28.train_val, "--input-shape", net28.shape, "-o", "out")
    said = complaint(cli(*common), 1)
    assert said == "out: this directory is not empty; choose another or add --force"
    assert files_under("out") == before
    assert cli(*common, "--force").code == 0
    after = files_under("out")
    assert {name for name in before if before[name] == after[name]} == {
        "out/.hidden",
        "out/deploy.caffemodel",
        "out/note.txt",
    }
    assert set(after) - set(before) == {"out/deploy.prototxt", "out/manifest.json", "out/solver.prototxt"}
    # Twice is once.
    assert cli(*common, "--force").code == 0
    assert files_under("out") == after


def test_an_empty_directory_needs_no_force(cli: Cli, net28: SmallNet) -> None:
    Path("out").mkdir()
    assert cli("convert", net28.deploy, "-o", "out").code == 0


def test_into_the_directory_of_the_input(cli: Cli, net28: SmallNet, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir("googlenet28")
    original = Net.read("train_val.prototxt")
    common = ("convert", "train_val.prototxt", "-w", "random.caffemodel", "--input-shape", net28.shape, "-o", ".")
    assert "not empty" in complaint(cli(*common), 1)
    before = files_under(".")
    assert "this command reads train_val.prototxt" in complaint(cli(*common, "--force"), 1)
    linked = Path("sub/other.prototxt")
    linked.parent.mkdir()
    linked.hardlink_to("train_val.prototxt")
    lent = ("convert", linked, "--solver", "solver.prototxt", "--input-shape", net28.shape, "-o", ".", "--force")
    assert "this command reads solver.prototxt" in complaint(cli(*lent), 1)
    shutil.rmtree(linked.parent)
    assert files_under(".") == before and len(Net.read("train_val.prototxt").layers) == len(original.layers)


def test_force_leaves_nothing_of_an_older_result(cli: Cli, net28: SmallNet) -> None:
    common = ("convert", net28.train_val, "--input-shape", net28.shape, "-o", "out")
    assert cli(*common, "-w", net28.weights).code == 0
    mine = ("note.txt", "rebirth_iter_300.caffemodel", "rebirth_iter_300.solverstate")
    for name in (*mine, "refit.caffemodel"):
        Path("out", name).write_text("mine", encoding="utf-8")
    result = cli(*common, "--paper", "--force")
    assert result.code == 0
    written = ["deploy.prototxt", "manifest.json", "solver.prototxt", "train_val.prototxt"]
    assert listing("out") == sorted([*written, *mine])
    (removed,) = (line for line in result.out.splitlines() if "removed" in line)
    assert "init.caffemodel" in removed and "refit.caffemodel" in removed
    (snapshots,) = (line for line in result.out.splitlines() if "snapshots of an older net" in line)
    assert "rebirth_iter_300.solverstate" in snapshots
    assert any("note.txt" in line for line in result.out.splitlines())
    # Another command's result, under the net's own name, goes too.
    model = net28.weights
    assert cli("deploy", net28.train_val, "-w", model, "--input-shape", net28.shape, "-o", "out", "--force").code == 0
    assert listing("out") == sorted(["deploy.caffemodel", "deploy.prototxt", "manifest.json", *mine])


def test_a_part_of_the_older_result_that_is_read_stays(cli: Cli, net28: SmallNet) -> None:
    assert cli("convert", net28.train_val, "-w", net28.weights, "--input-shape", net28.shape, "-o", "out").code == 0
    before = files_under("out")
    # Nothing that deploy writes is called so, but it would take the older result away.
    common = ("deploy", "out/train_val.prototxt", "-w", "out/init.caffemodel", "--input-shape", net28.shape)
    assert "this command reads out/" in complaint(cli(*common, "-o", "out", "--force"), 1)
    assert files_under("out") == before


def test_a_strange_manifest_takes_nothing_away(cli: Cli, net28: SmallNet) -> None:
    Path("out/sub").mkdir(parents=True)
    Path("out/sub/precious").touch()
    Path("precious").touch()
    outputs = {"directory": "out", "net": "../precious", "weights": "sub/precious", "deploy": "sub", "solver": 7}
    for text in (
        json.dumps({"rebirth": "1", "outputs": outputs}),
        "[]",
        '{"rebirth": 1}',
        '{"rebirth": 1, "outputs": 3}',
    ):
        Path("out/manifest.json").write_text(text, encoding="utf-8")
        assert cli("convert", net28.deploy, "-o", "out", "--force").code == 0
        assert Path("precious").exists() and Path("out/sub/precious").exists()


@pytest.mark.parametrize("bn", ["fold", "prune"])
def test_batchnorm(cli: Cli, small: Callable[[str], SmallNet], bn: str) -> None:
    net = small("resnet64")
    common = ("convert", "-w", net.weights, "--json", "--bn", bn)
    deploy = cli(*common, net.deploy, "-o", "1").data
    assert {"fold": "fold-batchnorm", "prune": "prune-batchnorm"}[bn] in passes(deploy)
    assert not any(layer.type == "BatchNorm" for layer in Net.read("1/deploy.prototxt").layers)
    train = cli(*common, net.train_val, "--input-shape", net.shape, "-o", "2").data
    norms = sum(layer.type == "BatchNorm" for layer in Net.read("2/train_val.prototxt").layers)
    # Batch statistics cannot be folded where the net trains.
    assert (norms == 0) == (bn == "prune")
    assert (len(train["refusals"]) > 20) == (bn == "fold")


def test_blocks_and_globs(cli: Cli, small: Callable[[str], SmallNet]) -> None:
    net = small("resnet64")
    common = ("convert", net.deploy, "-w", net.weights, "--dry-run", "--json", "--only")
    block = stages(cli(*common, "res2a").data)
    assert block == {"res2a_branch1", "res2a_branch2a", "res2a_branch2b", "res2a_branch2c"}
    assert stages(cli(*common, "res2a_branch2?").data) == block - {"res2a_branch1"}
    assert stages(cli(*common, "*branch1").data) == {f"res{n}a_branch1" for n in (2, 3, 4, 5)}


def test_text_that_no_pass_touched_stays(cli: Cli, net28: SmallNet) -> None:
    text = Path(net28.deploy).read_text(encoding="utf-8")
    odd = text.replace('  name: "conv2/3x3_reduce"', "  # about this\n  name:    'conv2/3x3_reduce'   # odd spacing")
    assert odd != text
    Path("odd.prototxt").write_text(odd, encoding="utf-8")
    assert cli("convert", "odd.prototxt", "--only", "conv1", "-o", "out").code == 0
    made = Path("out/odd.prototxt").read_text(encoding="utf-8")
    assert "  # about this\n  name:    'conv2/3x3_reduce'   # odd spacing\n" in made
    old, new = odd.splitlines(), made.splitlines()
    tail = old.index("  name:    'conv2/3x3_reduce'   # odd spacing")
    assert new[-(len(old) - tail) :] == old[tail:]


ODD_NAMES = [
    "a b.prototxt",
    'it\'s "net".prototxt',
    "n\N{LATIN SMALL LETTER E WITH ACUTE}t \N{SNOWMAN}.txt",
    "-x",
    "net",
]


@pytest.mark.parametrize("name", ODD_NAMES)
def test_odd_file_names(cli: Cli, net28: SmallNet, name: str) -> None:
    folder = Path("f o'l \"d")
    folder.mkdir()
    Path(net28.train_val).rename(folder / name)
    for path in (folder / name, (folder / name).absolute()):
        result = cli("convert", "--json", "--input-shape", net28.shape, "-o", "out", "--force", "--", path)
        assert (result.code, result.err) == (0, "")
        assert result.data["source"]["net"] == str(path) and result.data["outputs"]["net"] == name
        assert Path("out", name).exists()
    solver = pb.SolverParameter()
    from google.protobuf import text_format

    text_format.Parse(Path("out/solver.prototxt").read_text(encoding="utf-8"), solver)
    assert solver.net == os.path.join("out", name)


@pytest.mark.skipif(os.name != "posix", reason="names are bytes on POSIX alone")
def test_a_name_that_is_not_utf8(cli: Cli, process: Cli, net28: SmallNet) -> None:
    name = os.fsdecode(b"n\xe9t.prototxt")
    try:
        Path(net28.train_val).rename(name)
    except OSError:
        pytest.skip("this file system wants UTF-8")
    common = ("--input-shape", net28.shape, "-o", "out")
    assert complaint(cli("convert", name, *common), 1).startswith(
        r"out/n\udce9t.prototxt: a solver cannot name this file"
    )
    Path(name).unlink()
    Path(net28.deploy).rename(name)
    result = cli("convert", name, "--json", *common)
    assert (result.code, result.err) == (0, "")
    assert result.data["source"]["net"] == name and r"n\udce9t.prototxt" in result.out
    assert name in listing("out")
    result = process("convert", name, *common, "--dry-run")
    assert (result.code, result.err) == (0, "") and r"n\udce9t.prototxt" in result.out


def test_windows_text(cli: Cli, net28: SmallNet) -> None:
    plain = Path(net28.deploy).read_bytes()
    Path("crlf.prototxt").write_bytes(b"\xef\xbb\xbf" + plain.replace(b"\n", b"\r\n"))
    assert cli("convert", "crlf.prototxt", "-o", "out").code == 0
    made = Path("out/crlf.prototxt").read_bytes()
    assert made.count(b"\n") == made.count(b"\r\n")
    assert cli("convert", net28.deploy, "-o", "plain").code == 0
    assert made.replace(b"\r\n", b"\n") == Path("plain/deploy.prototxt").read_bytes()


def test_links_are_followed(cli: Cli, net28: SmallNet) -> None:
    Path("link.prototxt").symlink_to(net28.deploy)
    Path("real").mkdir()
    Path("out").symlink_to("real")
    assert cli("convert", "link.prototxt", "-o", "out").code == 0
    assert listing("real") == ["deploy.prototxt", "link.prototxt", "manifest.json"]
    assert Path("out").is_symlink() and Path("link.prototxt").is_symlink()


QUOTED = r"""input: "data"
input_shape { dim: 1 dim: 3 dim: 8 dim: 8 }
layer { name: "it's a \"conv\" \\ \303\251" type: "Convolution" bottom: "data" top: 'the "top"'
  convolution_param { num_output: 4 kernel_size: 3 pad: 1 } }
layer { name: "pool" type: "Pooling" bottom: 'the "top"' top: "pool" pooling_param { kernel_size: 2 stride: 2 } }
"""


def test_quotes_in_names(cli: Cli) -> None:
    Path("quoted.prototxt").write_text(QUOTED, encoding="utf-8")
    result = cli("convert", "quoted.prototxt", "--json", "-o", "out")
    assert (result.code, result.err) == (0, "")
    (made,) = result.data["rewrites"][0]["rebirth"]
    assert made == 'it\'s a "conv" \\ \N{LATIN SMALL LETTER E WITH ACUTE}_merge'
    assert [layer.name for layer in Net.read("out/quoted.prototxt").layers] == [made]


@pytest.mark.parametrize("name", ["solver.prototxt", "manifest.json", "init.caffemodel", "deploy.prototxt"])
def test_a_net_whose_name_is_that_of_another_result(cli: Cli, net28: SmallNet, name: str) -> None:
    Path("in").mkdir()
    Path(net28.train_val).rename(f"in/{name}")
    result = cli("convert", f"in/{name}", "-o", "out")
    if name == "manifest.json":  # which is also taken for the manifest of an earlier conversion
        complaint(result, 1)
    else:
        assert f"{name} is what another result will be called" in complaint(result, 1)
    assert not Path("out").exists()


def test_what_people_see(cli: Cli, net28: SmallNet) -> None:
    result = cli("convert", net28.train_val, "-w", net28.weights, "--input-shape", net28.shape)
    lines = result.out.splitlines()
    made = "relearn conv1: pool-to-stride: pool1/3x3_s2 -> conv1/5x5_merge (4.00x fewer multiply-adds)"
    at = lines.index(made)
    assert lines[at + 1].startswith("        conv1/5x5_merge: kernel 5, stride 2, pad 2, grid shifted by ")
    assert any(line.startswith("refused loss1: pool-to-stride: loss1/ave_pool: ") for line in lines)
    heads = [line.split("  ")[0] for line in lines[lines.index("") :]]
    for head in ("layers", "parameters", "file size", "multiply-adds an image", "memory an image"):
        assert head in heads
    assert "weights of layers: 8 copied, 0 folded, 11 to relearn, 17 dropped" in lines
    files = "train_val.prototxt, deploy.prototxt, solver.prototxt, init.caffemodel, manifest.json"
    assert lines[-2] == f"wrote googlenet28/train_val-rebirth: {files}"
    assert lines[-1] == "then: rebirth finetune googlenet28/train_val-rebirth/solver.prototxt"
    assert not any("\x1b" in line for line in lines)
    dry = cli("convert", net28.deploy, "--dry-run").out.splitlines()
    assert dry[-1] == "would write googlenet28/deploy-rebirth: deploy.prototxt, manifest.json"


def test_a_byte_order_mark_is_not_written(cli: Cli, net28: SmallNet) -> None:
    text = Path(net28.train_val).read_bytes()
    Path("bom.prototxt").write_bytes(b"\xef\xbb\xbf" + text)
    assert cli("convert", "bom.prototxt", "--input-shape", net28.shape, "-o", "out").code == 0
    for name in ("bom", "deploy"):
        assert not Path(f"out/{name}.prototxt").read_bytes().startswith(b"\xef\xbb\xbf")
