"""What a net reads of calibration data, whatever the source."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from tiny import datum, make_tiny, picture, write_lmdb

from deeprebirth_caffe.errors import RebirthError, UsageError
from deeprebirth_caffe.formats.stores import open_cursor
from deeprebirth_caffe.nets.load import load_net
from deeprebirth_caffe.options.shared import CalibrationOptions, EngineOptions, PictureOptions
from deeprebirth_caffe.proto import caffe_pb2 as pb
from deeprebirth_caffe.relearn.calibration import calibration_inputs

pytest.importorskip("torch")
pytest.importorskip("lmdb")


@pytest.fixture(autouse=True)
def _tiny(_folder: None) -> None:
    make_tiny(Path())


SOURCES = [("own", "train_lmdb"), ("own-test", "test_lmdb"), ("train_lmdb", "train_lmdb")]
"""What is asked for, and the database that is read then."""


def read(
    source: str,
    samples: int,
    net: str = "net.prototxt",
    engine: str = "torch",
    notes: list[str] | None = None,
    pictures: PictureOptions = PictureOptions(),  # noqa: B008 - it is frozen
) -> dict[str, np.ndarray]:
    """All batches together."""
    path = Path(net)
    options = CalibrationOptions(source, samples, pictures, EngineOptions(engine))
    batches = list(calibration_inputs(path, load_net(path), options, notes if notes is not None else []))
    assert all(len(batch["data"]) == len(batch["label"]) for batch in batches)
    return {name: np.concatenate([batch[name] for batch in batches]) for name in batches[0]}


def stored(name: str, count: int) -> np.ndarray:
    """The first pictures of a database, as the net's transform_param makes them."""
    cursor = open_cursor(Path(name), "LMDB")
    found = []
    for _ in range(count):
        datum = pb.Datum.FromString(cursor.value())
        found.append(np.frombuffer(datum.data, np.uint8).reshape(1, 8, 8) * np.float32(0.00390625))
        cursor.advance()
    cursor.close()
    return np.stack(found)


@pytest.mark.parametrize(("source", "database"), SOURCES)
@pytest.mark.parametrize("samples", [3, 8, 12])
def test_databases(source: str, database: str, samples: int) -> None:
    found = read(source, samples)
    assert set(found) == {"data", "label"} and found["data"].dtype == np.float32
    np.testing.assert_allclose(found["data"], stored(database, samples), rtol=1e-6)
    if source == "train_lmdb":
        assert not found["label"].any()


@pytest.mark.parametrize(("source", "database"), SOURCES)
def test_no_record_comes_twice(source: str, database: str) -> None:
    """20 records in batches of 8: the last batch would begin anew."""
    notes: list[str] = []
    count = 20 if database == "test_lmdb" else 40
    found = read(source, 50, notes=notes)
    np.testing.assert_allclose(found["data"], stored(database, count), rtol=1e-6)
    few = f"{source} has {count} images, and 50 were asked for; each counts once"
    assert notes[1:] == [few]
    where = {"own": "own: layer data in TRAIN: ", "own-test": "own-test: layer data in TEST: "}
    assert notes[0].startswith(where.get(source, "records of ")) and notes[0].endswith("times 0.00390625")
    notes.clear()
    assert len(read(source, count, notes=notes)["data"]) == count and few not in notes


def test_training_pictures_are_prepared_as_tested() -> None:
    """No mirror, no random crop, no shuffle: the images are the same each time, and as TEST would have them."""
    text = Path("net.prototxt").read_text()
    Path("net.prototxt").write_text(text.replace("scale: 0.00390625", "scale: 3 mirror: true", 1))
    np.testing.assert_allclose(read("own", 12)["data"], stored("train_lmdb", 12), rtol=1e-6)


def test_training_pictures_of_one_class_are_told() -> None:
    write_lmdb(Path("same"), [datum(2, np.random.default_rng(0)).SerializeToString() for _ in range(9)])
    text = Path("net.prototxt").read_text()
    Path("net.prototxt").write_text(text.replace("train_lmdb", "same"))
    notes: list[str] = []
    read("own", 9, notes=notes)
    assert "own: all 9 images are of one class; a database in mixed order says more" in notes
    notes.clear()
    read("own-test", 9, notes=notes)
    assert not any("class" in note for note in notes)


def test_several_data_layers_are_read_as_long_as_the_longest() -> None:
    text = Path("net.prototxt").read_text()
    more = (
        'layer { name: "more" type: "Data" top: "more" include { phase: TEST } '
        'data_param { source: "train_lmdb" batch_size: 8 backend: LMDB } }\n'
        'layer { name: "quiet" type: "Silence" bottom: "more" include { phase: TEST } }\n'
    )
    Path("net.prototxt").write_text(text + more)
    found = read("own-test", 50)
    assert len(found["data"]) == len(found["more"]) == 40
    with pytest.raises(RebirthError, match='in TRAIN has no "more", which TEST reads; --calibrate own-test'):
        read("own", 50)


def test_both_engines_give_the_same(caffe_install: object) -> None:
    for source, _ in SOURCES:
        wanted, found = read(source, 12, engine="caffe"), read(source, 12)
        for name in wanted:
            np.testing.assert_allclose(found[name], wanted[name], rtol=1e-6)


def test_pictures_are_spread_over_a_folder() -> None:
    cv2 = pytest.importorskip("cv2")
    Path("pictures").mkdir()
    rng = np.random.default_rng(0)
    made = [picture(index % 4, rng) for index in range(12)]
    for index, one in enumerate(made):
        cv2.imwrite(f"pictures/{index:02}.png", one)
    found = read("pictures", 4)
    wanted = np.stack([made[index][None] for index in (0, 3, 6, 9)]) * np.float32(0.00390625)
    np.testing.assert_allclose(found["data"], wanted, rtol=1e-6)
    notes: list[str] = []
    assert len(read("pictures", 100, notes=notes)["data"]) == 12
    assert "pictures has 12 images, and 100 were asked for; each counts once" in notes


def test_what_is_not_there() -> None:
    with pytest.raises(UsageError, match="nowhere: there is no such picture"):
        read("nowhere", 3)
    text = Path("net.prototxt").read_text().splitlines()
    shape = "input_param { shape { dim: 1 dim: 1 dim: 8 dim: 8 } shape { dim: 1 } }"
    layer = f'layer {{ name: "data" type: "Input" top: "data" top: "label" {shape} }}'
    Path("fed.prototxt").write_text("\n".join([text[0], layer, *text[5:]]))
    with pytest.raises(RebirthError, match="no data layer of its own in TRAIN"):
        read("own", 3, "fed.prototxt")
    with pytest.raises(UsageError, match=r"fed\.prototxt: no data layer of it says how pictures are prepared; say it"):
        read("test_lmdb", 3, "fed.prototxt")
    raw = read("test_lmdb", 3, "fed.prototxt", pictures=PictureOptions(raw_pixels=True))["data"]
    np.testing.assert_allclose(raw, stored("test_lmdb", 3) * 256, rtol=1e-6)
    said = PictureOptions(mean_value=(7,), scale=0.5)
    notes: list[str] = []
    prepared = read("test_lmdb", 3, "fed.prototxt", pictures=said, notes=notes)["data"]
    np.testing.assert_allclose(prepared, (raw - 7) / 2, rtol=1e-6)
    assert notes == ["records of test_lmdb: minus 7; times 0.5"]
    lent = read("test_lmdb", 3, "fed.prototxt", pictures=PictureOptions(transform_from=Path("net.prototxt")))["data"]
    np.testing.assert_allclose(lent, stored("test_lmdb", 3), rtol=1e-6)


def test_a_test_net_alone_has_no_training_pictures() -> None:
    lines = Path("net.prototxt").read_text().splitlines()
    shape = "input_param { shape { dim: 8 dim: 1 dim: 8 dim: 8 } shape { dim: 8 } }"
    given = f'layer {{ name: "data" type: "Input" top: "data" top: "label" include {{ phase: TRAIN }} {shape} }}'
    Path("net.prototxt").write_text("\n".join([lines[0], given, *lines[3:]]))
    with pytest.raises(RebirthError, match="in TRAIN; name a source: --calibrate SOURCE, or use the pictures of TEST"):
        read("own", 3)
