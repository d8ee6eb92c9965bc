"""Small files that would take all memory, files that reach for others, and things that are no files."""

from __future__ import annotations

import ast
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from deeprebirth_caffe.data.decode import BadRecordError, read_picture
from deeprebirth_caffe.engines import footprint
from deeprebirth_caffe.engines.base import EngineError
from deeprebirth_caffe.engines.prepare import prepare
from deeprebirth_caffe.errors import RebirthError
from deeprebirth_caffe.formats import memory, pictures
from deeprebirth_caffe.formats.caffemodel import CaffemodelError, read_caffemodel
from deeprebirth_caffe.formats.hdf5 import Hdf5Error, count_rows, find_dataset, open_hdf5, read_hdf5_model
from deeprebirth_caffe.formats.prototxt.document import PrototxtError, read_document
from deeprebirth_caffe.formats.records import datum_shape
from deeprebirth_caffe.formats.solverstate import SolverStateError, read_solverstate

PACKAGE = Path(memory.__file__).parent.parent

cv2 = pytest.importorskip("cv2")
h5py = pytest.importorskip("h5py")


# ------------------------------------------------------------ HDF5


@pytest.fixture
def weights(tmp_path: Path) -> Path:
    """A file with a place for weights, and another one with a secret."""
    with h5py.File(tmp_path / "secret.h5", "w") as file:
        file["data/conv/0"] = np.ones((2, 3), np.float32)
    (tmp_path / "secret.bin").write_bytes(bytes(24))
    with h5py.File(tmp_path / "w.h5", "w") as file:
        file.create_group("data/conv")
    return tmp_path / "w.h5"


def refused(path: Path, what: str) -> None:
    with pytest.raises(Hdf5Error, match=what) as raised:
        read_hdf5_model(path)
    assert str(raised.value).startswith(f"{path}: ")


def test_no_weights_from_another_file(weights: Path) -> None:
    with h5py.File(weights, "a") as file:
        file["data/conv/0"] = h5py.ExternalLink("secret.h5", "/data/conv/0")
    refused(weights, r"'0' is a link into another file \(secret.h5\), which is not read")
    with h5py.File(weights, "a") as file:
        del file["data/conv/0"]
        del file["data/conv"]
        file["data/conv"] = h5py.SoftLink("/outside/conv")
        file["outside"] = h5py.ExternalLink("secret.h5", "/data")
    refused(weights, "is a link into another file")
    with h5py.File(weights, "w") as file:
        file["data"] = h5py.ExternalLink("secret.h5", "/data")
    refused(weights, "'data' is a link into another file")


def test_no_numbers_from_another_file(weights: Path) -> None:
    said = "'0' keeps its numbers in another file, which is not read"
    with h5py.File(weights, "a") as file:
        file["data/conv"].create_dataset("0", (2, 3), "f4", external=[("secret.bin", 0, 24)])
    refused(weights, said)
    with h5py.File(weights, "a") as file:
        del file["data/conv/0"]
        layout = h5py.VirtualLayout((2, 3), "f4")
        layout[:] = h5py.VirtualSource("secret.h5", "data/conv/0", (2, 3))
        file["data/conv"].create_virtual_dataset("0", layout)
    refused(weights, said)


def test_links_inside_a_file_are_followed(weights: Path) -> None:
    with h5py.File(weights, "a") as file:
        file["kept"] = np.ones((2, 3), np.float32)
        file["data/conv/0"] = h5py.SoftLink("/again")
        file["again"] = h5py.SoftLink("kept")
    np.testing.assert_array_equal(read_hdf5_model(weights)["conv"][0], np.ones((2, 3)))
    with h5py.File(weights, "a") as file:
        del file["again"]
        file["again"] = h5py.SoftLink("/data/conv/0")
    refused(weights, "is a link to a link to a link without end")


@pytest.mark.parametrize(
    "shape, options, what",
    [
        ((2**30,), {"chunks": (2**20,)}, r"'0' has 4.0 GiB, and the file stores 0 bytes of it: these are no weights"),
        ((2**31, 2**20), {"chunks": (1024, 1024)}, "the file stores 0 bytes of it: these are no weights"),
        ((2**25,), {"chunks": (2**22,), "compression": "gzip"}, "'0' has 128.0 MiB, and the file stores"),
    ],
)
def test_weights_that_are_not_there(
    weights: Path, shape: tuple[int, ...], options: dict[str, object], what: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    with h5py.File(weights, "a") as file:
        made = file["data/conv"].create_dataset("0", shape, "f4", **options)
        if "compression" in options:
            made[...] = 0
    refused(weights, what)
    monkeypatch.setenv(memory.VARIABLE, "8")
    refused(weights, "needs .* of memory, and 8.0 MiB are free; .*REBIRTH_MAX_MEMORY")


def test_solverstates_and_data_likewise(weights: Path, tmp_path: Path) -> None:
    with h5py.File(weights, "w") as file:
        file["iter"] = np.array([3], "i4")
        file["history"] = h5py.ExternalLink("secret.h5", "/data/conv")
        file["label"] = h5py.ExternalLink("secret.h5", "/data/conv/0")
        file.create_dataset("deep/rows", (2**40, 2**10), "f4", chunks=(1024, 1024))
    with pytest.raises(RebirthError, match="is a link into another file"):
        read_solverstate(weights)
    for name, what in (("label", "a link into another file"), ("deep/rows", "needs 4,194,304.0 GiB of memory")):
        with open_hdf5(weights) as file, pytest.raises(RebirthError, match=what):
            find_dataset(file, name)
        with pytest.raises(RebirthError, match=what):
            count_rows(weights, name)
    (tmp_path / "list.txt").write_text("w.h5\n")
    assert datum_shape("list.txt", "HDF5", tmp_path, top="label") is None


# ------------------------------------------------------------ pictures


KINDS = (".png", ".jpg", ".bmp", ".ppm", ".gif")
LOOK = """
import sys
from pathlib import Path
from deeprebirth_caffe.data.decode import COLOR, BadRecordError, decode
from deeprebirth_caffe.formats.records import datum_shape
for name in sys.argv[1:]:
    Path("list.txt").write_text(f"{name} 0")
    print(datum_shape("list.txt", "IMAGES"))
    try:
        print(decode(Path(name).read_bytes(), COLOR).shape)
    except BadRecordError as error:
        print(error)
"""


def test_a_picture_is_measured_before_it_is_decoded(tmp_path: Path) -> None:
    """In a process of its own, for OpenCV takes its limit when it is loaded."""
    names = []
    for kind in KINDS:
        small = bytearray(cv2.imencode(kind, np.zeros((8, 8, 3), np.uint8))[1].tobytes())
        for name, data in ((f"small{kind}", bytes(small)), (f"large{kind}", enlarged(kind, small))):
            (tmp_path / name).write_bytes(data)
            names.append(name)
    done = subprocess.run(
        [sys.executable, "-c", LOOK, *names], cwd=tmp_path, stdout=subprocess.PIPE, text=True, check=True
    )
    good = ["(3, 8, 8)", "(8, 8, 3)"]
    bad = ["None", "the picture has more than 100,000,000 pixels; $REBIRTH_MAX_PIXELS allows more"]
    assert done.stdout.splitlines() == (good + bad) * len(KINDS)


def enlarged(kind: str, data: bytearray) -> bytes:
    """The picture with a header that speaks of 30,000 pixels a side."""
    side = 30_000
    if kind == ".png":
        import zlib

        data[16:24] = side.to_bytes(4, "big") * 2
        data[29:33] = zlib.crc32(data[12:29]).to_bytes(4, "big")
    elif kind == ".jpg":
        at = data.index(b"\xff\xc0") + 5
        data[at : at + 4] = side.to_bytes(2, "big") * 2
    elif kind == ".bmp":
        data[18:26] = side.to_bytes(4, "little") * 2
    elif kind == ".gif":
        data[6:10] = side.to_bytes(2, "little") * 2
    else:
        return bytes(data).replace(b"8 8", b"%d %d" % (side, side))
    return bytes(data)


def test_a_picture_is_not_blown_up(tmp_path: Path) -> None:
    cv2.imwrite(str(tmp_path / "x.png"), np.zeros((8, 8, 3), np.uint8))
    with pytest.raises(BadRecordError, match="it is resized to more than 100,000,000 pixels"):
        read_picture(tmp_path / "x.png", True, (20_000, 20_000))


def test_larger_pictures_may_be_allowed(monkeypatch: pytest.MonkeyPatch) -> None:
    assert pictures.most_pixels() == pictures.MOST_PIXELS
    monkeypatch.setenv("REBIRTH_MAX_PIXELS", "200000000")
    monkeypatch.setenv(pictures.OPENCVS_VARIABLE, "1")  # put back at the end
    pictures.load_opencv.__wrapped__()  # the first call of a process, which loads the library
    assert os.environ[pictures.OPENCVS_VARIABLE] == "200000000"


# ------------------------------------------------------------ memory


def test_what_does_not_fit_is_said_with_its_size(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory, "free_bytes", lambda: 3 << 30)
    memory.need(3 << 30, "a blob")
    with pytest.raises(memory.TooLargeError, match=r"a blob needs 4.0 GiB of memory, and 3.0 GiB are free; "):
        memory.need(4 << 30, "a blob")
    monkeypatch.setattr(memory, "free_bytes", lambda: None)
    memory.need(1 << 60, "a blob")


def test_free_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    texts = {
        "/proc/meminfo": ["MemTotal: 9 kB", "MemAvailable:    4096 kB"],
        "/sys/fs/cgroup/memory.max": ["3000000"],
        "/sys/fs/cgroup/memory.current": ["1000000"],
    }
    monkeypatch.setattr(memory, "_lines", lambda path: texts.get(path, []))
    assert memory.free_bytes() == 2_000_000
    texts["/sys/fs/cgroup/memory.max"] = ["max"]
    assert memory.free_bytes() == 4096 * 1024
    texts.clear()
    assert memory.free_bytes() is None
    monkeypatch.setenv(memory.VARIABLE, "7")
    assert memory.free_bytes() == 7 << 20


# ------------------------------------------------------------ things that are no files


def test_formats_read_files_alone(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    said = "this is a pipe, not a file"
    for read, error in (
        (read_document, PrototxtError),
        (read_caffemodel, CaffemodelError),
        (read_solverstate, SolverStateError),
        (read_hdf5_model, Hdf5Error),
    ):
        with pytest.raises(error, match=said):
            read(tmp_path / "pipe")
        with pytest.raises(error, match="this is a device, not a file"):
            read("/dev/zero")
    with pytest.raises(BadRecordError, match=said):
        read_picture(tmp_path / "pipe", True)
    (tmp_path / "list.txt").write_text("pipe 0\n")
    assert datum_shape("list.txt", "IMAGES", tmp_path) is None
    assert datum_shape("pipe", "IMAGES", tmp_path) is None
    assert datum_shape("pipe", "HDF5", tmp_path) is None


OURS = {
    "bench/machine.py": "files of the kernel",
    "bench/targets/install.py": "what was just fetched or packed into a folder of ours",
    "bench/targets/remote.py": "likewise",
    "bench/targets/ssh.py": "a log of ours in a folder of ours",
    "data/staging.py": "in a folder of ours",
    "engines/caffe/worker.py": "a file of the kernel",
    "engines/hosted.py": "likewise",
    "engines/torch/memory.py": "likewise",
    "formats/memory.py": "likewise",
    "cli/streams.py": "the null device",
    "engines/caffe/kernels.py": "a file of the kernel, and what we remember ourselves",
    "commands/shipped.py": "pages and schedules of the package",
    "engines/caffe/locate.py": "a Caffe that the user names",
    "engines/inference/onnx_runner.py": "in a folder of ours",
    "engines/inference/ncnn_runner.py": "likewise",
    "engines/runners.py": "likewise",
}
"""Who reads files without `open_regular`, and which."""


def test_files_of_others_are_opened_in_one_place() -> None:
    found = set()
    for file in PACKAGE.rglob("*.py"):
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            if not isinstance(node, ast.Call):
                continue
            words = ast.unparse(node)
            name = node.func.attr if isinstance(node.func, ast.Attribute) else ast.unparse(node.func)
            reads = name in ("read_text", "read_bytes") and isinstance(node.func, ast.Attribute)
            opens = name == "open" and ("'rb'" in words or "encoding" in words) and "opener" not in words
            if reads or opens or words.startswith("h5py.File(path, 'r')"):
                found.add(file.relative_to(PACKAGE).as_posix())
    assert found - set(OURS) == {"formats/hdf5.py"}, "use open_regular, read_regular or open_hdf5"


def test_a_net_that_does_not_fit_is_refused_before_it_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "net.prototxt"
    text = (
        'layer { name: "x" type: "Input" top: "x" input_param { shape { dim: 2 dim: 1000 dim: 10 dim: 10 } } }\n'
        'layer { name: "r" type: "ReLU" bottom: "x" top: "x" }\n'
        'layer { name: "c" type: "Convolution" bottom: "x" top: "c"'
        " convolution_param { num_output: 10 kernel_size: 1 } }\n"
        'layer { name: "p" type: "Pooling" bottom: "c" top: "p" pooling_param { global_pooling: true } }\n'
    )
    path.write_text(text)
    view = prepare(path, None).view
    assert footprint.kept_bytes(view) == 4 * (2 * 1000 * 100 + 2 * 10 * 100 + 2 * 10)
    assert footprint.largest_bytes(view) == 4 * (2 * 1000 * 100 + 2 * 10 * 100)
    monkeypatch.setenv(memory.VARIABLE, "5")
    prepare(path, None, batch=3)
    with pytest.raises(memory.TooLargeError, match=r"net.prototxt: a forward pass, .* needs 22.9 MiB of memory"):
        prepare(path, None, batch=15)
    footprint.check_pass(view, "x", keeps=True)
    with pytest.raises(memory.TooLargeError, match=r"and 5\.0 MiB are free"):
        footprint.check_pass(view, "x", keeps=True, scale=10)
    path.write_text(text.replace("num_output: 10", "num_output: 600000"))
    with pytest.raises(EngineError, match=r"net.prototxt: its weights take 2.2 GiB, and Caffe reads none above 2 GiB"):
        prepare(path, None)


def test_a_table_of_hits_is_as_large_as_its_file(tmp_path: Path) -> None:
    from deeprebirth_caffe.runs.report.gather import _hits

    np.save(tmp_path / "test.npy", np.ones((3, 2), np.uint8))
    assert _hits(tmp_path, "test.npy") is not None
    data = (tmp_path / "test.npy").read_bytes()
    head = b"{'descr': '|u1', 'fortran_order': False, 'shape': (1099511627776, 2), }"
    (tmp_path / "test.npy").write_bytes(data[:10] + head.ljust(117) + b"\n" + data[128:])
    with pytest.raises(RebirthError, match=r"test.npy: cannot read it"):
        _hits(tmp_path, "test.npy")
