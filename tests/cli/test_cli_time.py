"""`rebirth time` on a stand-in for the machine, so that figures are known; tests/parity has real ones."""

from __future__ import annotations

import csv
import html.parser
from collections.abc import Iterable, Mapping
from pathlib import Path
from types import TracebackType

import jsondocs
import pytest
from cli_tools import Cli, SmallNet, complaint

from deeprebirth_caffe.bench.energy import EnergyMeter
from deeprebirth_caffe.bench.machine import Facts, facts
from deeprebirth_caffe.bench.targets import Job
from deeprebirth_caffe.engines.runners import RUNNERS
from deeprebirth_caffe.ir import Net
from deeprebirth_caffe.options.time import ENGINES

EVIL = "layer \u202e$(touch pwned)<script>alert(1)</script>"


class FakeNet:
    """Every pass takes as many ms as the net has layers; every layer 1 ms."""

    single = True
    pid = None

    def __init__(self, job: Job, target: FakeTarget) -> None:
        self.job = job
        self.target = target
        self.names = [layer.name for layer in Net.read(job.net).layers if layer.type != "Input"]

    def run(self, iterations: int, warmup: int) -> list[float]:
        self.target.turns += 1
        if self.target.turns == self.target.stop_at:
            raise KeyboardInterrupt
        return [float(len(self.names))] * iterations

    def layers(self, iterations: int) -> list[tuple[str, float]] | None:
        return [(name, 1.0) for name in self.names] if self.target.says_layers else None

    def describe(self) -> dict[str, object]:
        return {
            "engine": self.job.engine,
            "version": "7",
            "threads": 3,
            "blas": {"core": "Fast", "libraries": ["a", "b"], "chosen_by": "rebirth", "openblas_picks": "Slow"},
        }

    def peak_rss_bytes(self) -> int | None:
        return 3 * 2**20

    def notes(self) -> list[str]:
        return ["a note"]

    def close(self) -> None:
        self.target.closed += 1


class FakeMeter:
    method = "a stand-in"

    def start(self) -> None:
        pass

    def joules(self) -> float | None:
        return 0.53


class FakeTarget:
    """A machine on which nothing runs."""

    def __init__(self) -> None:
        self.name = "local"
        self.jobs: list[Job] = []
        self.turns = self.closed = 0
        self.stop_at = 0
        self.says_layers = True
        self.counter: EnergyMeter | str = "not available here: a stand-in"

    def __enter__(self) -> FakeTarget:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        pass

    def describe(self) -> Facts:
        return facts({"/proc/cpuinfo": "model name : A CPU\n", "/sys/devices/system/cpu/online": "0-1"})

    def read_files(self, patterns: Iterable[str]) -> Mapping[str, str]:
        return {"/proc/loadavg": "0.10 0 0 1/1 1\n", "/sys/class/thermal/thermal_zone0/temp": "40000\n"}

    def meter(self) -> EnergyMeter | str:
        return self.counter

    def open(self, job: Job) -> FakeNet:
        self.jobs.append(job)
        return FakeNet(job, self)


@pytest.fixture
def target(monkeypatch: pytest.MonkeyPatch) -> FakeTarget:
    fake = FakeTarget()
    monkeypatch.setattr("deeprebirth_caffe.commands.time.open_target", lambda spec, **options: fake)
    return fake


def test_the_engines_are_those_that_there_are() -> None:
    assert set(ENGINES) == set(RUNNERS)


def test_json(cli: Cli, net28: SmallNet, target: FakeTarget) -> None:
    result = cli("time", net28.deploy, "-w", net28.weights, "--vs", net28.deploy, "--fit", "1GiB", "--json")
    assert (result.code, result.err) == (0, "")
    jsondocs.check(result.data, "time")
    data = result.data
    first = data["nets"][0]
    assert first["best_ms"] == first["median_ms"] == len(first["layers"])
    assert len(first["runs_ms"]) == 10 and target.turns == 20 and target.closed == 2
    kernels = {
        "blas.core": "Fast",
        "blas.chosen_by": "rebirth",
        "blas.openblas_picks": "Slow",
        "blas.libraries": "a, b",
    }
    assert first["threads"] == 3 and first["runtime"] == {"version": "7", **kernels}
    assert first["weights"] == net28.weights and first["batch"] == 1
    tensor = [layer for layer in first["layers"] if layer["tensor"]]
    assert {layer["type"] for layer in tensor} == {"Convolution", "InnerProduct"}
    assert first["tensor_share"] == pytest.approx(len(tensor) / len(first["layers"]))
    assert {layer["stage"] for layer in first["layers"]} >= {"conv1", "inception_3a"}
    assert first["fit_batch"] > 100 and 0 < first["reused_bytes"] < first["memory_bytes"]
    assert first["energy"] == {
        "method": "not available here: a stand-in",
        **dict.fromkeys(("mj", "low_mj", "high_mj", "idle_watts")),
    }
    assert data["ratios"][0]["verdict"] == "no clear difference"
    assert data["warnings"] == [] and not data["interrupted"]


def test_nets_of_unlike_batch_are_brought_to_one(cli: Cli, net28: SmallNet, target: FakeTarget) -> None:
    ten = Path("ten.prototxt")
    text = Path(net28.deploy).read_text(encoding="utf-8")
    ten.write_text(text.replace("dim: 1 dim: 1 ", "dim: 10 dim: 1 ", 1), encoding="utf-8")
    assert Net.read(ten).view("TEST").batch == 10
    first, other = cli("time", net28.deploy, "--vs", ten, "--runs", 1, "--json").data["nets"]
    assert (first["batch"], other["batch"]) == (1, 1)
    assert "batch 1, as the first net, instead of its own 10" in other["notes"]
    assert not any("instead" in note for note in first["notes"])
    for key in ("memory_bytes", "reused_bytes", "memory_required_for_data"):
        assert other[key] == first[key]
    result = cli("time", ten, "--vs", net28.deploy, "--runs", 1)
    assert "times are of a pass of 10 images" in result.out and "instead of its own 1" in result.out
    both = cli("time", net28.deploy, "--vs", ten, "--runs", 1, "--batch", 3, "--json").data["nets"]
    assert [net["batch"] for net in both] == [3, 3] and not any("instead" in note for note in both[1]["notes"])


def test_a_net_that_trains(cli: Cli, net28: SmallNet, target: FakeTarget) -> None:
    plain = cli("time", net28.deploy, "--runs", 1, "--batch", 3, "--json").data["nets"][0]
    result = cli("time", net28.train_val, "--input-shape", net28.shape, "--runs", 1, "--batch", 3, "--json")
    found = result.data["nets"][0]
    assert any("`rebirth deploy`" in note for note in found["notes"])
    assert any("random weights" in note for note in found["notes"])
    for key in ("param_bytes", "memory_bytes", "reused_bytes", "batch"):
        assert found[key] == plain[key]
    assert [layer["name"] for layer in found["layers"]] == [layer["name"] for layer in plain["layers"]]
    assert plain["storage_with_heads_bytes"] is None
    assert found["storage_with_heads_bytes"] > found["storage_bytes"] > found["param_bytes"]


def test_a_net_that_trains_without_a_shape(cli: Cli, net28: SmallNet, target: FakeTarget) -> None:
    assert "--input-shape data=" in complaint(cli("time", net28.train_val), 1)


@pytest.mark.parametrize("by", ["layer", "type", "stage"])
def test_for_people(cli: Cli, net28: SmallNet, target: FakeTarget, by: str) -> None:
    target.counter = FakeMeter()
    result = cli("time", net28.deploy, "--vs", net28.deploy, "--by", by, "--runs", 6, "--fit", "1GiB")
    assert (result.code, result.err) == (0, "")
    rows = {line.split("  ")[0]: line for line in result.out.splitlines()}
    shown = {"layer": "inception_3a/3x3", "type": "Convolution", "stage": "inception_3a"}[by]
    assert shown in rows and "█" in rows[shown] + rows["total"] + rows.get("conv2", "")
    assert "no clear difference" in result.out
    assert "10.0 mJ" in result.out and "energy: a stand-in" in result.out
    assert (
        "A CPU, 2 cores" in result.out
        and "Fast kernels (chosen by rebirth; OpenBLAS picks Slow), 3 threads" in result.out
    )
    assert "batch in 1024.00 MiB" in result.out


def test_bars_without_letters_for_them(process: Cli, net28: SmallNet) -> None:
    # The process has no stand-in; --help is enough to see that it starts in any encoding.
    assert process("time", "--help", env={"PYTHONIOENCODING": "ascii", "LC_ALL": "C"}).code == 0


def test_an_engine_that_does_not_say(cli: Cli, net28: SmallNet, target: FakeTarget) -> None:
    target.says_layers = False
    data = cli("time", net28.deploy, "--json", "--runs", 2).data
    jsondocs.check(data, "time")
    assert data["nets"][0]["layers"] == [] and data["nets"][0]["tensor_share"] is None
    result = cli("time", net28.deploy, "--runs", 2, "--html", "x.html", "--csv", "x.csv")
    assert result.code == 0 and "does not say how long each layer takes" in result.out
    assert "does not say" in Path("x.html").read_text(encoding="utf-8")
    assert len(Path("x.csv").read_text(encoding="utf-8").splitlines()) == 2


def test_csv(cli: Cli, net28: SmallNet, target: FakeTarget) -> None:
    result = cli("time", net28.deploy, "--vs", net28.deploy, "--runs", 1, "--csv", "x.csv", "--json")
    with Path("x.csv").open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    layers = result.data["nets"][0]["layers"]
    assert len(rows) == 2 * (len(layers) + 1)
    for row, layer in zip(rows, layers, strict=False):
        assert (row["layer"], row["type"], row["stage"]) == (layer["name"], layer["type"], layer["stage"])
        assert float(row["forward_ms"]) == layer["forward_ms"] and bool(int(row["tensor"])) == layer["tensor"]


class Tags(html.parser.HTMLParser):
    """Sees that what is opened is closed, and remembers what is there."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.seen: list[str] = []
        self.addresses: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.seen.append(tag)
        self.addresses += [value or "" for name, value in attrs if name in ("src", "href")]
        if tag != "meta":
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.seen.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


def evil_net(path: Path) -> Path:
    path.write_text(
        'layer { name: "data" type: "Input" top: "data" input_param { shape { dim: 1 dim: 2 dim: 8 dim: 8 } } }\n'
        f'layer {{ name: "{EVIL}" type: "Convolution" bottom: "data" top: "x" '
        "convolution_param { num_output: 2 kernel_size: 1 } }\n",
        encoding="utf-8",
    )
    return path


def test_html_needs_nothing_else_and_runs_nothing(cli: Cli, net28: SmallNet, target: FakeTarget) -> None:
    net = evil_net(Path("a<b>&'.prototxt"))
    result = cli("time", net, "--vs", net28.deploy, "--html", "x.html", "--runs", 6, "--by", "layer")
    assert result.code == 0 and "wrote x.html" in result.out
    text = Path("x.html").read_text(encoding="utf-8")
    tags = Tags()
    tags.feed(text)
    tags.close()
    assert tags.open == [] and tags.addresses == []
    assert "script" not in tags.seen and tags.seen.count("svg") == 3
    assert "\u202e" not in text and "\\u202e$(touch pwned)&lt;script&gt;" in text
    assert "a&lt;b&gt;&amp;&#39;.prototxt" in text
    assert tags.seen.count("rect") > 20


def test_names_do_nothing_to_the_terminal(cli: Cli, target: FakeTarget) -> None:
    result = cli("time", evil_net(Path("n.prototxt")), "--by", "layer", "--runs", 1)
    assert result.code == 0 and "\\u202e$(touch pwned)" in result.out and "\u202e" not in result.out
    assert not Path("pwned").exists()


def test_what_is_given_reaches_the_target(cli: Cli, net28: SmallNet, target: FakeTarget) -> None:
    cli("time", net28.deploy, "--engine", "ncnn", "--threads", 2, "--cpus", "0x5", "--runs", 1)
    (job,) = target.jobs
    assert (job.engine, job.threads, job.cpus) == ("ncnn", 2, [0, 2])
    assert not job.net.exists()  # nothing is left behind


def test_an_interruption_shows_what_there_is(cli: Cli, net28: SmallNet, target: FakeTarget) -> None:
    target.stop_at = 6
    result = cli("time", net28.deploy, "--vs", net28.deploy, "--json")
    assert result.code == 130 and target.closed == 2
    jsondocs.check(result.data, "time")
    assert result.data["interrupted"] and len(result.data["nets"][1]["runs_ms"]) == 2
    assert result.data["warnings"] == ["interrupted: 2 whole runs were done"]


def test_an_interruption_before_there_is_anything(cli: Cli, net28: SmallNet, target: FakeTarget) -> None:
    target.stop_at = 1
    result = cli("time", net28.deploy, "--json", "--csv", "x.csv")
    assert (result.code, result.out) == (130, "") and "interrupted" in result.err
    assert target.closed == 1 and not Path("x.csv").exists()


def test_files_that_are_there(cli: Cli, net28: SmallNet, target: FakeTarget) -> None:
    for more in ((), ("--force",)):
        said = complaint(cli("time", net28.deploy, "--csv", net28.deploy, *more), 1)
        assert said.startswith(f"{net28.deploy}: this command reads {net28.deploy}")
        said = complaint(cli("time", net28.deploy, "--vs", net28.train_val, "--html", net28.train_val, *more), 1)
        assert said.startswith(f"{net28.train_val}: this command reads")
    assert "both name x" in complaint(cli("time", net28.deploy, "--csv", "x", "--html", "x"), 2)
    Path("there").touch()
    assert "--force" in complaint(cli("time", net28.deploy, "--csv", "there"), 1)
    assert "is a directory" in complaint(cli("time", net28.deploy, "--html", "."), 1)
    assert "no directory" in complaint(cli("time", net28.deploy, "--html", "none/x.html"), 1)
    assert target.turns == 0
    Path("x.csv").write_text("old")
    assert cli("time", net28.deploy, "--csv", "x.csv", "--force", "--runs", 1).code == 0
    assert Path("x.csv").read_text(encoding="utf-8") != "old"


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--vs", "{net}", "--vs-weights", "{w}", "--vs-weights", "{w}"], "2 times for 1 --vs"),
        (["--fit", "12"], "12GiB"),
        (["--fit", "0GiB"], "12GiB"),
        (["--cpus", "one"], "0-3,6"),
        (["--engine", "abacus"], "abacus"),
        (["--iterations", "0"], "iterations"),
        (["--cooldown", "nan"], "cooldown"),
    ],
)
def test_usage(cli: Cli, net28: SmallNet, target: FakeTarget, arguments: list[str], words: str) -> None:
    given = [one.format(net=net28.deploy, w=net28.weights) for one in arguments]
    assert words in complaint(cli("time", net28.deploy, *given), 2)


def test_a_place_that_there_is_not(cli: Cli, net28: SmallNet) -> None:
    assert "no such place" in complaint(cli("time", net28.deploy, "--on", "moon"), 2)


def test_weights_of_another_net(cli: Cli, net28: SmallNet, target: FakeTarget) -> None:
    evil_net(Path("n.prototxt"))
    assert "another net" in complaint(cli("time", "n.prototxt", "-w", net28.weights), 1)


@pytest.mark.parametrize(("text", "size"), [("12GiB", 12 * 2**30), ("1.5 mib", 3 * 2**19), ("2GB", 2 * 10**9)])
def test_sizes(cli: Cli, net28: SmallNet, target: FakeTarget, text: str, size: int) -> None:
    assert cli("time", net28.deploy, "--fit", text, "--runs", 1, "--json").data["protocol"]["fit_bytes"] == size


def test_old_nets_are_timed_too(cli: Cli, target: FakeTarget) -> None:
    Path("old.prototxt").write_text(
        'input: "data" input_dim: 1 input_dim: 2 input_dim: 8 input_dim: 8\n'
        'layers { name: "a" type: CONVOLUTION bottom: "data" top: "a" '
        "convolution_param { num_output: 2 kernel_size: 1 } }\n"
    )
    found = cli("time", "old.prototxt", "--runs", 1, "--json").data["nets"][0]
    assert any("old form V1" in note for note in found["notes"]) and found["layers"][0]["type"] == "Convolution"
