"""LMDB files without the library: the same records in the same order, and no damage that ends the process."""

from __future__ import annotations

from pathlib import Path
from random import Random

import pytest

from deeprebirth_caffe.errors import RebirthError
from deeprebirth_caffe.formats.lmdb import LmdbCursor

lmdb = pytest.importorskip("lmdb")

Records = dict[bytes, bytes]


def write(path: Path, seed: int, most: int = 1500) -> Records:
    """A database that grew and shrank in several transactions, with short and long keys and records."""
    random = Random(seed)
    records: Records = {}
    with lmdb.open(str(path), map_size=1 << 28) as database:
        for _ in range(1 + seed % 4):
            with database.begin(write=True) as transaction:
                for _ in range(random.randrange(1, most)):
                    key = b"%08d" % random.randrange(10**6) if seed % 2 else random.randbytes(random.randrange(1, 512))
                    records[key] = random.randbytes(random.choice((0, 1, 100, 2000, 2030, 5000)))
                    transaction.put(key, records[key])
                for key in random.sample(sorted(records), len(records) // 3):
                    del records[key]
                    transaction.delete(key)
    return records


def read(path: Path, most: int = 10**6) -> list[tuple[bytes, bytes]]:
    """All records, from the first to the last."""
    cursor = LmdbCursor(path)
    found = [(cursor.key(), bytes(cursor.value()))]
    for _ in range(most):
        cursor.advance()
        if cursor.key() == found[0][0]:
            break
        found.append((cursor.key(), bytes(cursor.value())))
    cursor.close()
    return found


@pytest.mark.parametrize("seed", range(6))
def test_what_the_library_wrote_is_read(tmp_path: Path, seed: int) -> None:
    records = write(tmp_path / "db", seed)
    assert read(tmp_path / "db") == sorted(records.items())
    cursor = LmdbCursor(tmp_path / "db")
    assert cursor.entries == len(records)
    for key, value in list(records.items())[::7]:
        assert cursor.seek(key) and (cursor.key(), cursor.value()) == (key, value)
        for other in (key[:-1], key + b"\0"):
            assert cursor.seek(other) is (other in records)
    assert cursor.seek(max(records)) and not cursor.seek(max(records) + b"x")
    cursor.advance()
    assert cursor.key() == min(records)


def test_a_last_page_that_is_free_need_not_be_there(tmp_path: Path) -> None:
    """The library leaves it out where it was freed before it was written."""
    missing = 0
    for seed in (2, 3, 6, 11):
        records = write(tmp_path / f"{seed}", seed, 150)
        with lmdb.open(str(tmp_path / f"{seed}"), readonly=True, lock=False) as database:
            need = (database.info()["last_pgno"] + 1) * database.stat()["psize"]
        missing += (tmp_path / f"{seed}" / "data.mdb").stat().st_size < need
        assert read(tmp_path / f"{seed}") == sorted(records.items())
    assert missing  # else this proves nothing


def test_a_file_that_is_cut_off_is_told_at_once(tmp_path: Path) -> None:
    write(tmp_path / "db", 1)
    file = tmp_path / "db" / "data.mdb"
    data = file.read_bytes()
    for size in (len(data) // 2, len(data) // 4):
        file.write_bytes(data[:size])
        with pytest.raises(RebirthError, match=f"truncated: its data.mdb has {size} bytes of at least"):
            LmdbCursor(tmp_path / "db")


def test_damage_is_an_error_wherever_it_is(tmp_path: Path) -> None:
    write(tmp_path / "db", 1, 60)
    file = tmp_path / "db" / "data.mdb"
    data = file.read_bytes()
    random, refused = Random(0), 0
    for _ in range(1500):
        bad = bytearray(data)
        for _ in range(random.randrange(1, 4)):
            # The heads of pages and their indices stand at their beginning.
            at = 4096 * random.randrange(len(data) // 4096) + min(random.randrange(4096), random.randrange(300))
            bad[at : at + 1] = random.randbytes(1)
        file.write_bytes(bad)
        try:
            read(tmp_path / "db", 1000)
        except RebirthError as error:
            refused += 1
            assert "\n" not in str(error)
    assert refused > 50


def test_what_caffe_does_not_write_is_refused(tmp_path: Path) -> None:
    with lmdb.open(str(tmp_path / "several"), max_dbs=2) as database:
        named = database.open_db(b"inner")
        with database.begin(write=True, db=named) as transaction:
            transaction.put(b"a", b"b")
    with pytest.raises(RebirthError, match="it holds another database"):
        LmdbCursor(tmp_path / "several")
    write(tmp_path / "twice", 1, 9)
    file = tmp_path / "twice" / "data.mdb"
    data = bytearray(file.read_bytes())
    for head in (0, 4096):
        data[head + 92] = 4  # several records of one key
    file.write_bytes(data)
    with pytest.raises(RebirthError, match="several records of one key"):
        LmdbCursor(tmp_path / "twice")
