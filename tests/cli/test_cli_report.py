"""`rebirth report`, on a run that is made up and on a real one."""

from __future__ import annotations

import http.server
import os
import shutil
import subprocess
import threading
from pathlib import Path

import jsondocs
import pytest
import reports
from cli_tools import Cli, Everything, SmallNet, complaint

EXAMPLE = Path(__file__).parents[2] / "examples" / "googlenet28.caffemodel"

SCHEDULE = """
name: Digits
net: googlenet28/train_val.prototxt
weights: googlenet28.caffemodel
solver: googlenet28/solver.prototxt
engine: {name: torch, threads: 1}
test: {iterations: 1}
defaults: {finetune: {iterations: 2, batch: 2, tests: 1}}
steps:
  - {stages: conv1}
  - {stages: inception_3a, skip: true}
"""


@pytest.fixture
def run() -> Path:
    return reports.made_up(Path("out"), images=50)


def test_what_it_writes(cli: Cli, run: Path) -> None:
    result = cli("report", run)
    assert (result.code, result.err) == (0, "")
    assert result.out.splitlines()[-1] == "wrote out/report.html, out/report.md"
    assert "caffe, 1 thread: 3.20x as fast" in result.out
    page = (run / "report.html").read_text(encoding="utf-8")
    assert page.startswith("<!DOCTYPE html>") and "default-src 'none'" in page and "prefers-color-scheme" in page
    assert "http:" not in page.replace("http://www.w3.org/2000/svg", "") and "https:" not in page
    assert (run / "report.md").read_text(encoding="utf-8").startswith("# A small run\n")


def test_a_browser_asks_for_nothing_else(cli: Cli, run: Path) -> None:
    browser = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if browser is None:
        pytest.skip("there is no Chromium here")
    assert cli("report", run).code == 0
    asked: list[str] = []

    class Handler(http.server.SimpleHTTPRequestHandler):
        def do_GET(self) -> None:
            asked.append(self.path)
            super().do_GET()

        def log_message(self, *_: object) -> None:
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            command = [
                browser,
                "--headless",
                "--no-sandbox",
                "--disable-gpu",
                f"--user-data-dir={Path.cwd()}/browser",
                "--dump-dom",
            ]
            address = f"http://127.0.0.1:{server.server_port}/out/report.html"
            # The socket that it makes in TMPDIR must have a short name.
            env = {name: value for name, value in os.environ.items() if name != "TMPDIR"}
            done = subprocess.run([*command, address], capture_output=True, timeout=120, check=True, env=env)
        finally:
            server.shutdown()
            thread.join()
    assert b"A small run" in done.stdout
    assert asked == ["/out/report.html"]


def test_json(cli: Cli, run: Path) -> None:
    data = cli("report", run, "--json").data
    jsondocs.check(data, "report")
    assert data["files"] == ["out/report.html", "out/report.md"]
    base, top = data["steps"][0], data["steps"][3]
    lost = 100 * (base["test"]["top1"] - top["test"]["top1"])
    assert lost > 0 and top["lost"]["top1"]["points"] == pytest.approx(lost)
    assert top["lost"]["top1"]["low"] < lost < top["lost"]["top1"]["high"] and base["lost"] == {}
    assert data["times"][0]["speedup"] == 3.2


def test_json_of_a_run_that_has_only_begun(cli: Cli) -> None:
    reports.run_json(Path("out"), [("base", "base", [])])
    data = cli("report", "out", "--json").data
    jsondocs.check(data, "report")
    assert data["metrics"] == data["times"] == [] and data["steps"][0]["status"] == "not done"


def test_the_same_again(cli: Cli, run: Path, everything: Everything) -> None:
    assert cli("report", run).code == 0
    before = everything()
    assert cli("report", run).code == 0
    assert everything() == before


def test_elsewhere(cli: Cli, run: Path, everything: Everything) -> None:
    before = everything()
    assert cli("report", run, "-o", "there/it").code == 0
    assert sorted(path.name for path in Path("there/it").iterdir()) == ["report.html", "report.md"]
    said = complaint(cli("report", run, "-o", "there/it"), 1)
    assert "report.html" in said and "--force" in said
    Path("there/it/report.html").write_text("old", encoding="utf-8")
    assert cli("report", run, "-o", "there/it", "--force").code == 0
    assert Path("there/it/report.html").read_text(encoding="utf-8") != "old"
    shutil.rmtree("there")
    assert everything() == before


def test_what_is_no_run(cli: Cli, net28: SmallNet, everything: Everything) -> None:
    before = everything()
    assert "run.json" in complaint(cli("report", "googlenet28"), 1)
    assert "nowhere" in complaint(cli("report", "nowhere"), 2)
    assert "version 9" in complaint(cli("report", _of_version(9)), 1)
    shutil.rmtree("later")
    assert everything() == before


def _of_version(version: int) -> str:
    reports.write(Path("later/run.json"), {"version": version})
    return "later"


def test_a_real_run(cli: Cli, net28: SmallNet) -> None:
    for name in ("pydantic", "yaml", "torch", "lmdb", "cv2", "sklearn"):
        pytest.importorskip(name)
    shutil.copyfile(EXAMPLE, EXAMPLE.name)
    assert cli("data", "digits", "-o", "googlenet28/digits").code == 0
    Path("s.yaml").write_text(SCHEDULE, encoding="utf-8")
    done = cli("run", "s.yaml", "-o", "out", "--json")
    assert done.code == 0, done.err
    result = cli("report", "out", "--json")
    assert result.code == 0, result.err
    jsondocs.check(result.data, "report")
    assert [(step["step"], step["status"]) for step in result.data["steps"]] == [
        ("base", "done"),
        ("conv1", "done"),
        ("inception_3a", "skipped"),
        ("deploy", "done"),
    ]
    # What rebirth run says, rebirth report says too.
    base, conv1 = done.data["results"][:2]
    assert result.data["steps"][1]["test"]["top1"] == conv1["test"]["top1"]
    assert result.data["steps"][1]["lost"]["top1"]["points"] == pytest.approx(conv1["drop"]["top1"])
    said = Path("out/report.md").read_text(encoding="utf-8")
    assert f"{100 * base['test']['top1']:.2f} %" in said and "conv1/5x5_merge" in said
    assert "conv1, train" in said and "rebirth run" not in said.split("## To repeat it")[0]
    assert Path("out/report.html").read_text(encoding="utf-8").count("<svg") == 5
