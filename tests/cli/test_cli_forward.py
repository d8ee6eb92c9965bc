"""`rebirth forward`, in both engines."""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import Any

import jsondocs
import numpy as np
import pytest
from cli_tools import Cli, complaint, listing
from closeness import assert_within, between
from tiny import NET, TERMS, make_tiny, picture

from deeprebirth_caffe.engines.random_weights import random_weights
from deeprebirth_caffe.formats.blobs import encode_blob
from deeprebirth_caffe.ir.probe import save_weights
from deeprebirth_caffe.nets.load import load_net

pytest.importorskip("torch")
pytest.importorskip("lmdb")
cv2 = pytest.importorskip("cv2")

ENGINES = ["torch", pytest.param("caffe", marks=pytest.mark.caffe)]
WEIGHTS = "random.caffemodel"

DEPLOY = (
    'input: "data" input_shape { dim: 1 dim: 3 dim: 6 dim: 6 }\n'
    'layer { name: "conv" type: "Convolution" bottom: "data" top: "a/conv"'
    " convolution_param { num_output: 5 kernel_size: 6 } }\n"
    'layer { name: "prob" type: "Softmax" bottom: "a/conv" top: "prob" }\n'
)


@pytest.fixture(autouse=True)
def _tiny(_folder: None) -> None:
    make_tiny(Path())
    random = np.random.default_rng(3)
    Path("pics").mkdir()
    for label in range(4):
        cv2.imwrite(f"pics/{label}.png", picture(label, random))
    cv2.imwrite("pics/color.jpg", random.integers(0, 255, (20, 30, 3)).astype(np.uint8))
    Path("deploy.prototxt").write_text(DEPLOY, encoding="utf-8")
    for name in ("net", "deploy"):
        net = load_net(f"{name}.prototxt")
        save_weights(Path(f"{name}.caffemodel"), net, random_weights(net, 2))


def run(cli: Cli, *more: object, net: str = "net", engine: str = "torch") -> Any:
    """Runs pictures."""
    arguments = (f"{net}.prototxt", "-w", f"{net}.caffemodel", "--engine", engine, "--threads", 1)
    said = {"--mean", "--mean-value", "--scale", "--transform-from"}.intersection(map(str, more))
    return cli("forward", *arguments, *more, *(() if said or net == "net" else ("--raw-pixels",)))


def blob(cli: Cli, name: str, *more: object, net: str = "deploy") -> np.ndarray:
    """A blob of all pictures asked for."""
    result = run(cli, "--blob", name, "-o", "out.npz", "--force", "--json", *more, net=net)
    assert result.code == 0, result.err
    jsondocs.check(result.data, "forward")
    with np.load("out.npz") as file:
        array: np.ndarray = file[name]
    assert result.data["blobs"] == {name: list(array.shape)} and len(result.data["inputs"]) == len(array)
    return array


def resized(path: str, size: int) -> np.ndarray:
    """A picture as OpenCV makes it."""
    return np.asarray(cv2.resize(cv2.imread(path), (size, size), interpolation=cv2.INTER_LINEAR), np.float32)


@pytest.mark.parametrize("engine", ENGINES)
def test_labels_of_a_training_net(cli: Cli, engine: str) -> None:
    Path("names.txt").write_text("one\ntwo\nthree things\nfour\n", encoding="utf-8")
    files = [f"pics/{label}.png" for label in range(4)]
    result = run(cli, *files, "--labels", "names.txt", "--top", 3, "--json", engine=engine)
    assert result.code == 0, result.err
    jsondocs.check(result.data, "forward")
    assert result.data["preprocessing"] == "pictures: gray; resized to 8x8; times 0.00390625"
    assert result.err.splitlines()[0] == result.data["preprocessing"]
    # By hand: the net's two layers, and a softmax, for there is a SoftmaxWithLoss.
    net = load_net("net.prototxt", "net.caffemodel")
    assert net.weights is not None
    (w1, b1), (w2, b2) = net.weights["fc1"], net.weights["fc2"]
    for one, path in zip(result.data["inputs"], files, strict=True):
        pixels = cv2.imread(path, 0).astype(np.float32).reshape(-1) * 0.00390625
        scores = w2 @ np.maximum(w1 @ pixels + b1, 0) + b2
        wanted = np.exp(scores) / np.exp(scores).sum()
        order = np.argsort(-wanted)[:3]
        assert one["file"] == path
        assert [place["index"] for place in one["top"]] == list(order)
        assert_within("scores", wanted[order], [place["score"] for place in one["top"]], between(TERMS))
        names = ["one", "two", "three things", "four"]
        assert [place["label"] for place in one["top"]] == [names[index] for index in order]


def test_a_deploy_net_is_told_how_pictures_are_prepared(cli: Cli) -> None:
    arguments = ("deploy.prototxt", "-w", "deploy.caffemodel", "-i", "pics/color.jpg", "--engine", "torch")
    said = complaint(cli("forward", *arguments), 2)
    assert said.startswith("deploy.prototxt: no data layer of it says how pictures are prepared; say it: --mean-value")
    said = complaint(cli("forward", *arguments, "--raw-pixels", "--scale", 2), 2)
    assert said.startswith("--raw-pixels excludes --mean-value, --mean-file and --scale")
    result = run(cli, "-i", "pics/color.jpg", "--top", 1, net="deploy")
    assert result.code == 0, result.err
    assert result.err.startswith("pictures: blue, green, red; resized to 6x6; no mean, no scale")
    assert result.out.splitlines()[0] == "pics/color.jpg"


def test_a_blob_takes_no_files_place(cli: Cli) -> None:
    mean = np.zeros((1, 3, 8, 8), np.float32)
    Path("mean.binaryproto").write_bytes(b"".join(bytes(piece) for piece in encode_blob(mean)[1]))
    Path("out.npz").write_text("mine", encoding="utf-8")
    arguments = ("pics/color.jpg", "--blob", "prob", "--labels", "net.prototxt", "--mean", "mean.binaryproto")
    arguments += ("--transform-from", "net.prototxt")

    def write(name: str, *more: str) -> Any:
        return run(cli, *arguments, "-o", name, *more, net="deploy")

    assert complaint(write("out.npz"), 1) == "out.npz: this file is there already; choose another or add --force"
    names = ("deploy.prototxt", "deploy.caffemodel", "pics/color.jpg", "net.prototxt", "mean.binaryproto")
    for name in names:
        for more in ((), ("--force",)):
            before = Path(name).read_bytes()
            assert complaint(write(name, *more), 1).startswith(f"{name}: this command reads {name}, and would replace")
            assert Path(name).read_bytes() == before
    assert write("out.npz", "--force").code == 0
    with np.load("out.npz") as file:
        assert file["prob"].shape[0] == 1


def test_what_need_not_be_classes_is_said(cli: Cli) -> None:
    text = DEPLOY[: DEPLOY.index('layer { name: "prob"')]
    Path("deploy.prototxt").write_text(text, encoding="utf-8")
    Path("names.txt").write_text("a\nb\nc\nd\ne\n", encoding="utf-8")
    said = 'blob "a/conv" is ranked as it is, for nothing in this net says that it holds scores of classes; '
    assert said in run(cli, "pics/color.jpg", net="deploy").err
    assert "ranked" not in run(cli, "pics/color.jpg", "--labels", "names.txt", net="deploy").err
    assert "ranked" not in run(cli, "pics/color.jpg", "--blob", "a/conv", "-o", "f.npz", net="deploy").err
    assert "ranked" not in run(cli, "pics/0.png").err


def test_mean_scale_resize_and_crop(cli: Cli) -> None:
    plain = resized("pics/color.jpg", 6).transpose(2, 0, 1)
    assert np.array_equal(blob(cli, "data", "pics/color.jpg")[0], plain)
    more = ("--mean-value", "1,2,3", "--scale", "0.5", "--resize", "10")
    cut = (resized("pics/color.jpg", 10)[2:8, 2:8] - [1, 2, 3]) * 0.5
    assert np.allclose(blob(cli, "data", "pics/color.jpg", *more)[0], cut.transpose(2, 0, 1))
    mean = np.random.default_rng(0).uniform(0, 200, (1, 3, 9, 9)).astype(np.float32)
    Path("mean.binaryproto").write_bytes(b"".join(bytes(piece) for piece in encode_blob(mean)[1]))
    cut = resized("pics/color.jpg", 9).transpose(2, 0, 1) - mean[0]
    assert np.allclose(blob(cli, "data", "pics/color.jpg", "--mean", "mean.binaryproto")[0], cut[:, 1:7, 1:7])
    # Without a crop the net takes the pictures as large as they are.
    assert blob(cli, "data", "pics/color.jpg", "--resize", "7x9", "--crop", 0).shape == (1, 3, 7, 9)
    assert blob(cli, "a/conv", "pics/color.jpg", "--resize", "7x9", "--crop", 0).shape == (1, 5, 2, 4)


def test_the_transform_of_another_net(cli: Cli) -> None:
    layer = (
        'layer { name: "data" type: "ImageData" top: "data" top: "label"'
        " transform_param { crop_size: 6 mean_value: 7 scale: 0.25 mirror: true }"
        ' image_data_param { source: "list" batch_size: 2 new_height: 11 new_width: 11 } }\n'
    )
    Path("train_val.prototxt").write_text(layer, encoding="utf-8")
    cut = (resized("pics/color.jpg", 11)[2:8, 2:8] - 7) * 0.25
    found = blob(cli, "data", "pics/color.jpg", "--transform-from", "train_val.prototxt")
    assert np.allclose(found[0], cut.transpose(2, 0, 1))


@pytest.mark.caffe
def test_the_engines_agree(cli: Cli) -> None:
    tops = [run(cli, "pics", "--json", net="deploy", engine=engine).data["inputs"] for engine in ("torch", "caffe")]
    for mine, its in zip(*tops, strict=True):
        scores = [[place["score"] for place in one["top"]] for one in (its, mine)]
        assert_within("scores", *scores, between(TERMS))


@pytest.mark.parametrize("engine", ENGINES)
def test_the_net_is_loaded_once(cli: Cli, monkeypatch: pytest.MonkeyPatch, engine: str) -> None:
    """However many batches the pictures make; the last one is smaller."""
    monkeypatch.setattr("deeprebirth_caffe.inputs.feeding.MOST_PICTURES", 1)
    alone = run(cli, "pics/0.png", "pics/1.png", "pics/2.png", "--json", engine=engine).data["inputs"]
    loads: list[str] = []
    where = "torch.engine.TorchEngine" if engine == "torch" else "caffe.client.CaffeWorker"
    module, _, name = f"deeprebirth_caffe.engines.{where}".rpartition(".")
    kind = getattr(importlib.import_module(module), name)
    real = kind.load
    monkeypatch.setattr(kind, "load", lambda self, *a, **k: (loads.append(name), real(self, *a, **k))[1])
    monkeypatch.setattr("deeprebirth_caffe.inputs.feeding.MOST_PICTURES", 2)
    found = run(cli, "pics/0.png", "pics/1.png", "pics/2.png", "--json", engine=engine).data["inputs"]
    assert loads == [name]
    for one, other in zip(alone, found, strict=True):
        assert [top["index"] for top in one["top"]] == [top["index"] for top in other["top"]]
        scores = [top["score"] for top in one["top"]]
        assert_within("scores", scores, [top["score"] for top in other["top"]], between(TERMS))


def test_folders_and_patterns_and_many_pictures(cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    alone = [blob(cli, "prob", f"pics/{label}.png")[0] for label in range(4)]
    together = blob(cli, "prob", "-i", "pics/?.png", "-i", "pics/0.png")
    assert_within("scores", [*alone, alone[0]], together, between(TERMS))
    monkeypatch.setattr("deeprebirth_caffe.inputs.feeding.MOST_PICTURES", 2)
    all_of_them = [*alone, *blob(cli, "prob", "pics/color.jpg")]
    assert_within("scores", all_of_them, blob(cli, "prob", "pics"), between(TERMS))


@pytest.mark.parametrize(
    ("more", "code", "said"),
    [
        ((), 2, "no picture given"),
        (("nothing.png",), 2, "nothing.png: there is no such picture"),
        (("net.prototxt",), 1, "net.prototxt: this is no picture"),
        (("pics/0.png", "--blob", "prob"), 2, "--blob and -o belong together"),
        (
            ("pics/0.png", "--blob", "fc9", "-o", "out.npz"),
            2,
            '--blob names "fc9", which deploy.prototxt does not',
        ),
        (("pics/0.png", "--mean-value", "1,2"), 2, "'1,2' is not one number or three"),
        (("pics/0.png", "--mean", "net.prototxt"), 1, "no binaryproto of a mean"),
        (("pics/0.png", "--resize", "4", "--crop", "6"), 1, "resized to 4x4, and the net takes 6x6"),
        (("pics/0.png", "--labels", "net.prototxt"), 1, "lines, and the net knows 5 classes"),
        (("pics/0.png", "--transform-from", "deploy.prototxt"), 1, "wants a net with a data layer for TEST"),
        (("pics/0.png", "--resize", "0"), 2, "'0' is not a size"),
    ],
)
def test_what_is_wrong(cli: Cli, more: tuple[str, ...], code: int, said: str) -> None:
    result = run(cli, *more, "--json", net="deploy")
    errors = [line for line in result.err.splitlines() if line.startswith("error: ")]
    assert (result.code, result.out, len(errors)) == (code, "", 1), result
    assert said in errors[0] and "out.npz" not in listing()


def test_a_net_without_a_shape_for_its_data(cli: Cli) -> None:
    text = NET.replace('source: "test_lmdb"', 'source: "gone"')
    Path("net.prototxt").write_text(text, encoding="utf-8")
    assert "--input-shape data=" in complaint(run(cli, "pics/0.png"), 1)
    assert run(cli, "pics/0.png", "--input-shape", "data=1,8,8").code == 0


def test_blobs_with_names_that_numpy_keeps_for_itself(cli: Cli) -> None:
    names = {"a/conv": "file", "prob": "allow_pickle"}
    text = DEPLOY
    for old, new in names.items():
        text = text.replace(f'top: "{old}"', f'top: "{new}"').replace(f'bottom: "{old}"', f'bottom: "{new}"')
    Path("deploy.prototxt").write_text(text, encoding="utf-8")
    for name in names.values():
        assert len(blob(cli, name, "pics/0.png", "--blob", name)) == 1


def test_scores_that_are_no_numbers(cli: Cli) -> None:
    text = DEPLOY.replace('type: "Softmax"', 'type: "Log"')
    for kind in ("Log", "Softmax"):
        last = f'layer {{ name: "last" type: "{kind}" bottom: "prob" top: "last" }}'
        Path("deploy.prototxt").write_text(text + last, encoding="utf-8")
        result = run(cli, "pics/0.png", "--top", 5, net="deploy")
        assert result.code == 0 and "nan" in result.out


def test_an_input_of_nothing(cli: Cli) -> None:
    Path("deploy.prototxt").write_text(
        DEPLOY.replace("dim: 6 }", "dim: 0 }")
        .replace("Convolution", "InnerProduct")
        .replace("convolution_param { num_output: 5 kernel_size: 6 }", "inner_product_param { num_output: 5 }"),
        encoding="utf-8",
    )
    net = load_net("deploy.prototxt")
    save_weights(Path("deploy.caffemodel"), net, random_weights(net, 2))
    assert "nothing is left" in complaint(run(cli, "pics/0.png", net="deploy"), 1).splitlines()[-1]
