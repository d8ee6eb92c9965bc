"""Which kernels Caffe's OpenBLAS is told to use: candidates, tries, what is remembered, and what is left alone."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from deeprebirth_caffe.engines.base import EngineError
from deeprebirth_caffe.engines.caffe import kernels
from deeprebirth_caffe.engines.caffe.kernels import VARIABLE, Kernels, candidates, choose_kernels
from deeprebirth_caffe.engines.caffe.locate import CaffeInstall

WIDE = "fma avx2 avx512f avx512dq avx512bw avx512vl avx512cd"
CONFIG = "OpenBLAS 0.3.13 NO_LAPACKE DYNAMIC_ARCH NO_AFFINITY {} MAX_THREADS=64"


class Machine:
    """A processor, and a Caffe on it whose OpenBLAS knows some core types.

    Attributes:
        picks: what OpenBLAS takes by itself.
        knows: the core types in it; others become Prescott.
        wrong: what is wrong with a core type's products; "crash": the process dies.
        config: what OpenBLAS says of itself; empty: it is another library.
        tried: the core types that a process was started with.
    """

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch, flags: str, vendor: str = "GenuineIntel") -> None:
        self.picks, self.config = "Prescott", CONFIG
        self.knows = {"Prescott", "Nehalem", "Haswell", "Zen", "SkylakeX"}
        self.wrong: dict[str, str] = {}
        self.tried: list[str] = []
        self.library = folder / "libopenblas.so"
        self.library.write_bytes(b"blas")
        self.cpuinfo = folder / "cpuinfo"
        self.cpuinfo.write_text(
            f"processor\t: 0\nvendor_id\t: {vendor}\ncpu family\t: 6\nmodel\t\t: 207\nmodel name\t: Some Processor\n"
            f"flags\t\t: fpu sse2 {flags}\n\nprocessor\t: 1\nflags\t\t: fpu\n"
        )
        self.install = CaffeInstall(folder / "caffe", folder / "python", "somewhere")
        self.env = {"HOME": str(folder / "home")}
        monkeypatch.setattr(kernels, "CPUINFO", self.cpuinfo)
        monkeypatch.setattr(kernels, "_try", self.start)
        monkeypatch.setattr(kernels.platform, "machine", lambda: "x86_64")
        self.forget = lambda: monkeypatch.setattr(kernels, "_known", {})
        self.forget()

    def start(self, install: CaffeInstall, core: str) -> dict[str, Any]:
        """Stands for a process."""
        assert install is self.install
        self.tried.append(core)
        used = core or self.picks
        used = used if used in self.knows else "Prescott"
        if self.wrong.get(used) == "crash":
            raise EngineError("the process was ended by SIGILL", fatal=True)
        if not self.config:
            return {}
        config = self.config.format(used)
        return {"core": used, "config": config, "library": str(self.library), "wrong": self.wrong.get(used, "")}

    def choose(self) -> Kernels:
        """Asks once more, as another process would."""
        self.forget()
        self.tried.clear()
        return choose_kernels(self.install, self.env)

    @property
    def file(self) -> Path:
        """What was remembered."""
        (path,) = (Path(self.env["HOME"]) / ".cache" / "rebirth").iterdir()
        return path


@pytest.fixture
def xeon(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Machine:
    return Machine(tmp_path, monkeypatch, WIDE)


@pytest.mark.parametrize(
    ("flags", "vendor", "wanted"),
    [
        (WIDE, "GenuineIntel", ["SkylakeX", "Haswell", "Zen"]),
        (WIDE, "AuthenticAMD", ["SkylakeX", "Zen", "Haswell"]),
        (WIDE.replace("avx512vl", ""), "GenuineIntel", ["Haswell", "Zen"]),
        ("fma avx2", "HygonGenuine", ["Zen", "Haswell"]),
        ("avx2", "GenuineIntel", None),
        ("avx avx512f", "GenuineIntel", None),
    ],
)
def test_what_a_processor_can_do(flags: str, vendor: str, wanted: list[str] | None) -> None:
    found = candidates({"flags": f"fpu {flags}", "vendor_id": vendor})
    assert found == ([*wanted, "Nehalem", "Prescott"] if wanted else [])


def test_better_kernels_than_openblas_picks_are_chosen_and_said(xeon: Machine) -> None:
    found = xeon.choose()
    assert found == Kernels("SkylakeX", "rebirth", "Prescott") and xeon.tried == ["", "SkylakeX"]
    assert found.environment() == {VARIABLE: "SkylakeX"}
    assert found.words() == "chosen by rebirth and checked against float64; OpenBLAS picks Prescott"
    assert choose_kernels(xeon.install, xeon.env) is found, "asked once a process"


@pytest.mark.parametrize(
    ("wrong", "core"),
    [
        ({"SkylakeX": "is wrong in sgemm of 3 x 5 x 7"}, "Haswell"),
        ({"SkylakeX": "crash", "Haswell": "crash"}, "Zen"),
    ],
)
def test_wrong_and_crashing_ones_are_passed_over(xeon: Machine, wrong: dict[str, str], core: str) -> None:
    xeon.wrong = wrong
    found = xeon.choose()
    assert (found.core, found.by, list(found.passed)) == (core, "rebirth", list(wrong))
    assert "; SkylakeX is wrong in sgemm" in found.words() or "; SkylakeX does not run (the process" in found.words()
    assert xeon.choose() == found and xeon.tried == [], "and that is remembered"


def test_one_that_this_openblas_does_not_have(xeon: Machine) -> None:
    xeon.knows -= {"SkylakeX"}
    found = xeon.choose()
    assert found.core == "Haswell" and found.passed == {"SkylakeX": "is not in this OpenBLAS"}


@pytest.mark.parametrize("picks", ["SkylakeX", "Cooperlake", "SapphireRapids"])
def test_an_openblas_that_picks_well_is_left_alone(xeon: Machine, picks: str) -> None:
    xeon.picks, xeon.knows = picks, {*xeon.knows, picks}
    found = xeon.choose()
    assert found == Kernels(by="openblas", own=picks) and found.environment() == {} and xeon.tried == [""]
    assert found.words() == "picked by OpenBLAS" and found.name == picks


def test_what_it_picks_is_replaced_where_that_is_wrong(xeon: Machine) -> None:
    xeon.picks, xeon.wrong = "SkylakeX", {"SkylakeX": "is wrong in sgemv of 1 x 1"}
    found = xeon.choose()
    assert (found.core, found.own) == ("Haswell", "SkylakeX") and xeon.tried == ["", "Haswell"]
    xeon.wrong.update(Haswell="crash", Zen="crash")
    xeon.file.unlink()
    assert xeon.choose().core == "Nehalem", "slow and right"


def test_where_nothing_better_works_it_stays(xeon: Machine) -> None:
    xeon.wrong = dict.fromkeys(("SkylakeX", "Haswell", "Zen"), "crash")
    found = xeon.choose()
    assert (found.core, found.by, found.own) == ("", "openblas", "Prescott") and len(found.passed) == 3


@pytest.mark.parametrize("config", ["", "OpenBLAS 0.3.29 NO_AFFINITY {}"], ids=["another library", "one processor's"])
def test_other_libraries_are_left_alone(xeon: Machine, config: str) -> None:
    xeon.config = config
    assert xeon.choose() == Kernels() and xeon.choose().words() == ""
    assert not Path(xeon.env["HOME"]).exists()


def test_a_core_type_of_the_users_wins(xeon: Machine) -> None:
    xeon.env[VARIABLE] = "Nehalem"
    found = xeon.choose()
    assert found == Kernels("Nehalem", "user") and found.words() == f"set by {VARIABLE}" and not xeon.tried
    xeon.env[VARIABLE] = ""
    assert xeon.choose().core == "SkylakeX", "set to nothing is not set"


def test_nothing_is_started_where_nothing_can_be_won(xeon: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    lonely = CaffeInstall(xeon.install.binary, None, "somewhere")
    assert choose_kernels(lonely, xeon.env) == Kernels()
    monkeypatch.setattr(kernels.platform, "machine", lambda: "aarch64")
    assert xeon.choose() == Kernels()
    monkeypatch.setattr(kernels.platform, "machine", lambda: "x86_64")
    xeon.cpuinfo.unlink()
    assert xeon.choose() == Kernels() and not xeon.tried


def test_a_caffe_that_does_not_start_says_so_to_who_wants_it(xeon: Machine) -> None:
    xeon.wrong = {"Prescott": "crash"}
    assert xeon.choose() == Kernels() and not Path(xeon.env["HOME"]).exists()


def test_it_is_found_out_once(xeon: Machine, tmp_path: Path) -> None:
    found = xeon.choose()
    assert xeon.choose() == found and not xeon.tried
    # Another OpenBLAS, another processor, another Caffe: found out anew.
    xeon.library.write_bytes(b"newer blas")
    assert xeon.choose() == found and xeon.tried == ["", "SkylakeX"]
    xeon.cpuinfo.write_text(xeon.cpuinfo.read_text().replace("207", "143"))
    assert xeon.choose() == found and xeon.tried
    xeon.install = CaffeInstall(None, tmp_path / "other", "elsewhere")
    assert xeon.choose() == found and xeon.tried


@pytest.mark.parametrize(
    "text",
    [
        "",
        "{",
        "[]",
        "null",
        '{"library": []}',
        '{"library": ["LIBRARY", 4, 0], "kernels": {}}',
        '{"library": IDENTITY, "kernels": {"core": "SkylakeX; rm"}}',
        '{"library": IDENTITY, "kernels": {"core": 7}}',
        '{"library": IDENTITY, "kernels": {"core": "SkylakeX", "by": []}}',
        '{"library": IDENTITY, "kernels": {"core": "SkylakeX", "passed": 3}}',
        '{"library": IDENTITY, "kernels": {"core": "SkylakeX", "more": 3}}',
    ],
)
def test_a_damaged_file_is_found_out_anew(xeon: Machine, text: str) -> None:
    found = xeon.choose()
    whole = xeon.file.read_text()
    identity = json.dumps(json.loads(whole)["library"])
    xeon.file.write_text(text.replace("IDENTITY", identity).replace("LIBRARY", str(xeon.library)))
    assert xeon.choose() == found and xeon.tried == ["", "SkylakeX"] and xeon.file.read_text() == whole


def test_where_it_is_remembered(xeon: Machine, tmp_path: Path) -> None:
    xeon.env["XDG_CACHE_HOME"] = str(tmp_path / "cache")
    xeon.choose()
    assert len(list((tmp_path / "cache" / "rebirth").iterdir())) == 1 and not Path(xeon.env["HOME"]).exists()
    for env in ({}, {"HOME": ""}, {"HOME": "relative"}, {"XDG_CACHE_HOME": str(xeon.library)}):
        xeon.env = env
        assert xeon.choose().core == "SkylakeX" and xeon.choose().core == "SkylakeX" and xeon.tried, "nowhere"


# ---------------------------------------------------------------- the products that are checked

CHECK = """
import ctypes, runpy, sys
import numpy as np
worker, fault = sys.argv.pop(1), sys.argv.pop(1)
found = runpy.run_path(worker)
found["_wrong_product"].__globals__["np"] = np

def view(pointer, rows, columns):
    size = ctypes.cast(pointer, ctypes.POINTER(ctypes.c_float))
    return np.ctypeslib.as_array(size, (rows, columns))

class Library:
    def cblas_sgemm(self, order, ta, tb, m, n, k, alpha, a, lda, b, ldb, beta, c, ldc):
        left = view(a, k, m).T if ta == 112 else view(a, m, k)
        right = view(b, n, k).T if tb == 112 else view(b, k, n)
        out = view(c, m, n)
        out[:] = alpha.value * (left @ right) + beta.value * out
        if fault == "edge" and n % 4:
            out[-1, -1] += 0.01 * abs(out).max()
        if fault == "beta" and tb == 112:
            out -= 1e-3
        if fault == "nan" and m > 90:
            out[0, 0] = np.nan

    def cblas_sgemv(self, order, ta, m, n, alpha, a, lda, x, incx, beta, y, incy):
        matrix = view(a, m, n).T if ta == 112 else view(a, m, n)
        out = view(y, 1, matrix.shape[0])[0]
        out[:] = alpha.value * (matrix @ view(x, 1, matrix.shape[1])[0]) + beta.value * out
        if fault == "vector":
            out[-1] *= 1.001

print(found["_wrong_product"](Library()), file=sys.stderr)
"""


@pytest.mark.parametrize(
    ("fault", "said"),
    [
        ("none", ""),
        ("edge", "sgemm of 1 x 1"),
        ("beta", "sgemm of"),
        ("nan", "sgemm of 96"),
        ("vector", "sgemv of 1 x 1"),
    ],
)
def test_products_are_checked_against_float64(fault: str, said: str) -> None:
    worker = Path(kernels.__file__).with_name("worker.py")
    done = subprocess.run(
        [sys.executable, "-c", CHECK, str(worker), fault],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=True,
    )
    line = done.stderr.splitlines()[-1]
    assert line == "" if not said else line.startswith(f"is wrong in {said}")
