"""`rebirth data` against real convert_imageset and compute_image_mean: the same bytes, key by key."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Callable
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from deeprebirth_caffe.commands.data import data_digits, data_list
from deeprebirth_caffe.data.mean import mean_bytes, mean_picture
from deeprebirth_caffe.data.records import AS_IS, RecordFormat, raw_record
from deeprebirth_caffe.data.writers import open_database
from deeprebirth_caffe.engines.caffe.locate import CaffeInstall
from deeprebirth_caffe.errors import RebirthError
from deeprebirth_caffe.options.data import DataOptions

cv2 = pytest.importorskip("cv2")
pytest.importorskip("lmdb")

SIZES = [(32, 32), (48, 33), (75, 100), (1, 9), (130, 64)]
EXIF_TURNED = (
    b"\xff\xe1\x00\x22Exif\0\0MM\0*\0\0\0\x08\0\x01"  # one entry:
    b"\x01\x12\0\x03\0\0\0\x01\0\x06\0\0"  # orientation 6, a quarter turn
    b"\0\0\0\0"
)
Tool = Callable[..., subprocess.CompletedProcess[str]]
Records = dict[bytes, bytes]


@pytest.fixture(scope="module")
def tool(caffe_install: CaffeInstall) -> Tool:
    """`tool("convert_imageset", …)` runs one of Caffe's programs."""
    caffe = caffe_install.need_binary()

    def run(name: str, *arguments: object) -> subprocess.CompletedProcess[str]:
        command = [str(caffe.with_name(name))]
        if caffe_install.prefix is not None:
            # The wrapper starts any program of its installation, once it is told which.
            text = caffe.read_text(encoding="utf-8").replace("self=$0", f"self='{caffe}'", 1)
            command = ["sh", "-c", text.replace('/usr/bin/caffe"', f'/usr/bin/{name}"'), name]
        elif not caffe.with_name(name).exists():
            pytest.skip(f"there is no {name} beside {caffe}")
        environment = {**os.environ, "GLOG_logtostderr": "1"}
        return subprocess.run(
            [*command, *map(str, arguments)], env=environment, capture_output=True, text=True, timeout=120
        )

    return run


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of pictures in many formats and sizes, and list.txt beside it."""
    folder = tmp_path_factory.mktemp("parity") / "pictures"
    (folder / "sub dir").mkdir(parents=True)
    rng = np.random.default_rng(3)
    names = []
    for number, (height, width) in enumerate(SIZES):
        coarse = rng.random((height // 5 + 2, width // 5 + 2, 3)).astype(np.float32)
        smooth = cv2.resize(coarse, (width, height), interpolation=cv2.INTER_CUBIC) * 255
        colour = np.clip(smooth + rng.normal(0, 8, smooth.shape), 0, 255).astype(np.uint8)
        gray = cv2.cvtColor(colour, cv2.COLOR_BGR2GRAY)
        alpha = np.dstack([colour, gray])
        sampling = cv2.IMWRITE_JPEG_SAMPLING_FACTOR
        made = {
            "420.jpg": (colour, []),
            "444.JPEG": (colour, [sampling, cv2.IMWRITE_JPEG_SAMPLING_FACTOR_444]),
            "422.jpeg": (colour, [sampling, cv2.IMWRITE_JPEG_SAMPLING_FACTOR_422, cv2.IMWRITE_JPEG_QUALITY, 70]),
            "progressive.jpg": (colour, [cv2.IMWRITE_JPEG_PROGRESSIVE, 1]),
            "gray.jpg": (gray, []),
            "colour.png": (colour, []),
            "gray.PNG": (gray, []),
            "alpha.png": (alpha, []),
            "deep.png": (colour.astype(np.uint16) * 257 - 5, []),
            "two.levels.png": (gray // 128 * 255, [cv2.IMWRITE_PNG_BILEVEL, 1]),
            "sub dir/with 'quotes'.png": (colour, []),
            "plain.bmp": (colour, []),
        }
        for kind, (pixels, how) in made.items():
            name = f"{number}-{kind}" if "/" not in kind else kind.replace("/", f"/{number}-")
            assert cv2.imwrite(str(folder / name), pixels, how)
            names.append(name)
        plain = (folder / f"{number}-420.jpg").read_bytes()
        (folder / f"{number}-turned.jpg").write_bytes(plain[:2] + EXIF_TURNED + plain[2:])
        (folder / f"{number}-lies.jpg").write_bytes((folder / f"{number}-colour.png").read_bytes())
        names += [f"{number}-turned.jpg", f"{number}-lies.jpg"]
    labels = [0, 7, -1, 2**31 - 1, 999]
    lines = [f"{name} {labels[place % len(labels)]}\n" for place, name in enumerate(names)]
    (folder.parent / "list.txt").write_text("".join(lines), encoding="utf-8")
    return folder


def records(path: Path, backend: str) -> Records:
    """What a database holds."""
    with open_database(path, backend) as database:
        return dict(database.items())


def told(form: RecordFormat, **more: Any) -> DataOptions:
    """The same as options."""
    size = (form.height, form.width) if form.height else None
    return DataOptions(resize=size, gray=form.gray, encoded=form.encoded, **more)


def flags(form: RecordFormat, backend: str = "lmdb") -> list[str]:
    """convert_imageset's options for the same."""
    found = [f"-backend={backend}", f"-gray={str(form.gray).lower()}"]
    if form.height:
        found += [f"-resize_height={form.height}", f"-resize_width={form.width}"]
    if form.encoded:
        found.append("-encoded")
    if form.encoded not in ("", AS_IS):
        found.append(f"-encode_type={form.encoded}")
    return found


FORMS = [
    RecordFormat(height, width, gray, encoded)
    for gray, (height, width), encoded in product(
        (False, True), ((0, 0), (32, 32), (24, 51), (227, 227)), ("", AS_IS, "jpg", "png")
    )
]


@pytest.mark.parametrize("form", FORMS, ids=str)
def test_records(tool: Tool, pictures: Path, tmp_path: Path, form: RecordFormat) -> None:
    listing = pictures.parent / "list.txt"
    done = tool("convert_imageset", *flags(form), f"{pictures}/", listing, tmp_path / "theirs")
    assert done.returncode == 0, done.stderr
    data_list(listing, tmp_path / "ours", told(form, threads=2), pictures)
    ours, theirs = (records(tmp_path / name, "lmdb") for name in ("ours", "theirs"))
    assert list(ours) == list(theirs)
    assert [key for key, value in ours.items() if value != theirs[key]] == []
    assert len(ours) == 14 * len(SIZES)
    # Nobody else may come in, as with Caffe's; the same files are there.
    assert [sorted(path.name for path in (tmp_path / name).iterdir()) for name in ("ours", "theirs")] == [
        ["data.mdb", "lock.mdb"]
    ] * 2
    for name in (".", "data.mdb", "lock.mdb"):
        assert (tmp_path / "ours" / name).stat().st_mode == (tmp_path / "theirs" / name).stat().st_mode


@pytest.mark.parametrize(
    ("form", "backend"),
    [(RecordFormat(30, 40, gray, encoded), name) for gray in (False, True) for encoded in ("", "png") for name in
     ("lmdb", "leveldb")],
)  # fmt: skip
def test_mean(tool: Tool, pictures: Path, tmp_path: Path, form: RecordFormat, backend: str) -> None:
    if backend == "leveldb":
        pytest.importorskip("plyvel")
    listing = pictures.parent / "list.txt"
    options = told(form, backend=backend, mean=tmp_path / "ours.mean")
    data_list(listing, tmp_path / "ours", options, pictures)
    assert tool("convert_imageset", *flags(form, backend), f"{pictures}/", listing, tmp_path / "theirs").returncode == 0
    # Caffe reads our database, and we read Caffe's.
    done = tool("compute_image_mean", f"-backend={backend}", tmp_path / "ours", tmp_path / "theirs.mean")
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "ours.mean").read_bytes() == (tmp_path / "theirs.mean").read_bytes()
    assert records(tmp_path / "ours", backend) == records(tmp_path / "theirs", backend)


def test_mean_where_sums_are_rounded(tool: Tool, tmp_path: Path) -> None:
    """Sums beyond 2^24 hang on the order and on single precision."""
    rng = np.random.default_rng(0)
    pixels = rng.integers(150, 256, (100_000, 2, 3), dtype=np.uint8)
    with open_database(tmp_path / "db", "lmdb") as database:
        database.put([(b"%08d_x" % n, raw_record(one, 0).value) for n, one in enumerate(pixels)])
        ours = mean_bytes(mean_picture(database))
    assert tool("compute_image_mean", tmp_path / "db", tmp_path / "mean").returncode == 0
    assert (tmp_path / "mean").read_bytes() == ours
    exact = pixels.mean(0, dtype=np.float64).astype(np.float32)
    assert mean_bytes(exact[None]) != ours


@pytest.mark.parametrize("channels", [1, 3])
def test_mean_of_the_digits(tool: Tool, tmp_path: Path, channels: int) -> None:
    pytest.importorskip("sklearn")
    data_digits(tmp_path / "digits", channels=channels)
    assert tool("compute_image_mean", tmp_path / "digits/train", tmp_path / "mean").returncode == 0
    assert (tmp_path / "digits/mean.binaryproto").read_bytes() == (tmp_path / "mean").read_bytes()


def test_shuffled_the_set_is_the_same(tool: Tool, pictures: Path, tmp_path: Path) -> None:
    listing = pictures.parent / "list.txt"
    form = RecordFormat(20, 20)
    assert (
        tool("convert_imageset", "-shuffle", *flags(form), f"{pictures}/", listing, tmp_path / "theirs").returncode == 0
    )
    data_list(listing, tmp_path / "ours", told(form, shuffle=True, seed=1), pictures)
    by_name = []
    for name in ("ours", "theirs"):
        found = records(tmp_path / name, "lmdb")
        assert [int(key[:8]) for key in found] == list(range(len(found)))
        by_name.append({key[9:]: value for key, value in found.items()})
    assert by_name[0] == by_name[1]


def test_what_cannot_be_read_leaves_the_same_gaps(tool: Tool, pictures: Path, tmp_path: Path) -> None:
    good = ["0-420.jpg", "1-colour.png", "3-plain.bmp", "2-gray.jpg"]
    (tmp_path / "empty.jpg").touch()
    (tmp_path / "junk.png").write_bytes(b"no picture")
    (tmp_path / "cut.png").write_bytes((pictures / "2-colour.png").read_bytes()[:-600])
    for name in good:
        shutil.copy(pictures / name, tmp_path)
    names = [good[0], "empty.jpg", good[1], "junk.png", "nowhere.jpg", good[2], "cut.png", good[3]]
    listing = tmp_path / "list.txt"
    # An empty line counts; Windows' line ends and missing ones at the end are understood.
    text = "".join(f"{name} {place}\r\n" for place, name in enumerate(names)).replace("junk", "\n junk").rstrip()
    listing.write_bytes(text.replace("\n ", "\n").encode())
    assert tool("convert_imageset", f"{tmp_path}/", listing, tmp_path / "theirs").returncode == 0
    with pytest.raises(RebirthError, match=r"empty\.jpg: this is no picture.*; --skip-bad leaves such pictures out"):
        data_list(listing, tmp_path / "ours", DataOptions(), tmp_path)
    result = data_list(listing, tmp_path / "ours", DataOptions(skip_bad=True), tmp_path)
    assert records(tmp_path / "ours", "lmdb") == records(tmp_path / "theirs", "lmdb")
    skipped = [Path(one.file).name for one in result.databases[0].skipped]
    assert skipped == ["empty.jpg", "junk.png", "nowhere.jpg", "cut.png"]


def test_check_size(tool: Tool, pictures: Path, tmp_path: Path) -> None:
    one_size = sorted(path.name for path in pictures.iterdir() if path.name.startswith("0-"))
    for names, fits in ((one_size, True), ([*one_size, "2-420.jpg"], False)):
        listing = tmp_path / "list.txt"
        listing.write_text("".join(f"{name} 0\n" for name in names), encoding="utf-8")
        out = tmp_path / str(fits)
        done = tool("convert_imageset", "-check_size", f"{pictures}/", listing, f"{out}-theirs")
        assert (done.returncode == 0) == fits
        options = DataOptions(check_size=True)
        if fits:
            data_list(listing, out, options, pictures)
            assert records(out, "lmdb") == records(Path(f"{out}-theirs"), "lmdb")
        else:
            with pytest.raises(RebirthError, match=r"2-420\.jpg: it is 3 x 75 x 100, but the first is 3 x 32 x 32"):
                data_list(listing, out, options, pictures)
            assert not out.exists()
