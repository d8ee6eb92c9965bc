"""`convert --init refit` and `rebirth refit`: what they write, what they say, what they refuse."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jsondocs
import numpy as np
import pytest
from cli_tools import Cli, SmallNet, complaint, listing
from tiny import write_lmdb

from deeprebirth_caffe.engines.random_weights import random_weights
from deeprebirth_caffe.ir import Net, Weights
from deeprebirth_caffe.ir.probe import save_weights
from deeprebirth_caffe.nets.load import load_net
from deeprebirth_caffe.proto import caffe_pb2 as pb

MANIFEST = "convert, deploy: manifest.json"
EXAMPLE = Path(__file__).parents[2] / "examples" / "googlenet28.caffemodel"
QUICK = ("--engine", "torch", "--threads", "1")
SCALED = "conv1/5x5_merge"
FITTED = {
    "conv2/3x3_merge",
    *(f"inception_{module}/{size}_merge" for module in ("3a", "3b", "4a") for size in ("3x3", "5x5")),
}


def write_pictures(path: str, pictures: Any) -> None:
    """A database of gray pictures, bytes."""
    pytest.importorskip("lmdb")
    records = [
        pb.Datum(channels=1, height=one.shape[0], width=one.shape[1], data=one.tobytes(), label=0) for one in pictures
    ]
    write_lmdb(Path(path), [one.SerializeToString() for one in records])


@pytest.fixture
def net(small: Callable[[str], SmallNet]) -> SmallNet:
    """GoogLeNet for digits, trained, and strokes to calibrate on."""
    pytest.importorskip("torch")
    made = small("googlenet28")
    shutil.copyfile(EXAMPLE, made.weights)
    rng = np.random.default_rng(0)
    pictures = np.zeros((24, 28, 28), np.uint8)
    for one in pictures:
        for _ in range(4):
            row, column = rng.integers(2, 18, 2)
            one[row : row + rng.integers(2, 9), column : column + rng.integers(2, 9)] = rng.integers(100, 255)
    write_pictures("strokes", pictures)
    write_pictures("held", np.roll(pictures, 2, axis=1))
    return made


def convert(cli: Cli, net: SmallNet, *more: str, out: str = "out") -> Any:
    given = ("convert", net.train_val, "-w", net.weights, "--input-shape", net.shape, "-o", out, "--json")
    result = cli(*given, *more)
    assert result.code == 0, result
    jsondocs.check(result.data, MANIFEST)
    return result.data


def logits(folder: str, weights: str, source: str = "strokes") -> Any:
    """What a net puts out for the pictures of a database."""
    from deeprebirth_caffe.engines import engine
    from deeprebirth_caffe.formats.stores import open_cursor

    cursor = open_cursor(Path(source), "LMDB")
    images = []
    for _ in range(24):
        datum = pb.Datum.FromString(cursor.value())
        images.append((np.frombuffer(datum.data, np.uint8).reshape(1, 28, 28) - np.float32(78)) * np.float32(0.0125))
        cursor.advance()
    cursor.close()
    with engine("torch", threads=1).loaded(f"{folder}/deploy.prototxt", weights) as run:
        return run({"data": np.stack(images)}, ["loss3/classifier"])["loss3/classifier"]


def off(folder: str, weights: str, net: SmallNet, source: str = "strokes") -> float:
    wanted = logits("googlenet28", net.weights, source)
    return float(np.linalg.norm(logits(folder, weights, source) - wanted) / np.linalg.norm(wanted))


def test_it_brings_the_net_closer(cli: Cli, net: SmallNet) -> None:
    data = convert(cli, net, "--init", "refit", "--calibrate", "strokes", "--samples", "24", *QUICK)
    assert data["options"]["init"] == "refit" and data["options"]["calibrate"] == "strokes"
    report = data["refit"]
    how = {row["layer"]: row["how"] for row in report["layers"]}
    # A kernel that reads the net's input stays as it is, and only its size is fitted.
    assert how == {SCALED: "scaled", **dict.fromkeys(FITTED, "fitted")} and report["images"] == 24
    for row in report["layers"]:
        assert 0 < row["after"] < row["before"] and row["rows"] in (24 * 49, 24 * 9, 24 * 64)
    convert(cli, net, out="plain")
    for source, part in (("strokes", 0.5), ("held", 0.8)):
        plain = off("plain", "plain/init.caffemodel", net, source)
        assert off("out", "out/init.caffemodel", net, source) < part * plain
    (row,) = [one for one in report["outputs"] if one["blob"] == "loss3/classifier"]
    assert row["before"] == pytest.approx(off("plain", "plain/init.caffemodel", net), rel=1e-3)
    assert row["after"] == pytest.approx(off("out", "out/init.caffemodel", net), rel=1e-3)
    assert row["agree_after"] >= row["agree_before"]


def test_refit_of_a_converted_net_is_the_same(cli: Cli, net: SmallNet) -> None:
    source = ("--calibrate", "strokes", "--samples", "24", *QUICK)
    convert(cli, net, "--init", "refit", *source)
    convert(cli, net, out="plain")
    result = cli("refit", "plain", *source, "--json")
    assert result.code == 0 and "refit: conv2/3x3_merge: relative error" in result.err
    jsondocs.check(result.data, "refit")
    assert result.data["model"] == "plain/refit.caffemodel"
    ours, others = Weights.read("plain/refit.caffemodel"), Weights.read("out/init.caffemodel")
    assert set(ours) == set(others)
    for name in ours:
        for mine, its in zip(ours[name], others[name], strict=True):
            np.testing.assert_array_equal(mine, its)
    started = Weights.read("plain/init.caffemodel")
    changed = {name for name in ours if not np.array_equal(ours[name][0], started[name][0])}
    assert changed == FITTED | {SCALED}
    assert "this file is there already" in complaint(cli("refit", "plain", *source), 1)
    twice = ("refit", "plain", *source, "--force", "-w", "plain/refit.caffemodel")
    assert "this command reads plain/refit.caffemodel" in complaint(cli(*twice), 1)
    again = cli(*twice, "-o", "plain/again.caffemodel")
    assert again.code == 0 and "fitted  conv2/3x3_merge" in again.out and "output  loss3/classifier" in again.out


def test_stages(cli: Cli, net: SmallNet) -> None:
    convert(cli, net)

    def fitted(*more: str) -> set[str]:
        given = ("--calibrate", "strokes", "--samples", "4", "--positions", "8", "--rounds", "2", "--force", "--json")
        return {row["layer"] for row in cli("refit", "out", *given, *QUICK, *more).data["refit"]["layers"]}

    assert fitted("--only", "inception_3a") == {"inception_3a/3x3_merge", "inception_3a/5x5_merge"}
    assert fitted("--skip", "inception_*") == {"conv2/3x3_merge", SCALED}
    assert "no stage" in complaint(cli("refit", "out", "--calibrate", "strokes", "--force", "--only", "nowhere"), 2)


def test_a_deploy_net_can_teach(cli: Cli, net: SmallNet) -> None:
    """Labels are no matter, and how pictures are prepared comes from elsewhere."""
    convert(cli, net)
    source = ("--calibrate", "strokes", "--samples", "2", "--transform-from", net.train_val, *QUICK)
    result = cli("refit", "out", *source, "--teacher", net.deploy, "--json")
    assert result.code == 0, result
    assert {row["layer"] for row in result.data["refit"]["layers"]} == FITTED | {SCALED}
    Path("other.prototxt").write_text(Path(net.deploy).read_text().replace('"data"', '"image"'))
    said = complaint(cli("refit", "out", *source, "--teacher", "other.prototxt", "--force"), 1)
    assert 'the original net has no input "data"' in said


def test_the_seed_and_the_engine(cli: Cli, net: SmallNet, caffe_install: object) -> None:
    convert(cli, net)
    source = ("--calibrate", "strokes", "--samples", "6", "--positions", "9")
    for name, more in {
        "torch": QUICK,
        "caffe": ("--engine", "caffe", "--threads", "1"),
        "other": (*QUICK, "--seed", "1"),
    }.items():
        assert cli("refit", "out", *source, *more, "-o", f"{name}.caffemodel").code == 0
    ours, its, other = (Weights.read(f"{name}.caffemodel") for name in ("torch", "caffe", "other"))
    for name in FITTED:
        np.testing.assert_allclose(ours[name][0], its[name][0], atol=1e-2 * np.abs(its[name][0]).max())
    assert any(not np.allclose(ours[name][0], other[name][0]) for name in FITTED)


@pytest.mark.parametrize("kind", ["black", "one", "same"])
def test_poor_data_gives_finite_weights_and_a_note(cli: Cli, net: SmallNet, kind: str) -> None:
    pictures = np.zeros((3, 28, 28), np.uint8)
    if kind != "black":
        pictures[:, 5:20, 8:12] = 200
    write_pictures("poor", pictures[: 1 if kind == "one" else 3])
    more = ("--init", "refit", "--calibrate", "poor", "--samples", "1" if kind == "one" else "3", *QUICK)
    data = convert(cli, net, *more)
    assert any(note.startswith("refit: ") for note in data["notes"])
    weights = Weights.read("out/init.caffemodel")
    assert all(weights.finite(name) for name in weights)


def test_numbers_that_are_none(cli: Cli, net: SmallNet) -> None:
    """A blob that overflows leaves the layers that read it as they were, and that is said."""
    loaded = load_net(net.train_val, net.weights, {"data": (1, 28, 28)})
    assert loaded.weights is not None
    weight, bias = loaded.weights["inception_3b/5x5_reduce"]
    loaded.weights.set("inception_3b/5x5_reduce", [3e36 * weight, np.full_like(bias, 3e38)])
    save_weights(Path(net.weights), loaded, loaded.weights)
    data = convert(cli, net, "--init", "refit", "--calibrate", "strokes", "--samples", "2", *QUICK)
    assert any("inception_3b/5x5_merge: its input or its goal is not finite" in note for note in data["notes"])
    rows = {row["layer"]: row for row in data["refit"]["layers"]}
    assert rows["inception_3b/5x5_merge"]["after"] is None
    assert rows["inception_3a/5x5_merge"]["after"] < rows["inception_3a/5x5_merge"]["before"]


def test_groups(cli: Cli, small: Callable[[str], SmallNet]) -> None:
    """AlexNet's second convolution has two."""
    pytest.importorskip("torch")
    pytest.importorskip("lmdb")
    net = small("alexnet64")
    rng = np.random.default_rng(0)
    records = [
        pb.Datum(channels=3, height=64, width=64, data=rng.integers(0, 255, (3, 64, 64)).astype(np.uint8).tobytes())
        for _ in range(4)
    ]
    write_lmdb(Path("noise"), [one.SerializeToString() for one in records])
    data = convert(cli, net, "--init", "refit", "--calibrate", "noise", "--samples", "4", *QUICK)
    (row,) = [one for one in data["refit"]["layers"] if one["layer"] == "conv2_merge"]
    blob = Weights.read("out/init.caffemodel")["conv2_merge"][0]
    assert row["features"] == np.prod(blob.shape[1:]) and row["after"] < row["before"]


def test_a_moved_conversion_still_finds_its_net(cli: Cli, net: SmallNet, monkeypatch: pytest.MonkeyPatch) -> None:
    convert(cli, net, out="googlenet28/out")
    Path("else").mkdir()
    shutil.move("googlenet28", "else/googlenet28")
    monkeypatch.chdir("else")
    source = ("--calibrate", "../strokes", "--samples", "2", *QUICK)
    result = cli("refit", "googlenet28/out", *source, "--json")
    assert result.code == 0, result
    assert Path(result.data["teacher"]["net"]).resolve() == Path("googlenet28/train_val.prototxt").resolve()
    Path("googlenet28/train_val.prototxt").rename("moved.prototxt")
    said = complaint(cli("refit", "googlenet28/out", *source, "--force"), 1)
    assert "the original is not there any more; say where it is: --teacher" in said
    assert cli("refit", "googlenet28/out", *source, "--force", "--teacher", "moved.prototxt").code == 0


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (None, "there is no manifest"),
        ("{", "cannot be read as a manifest"),
        ('{"version": 99}', "version 99"),
        ('{"version": 1, "outputs": {"deploy": "d"}, "source": {}}', "nothing was converted there"),
        ('{"version": 1, "outputs": {"net": "n"}, "source": {}}', "an older rebirth wrote it"),
    ],
)
def test_bad_manifests(cli: Cli, text: str | None, said: str) -> None:
    Path("out").mkdir()
    if text is not None:
        Path("out/manifest.json").write_text(text)
    assert said in complaint(cli("refit", "out", "--calibrate", "own"), 1)
    assert listing("out") == ([] if text is None else ["manifest.json"])


def test_what_is_refused(cli: Cli, net28: SmallNet) -> None:
    given = ("convert", net28.train_val, "--input-shape", net28.shape, "-o", "out")
    weights = ("-w", net28.weights)
    assert "--calibrate SOURCE" in complaint(cli(*given, *weights, "--init", "refit"), 2)
    assert "give -w" in complaint(cli(*given, "--init", "refit", "--calibrate", "own"), 2)
    assert "--init refit and --reparam" in complaint(cli(*given, *weights, "--calibrate", "own"), 2)
    assert "--calibrate" in complaint(cli(*given, "--transform-from", net28.deploy), 2)
    assert "--samples needs --calibrate" in complaint(cli(*given, "--samples", "9"), 2)
    assert "there is no such picture" in complaint(cli(*given, *weights, "--init", "refit", "--calibrate", "none"), 2)
    assert not Path("out").exists()
    assert cli(*given).code == 0
    assert "--calibrate SOURCE" in complaint(cli("refit", "out"), 2)
    assert "was converted without weights" in complaint(cli("refit", "out", "--calibrate", "own"), 1)


def test_weights_that_do_not_belong(cli: Cli, net: SmallNet) -> None:
    """Caffe would leave what they lack to its fillers, and nothing would be said."""
    convert(cli, net)
    source = ("--calibrate", "strokes", "--samples", "2", *QUICK)
    said = complaint(cli("refit", "out", *source, "--teacher-weights", "out/init.caffemodel"), 1)
    assert "out/init.caffemodel: has nothing for layer conv1/5x5 of out/../googlenet28/train_val.prototxt and " in said
    assert said.strip().endswith("a teacher needs all its weights")
    said = complaint(cli("refit", "out", *source, "-w", net.weights), 1)
    assert f"{net.weights}: has nothing for layer conv1/5x5_merge of out/train_val.prototxt and " in said
    assert "give weights of the converted net: -w" in said
    # What a rebirth layer reads counts as well; what nothing of them depends on does not.
    without = load_net("out/train_val.prototxt", "out/init.caffemodel", {"data": (1, 28, 28)})
    for name, fits in (("loss3/classifier", True), ("conv2/3x3_reduce", False)):
        assert without.weights is not None
        without.weights.drop(name)
        save_weights(Path("less.caffemodel"), without, without.weights)
        result = cli("refit", "out", *source, "--positions", "4", "-w", "less.caffemodel", "--force")
        if fits:
            assert result.code == 0, result
        else:
            assert "has nothing for layer conv2/3x3_reduce of" in complaint(result, 1)


def test_where_a_model_can_not_be_written(cli: Cli, net: SmallNet) -> None:
    """It is said before the work, which these pictures would not let begin."""
    convert(cli, net)
    for out, said in (
        ("nowhere/x.caffemodel", "there is no directory nowhere; make it first"),
        (net.weights, "this command reads"),
        ("out/train_val.prototxt", "this command reads"),
    ):
        assert said in complaint(cli("refit", "out", "--calibrate", "none.png", "-o", out, "--force"), 1)
    assert not Path("nowhere").exists()


def test_layers_in_parts_are_refused(cli: Cli, net: SmallNet) -> None:
    convert(cli, net, "--reparam")
    source = ("--calibrate", "strokes", "--samples", "2", *QUICK)
    said = complaint(cli("refit", "out", *source), 3)
    assert "out/train_val.prototxt: nothing can be fitted; " in said and "conv2/3x3_merge, " in said
    assert said.strip().endswith("it learns as several parts; refit before --reparam does that")
    assert not Path("out/refit.caffemodel").exists()
    # A net of which one stage is in parts.
    convert(cli, net, "--only", "conv2", out="first")
    given = ("convert", "first/train_val.prototxt", "-w", "first/init.caffemodel", "--input-shape", net.shape)
    assert cli(*given, "--only", "conv1", "--reparam", "-o", "second").code == 0
    said = complaint(cli("refit", "second", *source), 3)
    assert "conv1/5x5_merge: it learns as several parts" in said
    assert "its stage was not asked for" in complaint(cli("refit", "first", *source, "--skip", "conv2"), 3)


def test_a_directory_of_distil_is_told_apart(cli: Cli, net: SmallNet) -> None:
    convert(cli, net)
    assert cli("distil", "out").code == 0
    said = complaint(cli("refit", "out/distil", "--calibrate", "strokes"), 1)
    assert "out/distil/manifest.json: rebirth distil wrote this; name the directory that it was told: out" in said


def test_a_small_source_is_read_once(cli: Cli, net: SmallNet) -> None:
    data = convert(cli, net, "--init", "refit", "--reparam", "--calibrate", "strokes", *QUICK)
    note = "strokes has 24 images, and 512 were asked for; each counts once"
    assert data["notes"].count(note) == 1 and data["refit"]["images"] == 24
    assert "reparam: BatchNorm measured on 24 images of strokes" in data["notes"]


def test_a_net_with_nothing_to_fit(cli: Cli, net: SmallNet) -> None:
    """What a reducer stands for has more channels than it."""
    more = ("--init", "refit", "--calibrate", "strokes", "--only", "nothing*")
    assert "no stage" in complaint(cli("convert", net.train_val, "-w", net.weights, "-o", "out", *more), 2)
    data = convert(cli, net, "--init", "refit", "--calibrate", "strokes", "--no-branch", "--no-streamline", *QUICK)
    assert "refit: there is nothing to fit" in data["notes"] and data["refit"]["layers"] == []


def test_origins_name_layers_of_the_input(cli: Cli, net28: SmallNet) -> None:
    data = cli("convert", net28.train_val, "--input-shape", net28.shape, "--json", "--dry-run").data
    before = {layer.name for layer in Net.read(net28.train_val).layers}
    made = {name for one in data["rewrites"] for name in one["rebirth"]}
    assert set(data["origins"]) == made
    assert all(set(names) <= before and len(names) == len(set(names)) for names in data["origins"].values())
    assert data["origins"]["conv2/3x3_merge"] == ["conv2/3x3", "conv2/norm2", "pool2/3x3_s2"]
    assert data["refit"] is None and json.dumps(data)


def test_random_weights_do_not_break_it(cli: Cli, net: SmallNet) -> None:
    loaded = load_net(net.train_val, shapes={"data": (1, 28, 28)})
    save_weights(Path(net.weights), loaded, random_weights(loaded, 3))
    data = convert(cli, net, "--init", "refit", "--calibrate", "strokes", "--samples", "3", *QUICK)
    assert all(row["after"] <= row["before"] for row in data["refit"]["layers"])
