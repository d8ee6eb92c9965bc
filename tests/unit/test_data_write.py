"""Making databases: lists, folders, records, resuming, staging, the digits."""

from __future__ import annotations

import fcntl
import json
import os
import shutil
import sys
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from deeprebirth_caffe.commands.data import data_digits, data_folder, data_list
from deeprebirth_caffe.data import staging as staging_module
from deeprebirth_caffe.data import write, writers
from deeprebirth_caffe.data.decode import BadRecordError
from deeprebirth_caffe.data.listing import (
    Entry,
    label_lines,
    read_folder,
    read_list,
    shuffled,
)
from deeprebirth_caffe.data.mean import mean_bytes, mean_picture
from deeprebirth_caffe.data.records import AS_IS, RecordFormat, encoded_datum, raw_record, read_record, stored_pixels
from deeprebirth_caffe.data.staging import staging
from deeprebirth_caffe.data.writers import BACKENDS, open_database
from deeprebirth_caffe.errors import RebirthError
from deeprebirth_caffe.options.data import DataOptions
from deeprebirth_caffe.proto import caffe_pb2 as pb
from deeprebirth_caffe.results import to_json

cv2 = pytest.importorskip("cv2")
pytest.importorskip("lmdb")


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder of the test's own, in which it runs."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture(params=BACKENDS)
def backend(request: pytest.FixtureRequest) -> str:
    """Each kind of database."""
    if request.param == "leveldb":
        pytest.importorskip("plyvel")
    return str(request.param)


def picture(path: Path | str, number: int = 0, size: tuple[int, int] = (6, 5)) -> None:
    """Writes a picture that no other number has."""
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(number).integers(0, 256, (*size, 3), dtype=np.uint8)
    done, data = cv2.imencode(".png", pixels)
    assert done
    Path(path).write_bytes(bytes(data))


def make_list(count: int) -> Path:
    """list.txt with so many pictures."""
    for number in range(count):
        picture(f"pics/{number}.png", number)
    Path("list.txt").write_text("".join(f"pics/{number}.png {number % 3}\n" for number in range(count)))
    return Path("list.txt")


def records(path: Path | str, backend: str = "lmdb") -> dict[bytes, bytes]:
    """What a database holds."""
    with open_database(Path(path), backend) as database:
        return dict(database.items())


# ------------------------------------------------------------ lists


def test_a_list_as_convert_imageset_reads_it(here: Path) -> None:
    Path("list.txt").write_bytes(b"a b 'c'.png 3\n\n/abs/\"d\".png -4\r\n../up.png +5\nx\xe9y.png 2147483647")
    entries = read_list(Path("list.txt"))
    assert [(one.number, one.name, one.label) for one in entries] == [
        (0, "a b 'c'.png", 3),
        (2, '/abs/"d".png', -4),
        (3, "../up.png", 5),
        (4, "x\udce9y.png", 2**31 - 1),
    ]
    assert [one.path for one in entries] == ["a b 'c'.png", '/abs/"d".png', "../up.png", "x\udce9y.png"]
    assert entries[3].key == b"00000004_x\xe9y.png"
    # With a root, paths are below it, those with a slash before them too.
    assert [one.path for one in read_list(Path("list.txt"), Path("r"))] == [
        "r/a b 'c'.png",
        'r/abs/"d".png',
        "r/../up.png",
        "r/x\udce9y.png",
    ]


def test_a_list_with_a_byte_order_mark(here: Path) -> None:
    Path("list.txt").write_bytes(b"\xef\xbb\xbfa.png 3\r\nb.png 1\r\n")
    assert [(one.name, one.label) for one in read_list(Path("list.txt"))] == [("a.png", 3), ("b.png", 1)]


def test_paths_are_relative_to_the_list(here: Path) -> None:
    Path("sub").mkdir()
    Path("sub/list.txt").write_text("x.png 1\n")
    assert read_list(Path("sub/list.txt"))[0].path == "sub/x.png"


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("nothing", "'nothing' is not a path, a space and a label"),
        (" 3", "' 3' is not a path"),
        ("x.png three", "'three' is not a label"),
        ("x.png 1.5", "'1.5' is not a label"),
        ("x.png 2147483648", "'2147483648' is not a label: a whole number of 32 bits"),
        ("x.png -2147483649", "is not a label"),
        ("x.png 99999999999999999999", "is not a label"),
        ("x.png 3 ", "'' is not a label"),
        ("x.png\t3", "is not a path, a space"),
        ("x.png ٣", "is not a label"),
    ],
)
def test_lines_that_are_wrong(here: Path, line: str, said: str) -> None:
    Path("list.txt").write_text(f"good.png 1\n{line}\n", encoding="utf-8")
    with pytest.raises(RebirthError) as error:
        read_list(Path("list.txt"))
    assert str(error.value).startswith("list.txt:2: ") and said in str(error.value)


@pytest.mark.parametrize("content", [b"", b"\n \n"])
def test_a_list_without_pictures(here: Path, content: bytes) -> None:
    Path("list.txt").write_bytes(content)
    with pytest.raises(RebirthError, match=r"list\.txt: this list names no picture"):
        read_list(Path("list.txt"))


def test_a_key_too_long_for_lmdb_keeps_its_end(here: Path) -> None:
    entry = Entry(5, "a" * 600 + "/ä.jpg", "", 0)
    assert len(entry.key) == 511 and entry.key.startswith(b"00000005_aaa") and entry.key.endswith("/ä.jpg".encode())
    with open_database(Path("db"), "lmdb") as database:
        database.put([(entry.key, b"x")])
        assert list(database.each_key()) == [entry.key]


def test_shuffling_hangs_on_the_seed_alone() -> None:
    entries = [Entry(number, str(number), str(number), number % 2) for number in range(50)]
    first, again, other = shuffled(entries, 1), shuffled(entries, 1), shuffled(entries, 2)
    assert first == again != other
    assert [one.number for one in first] == list(range(50))
    assert sorted(one.name for one in first) == sorted(one.name for one in entries)
    assert all(one.label == int(one.name) % 2 for one in first)
    # Databases made by an earlier version must not come out in another order.
    assert [one.name for one in first[:8]] == ["2", "15", "47", "9", "21", "29", "48", "5"]


# ------------------------------------------------------------ folders


def test_a_folder_a_class(here: Path) -> None:
    for name in ("dog/2.png", "dog/10.PNG", "dog/deep/er/1.jpeg", "cat/a\nb.png", "Zebra/'x y'.webp"):
        picture(f"d/{name}")
    for name in ("d/dog/notes.txt", "d/dog/.hidden.png", "d/.git/x.png", "d/loose.png", "d/dog/.thumbs/1.png"):
        picture(name)
    Path("d/old_lmdb").mkdir()
    Path("d/old_lmdb/data.mdb").touch()
    Path("d/dog/loop").symlink_to(Path("d/dog").absolute())
    Path("d/cat/link.png").symlink_to("a\nb.png")
    Path("d/empty").mkdir()
    found = read_folder(Path("d"), "train", 0, 0)
    assert found.classes == ["Zebra", "cat", "dog", "empty"]
    assert [part.name for part in found.parts] == ["train"]
    assert [(one.number, one.name, one.label) for one in found.parts[0].entries] == [
        (0, "Zebra/'x y'.webp", 0),
        (1, "cat/a\nb.png", 1),
        (2, "cat/link.png", 1),
        (3, "dog/10.PNG", 2),
        (4, "dog/2.png", 2),
        (5, "dog/deep/er/1.jpeg", 2),
    ]
    assert all(Path(one.path).is_file() for one in found.parts[0].entries)
    assert found.notes == [
        "d/empty: there is no picture of this class",
        "d: 1 files in it are left out: their names are not those of pictures",
    ]


def test_train_and_val(here: Path) -> None:
    for name in ("train/b/1.png", "train/a/1.png", "val/a/9.png", "test/b/1.png", "other/c/1.png"):
        picture(f"d/{name}")
    found = read_folder(Path("d"), "train", 0, 0)
    assert found.classes == ["a", "b"]
    assert {part.name: [(one.name, one.label) for one in part.entries] for part in found.parts} == {
        "train": [("a/1.png", 0), ("b/1.png", 1)],
        "val": [("a/9.png", 0)],
        "test": [("b/1.png", 1)],
    }
    assert found.notes == [
        "d: left out, as it has train: other",
        "d/val/b: there is no picture of this class",
        "d/test/a: there is no picture of this class",
    ]
    with pytest.raises(RebirthError, match="it has train, val, test already; leave --val-fraction out"):
        read_folder(Path("d"), "train", 0.5, 0)
    picture("d/val/new/1.png")
    with pytest.raises(RebirthError, match=r"d/val/new: there is no such class \(2 are known\)"):
        read_folder(Path("d"), "train", 0, 0)


def test_a_class_called_train(here: Path) -> None:
    for name in ("train/1.png", "car/1.png"):
        picture(f"d/{name}")
    assert read_folder(Path("d"), "all", 0, 0).classes == ["car", "train"]


def test_labels_in_a_given_order(here: Path) -> None:
    for name in ("b/1.png", "a/1.png"):
        picture(f"d/{name}")
    Path("labels.txt").write_text("b\nc\na\n")
    found = read_folder(Path("d"), "train", 0, 0, Path("labels.txt"))
    assert [(one.name, one.label) for one in found.parts[0].entries] == [("b/1.png", 0), ("a/1.png", 2)]
    assert found.notes == ["d/c: there is no picture of this class"]


def test_folders_that_are_no_use(here: Path) -> None:
    Path("d").mkdir()
    with pytest.raises(RebirthError, match="d: there is no folder in it; it takes one for each class"):
        read_folder(Path("d"), "train", 0, 0)
    Path("d/a").mkdir()
    with pytest.raises(RebirthError, match="d: there is no picture in its 1 folders"):
        read_folder(Path("d"), "train", 0, 0)
    picture("d/a/1.png")
    assert read_folder(Path("d"), "train", 0, 0).notes == ["d: there is one class only, a"]
    with pytest.raises(RebirthError, match="no class has two pictures"):
        read_folder(Path("d"), "train", 0.3, 0)


def test_a_share_of_each_class_for_val(here: Path) -> None:
    counts = {"a": 10, "b": 3, "c": 1, "d": 2}
    for name, count in counts.items():
        for number in range(count):
            Path(f"d/{name}").mkdir(parents=True, exist_ok=True)
            Path(f"d/{name}/{number}.png").touch()

    def divided(seed: int) -> tuple[list[str], list[str]]:
        train, val = read_folder(Path("d"), "train", 0.2, seed).parts
        assert (train.name, val.name) == ("train", "val")
        for part in (train, val):
            assert [one.number for one in part.entries] == list(range(len(part.entries)))
        return [one.name for one in train.entries], [one.name for one in val.entries]

    train, val = divided(0)
    assert sorted(train + val) == sorted(f"{name}/{n}.png" for name, count in counts.items() for n in range(count))
    assert [name[0] for name in val] == ["a", "a", "b", "d"]
    assert divided(0) == (train, val) != divided(1)


def test_labels_stay_a_line_each() -> None:
    assert label_lines(["a\nb", "ä", "x\udce9", "c d"]) == "a\\nb\nä\nx\\udce9\nc d\n"


# ------------------------------------------------------------ records


def test_a_raw_record() -> None:
    colour = np.arange(24, dtype=np.uint8).reshape(2, 4, 3)
    record = raw_record(colour, -7)
    datum = pb.Datum.FromString(record.value)
    assert record.shape == (3, 2, 4) == (datum.channels, datum.height, datum.width)
    assert (datum.label, datum.encoded, datum.HasField("encoded")) == (-7, False, True)
    assert np.array_equal(np.frombuffer(datum.data, np.uint8).reshape(3, 2, 4), colour.transpose(2, 0, 1))
    assert np.array_equal(stored_pixels(record.value), colour.transpose(2, 0, 1))
    assert raw_record(colour[:, :, 0], 0).shape == (1, 2, 4)


@pytest.mark.parametrize(
    ("value", "said"),
    [
        (b"\xff\xff", "it is no Datum"),
        (pb.Datum(channels=1, height=2, width=2, data=b"123").SerializeToString(), "3 values, which do not fit"),
        (pb.Datum(data=b"").SerializeToString(), "0 values"),
        (encoded_datum(b"junk", 0), "this is no picture"),
    ],
)
def test_records_without_pixels(value: bytes, said: str) -> None:
    with pytest.raises(BadRecordError, match=said):
        stored_pixels(value)


def test_what_is_no_picture(here: Path) -> None:
    Path("folder").mkdir()
    os.mkfifo("pipe")
    Path("huge").touch()
    os.truncate("huge", 2**31)
    Path("pic.gif").write_bytes(
        b"GIF89a\x01\0\x01\0\x80\0\0\0\0\0\xff\xff\xff!\xf9\x04\0\0\0\0\0,\0\0\0\0\x01\0\x01\0\0\x02\x02D\x01\0;"
    )
    Path("cut.jpg").write_bytes(bytes(cv2.imencode(".jpg", np.full((64, 64, 3), 7, np.uint8))[1])[:-40])
    picture("pic.strange")
    picture("pic")
    resized = RecordFormat(4, 4, encoded=AS_IS)
    for path, form, said in (
        ("folder", RecordFormat(), "Is a directory"),
        ("pipe", RecordFormat(), "this is a pipe, not a file"),
        ("/dev/zero", RecordFormat(), "this is a device, not a file"),
        ("huge", RecordFormat(), "bytes, and at most 2,147,418,112 are read"),
        ("nowhere", RecordFormat(), "cannot read it: No such file"),
        ("a\0b", RecordFormat(), "cannot read it: embedded null"),
        ("cut.jpg", RecordFormat(), "this is no picture"),
        ("cut.jpg", RecordFormat(encoded=AS_IS), "this is no picture"),
        ("pic.gif", RecordFormat(encoded=AS_IS), "Caffe cannot decode this format"),
        ("pic.strange", resized, "cannot encode it as strange; use --encoded png or jpg"),
    ):
        with pytest.raises(BadRecordError, match=said):
            read_record(path, 0, form)
    # Without a suffix the file itself says what it is.
    assert pb.Datum.FromString(read_record("pic", 0, resized).value).data.startswith(b"\x89PNG")
    assert (
        pb.Datum.FromString(read_record("pic", 0, RecordFormat(encoded=AS_IS)).value).data == Path("pic").read_bytes()
    )


def test_a_picture_too_large_for_a_record(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("deeprebirth_caffe.data.records.LARGEST", 100)
    assert raw_record(np.zeros((10, 10), np.uint8), 0).shape == (1, 10, 10)
    with pytest.raises(BadRecordError, match="too large for one record; use --resize or --encoded"):
        raw_record(np.zeros((101, 1), np.uint8), 0)


def test_the_mean_needs_one_shape(here: Path) -> None:
    with open_database(Path("db"), "lmdb") as database:
        with pytest.raises(RebirthError, match="mean: the database has no records"):
            mean_picture(database)
        for number, size in enumerate([(2, 2), (2, 2), (2, 3)]):
            database.put([(b"%08d" % number, raw_record(np.full(size, 10 * number, np.uint8), 0).value)])
        with pytest.raises(RebirthError, match="mean: record 00000002 is 1 x 2 x 3, the first is 1 x 2 x 2"):
            mean_picture(database)
        database.put([(b"00000003", b"\xff\xff")])
    blob = pb.BlobProto.FromString(mean_bytes(np.arange(6, dtype=np.float32).reshape(1, 2, 3)))
    assert (blob.num, blob.channels, blob.height, blob.width, list(blob.data)) == (1, 1, 2, 3, [0, 1, 2, 3, 4, 5])
    assert not blob.HasField("shape")


# ------------------------------------------------------------ databases


def test_batches_are_whole_and_the_map_grows(here: Path, backend: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(writers, "_FIRST_MAP", 1 << 16)
    wanted = {b"%08d" % number: bytes([number]) * 50_000 for number in range(40)}
    pairs = list(wanted.items())
    for begin in (0, 10, 20):  # opened anew each time, as after an interruption
        with open_database(Path("db"), backend) as database:
            database.put(pairs[begin : begin + 10])
    with open_database(Path("db"), backend) as database:
        database.put(pairs[30:])
        assert list(database.each_key()) == list(wanted)
    assert records("db", backend) == wanted


def test_a_key_out_of_order_is_not_lost(here: Path) -> None:
    with open_database(Path("db"), "lmdb") as database:
        database.put([(b"2", b"x")])
        with pytest.raises(RebirthError, match="key b'1' is not behind those that are there"):
            database.put([(b"3", b"x"), (b"1", b"x")])
        assert list(database.each_key()) == [b"2"]


def test_what_is_no_database(here: Path, backend: str) -> None:
    Path("db").mkdir()
    for name in ("data.mdb", "CURRENT"):
        Path("db", name).write_bytes(b"junk" * 4096)
    with pytest.raises(RebirthError, match=r"db: cannot read the existing database: .*; remove it and start again"):
        open_database(Path("db"), backend)


# ------------------------------------------------------------ filling


def test_threads_and_batches_change_nothing(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    listing = make_list(60)
    data_list(listing, Path("one"), DataOptions(threads=1))
    monkeypatch.setattr(write, "BATCH_RECORDS", 7)
    data_list(listing, Path("four"), DataOptions(threads=4))
    monkeypatch.setattr(write, "BATCH_BYTES", 100)
    data_list(listing, Path("bytes"), DataOptions(threads=2))
    assert list(records("one").items()) == list(records("four").items()) == list(records("bytes").items())


def test_no_more_is_read_than_memory_has_room_for(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The database is slow: the threads must wait, and the larger the pictures are, the sooner."""
    listing = make_list(200)
    read: list[str] = []
    original = read_record
    ahead = []

    def counted(path: str, label: int, form: RecordFormat) -> Any:
        read.append(path)
        return original(path, label, form)

    class Slow(writers._Lmdb):
        def put(self, batch: writers.Batch) -> None:
            ahead.append(len(read) - sum(1 for _ in self.each_key()))
            super().put(batch)

    monkeypatch.setattr(write, "read_record", counted)
    monkeypatch.setattr(write, "BATCH_RECORDS", 1)
    monkeypatch.setattr(write, "_CHUNK_BYTES", 500)  # five of these records
    with Slow(Path("db")) as database:
        filled = write.fill(database, read_list(listing), RecordFormat(), threads=2)
    assert filled.records == 200 == len(read)
    assert max(ahead) <= 5 * (2 + 2 + 1)


@pytest.mark.parametrize("bad", [0, 1, 6, 7, 8, 39])
def test_a_run_that_stopped_goes_on(here: Path, backend: str, bad: int, monkeypatch: pytest.MonkeyPatch) -> None:
    listing = make_list(40)
    data_list(listing, Path("whole"), DataOptions(backend=backend))
    monkeypatch.setattr(write, "BATCH_RECORDS", 7)
    good = Path(f"pics/{bad}.png").read_bytes()
    Path(f"pics/{bad}.png").write_bytes(b"junk")
    with pytest.raises(RebirthError, match=f"pics/{bad}.png: this is no picture"):
        data_list(listing, Path("db"), DataOptions(backend=backend))
    assert not Path("db").exists() and Path(".db.rebirth-data").is_dir()
    Path(f"pics/{bad}.png").write_bytes(good)
    seen: list[int] = []
    result = data_list(
        listing, Path("db"), DataOptions(backend=backend), progress=lambda what, done, total: seen.append(done)
    )
    assert to_json(result.databases[0]) == {
        "path": "db", "backend": backend, "records": 40, "resumed": bad, "skipped": []
    }  # fmt: skip
    assert seen[0] == bad and seen[-1] == 40
    assert list(records("db", backend).items()) == list(records("whole", backend).items())
    assert sorted(path.name for path in here.iterdir()) == ["db", "list.txt", "pics", "whole"]


def test_what_was_left_out_before_is_named_again(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    listing = make_list(20)
    monkeypatch.setattr(write, "BATCH_RECORDS", 4)
    for number in (2, 3, 11, 19):
        Path(f"pics/{number}.png").write_bytes(b"junk")
    options = DataOptions(skip_bad=True)
    data_list(listing, Path("whole"), options)

    def interrupt(what: str, done: int, total: int) -> None:
        if done >= 16:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        data_list(listing, Path("db"), options, progress=interrupt)
    result = data_list(listing, Path("db"), options)
    assert [(one.file, one.reason) for one in result.databases[0].skipped] == [
        ("pics/2.png", "left out before the interruption"),
        ("pics/3.png", "left out before the interruption"),
        ("pics/11.png", "left out before the interruption"),
        ("pics/19.png", "this is no picture, or a damaged one"),
    ]
    assert records("db") == records("whole")
    assert sorted(int(key[:8]) for key in records("db")) == [n for n in range(20) if n not in (2, 3, 11, 19)]


def test_sizes_are_compared_with_the_first_also_after_an_interruption(here: Path) -> None:
    listing = make_list(20)
    picture("pics/9.png", size=(6, 6))
    for options in (DataOptions(check_size=True), DataOptions(mean=Path("m")), DataOptions(check_size=True, threads=1)):
        with pytest.raises(
            RebirthError, match=r"pics/9\.png: it is 3 x 6 x 6, but the first is 3 x 6 x 5; use --resize"
        ):
            data_list(listing, Path("db"), options)
    assert data_list(listing, Path("db"), DataOptions()).databases[0].resumed == 9


def test_none_can_be_used(here: Path) -> None:
    Path("list.txt").write_text("x.png 1\ny.png 1\n")
    with pytest.raises(RebirthError, match=r"x\.png: cannot read it: .*; none of the 2 pictures can be used"):
        data_list(Path("list.txt"), Path("db"), DataOptions(skip_bad=True))


def test_other_parameters_begin_anew(here: Path) -> None:
    listing = make_list(6)
    Path("pics/5.png").write_bytes(b"junk")
    for options in (DataOptions(), DataOptions(gray=True), DataOptions(shuffle=True)):
        with pytest.raises(RebirthError, match=r"pics/5\.png"):
            data_list(listing, Path("db"), options)
    picture("pics/5.png", 5)
    result = data_list(listing, Path("db"), DataOptions())
    assert result.databases[0].resumed == 0
    assert result.notes == ["an unfinished run with other options or pictures was here; this one began anew"]


def test_another_list_begins_anew(here: Path) -> None:
    listing = make_list(6)
    Path("pics/5.png").write_bytes(b"junk")
    with pytest.raises(RebirthError):
        data_list(listing, Path("db"), DataOptions())
    listing.write_text(listing.read_text().replace("pics/5.png 2\n", "").replace("0.png 0", "0.png 8"))
    result = data_list(listing, Path("db"), DataOptions())
    assert (result.databases[0].resumed, result.databases[0].records) == (0, 5)


# ------------------------------------------------------------ staging


@pytest.fixture
def publish(here: Path) -> Callable[..., None]:
    """Publishes a database "db" and a file "f", with some content."""

    def run(content: str, force: bool = False) -> None:
        with staging(Path("home"), "x", {"db": Path("home/db"), "f": Path("f.txt")}, {"of": content}, force) as work:
            work.place("db").mkdir(exist_ok=True)
            (work.place("db") / "data.mdb").write_text(content)
            (work.folder / "f").write_text(content)
            work.publish()

    return run


def test_publishing(publish: Callable[..., None]) -> None:
    publish("1")
    assert (Path("home/db/data.mdb").read_text(), Path("f.txt").read_text()) == ("1", "1")
    assert [path.name for path in Path("home").iterdir()] == ["db"]
    with pytest.raises(RebirthError, match="home/db: this is there already; choose another name or add --force"):
        publish("2")
    assert [path.name for path in Path("home").iterdir()] == ["db"]
    publish("3", force=True)
    assert (Path("home/db/data.mdb").read_text(), Path("f.txt").read_text()) == ("3", "3")
    assert [path.name for path in Path("home").iterdir()] == ["db"]


def test_force_replaces_no_folder_of_yours(publish: Callable[..., None]) -> None:
    Path("home/db").mkdir(parents=True)
    Path("home/db/thesis.tex").write_text("years")
    with pytest.raises(RebirthError, match="home/db: this is a folder and no database, so --force does not replace it"):
        publish("1", force=True)
    assert Path("home/db/thesis.tex").read_text() == "years"


@pytest.mark.parametrize("force", [False, True])
@pytest.mark.parametrize("step", range(6))
def test_killed_while_publishing(
    publish: Callable[..., None], monkeypatch: pytest.MonkeyPatch, step: int, force: bool
) -> None:
    """Each step of it is the last one once; the same call does the rest."""
    if force:
        publish("old")
    done: list[str] = []

    def dying(owner: Any, name: str) -> None:
        original = getattr(owner, name)

        def replacement(*arguments: Any, **more: Any) -> Any:
            if len(done) == step:
                raise KeyboardInterrupt
            done.append(name)
            return original(*arguments, **more)

        patched.setattr(owner, name, replacement)

    steps = ["atomic_write", "atomic_write", *["rename"] * (1 + force), "atomic_write", "rmtree"]
    killed = step < len(steps)
    with monkeypatch.context() as patched, pytest.raises(KeyboardInterrupt) if killed else nullcontext():
        for owner, name in ((staging_module, "atomic_write"), (shutil, "rmtree"), (Path, "rename")):
            dying(owner, name)
        publish("new", force)
    assert done == steps[:step]
    publish("new", force or not killed)
    assert (Path("home/db/data.mdb").read_text(), Path("f.txt").read_text()) == ("new", "new")
    assert [path.name for path in Path("home").iterdir()] == ["db"]


def test_one_run_at_a_time(here: Path) -> None:
    Path(".db.rebirth-data").mkdir()
    with Path(".db.rebirth-data/lock").open("wb") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        with pytest.raises(RebirthError, match="another `rebirth data` is at work here"):
            data_list(make_list(2), Path("db"), DataOptions())
    data_list(make_list(2), Path("db"), DataOptions())


def test_a_marker_that_is_damaged_begins_anew(here: Path) -> None:
    Path(".db.rebirth-data").mkdir()
    Path(".db.rebirth-data/rebirth-data.json").write_text(json.dumps(["no object"]))
    Path(".db.rebirth-data/db").mkdir()
    Path(".db.rebirth-data/db/data.mdb").write_text("junk")
    assert data_list(make_list(2), Path("db"), DataOptions()).databases[0].records == 2


# ------------------------------------------------------------ whole workflows


def test_a_folder_with_everything(here: Path, backend: str) -> None:
    for part, count in (("train", 6), ("val", 2)):
        for number in range(count):
            picture(f"d/{part}/{'ab'[number % 2]}/{number}.png", number)
    options = DataOptions(backend=backend, shuffle=True, mean=Path("m.binaryproto"))
    result = data_folder(Path("d"), Path("out"), options)
    assert sorted(path.name for path in Path("out").iterdir()) == ["labels.txt", f"train_{backend}", f"val_{backend}"]
    assert Path("out/labels.txt").read_text() == "a\nb\n"
    assert [(str(one.path), one.records) for one in result.databases] == [
        (f"out/train_{backend}", 6),
        (f"out/val_{backend}", 2),
    ]
    train = records(f"out/train_{backend}", backend)
    pixels = np.stack([stored_pixels(value) for value in train.values()]).astype(np.float32)
    blob = pb.BlobProto.FromString(Path("m.binaryproto").read_bytes())
    assert np.array_equal(np.array(blob.data, np.float32), (pixels.sum(0) / np.float32(6)).ravel())
    for key, value in train.items():
        assert pb.Datum.FromString(value).label == "ab".index(key.decode()[9])


def test_a_part_that_is_done_is_kept(here: Path) -> None:
    for part in ("train", "val"):
        for number in range(4):
            picture(f"d/{part}/a/{number}.png", number)
    Path("d/val/a/2.png").write_bytes(b"junk")
    with pytest.raises(RebirthError, match=r"d/val/a/2\.png"):
        data_folder(Path("d"), Path("d"), DataOptions())
    assert sorted(path.name for path in Path("d").iterdir()) == [".folder.rebirth-data", "train", "val"]
    result = data_folder(Path("d"), Path("d"), DataOptions(skip_bad=True))
    assert [(one.records, one.resumed) for one in result.databases] == [(4, 4), (3, 2)]
    # What was made there is no class the next time.
    data_folder(Path("d"), Path("d"), DataOptions(skip_bad=True, force=True))


@pytest.mark.parametrize("split", ["", ".x", "a/b", "a\0"])
def test_a_split_must_be_a_name(here: Path, split: str) -> None:
    with pytest.raises(RebirthError, match=r"--split: .* cannot be part of a file's name"):
        data_folder(Path("d"), Path("out"), DataOptions(), split=split)


@pytest.fixture(scope="module")
def plain_digits(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The digits as they come."""
    pytest.importorskip("sklearn")
    folder = tmp_path_factory.mktemp("digits")
    data_digits(folder / "digits")
    yield folder / "digits"


def test_digits_without_scikit_learn(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "sklearn.datasets", None)
    with pytest.raises(RebirthError, match=r"^making the digits needs scikit-learn: pip install "):
        data_digits(here / "out")


def test_digits(plain_digits: Path, here: Path) -> None:
    from sklearn.datasets import load_digits

    source = load_digits()
    assert sorted(path.name for path in plain_digits.iterdir()) == ["labels.txt", "mean.binaryproto", "test", "train"]
    assert (plain_digits / "labels.txt").read_text() == "".join(f"{digit}\n" for digit in range(10))
    seen: list[int] = []
    for part, share in (("train", 0.8), ("test", 0.2)):
        found = records(plain_digits / part)
        labels = []
        for key, value in found.items():
            datum = pb.Datum.FromString(value)
            place = int(key[-4:])
            seen.append(place)
            labels.append(datum.label)
            assert datum.label == source.target[place] and (datum.channels, datum.height, datum.width) == (1, 28, 28)
            # Averaged back to 8 x 8 it is the digit.
            back = cv2.resize(stored_pixels(value)[0], (8, 8), interpolation=cv2.INTER_AREA).astype(float)
            assert np.corrcoef(back.ravel(), source.images[place].ravel())[0, 1] > 0.9
        counts, all_counts = np.bincount(labels), np.bincount(source.target)
        assert np.all(np.abs(counts - share * all_counts) < 1)
        # Mixed: no long run of one label, and not scikit-learn's 0, 1, 2, …
        assert len(set(labels[:30])) >= 8 and [int(key[-4:]) for key in found] != sorted(int(key[-4:]) for key in found)
    assert sorted(seen) == list(range(1797))
    values = np.concatenate([stored_pixels(value).ravel() for value in records(plain_digits / "train").values()])
    assert (values.min(), values.max()) == (0, 255)


def test_digits_of_other_shapes(plain_digits: Path, here: Path) -> None:
    data_digits(Path("three"), channels=3)
    one, three = records(plain_digits / "train"), records("three/train")
    assert list(one) == list(three)
    for key in list(one)[:50]:
        assert np.array_equal(np.repeat(stored_pixels(one[key]), 3, 0), stored_pixels(three[key]))
    data_digits(Path("eight"), size=8)
    from sklearn.datasets import load_digits

    source = load_digits()
    for key, value in records("eight/test").items():
        levels = np.floor(source.images[int(key[-4:])] * 255 / 16 + 0.5)
        assert np.array_equal(stored_pixels(value)[0], levels)
    blob = pb.BlobProto.FromString(Path("three/mean.binaryproto").read_bytes())
    assert (blob.channels, blob.height, blob.width) == (3, 28, 28)
    with pytest.raises(RebirthError, match="three/train: this is there already"):
        data_digits(Path("three"))
    data_digits(Path("three"), force=True)
    assert records("three/train") == one
