"""`rebirth data`: what it makes, says, survives and refuses."""

from __future__ import annotations

import json
import os
import pty
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import jsondocs
import numpy as np
import pytest
from cli_tools import Cli, Result, complaint, listing, run_process

from deeprebirth_caffe.data.records import stored_pixels
from deeprebirth_caffe.data.writers import open_database
from deeprebirth_caffe.proto import caffe_pb2 as pb

cv2 = pytest.importorskip("cv2")
pytest.importorskip("lmdb")

COUNT = 40
CLASSES = ("cat", "dog", "emu")

# Does something when so many pictures have been read. Batches are small and little is read ahead, so that something is
# written by then.
AT = """
import os, resource, signal, sys
from deeprebirth_caffe.data import write
from deeprebirth_caffe.cli import main
write.BATCH_RECORDS, write._CHUNK_RECORDS = 7, 1
read, original = [], write.read_record
def read_record(path, label, form):
    read.append(path)
    if len(read) == {count}:
        {action}
    return original(path, label, form)
write.read_record = read_record
main(sys.argv[1:])
"""


def at(count: int, action: str, *arguments: object) -> Result:
    """Runs `rebirth` as a process to which that happens."""
    return run_process(*arguments, python=("-c", AT.format(count=count, action=action)))


def records(path: str, backend: str = "lmdb") -> dict[bytes, bytes]:
    """What a database holds."""
    with open_database(Path(path), backend) as database:
        return dict(database.items())


@pytest.fixture(autouse=True)
def _pictures(tmp_path: Path) -> None:
    """d/CLASS/… and list.txt, of the same pictures, each of its own colours."""
    lines = []
    for number in range(COUNT):
        name = f"{CLASSES[number % 3]}/{number:02d}.png"
        pixels = np.random.default_rng(number).integers(0, 256, (8, 9, 3), dtype=np.uint8)
        done, data = cv2.imencode(".png", pixels)
        assert done
        Path("d", name).parent.mkdir(parents=True, exist_ok=True)
        Path("d", name).write_bytes(bytes(data))
        lines.append(f"{name} {number % 3}\n")
    Path("list.txt").write_text("".join(lines))


LIST = ("data", "list", "list.txt", "--root", "d", "--threads", "2")


def test_list(cli: Cli) -> None:
    result = cli(*LIST, "-o", "db", "--mean", "mean.binaryproto")
    assert (result.code, result.err) == (0, "")
    assert result.out == f"wrote db: {COUNT} records\nwrote mean.binaryproto\n"
    found = records("db")
    assert list(found)[1] == b"00000001_dog/01.png" and len(found) == COUNT
    for number, value in enumerate(found.values()):
        datum = pb.Datum.FromString(value)
        pixels = np.random.default_rng(number).integers(0, 256, (8, 9, 3), dtype=np.uint8)
        assert datum.label == number % 3 and np.array_equal(stored_pixels(value), pixels.transpose(2, 0, 1))
    blob = pb.BlobProto.FromString(Path("mean.binaryproto").read_bytes())
    assert (blob.channels, blob.height, blob.width) == (3, 8, 9)
    assert listing() == ["d", "db", "list.txt", "mean.binaryproto"]


def test_folder(cli: Cli) -> None:
    result = cli("data", "folder", "d", "-o", "out")
    assert (result.code, result.out) == (
        0,
        f"wrote out/train_lmdb: {COUNT} records\nwrote out/labels.txt: 3 classes\n",
    )
    assert listing("out") == ["labels.txt", "train_lmdb"]
    assert Path("out/labels.txt").read_text() == "cat\ndog\nemu\n"
    mixed = [key[9:] for key in records("out/train_lmdb")]
    cli("data", "folder", "d", "-o", "sorted", "--no-shuffle", "--split", "all")
    in_order = [key[9:] for key in records("sorted/all_lmdb")]
    assert in_order == sorted(in_order) == sorted(mixed) != mixed
    cli("data", "folder", "d", "-o", "other", "--seed", "1")
    assert [key[9:] for key in records("other/train_lmdb")] not in (mixed, in_order)
    cli("data", "folder", "d", "-o", "two", "--val-fraction", "0.25")
    assert listing("two") == ["labels.txt", "train_lmdb", "val_lmdb"]
    train, val = ([key[9:] for key in records(f"two/{part}_lmdb")] for part in ("train", "val"))
    assert sorted(train + val) == in_order and len(val) == 4 + 3 + 3


@pytest.mark.parametrize(
    ("options", "shape"),
    [
        ((), (3, 8, 9)),
        (("--gray",), (1, 8, 9)),
        (("--resize", "5"), (3, 5, 5)),
        (("--resize", "4x6", "--gray"), (1, 4, 6)),
        (("--resize", "6X4", "--encoded", "as-is"), (3, 6, 4)),
        (("--encoded", "jpg", "--gray"), (1, 8, 9)),
        (("--encoded", "png", "--backend", "leveldb"), (3, 8, 9)),
        (("--check-size", "--threads", "3", "--shuffle", "--seed", "5"), (3, 8, 9)),
    ],
)
def test_options(cli: Cli, options: Sequence[str], shape: tuple[int, ...]) -> None:
    backend = "leveldb" if "leveldb" in options else "lmdb"
    if backend == "leveldb":
        pytest.importorskip("plyvel")
    assert cli(*LIST, "-o", "db", *options).code == 0
    found = records("db", backend)
    assert len(found) == COUNT and all(stored_pixels(value).shape == shape for value in found.values())
    encoded = {pb.Datum.FromString(value).encoded for value in found.values()}
    assert encoded == {"--encoded" in options}
    if "jpg" in options:
        assert all(pb.Datum.FromString(value).data.startswith(b"\xff\xd8") for value in found.values())


@pytest.mark.parametrize(
    "arguments",
    [
        (*LIST, "-o", "db"),
        ("data", "folder", "d", "-o", "out", "--mean", "m", "--val-fraction", "0.2"),
        ("data", "digits", "-o", "out", "--size", "8"),
    ],
)
def test_json(cli: Cli, arguments: Sequence[str]) -> None:
    if "digits" in arguments:
        pytest.importorskip("sklearn")
    result = cli(*arguments, "--json")
    assert (result.code, result.err) == (0, "")
    jsondocs.check(result.data, "data")
    for one in result.data["databases"]:
        assert len(records(one["path"])) == one["records"]
    for name in ("labels", "mean"):
        assert result.data[name] is None or Path(result.data[name]).is_file()
    assert (result.data["classes"] is None) == ("list" in arguments) == (result.data["labels"] is None)


def test_bad_pictures(cli: Cli) -> None:
    for number in (3, 7, 11, 15, 19, 23, 27):
        Path(f"d/{CLASSES[number % 3]}/{number:02d}.png").write_bytes(b"junk")
    Path("d/cat/03.png").unlink()
    said = complaint(cli(*LIST, "-o", "db"), 1)
    assert said.startswith(
        "d/cat/03.png: cannot read it: No such file or directory; --skip-bad leaves such pictures out"
    )
    result = cli(*LIST, "-o", "db", "--skip-bad")
    assert result.code == 0
    lines = result.out.splitlines()
    assert lines[0] == "wrote db: 33 records, 3 of them before the interruption"
    assert lines[1] == "    left out d/cat/03.png: cannot read it: No such file or directory"
    assert len(lines) == 7 and lines[-1] == "    and 2 more; --json names all"
    data = cli(*LIST, "-o", "db", "--skip-bad", "--force", "--json").data
    jsondocs.check(data, "data")
    assert [Path(one["file"]).stem for one in data["databases"][0]["skipped"]] == [
        "03",
        "07",
        "11",
        "15",
        "19",
        "23",
        "27",
    ]


def test_names_cannot_move_the_cursor(cli: Cli) -> None:
    Path("bad.txt").write_bytes(b"x\x1b[2J\xe9.png 1\n")
    assert complaint(cli("data", "list", "bad.txt", "-o", "db"), 1).startswith("x\\x1b[2J\\udce9.png: cannot read it")
    shutil.copytree("d/cat", "e/c\n\x1b[1mat")
    result = cli("data", "folder", "e", "-o", "out")
    assert result.code == 0 and "\x1b" not in result.out
    assert Path("out/labels.txt").read_text() == "c\\n\\x1b[1mat\n"


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (("data", "list", "list.txt"), 2, "Missing option '-o'"),
        (("data", "list", "nowhere.txt", "-o", "db"), 2, "'nowhere.txt' does not exist"),
        (("data", "folder", "list.txt", "-o", "db"), 2, "is a file"),
        ((*LIST, "-o", "db", "--resize", "0"), 2, "'0' is not a size: 256 or 240x320, height first"),
        ((*LIST, "-o", "db", "--resize", "1x2x3"), 2, "is not a size"),
        ((*LIST, "-o", "db", "--resize", "99999"), 2, "is not a size"),
        ((*LIST, "-o", "db", "--encoded", "bmp"), 2, "'bmp' is not one of"),
        (("data", "folder", "d", "-o", "o", "--val-fraction", "1"), 2, "1.0 is not in the range"),
        (("data", "folder", "d", "-o", "o", "--split", "a/b"), 2, "--split: 'a/b' cannot be part of a file's name"),
        (("data", "digits", "-o", "o", "--size", "4"), 2, "4 is not in the range"),
        (("data", "list", "list.txt", "-o", "db"), 1, "cat/00.png: cannot read it"),
        ((*LIST, "-o", "d"), 1, "d: this is there already; choose another name or add --force"),
        ((*LIST, "-o", "d", "--force"), 1, "d: this is a folder and no database"),
        ((*LIST, "-o", "list.txt/db"), 1, "list.txt: cannot write it"),
        ((*LIST, "-o", "db", "--mean", "list.txt"), 1, "list.txt: this command reads list.txt"),
        ((*LIST, "-o", "list.txt", "--force"), 1, "list.txt: this command reads list.txt"),
        (("data", "folder", "d/cat", "-o", "o"), 1, "d/cat: there is no folder in it"),
    ],
)
def test_what_is_refused(cli: Cli, arguments: Sequence[str], code: int, said: str) -> None:
    assert said in complaint(cli(*arguments), code)
    assert Path("list.txt").is_file() and len(listing("d/cat")) == 14


def test_a_missing_library_is_named(process: Cli) -> None:
    code = "import sys; sys.modules['cv2'] = None\nfrom deeprebirth_caffe.cli import main; main(sys.argv[1:])"
    said = complaint(process(*LIST, "-o", "db", python=("-c", code)), 1)
    assert "reading pictures needs OpenCV: pip install '" in said and "'opencv-python-headless" in said


@pytest.mark.parametrize("backend", ["lmdb", "leveldb"])
def test_killed_at_any_moment_it_goes_on(cli: Cli, backend: str) -> None:
    if backend == "leveldb":
        pytest.importorskip("plyvel")
    options = ("--backend", backend, "--shuffle", "--seed", "2")
    cli(*LIST, "-o", "whole", *options)
    for count in (1, 12, 25, 9, 3):  # one run after the other, in the same place
        result = at(count, "os.kill(os.getpid(), signal.SIGKILL)", *LIST, "-o", "db", *options)
        assert result.code == -signal.SIGKILL and not Path("db").exists()
    last = cli(*LIST, "-o", "db", *options, "--json").data["databases"][0]
    assert last["resumed"] > 0 and last["records"] == COUNT
    assert list(records("db", backend).items()) == list(records("whole", backend).items())
    assert listing() == ["d", "db", "list.txt", "whole"]


def test_interrupted_it_says_so(cli: Cli) -> None:
    action = "signal.raise_signal(signal.SIGINT)"
    for name, code in (("SIGINT", 130), ("SIGTERM", 143)):
        result = at(25, action.replace("SIGINT", name), *LIST, "-o", name)
        assert (result.code, result.out) == (code, "")
        assert result.err == "interrupted; the same command goes on where it was\n"
        assert not Path(name).exists()
        assert cli(*LIST, "-o", name, "--json").data["databases"][0]["resumed"] > 0


@pytest.mark.parametrize("backend", ["lmdb", "leveldb"])
def test_a_full_disk(cli: Cli, backend: str) -> None:
    if backend == "leveldb":
        pytest.importorskip("plyvel")
    options = ("--backend", backend, "--resize", "30")
    limit = "resource.setrlimit(resource.RLIMIT_FSIZE, (64 << 10, 64 << 10))"
    result = at(1, limit, *LIST, "-o", "db", *options)
    said = complaint(result, 1)
    assert "; make room, and the same command goes on where it was" in said and "b'" not in said
    assert not Path("db").exists()
    data = cli(*LIST, "-o", "db", *options, "--json").data["databases"][0]
    assert data["records"] == COUNT and (data["resumed"] > 0 or backend == "leveldb")
    cli(*LIST, "-o", "whole", *options)
    assert records("db", backend) == records("whole", backend)


def test_a_bar_on_a_terminal_and_lines_in_a_pipe(monkeypatch: pytest.MonkeyPatch) -> None:
    code = (
        "import sys\nfrom deeprebirth_caffe.cli import data_progress, main\ndata_progress.EVERY = 0\nmain(sys.argv[1:])"
    )
    piped = run_process(*LIST, "-o", "db", "--json", python=("-c", code))
    lines = piped.err.splitlines()
    assert lines and all(re.fullmatch(rf"db: \d+ of {COUNT}, \d+ a second", line) for line in lines)
    assert json.loads(piped.out)["databases"][0]["records"] == COUNT
    ours, theirs = pty.openpty()
    command = [sys.executable, "-c", code, *LIST, "-o", "db2", "--json"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=theirs, env={**os.environ, "TERM": "xterm"}) as shown:
        os.close(theirs)
        text = b""
        while True:
            try:
                piece = os.read(ours, 4096)
            except OSError:  # Linux's way to say that the other end is closed
                break
            if not piece:
                break
            text += piece
        assert shown.stdout is not None
        assert json.loads(shown.stdout.read())["databases"][0]["records"] == COUNT
    os.close(ours)
    assert f"{COUNT}/{COUNT}".encode() in text and b"db2" in text


def test_the_same_command_twice(cli: Cli) -> None:
    assert cli(*LIST, "-o", "db").code == 0
    before = Path("db/data.mdb").read_bytes()
    assert "db: this is there already" in complaint(cli(*LIST, "-o", "db"), 1)
    assert cli(*LIST, "-o", "db", "--force").code == 0
    assert Path("db/data.mdb").read_bytes() == before
    assert listing() == ["d", "db", "list.txt"]


@pytest.mark.parametrize("command", ["list", "folder", "digits"])
def test_help(cli: Cli, command: str) -> None:
    result = cli("data", command, "--help")
    assert result.code == 0 and result.out.startswith(f"Usage: rebirth data {command} ")


def test_each_option_is_explained() -> None:
    import click

    from deeprebirth_caffe.cli.data import command

    assert isinstance(command, click.Group)
    for name, one in command.commands.items():
        for param in one.params:
            assert not isinstance(param, click.Option) or param.help, f"{name} {param.opts}"
