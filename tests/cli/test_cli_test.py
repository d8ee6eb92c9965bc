"""`rebirth test`, in both engines, against `caffe test`."""

from __future__ import annotations

import csv
import re
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jsondocs
import numpy as np
import pytest
from cli_tools import Cli, complaint, listing
from closeness import assert_within, between
from tiny import CLASSES, NET, TERMS, datum, make_tiny, write_lmdb

from deeprebirth_caffe.engines.caffe.locate import CaffeInstall
from deeprebirth_caffe.engines.random_weights import random_weights
from deeprebirth_caffe.ir.probe import save_weights
from deeprebirth_caffe.nets.load import load_net

pytest.importorskip("torch")
pytest.importorskip("lmdb")

ENGINES = ["torch", pytest.param("caffe", marks=pytest.mark.caffe)]
WEIGHTS = "random.caffemodel"

VECTOR = 'layer { name: "each" type: "Softmax" bottom: "fc2" top: "each" include { phase: TEST } }\n'


@pytest.fixture(autouse=True)
def _tiny(_folder: None) -> None:
    make_tiny(Path(), net=NET + VECTOR)
    net = load_net("net.prototxt")
    save_weights(Path(WEIGHTS), net, random_weights(net, 2))


def run(cli: Cli, *more: object, engine: str = "torch") -> Any:
    """Tests the tiny net."""
    return cli("test", "net.prototxt", "-w", WEIGHTS, "--engine", engine, "--threads", 1, *more)


def rows(path: str) -> list[dict[str, str]]:
    """A table."""
    with Path(path).open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


@pytest.mark.parametrize("engine", ENGINES)
def test_the_means_are_those_of_caffe_test(cli: Cli, caffe_install: CaffeInstall, engine: str) -> None:
    result = run(cli, "--json", "--iterations", 7, engine=engine)
    assert result.code == 0, result.err
    jsondocs.check(result.data, "test")
    assert (result.data["engine"], result.data["iterations"], result.data["images"]) == (engine, 7, 56)
    command = [str(caffe_install.need_binary()), "test", "-model", "net.prototxt", "-weights", WEIGHTS]
    done = subprocess.run([*command, "-iterations", "7"], capture_output=True, text=True, check=True)
    means: dict[str, list[float]] = {}
    for name, value in re.findall(r"caffe\.cpp:\d+\] (\w+) = (\S+)", done.stderr):
        means.setdefault(name, []).append(float(value))
    ours = result.data["outputs"]
    assert list(ours) == ["accuracy", "each", "loss"] and set(means) == set(ours)
    assert len(ours["each"]) == 8 * CLASSES
    for name, value in ours.items():
        # Caffe prints six digits.
        wanted = means[name] if isinstance(value, list) else means[name][0]
        assert_within(name, wanted, value, 5e-6 + between(TERMS))
    assert result.data["top1"] == pytest.approx(ours["accuracy"])
    assert result.data["top1"] < result.data["top5"] == 1


@pytest.mark.caffe
def test_per_image_is_the_same_in_both_engines(cli: Cli) -> None:
    for engine in ("torch", "caffe"):
        result = run(cli, "--per-image", f"{engine}.csv", "--iterations", "all", "--json", engine=engine)
        assert result.code == 0, result.err
        assert (result.data["iterations"], result.data["images"]) == (3, 20)
    mine, its = rows("torch.csv"), rows("caffe.csv")
    assert len(mine) == 20 and list(mine[0]) == ["index", "key", "label", "predicted", "rank", "top1", "top5", "score"]
    for one, other in zip(mine, its, strict=True):
        assert_within("score", float(other.pop("score")), float(one.pop("score")), between(TERMS))
        assert one == other
    assert [one["key"] for one in mine] == [f"{index:08d}" for index in range(20)]
    assert [int(one["label"]) for one in mine] == [index % CLASSES for index in range(20)]
    assert all((one["predicted"] == one["label"]) == (one["rank"] == "1") == (one["top1"] == "1") for one in mine)
    assert sum(one["top1"] == "1" for one in mine) / 20 == result.data["top1"]


def test_a_table_takes_no_files_place(cli: Cli) -> None:
    Path("f.csv").write_text("mine", encoding="utf-8")
    said = complaint(run(cli, "--per-image", "f.csv"), 1)
    assert said == "f.csv: this file is there already; choose another or add --force"
    Path("link").symlink_to("net.prototxt")
    for name in (WEIGHTS, "net.prototxt", "link", "test_lmdb/data.mdb", "test_lmdb/new"):
        for more in ((), ("--force",)):
            before = {path: path.read_bytes() for path in Path().rglob("*") if path.is_file()}
            assert re.match(
                rf"{name}: this command reads .*; write to", complaint(run(cli, "--per-image", name, *more), 1)
            )
            assert {path: path.read_bytes() for path in Path().rglob("*") if path.is_file()} == before
    assert run(cli, "--per-image", "f.csv", "--iterations", 1, "--force").code == 0
    assert len(rows("f.csv")) == 8


def test_a_solver_for_a_net(cli: Cli) -> None:
    said = "solver.prototxt: this is a solver, not a net; give the net that it names"
    assert complaint(cli("test", "solver.prototxt", "-w", WEIGHTS), 1) == said


def test_it_says_what_counts_twice(cli: Cli) -> None:
    assert "50 batches of 8 are 400 records, and test_lmdb has 20" in run(cli).err.splitlines()
    assert "1 batch of 8 is 8 records, and test_lmdb has 20" in run(cli, "--iterations", 1).err.splitlines()
    assert run(cli, "--iterations", 1).out.splitlines()[-1] == "torch: 1 batch"
    said = run(cli, "--iterations", "all").err
    assert "the last batch begins test_lmdb anew: 4 records count twice in the means of the outputs" in said


def test_the_text(cli: Cli) -> None:
    lines = run(cli, "--iterations", 2).out.splitlines()
    assert re.fullmatch(r"accuracy = 0\.\d+", lines[0]) and lines[1].startswith("each = [0.")
    assert lines[3].startswith("top-1 ") and lines[3].endswith("% of 16 images") and lines[4] == "torch: 2 batches"


@pytest.mark.parametrize("engine", ENGINES)
def test_stages_and_levels(cli: Cli, engine: str) -> None:
    text = NET.replace(
        'top: "accuracy" include { phase: TEST }', 'top: "accuracy" include { phase: TEST stage: "top" }'
    )
    text = text.replace('top: "loss" }', 'top: "loss" include { min_level: 1 } }')
    Path("net.prototxt").write_text(text, encoding="utf-8")
    for more, outputs in (
        (("--level", 1), {"loss"}),
        (("--stage", "top"), {"accuracy"}),
        (("--stage", "top", "--level", 2), {"accuracy", "loss"}),
    ):
        result = run(cli, *more, "--iterations", 1, "--json", engine=engine)
        assert result.code == 0, result.err
        assert set(result.data["outputs"]) == outputs


@pytest.mark.parametrize("engine", ENGINES)
def test_images_from_a_list(cli: Cli, engine: str) -> None:
    cv2 = pytest.importorskip("cv2")
    random = np.random.default_rng(0)
    for index in range(6):
        cv2.imwrite(f"{index}.png", random.integers(0, 255, (8, 8)).astype(np.uint8))
    Path("list.txt").write_text("".join(f"{index}.png {index % 4}\n" for index in range(6)), encoding="utf-8")
    layer = (
        'name: "list"\nlayer { name: "data" type: "ImageData" top: "data" top: "label"'
        ' image_data_param { source: "list.txt" batch_size: 4 is_color: false } }\n'
    )
    Path("net.prototxt").write_text(layer + NET[NET.index('layer { name: "fc1"') :], encoding="utf-8")
    result = run(cli, "--iterations", 0, "--per-image", "f.csv", "--json", engine=engine)
    assert result.code == 0, result.err
    assert (result.data["iterations"], result.data["images"]) == (2, 6)
    assert [one["key"] for one in rows("f.csv")] == [f"{index}.png" for index in range(6)]


def a_bad_label(path: str) -> None:
    random = np.random.default_rng(0)
    for name in ("data.mdb", "lock.mdb"):
        Path(path, name).unlink()
    records = [datum(index % 4, random) for index in range(8)]
    records[2].label = -1
    write_lmdb(Path(path), [one.SerializeToString() for one in records])


def no_data() -> None:
    at = NET.index('layer { name: "fc1"')
    head = 'input: "data" input_shape { dim: 8 dim: 1 dim: 8 dim: 8 } input: "label" input_shape { dim: 8 }\n'
    Path("net.prototxt").write_text(head + NET[at:], encoding="utf-8")


def no_classes() -> None:
    text = "\n".join(line for line in NET.splitlines() if "accuracy" not in line and '"loss"' not in line)
    Path("net.prototxt").write_text(text, encoding="utf-8")


@pytest.mark.parametrize(
    ("spoil", "said"),
    [
        (lambda: a_bad_label("test_lmdb"), 'record 00000002 has label -1, and "accuracy" knows 4 classes, 0 to 3'),
        (no_data, 'nothing in it fills blob "data" in TEST; give a net with a data layer'),
        (no_classes, "--per-image needs an Accuracy or a loss over classes, and it has none in TEST"),
        (lambda: Path("test_lmdb/data.mdb").write_bytes(b""), 'layer "data" (Data): test_lmdb: '),
        (lambda: Path("net.prototxt").write_text(NET.replace("num_output: 8", "num_output: 9")), "fc1 wants 9x64"),
        (lambda: Path(WEIGHTS).write_bytes(b"text: 1"), "this is text"),
    ],
)
def test_what_is_wrong(cli: Cli, spoil: Callable[[], object], said: str) -> None:
    spoil()
    assert said in complaint(run(cli, "--json", "--per-image", "f.csv"), 1)
    assert "f.csv" not in listing()


@pytest.mark.parametrize("engine", ENGINES)
def test_a_corrupt_picture_in_a_database(cli: Cli, engine: str) -> None:
    cv2 = pytest.importorskip("cv2")
    random = np.random.default_rng(0)
    for name in ("data.mdb", "lock.mdb"):
        Path("test_lmdb", name).unlink()
    records = []
    for index in range(16):
        one = datum(index % 4, random)
        picture = np.frombuffer(one.data, np.uint8).reshape(8, 8)
        one.data, one.encoded = cv2.imencode(".jpg", picture)[1].tobytes(), True
        one.ClearField("channels")
        records.append(one)
    records[12].data = b"\xff\xd8" + records[12].data[20:60]
    write_lmdb(Path("test_lmdb"), [one.SerializeToString() for one in records])
    result = run(cli, "--json", engine=engine)
    errors = [line for line in result.err.splitlines() if line.startswith("error: ")]
    assert (result.code, result.out, len(errors)) == (1, "", 1), result
    assert "Traceback" not in result.err


@pytest.mark.parametrize(
    ("more", "said"),
    [
        (("--iterations", "-1"), "'-1' is not a number of batches, nor all"),
        (("--iterations", "many"), "'many' is not a number of batches"),
        (("--engine", "caffe", "--device", "cuda"), "--device is the embedded engine's"),
        (("--threads", "0"), "0 is not in the range"),
    ],
)
def test_wrong_options(cli: Cli, more: tuple[str, ...], said: str) -> None:
    assert said in complaint(run(cli, *more), 2)


def test_weights_are_needed(cli: Cli) -> None:
    assert "Missing option '-w'" in complaint(cli("test", "net.prototxt"), 2)
