"""Data layers as sources of batches: where they are, how they go on, and what they leave behind."""

from __future__ import annotations

import contextlib
import json
import multiprocessing
import os
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from data_sources import data_layer, encode, encoded, image, layer, leveldb_of, lmdb_of, raw

from deeprebirth_caffe.data import DataLayer, find_path, open_layer
from deeprebirth_caffe.data.prefetch import Prefetcher
from deeprebirth_caffe.data.rng import BATCH, EPOCH, generator
from deeprebirth_caffe.errors import RebirthError
from deeprebirth_caffe.proto import caffe_pb2 as pb

pytest.importorskip("cv2")

COUNT = 7
Make = Callable[[Path], pb.LayerParameter]


def lmdb(folder: Path) -> pb.LayerParameter:
    rng = np.random.default_rng(0)
    lmdb_of(folder / "db", [raw(image(rng, 8, 9), number) for number in range(COUNT)])
    return data_layer("db", 3, "crop_size: 5 mirror: true")


def leveldb(folder: Path) -> pb.LayerParameter:
    rng = np.random.default_rng(0)
    leveldb_of(folder / "db", [encoded(encode(image(rng, 8, 9)), number) for number in range(COUNT)])
    return data_layer("db", 3, "crop_size: 5 mirror: true", "backend: LEVELDB")


def images(folder: Path) -> pb.LayerParameter:
    rng = np.random.default_rng(0)
    for number in range(COUNT):
        (folder / f"{number}.png").write_bytes(encode(image(rng, 8, 9)))
    (folder / "list.txt").write_text("".join(f"{number}.png {number}\n" for number in range(COUNT)))
    body = 'image_data_param { source: "list.txt" batch_size: 3 shuffle: true rand_skip: 4 }'
    return layer("ImageData", f"{body} transform_param {{ crop_size: 5 mirror: true }}")


def hdf5(folder: Path) -> pb.LayerParameter:
    h5py = pytest.importorskip("h5py")
    for number, rows in enumerate((4, 1, 6)):
        with h5py.File(folder / f"{number}.h5", "w") as file:
            file["data"] = np.random.default_rng(number).standard_normal((rows, 2, 3))
            file["label"] = np.arange(rows) + 10 * number
    (folder / "list.txt").write_text("0.h5 1.h5\n2.h5")
    return layer("HDF5Data", 'hdf5_data_param { source: "list.txt" batch_size: 3 shuffle: true }')


def windows(folder: Path) -> pb.LayerParameter:
    rng = np.random.default_rng(0)
    (folder / "a.png").write_bytes(encode(image(rng, 20, 20)))
    boxes = "".join(f"{1 + at % 3} {0.2 if at % 2 else 0.8} {at} {at} {at + 8} {at + 7}\n" for at in range(10))
    (folder / "list.txt").write_text(f"# 0\na.png\n3 20 20\n10\n{boxes}")
    body = 'window_data_param { source: "list.txt" batch_size: 3 fg_fraction: 0.5 }'
    return layer("WindowData", f"{body} transform_param {{ crop_size: 5 mirror: true }}")


@pytest.fixture(params=[lmdb, leveldb, images, hdf5, windows], ids=lambda make: make.__name__)
def param(request: pytest.FixtureRequest, tmp_path: Path) -> pb.LayerParameter:
    """A layer of each kind, with everything random that it can have."""
    make: Make = request.param
    return make(tmp_path)


def working() -> int:
    """How many threads make batches."""
    return sum(thread.name == "rebirth-data" for thread in threading.enumerate())


def take(opened: DataLayer, count: int) -> list[bytes]:
    """Some batches, as bytes that can be compared."""
    return [b"".join(array.tobytes() for array in opened.next()) for _ in range(count)]


def batches(param: pb.LayerParameter, root: Path, count: int, **how: Any) -> list[bytes]:
    with open_layer(param, True, root, **how) as opened:
        return take(opened, count)


def test_shapes_and_batch_size_without_reading(param: pb.LayerParameter, tmp_path: Path) -> None:
    with open_layer(param, True, tmp_path) as opened:
        assert working() == 0
        assert opened.batch_size == 3 and opened.keys == []
        given = opened.next()
        assert [array.shape for array in given] == opened.shapes
        assert len(opened.keys) == 3
        assert all(array.dtype == np.float32 and array.flags.c_contiguous for array in given)


def test_arrays_are_fresh(param: pb.LayerParameter, tmp_path: Path) -> None:
    plain = batches(param, tmp_path, 12)
    with open_layer(param, True, tmp_path) as opened:
        for expected in plain:
            given = opened.next()
            assert b"".join(array.tobytes() for array in given) == expected
            for array in given:
                array[...] = -1


@pytest.mark.parametrize("threads", [1, 2, 4])
def test_batches_do_not_depend_on_threads(param: pb.LayerParameter, tmp_path: Path, threads: int) -> None:
    assert batches(param, tmp_path, 20, threads=threads) == batches(param, tmp_path, 20)


def test_seeds(param: pb.LayerParameter, tmp_path: Path) -> None:
    ones = batches(param, tmp_path, 10, seed=1)
    assert ones == batches(param, tmp_path, 10, seed=1)
    assert ones != batches(param, tmp_path, 10, seed=2)
    assert ones != batches(param, tmp_path, 10, seed=1 + (1 << 63))
    param.name = "other"
    assert ones != batches(param, tmp_path, 10, seed=1)


@pytest.mark.parametrize("done", [0, 1, 2, 3, 7, 8])
def test_state(param: pb.LayerParameter, tmp_path: Path, done: int) -> None:
    whole = batches(param, tmp_path, 16, seed=5)
    with open_layer(param, True, tmp_path, seed=5) as first:
        take(first, done)
        state = json.loads(json.dumps(first.state()))
        # What has been made ahead does not count, and asking changes nothing.
        assert take(first, 4) == whole[done : done + 4]
        first.restore(state)
        assert first.state() == state
        assert take(first, 16 - done) == whole[done:]
    with open_layer(param, True, tmp_path, seed=5) as second:
        take(second, 2)
        second.restore(state)
        assert take(second, 16 - done) == whole[done:]


@pytest.mark.parametrize("before", [0, 2])
@pytest.mark.parametrize("count", [0, 1, 4, 9])
def test_skip(param: pb.LayerParameter, tmp_path: Path, before: int, count: int) -> None:
    whole = batches(param, tmp_path, 14)
    with open_layer(param, True, tmp_path) as opened:
        assert take(opened, before) == whole[:before]
        opened.skip(count)
        assert take(opened, 2) == whole[before + count : before + count + 2]
        state = opened.state()
    with open_layer(param, True, tmp_path) as plain:
        take(plain, before + count + 2)
        assert plain.state() == state


def test_states_of_others_are_refused(param: pb.LayerParameter, tmp_path: Path) -> None:
    whole = batches(param, tmp_path, 6)
    with open_layer(param, True, tmp_path) as opened:
        take(opened, 3)
        for state in ({}, {"batch": 1}, dict.fromkeys(opened.state()), dict.fromkeys(opened.state(), "x")):
            with pytest.raises(RebirthError, match='layer "source"'):
                opened.restore(state)
        # It is where it was.
        assert take(opened, 3) == whole[3:]


@pytest.mark.parametrize("make", [images, hdf5, windows], ids=lambda make: make.__name__)
def test_lists_that_changed(tmp_path: Path, make: Make) -> None:
    param = make(tmp_path)
    with open_layer(param, True, tmp_path) as opened:
        state = opened.state()
    listed = tmp_path / "list.txt"
    listed.write_text(listed.read_text() + "\n1.h5" if make is hdf5 else 2 * listed.read_text())
    with open_layer(param, True, tmp_path) as opened, pytest.raises(RebirthError, match="now"):
        opened.restore(state)


def test_a_database_that_changed(tmp_path: Path) -> None:
    lmdb_of(tmp_path / "db", [raw(image(np.random.default_rng(0), 8, 9))])
    with open_layer(data_layer("db", 1), True, tmp_path) as opened:
        with pytest.raises(RebirthError, match="no record 00000009 any more"):
            opened.restore({"batch": 3, "next": "00000009"})
        assert opened.next()[1].tolist() == [0]


def test_keys(tmp_path: Path) -> None:
    for make, keys in ((lmdb, ["00000006", "00000000", "00000001"]), (leveldb, ["00000006", "00000000", "00000001"])):
        folder = tmp_path / make.__name__
        folder.mkdir()
        with open_layer(make(folder), False, folder) as opened:
            opened.skip(2)
            opened.next()
            assert opened.keys == keys
    with open_layer(images(tmp_path), False, tmp_path) as opened:
        labels = opened.next()[1]
        assert opened.keys == [f"{int(label)}.png" for label in labels]
    with open_layer(hdf5(tmp_path), False, tmp_path) as opened:
        labels = opened.next()[1]
        assert opened.keys == [f"{int(label) // 10}.h5:{int(label) % 10}" for label in labels]


def test_each_epoch_has_every_record(tmp_path: Path) -> None:
    for make, labels in ((images, list(range(COUNT))), (hdf5, [0, 1, 2, 3, 10, *range(20, 26)])):
        param = make(tmp_path)
        param.image_data_param.rand_skip = 0
        with open_layer(param, True, tmp_path) as opened:
            read = np.concatenate([opened.next()[1] for _ in range(len(labels))])
        epochs = read.reshape(3, len(labels)).astype(int).tolist()
        assert all(sorted(epoch) == labels for epoch in epochs)
        assert len({tuple(epoch) for epoch in epochs}) > 1


def test_phase_test_is_not_random(tmp_path: Path) -> None:
    param = lmdb(tmp_path)
    param.transform_param.mirror = False
    with open_layer(param, False, tmp_path, seed=1) as one, open_layer(param, False, tmp_path, seed=2) as two:
        assert take(one, 5) == take(two, 5)


# ------------------------------------------------------------ threads and processes


@pytest.fixture(autouse=True)
def _no_thread_is_left() -> Iterator[None]:
    before = set(threading.enumerate())
    yield
    assert not [thread for thread in set(threading.enumerate()) - before if thread.name == "rebirth-data"]


def test_close(param: pb.LayerParameter, tmp_path: Path) -> None:
    opened = open_layer(param, True, tmp_path, threads=3)
    opened.next()
    assert working() == 3
    opened.close()
    assert working() == 0
    opened.close()
    with pytest.raises(RebirthError, match="closed"):
        opened.next()
    assert batches(param, tmp_path, 1)


def test_two_layers_on_one_source(param: pb.LayerParameter, tmp_path: Path) -> None:
    whole = batches(param, tmp_path, 8)
    with open_layer(param, True, tmp_path) as one, open_layer(param, True, tmp_path) as two:
        assert take(one, 3) == whole[:3]
        assert take(two, 5) == whole[:5]
        one.close()
        assert take(two, 3) == whole[5:]
        with open_layer(param, True, tmp_path) as three:
            assert take(three, 8) == whole


def test_an_lmdb_is_left_as_it_is(tmp_path: Path) -> None:
    param = lmdb(tmp_path)
    (tmp_path / "db" / "lock.mdb").unlink()
    before = (tmp_path / "db" / "data.mdb").read_bytes()
    (tmp_path / "db").chmod(0o555)
    try:
        batches(param, tmp_path, 4)
    finally:
        (tmp_path / "db").chmod(0o755)
    assert [path.name for path in (tmp_path / "db").iterdir()] == ["data.mdb"]
    assert (tmp_path / "db" / "data.mdb").read_bytes() == before


def test_an_lmdb_that_is_being_written(tmp_path: Path) -> None:
    param = lmdb(tmp_path)
    whole = batches(param, tmp_path, 3)
    context = multiprocessing.get_context("spawn")
    holding, done = context.Event(), context.Event()
    writer = context.Process(target=_hold, args=(str(tmp_path / "db"), holding, done))
    writer.start()
    try:
        assert holding.wait(60)
        assert batches(param, tmp_path, 3) == whole
    finally:
        done.set()
        writer.join(60)


def _hold(path: str, holding: Any, done: Any) -> None:
    import lmdb as library

    with library.open(path, map_size=1 << 24) as database, database.begin(write=True) as transaction:
        transaction.put(b"x", b"y")
        holding.set()
        done.wait(60)
        transaction.abort()


def in_child(work: Callable[[], str]) -> str:
    """What a forked process says."""
    read, write = os.pipe()
    child = os.fork()
    if child == 0:
        with contextlib.suppress(BaseException):
            os.write(write, work().encode())
        os._exit(0)
    os.close(write)
    with os.fdopen(read) as pipe:
        said = pipe.read()
    os.waitpid(child, 0)
    return said


# Forking with threads is what is tested; where Python warns of it, it is right in general.
@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
@pytest.mark.parametrize("make", [lmdb, images, hdf5, windows], ids=lambda make: make.__name__)
def test_after_a_fork(tmp_path: Path, make: Make) -> None:
    param = make(tmp_path)
    whole = batches(param, tmp_path, 10)
    with open_layer(param, True, tmp_path) as one, open_layer(param, True, tmp_path) as two:
        take(one, 3)
        take(two, 1)

        def child() -> str:
            fine = take(one, 4) == whole[3:7] and take(two, 2) == whole[1:3]
            one.close()
            fine = fine and take(two, 2) == whole[3:5]
            two.close()
            return f"{fine} {threading.active_count()}"

        assert in_child(child) == "True 1"
        assert in_child(lambda: str(batches(param, tmp_path, 2) == whole[:2])) == "True"
        assert in_child(lambda: (one.close(), "closed")[1]) == "closed"
        assert take(one, 7) == whole[3:]


@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_a_leveldb_after_a_fork(tmp_path: Path) -> None:
    with open_layer(leveldb(tmp_path), True, tmp_path) as opened:
        take(opened, 1)

        def child() -> str:
            try:
                take(opened, 1)
            except RebirthError as error:
                return str(error)
            return ""

        assert "fork" in in_child(child)
        take(opened, 1)


def test_prefetching_is_bounded() -> None:
    depth, asked = 4, 0
    ahead_by: list[int] = []
    full = threading.Event()

    def read() -> int:
        ahead_by.append(len(ahead_by) + 1 - asked)
        if ahead_by[-1] == depth:
            full.set()
        return len(ahead_by) - 1

    ahead: Prefetcher[int, int] = Prefetcher(read, lambda job: job * job, 2, depth)
    try:
        for number in range(50):
            # It goes on until there is no more room, also when nobody asks.
            assert full.wait(60)
            full.clear()
            asked += 1
            assert ahead.next() == (number, number * number)
    finally:
        ahead.close()
    assert max(ahead_by) == depth


@pytest.mark.parametrize("threads", [1, 4])
@pytest.mark.parametrize("where", ["read", "make"])
def test_errors_come_in_their_turn(threads: int, where: str) -> None:
    numbers = iter(range(1000))

    def fails(stage: str, job: int) -> int:
        if stage == where and job == 5:
            raise RebirthError("number 5")
        return job

    ahead: Prefetcher[int, int] = Prefetcher(
        lambda: fails("read", next(numbers)), lambda job: fails("make", job), threads, 6
    )
    try:
        assert [ahead.next()[0] for _ in range(5)] == [0, 1, 2, 3, 4]
        for _ in range(2):
            with pytest.raises(RebirthError, match="number 5"):
                ahead.next()
    finally:
        ahead.close()


# ------------------------------------------------------------ the rest


def test_random_numbers() -> None:
    seen = set()
    for seed in (0, 1, -1, 2**64 - 2, 2**63):
        for name in ("a", "b", "\udcff"):
            for kind in (BATCH, EPOCH):
                for number in (0, 1, 2**40):
                    seen.add(generator(seed, name, kind, number).random(4).tobytes())
    assert len(seen) == 5 * 3 * 2 * 3
    draws = np.stack([generator(3, "data", BATCH, number).random(1000) for number in range(100)])
    assert abs(draws.mean() - 0.5) < 0.01
    assert abs(np.corrcoef(draws[:-1].ravel(), draws[1:].ravel())[0, 1]) < 0.02


def test_floats_of_every_form(tmp_path: Path) -> None:
    values = np.random.default_rng(0).standard_normal(2000).astype("<f4")
    datum = pb.Datum(channels=1, height=40, width=50)
    head = datum.SerializeToString()
    plain = b"".join(b"\x35" + value.tobytes() for value in values)
    packed = b"\x32\xc0\x3e" + values.tobytes()
    mixed = b"".join(b"\x35" + value.tobytes() for value in values[:3]) + b"\x28\x07\x32\xb4\x3e" + values[3:].tobytes()
    for at, body in enumerate((head + plain, plain + head, head + packed, mixed + head)):
        assert np.array_equal(pb.Datum.FromString(body).float_data, values)
        lmdb_of(tmp_path / str(at), [body])
        with open_layer(data_layer(str(at), 1), False, tmp_path) as opened:
            np.testing.assert_array_equal(opened.next()[0].ravel(), values)


def test_crops_reach_every_place(tmp_path: Path) -> None:
    pixels = np.arange(48, dtype=np.uint8).reshape(6, 8)
    lmdb_of(tmp_path / "db", [raw(pixels)])
    with open_layer(data_layer("db", 100, "crop_size: 5"), True, tmp_path) as opened:
        corners = np.concatenate([opened.next()[0][:, 0, 0, 0] for _ in range(20)])
    places, counts = np.unique(corners, return_counts=True)
    assert places.tolist() == [0, 1, 2, 3, 8, 9, 10, 11]
    assert counts.min() > 150


def test_paths(tmp_path: Path) -> None:
    assert find_path("a/b", tmp_path) == tmp_path / "a" / "b"
    assert find_path(str(tmp_path / "x"), "elsewhere") == tmp_path / "x"
    with pytest.raises(RebirthError, match="zero byte"):
        find_path("a\0b")


def test_a_mean_that_is_changed_afterwards_does_not_matter(tmp_path: Path) -> None:
    lmdb_of(tmp_path / "db", [raw(np.full((2, 2, 3), 9, np.uint8))])
    mean = pb.BlobProto(num=1, channels=3, height=2, width=2, data=[1.0] * 12)
    (tmp_path / "mean").write_bytes(mean.SerializeToString())
    with open_layer(data_layer("db", 1, 'mean_file: "mean"'), True, tmp_path) as opened:
        (tmp_path / "mean").unlink()
        assert set(opened.next()[0].ravel().tolist()) == {8.0}


@pytest.mark.parametrize("make", [images, hdf5])
def test_a_list_with_a_byte_order_mark(tmp_path: Path, make: Make) -> None:
    """Windows editors put one in front of the first name."""
    param = make(tmp_path)
    batches = []
    for encoding in ("utf-8", "utf-8-sig"):
        (tmp_path / "list.txt").write_text((tmp_path / "list.txt").read_text(), encoding=encoding)
        with contextlib.closing(open_layer(param, True, tmp_path, seed=1)) as source:
            batches.append(source.next())
    for plain, marked in zip(*batches, strict=True):
        np.testing.assert_array_equal(plain, marked)
