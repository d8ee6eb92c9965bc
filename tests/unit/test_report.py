"""The report of a run, part by part: what is read, what figures say together, pictures, words."""

from __future__ import annotations

import html.parser
import json
import re
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import reports
from markupsafe import escape

from deeprebirth_caffe.errors import RebirthError
from deeprebirth_caffe.pages.drawing import Panel
from deeprebirth_caffe.runs.report.curves import Line, nice, plot, tick
from deeprebirth_caffe.runs.report.figures import metrics, own_output, paired, pairs, trade
from deeprebirth_caffe.runs.report.gather import Run, gather
from deeprebirth_caffe.runs.report.graph import panels_of
from deeprebirth_caffe.runs.report.html import page
from deeprebirth_caffe.runs.report.logs import POINTS, read_log
from deeprebirth_caffe.runs.report.markdown import text
from deeprebirth_caffe.runs.report.sections import Table, duration, interval, sections

EVIL = "a|b\u202e<script>alert(1)</script>\n# no"


@pytest.fixture(scope="session")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that nobody changes."""
    return reports.made_up(tmp_path_factory.mktemp("report") / "out")


@pytest.fixture(scope="session")
def run(folder: Path) -> Run:
    return gather(folder)


def table(found: Run, title: str) -> list[list[str]]:
    """The first table of a section."""
    section = next(one for one in sections(found) if one.title == title)
    rows = next(block for block in section.blocks if isinstance(block, Table)).rows
    return [list(row) for row in rows]


class Tags(html.parser.HTMLParser):
    """Sees that what is opened is closed, and remembers what is there."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.seen: list[str] = []
        self.addresses: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.seen.append(tag)
        self.addresses += [value or "" for name, value in attrs if name in ("src", "href", "srcset", "data", "action")]
        if tag != "meta":
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.seen.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


def test_what_is_gathered(run: Run) -> None:
    assert [step.name for step in run.steps] == ["base", "conv1", "3a", "top", "deploy", "time"]
    assert run.base is run.steps[0] and run.last is run.steps[3]
    assert [step.name for step in run.learned] == ["conv1", "3a", "top"]
    conv1 = run.steps[1]
    assert conv1.manifest is not None and conv1.manifest.data["rewrites"][0]["stage"] == "conv1"
    assert conv1.hits is not None and conv1.hits.shape == (400, 2)
    assert [(log.label, log.iterations) for log in conv1.logs] == [("train", 50)]
    # What the other two test is the last net again.
    assert not run.steps[4].test and not run.steps[5].test
    assert [timing.label for timing in run.timings] == ["caffe, 1 thread"]


def test_accuracies_come_from_the_files(run: Run, folder: Path) -> None:
    head, *rows = table(run, "Accuracy by step")
    assert head[:5] == ["step", "top1", "top5", "points lost", "95 % interval"]
    for row, name in zip(rows, ("00-base", "01-conv1", "02-3a", "03-top"), strict=True):
        test = json.loads((folder / name / "result.json").read_text(encoding="utf-8"))["test"]
        assert row[1:3] == [f"{100 * test['top1']:.2f} %", f"{100 * test['top5']:.2f} %"]
    assert rows[1][5] == "10.00 %" and rows[0][3] == rows[0][4] == rows[0][5] == "-"
    manifest = json.loads((folder / "03-top/convert/manifest.json").read_text(encoding="utf-8"))
    assert rows[3][6] == f"{manifest['after']['params'] / 1000:.2f} k"


def test_the_metric_of_the_schedule_comes_first(tmp_path: Path) -> None:
    hits = np.ones((4, 2), np.uint8)
    for wanted, expected in (("top5", ("top5", "top1")), ("loss3/acc", ("loss3/acc", "top1", "top5"))):
        (base,) = reports.run_json(tmp_path, [("base", "base", [])], schedule={"test": {"metric": wanted}})
        reports.result(base, {**reports.scores(hits), "loss3/acc": 1.0}, hits)
        assert metrics(gather(tmp_path)) == expected
    reports.result(base, {"loss": 0.3, "aux/accuracy": 0.5, "accuracy": 0.7})
    assert metrics(gather(tmp_path)) == ("aux/accuracy", "accuracy")


def test_pairs_of_images() -> None:
    before, after = np.ones(1000, bool), np.ones(1000, bool)
    after[:100] = False
    found = paired(before, after)
    assert found.points == pytest.approx(10)
    assert found.low is not None and found.high is not None
    reach = 100 * 1.959964 * np.sqrt(0.1 * 0.9 / 999)
    assert (found.low, found.high) == pytest.approx((10 - reach, 10 + reach))
    # As many won as lost: no drop, and an interval around it.
    before[:50], after[:50], after[50:100] = False, True, False
    even = paired(before, after)
    assert even.points == 0 and even.low == -even.high  # type: ignore[operator]
    assert paired(before, before).low is None


def test_pairs_say_less_noise_than_two_tests_would() -> None:
    random = np.random.default_rng(0)
    before = random.random(5000) < 0.6
    after = before ^ (random.random(5000) < 0.02)
    found = paired(before, after)
    assert found.low is not None and found.high is not None
    alone = 100 * 1.96 * np.sqrt(2 * 0.6 * 0.4 / 5000)
    assert found.high - found.points < alone / 4


@pytest.mark.parametrize("swapped", [False, True])
def test_ratios_either_way_round(tmp_path: Path, swapped: bool) -> None:
    both = [("deploy", "deploy", []), ("time", "time", [])]
    base, deploy, time = reports.run_json(tmp_path, [("base", "base", []), *both])
    step = reports.scores(np.ones((4, 2), np.uint8))
    reports.result(base, step)
    reports.result(deploy, step)
    # Made when the folder had another number, and another place.
    nets = [reports.timed(Path(f"/else/07-deploy/{one}deploy.prototxt"), ms, {}) for one, ms in (("base/", 8), ("", 2))]
    names = [net["net"] for net in nets]
    ratio: dict[str, Any] = {"net": names[0], "vs": names[1], "median": 4.0, "low": 3.2, "high": 5.0}
    if swapped:
        ratio = {"net": names[1], "vs": names[0], "median": 0.25, "low": 0.2, "high": 0.3125}
    reports.times_json(time, reports.time_json(nets, [ratio]))
    run = gather(tmp_path)
    # Without a step there is nothing to compare.
    assert pairs(run) == []
    _, conv1, deploy, time = reports.run_json(tmp_path, [("base", "base", []), ("conv1", "step", ["conv1"]), *both])
    reports.result(conv1, step)
    reports.result(deploy, step)
    reports.times_json(time, reports.time_json(nets, [ratio]))
    (pair,) = pairs(gather(tmp_path))
    assert (pair.before["median_ms"], pair.after["median_ms"]) == (8, 2)
    assert (pair.speedup, pair.low, pair.high) == pytest.approx((4.0, 3.2, 5.0))
    assert interval(pair) == "3.20 to 5.00"
    assert interval(replace(pair, low=0.9)) == "0.90 to 5.00, not to be told from 1"
    reports.times_json(time, reports.time_json(nets))
    (pair,) = pairs(gather(tmp_path))
    assert (pair.speedup, pair.low) == (4.0, None)


def test_the_curve_against_speed(run: Run) -> None:
    (pair,) = pairs(run)
    found = trade(run, pair, "top1")
    assert [(point.name, point.measured) for point in found] == [
        ("base", True),
        ("conv1", False),
        ("3a", False),
        ("top", True),
    ]
    # conv1 alone: one stage of 2.4 ms takes 0.8 instead, of 14.4 in all.
    assert [point.speedup for point in found] == pytest.approx([1, 14.4 / 12.8, 14.4 / 11.2, 3.2])


def test_with_tucker_the_merged_net_has_a_time_of_its_own(tmp_path: Path) -> None:
    kinds = [("base", "base"), ("conv1", "step"), ("tucker", "tucker"), ("deploy", "deploy"), ("time", "time")]
    folders = reports.run_json(tmp_path, [(name, kind, []) for name, kind in kinds])
    for step, top1 in zip(folders[:3], (0.9, 0.8, 0.7), strict=True):
        reports.result(step, {"top1": top1})
    reports.result(folders[3])
    places = [(folders[3] / name / "deploy.prototxt", ms) for name, ms in (("base", 12.0), ("merged", 4.0), ("", 2.0))]
    reports.times_json(folders[4], reports.time_json([reports.timed(net, ms, {}) for net, ms in places]))
    run = gather(tmp_path)
    (pair,) = pairs(run)
    assert pair.speedup == 6
    found = trade(run, pair, "top1")
    assert [(point.name, point.speedup, point.accuracy) for point in found] == [
        ("base", 1, 0.9),
        ("conv1", 3, 0.8),
        ("tucker", 6, 0.7),
    ]


def test_time_by_stage(run: Run) -> None:
    head, *rows = table(run, "Time by stage: caffe, 1 thread")
    assert head == ["stage", "before ms", "after ms", "times as fast", "95 % interval"]
    assert rows[0] == ["conv1", "2.400", "0.800", "3.00x", "-"]
    assert rows[-1] == ["whole pass", "15.0", "5.000", "3.20x", "3.10 to 3.30"]


def test_stages_before_and_after(run: Run) -> None:
    found = {panel.stage: panel for panel in panels_of(run)}
    assert list(found) == ["conv1", "conv2", "inception_3a", "inception_3b", "loss1", "inception_4a", "loss3"]
    assert [stage for stage, panel in found.items() if not panel.changed] == ["conv2", "loss1", "loss3"]
    conv1 = found["conv1"]
    assert conv1.gone == ("conv1/5x5", "pool1/3x3_s2", "pool1/norm1") and conv1.new == ("conv1/5x5_merge",)
    assert conv1.layers == (4, 2)
    module = found["inception_3a"]
    assert module.before.count("<rect") == 8 and module.after.count("<rect") == 5  # ReLUs are in the boxes
    assert module.before.count('class="edge"') == 7 and module.after.count('class="edge"') == 4
    assert module.after.count('class="box new"') == len(module.new) == 3


def boxes(panel: Panel) -> list[tuple[float, float]]:
    return [(float(x), float(y)) for x, y in re.findall(r'<rect x="([\d.]+)" y="([\d.]+)"', panel.before)]


def test_boxes_do_not_overlap(run: Run) -> None:
    for panel in panels_of(run):
        places = boxes(panel)
        assert len(places) > 0
        for index, (x, y) in enumerate(places):
            assert all(abs(x - left) >= 122 or abs(y - top) >= 36 for left, top in places[:index])


def test_edges_over_several_rows_go_down_beside_the_boxes(run: Run) -> None:
    module = next(panel for panel in panels_of(run) if panel.stage == "inception_3a")
    edges = re.findall(r'class="edge" d="M([\d.]+) ([\d.]+)V([\d.]+)L([\d.]+) ([\d.]+)"', module.before)
    assert len(edges) == 7
    # What is slanted lies between two rows, where no box is.
    assert {float(end) - float(bend) for _, _, bend, _, end in edges} == {22.0}
    assert [float(bend) - float(top) for _, top, bend, _, _ in edges].count(58.0) == 1  # 1x1 to the Concat


def test_costs_are_of_one_image(run: Run) -> None:
    manifest = json.loads((run.folder / "03-top/convert/manifest.json").read_text(encoding="utf-8"))
    rows = {row[0]: row for row in table(run, "In short")}
    after = manifest["after"]
    assert after["batch"] > 1
    assert rows["multiply-adds of an image"][2] == f"{after['macs'] / 1e6:.2f} M"
    assert rows["memory of an image in Caffe"][2] == f"{after['memory_bytes'] / 2**20:.2f} MiB"
    assert table(run, "Accuracy by step")[-1][7] == rows["multiply-adds of an image"][2]


def test_what_made_times_worth_less_stands_beside_them(run: Run) -> None:
    said = text("t", "r", [one for one in sections(run) if one.title.startswith("Time by stage")])
    assert "Warning: the machine was busy." in said


def test_without_the_first_net_those_that_are_deployed_are_compared(tmp_path: Path) -> None:
    folder = reports.made_up(tmp_path / "out")
    (folder / "00-base/train_val.prototxt").unlink()
    found = {panel.stage: panel for panel in panels_of(gather(folder))}
    assert "loss1" not in found and found["conv1"].new == ("conv1/5x5_merge",)
    (folder / "04-deploy/deploy.prototxt").unlink()
    assert panels_of(gather(folder)) == []


def test_a_run_that_has_only_begun(tmp_path: Path) -> None:
    base, conv1 = reports.run_json(tmp_path, [("base", "base", []), ("conv1", "step", ["conv1"])])
    found = sections(gather(tmp_path))
    assert [one.title for one in found] == ["In short", "Machine and versions", "To repeat it"]
    reports.result(base, reports.scores(np.ones((3, 2), np.uint8)))
    reports.log(conv1 / "train" / "log.jsonl", [1.0, 0.5])
    with (conv1 / "train" / "log.jsonl").open("a", encoding="utf-8") as file:
        file.write('{"iteration": 2, "lo')  # it is being written
    run = gather(tmp_path)
    _, *rows = table(run, "Accuracy by step")
    assert [row[-1] for row in rows] == ["done", "not done"]
    assert table(run, "Training")[1][:2] == ["conv1, train", "2"]


def test_steps_that_do_not_count(tmp_path: Path) -> None:
    names = ("base", "conv1", "conv2", "3a")
    steps = reports.run_json(tmp_path, [(name, "base" if name == "base" else "step", []) for name in names])
    for step, top1 in zip(steps, (0.9, 0.85, 0.2, 0.9), strict=True):
        reports.result(step, {"top1": top1})
    reports.result(
        steps[2], {"top1": 0.2}, status="rolled back", why="its top1 is 65.00 points under", attempts=[{}] * 3
    )
    reports.result(steps[3], {"top1": 0.85}, status="skipped")
    run = gather(tmp_path)
    assert run.last is run.steps[1]
    _, *rows = table(run, "Accuracy by step")
    assert [row[-1] for row in rows] == ["done", "done", "rolled back, 3 attempts", "skipped"]
    assert rows[2][1] == "20.00 %" and rows[3][1] == "-"
    summary = table(run, "In short")
    assert summary[1] == ["top1", "90.00 %", "85.00 %", "5.00 lost", "-"]
    said = text("t", "r", sections(run))
    assert "conv2 (rolled back), 3a (skipped)" in said and "conv2: its top1 is 65.00 points under." in said


def test_what_rests_on_a_step_that_is_made_anew_is_of_the_past(tmp_path: Path) -> None:
    folder = reports.made_up(tmp_path / "out")
    assert gather(folder).timings
    result = folder / "01-conv1/result.json"
    result.unlink()
    run = gather(folder)
    assert [step.status for step in run.steps] == ["done", *["not done"] * 5]
    assert run.last is run.base and not run.timings and not run.steps[2].test
    reports.result(result.parent, {"top1": 0.1}, status="over budget")
    assert [step.status for step in gather(folder).steps[:3]] == ["done", "over budget", "not done"]


@pytest.mark.parametrize(
    ("file", "content", "words"),
    [
        ("run.json", "{", "run.json: cannot be read"),
        ("run.json", '{"version": 2}', "version 2, and this rebirth reads 1"),
        ("run.json", '{"version": 1, "steps": [{"folder": "00-base"}]}', "run.json: cannot be read"),
        ("00-base/result.json", "[1]", "00-base/result.json"),
        ("00-base/test.npy", "no array", "00-base/test.npy: cannot read it: this is no array, or a damaged one"),
        ("01-conv1/convert/manifest.json", "", "01-conv1/convert/manifest.json: cannot be read"),
        (
            "01-conv1/convert/manifest.json",
            '{"version": 1}',
            "01-conv1/convert/manifest.json: cannot be read (it lacks outputs)",
        ),
        ("01-conv1/train/log.jsonl", "what\n", "log.jsonl: line 1 is none of a log"),
        ("01-conv1/train/log.jsonl", '{"iteration": 0, "lr": 1, "loss": "x"}\n', "log.jsonl: line 1 is none of a log"),
        ("05-time/time.json", '{"version": 1, "times": [1]}', "05-time/time.json: cannot be read"),
        ("run.json", '{"version": "' + "9" * 500 + '"}', "and this rebirth reads 1"),
        ("run.json", "[" * 100_000, "run.json: cannot be read (its lists and objects are nested more than 100 deep)"),
        ("run.json", '{"steps": ' + "[" * 500 + "]" * 500 + "}", "nested more than 100 deep"),
        ("run.json", '{"steps": [{"folder": "00-x/../../y", "name": "x", "kind": "base", "stages": []}]}', "folder is"),
        ("00-base/result.json", '{"status": "done", "test": [1]}', "(test is a list, not an object)"),
        ("00-base/result.json", '{"status": "done", "test": {"top1": 1' + "0" * 400 + "}}", "not a list"),
        ("00-base/result.json", '{"status": "done", "seconds": 1' + "0" * 5000 + "}", "00-base/result.json"),
        ("00-base/result.json", '{"status": "done", "seconds": Infinity}', "(seconds is Infinity, not a number)"),
        (
            "00-base/result.json",
            '{"status": "done", "per_image": "../x"}',
            '(per_image is "../x", not the name of a file)',
        ),
        ("00-base/test.npy", "\x93NUMPY\x01\x00\x10\x00{'descr': '|u1' ", "this is no array"),
        ("01-conv1/convert/manifest.json", '{"outputs": {"net": "a"}, "rewrites": [{}]}', "it lacks rewrites[0].stage"),
        ("01-conv1/train/log.jsonl", '{"iteration": 1' + "0" * 200 + ', "lr": 1, "loss": 1}\n', "is a long number"),
        (
            "05-time/time.json",
            '{"times": [{"time": {"nets": [{"median_ms": 0}]}}]}',
            "05-time/time.json: cannot be read",
        ),
    ],
)
def test_files_that_are_damaged(tmp_path: Path, file: str, content: str, words: str) -> None:
    folder = reports.made_up(tmp_path / "out", images=10)
    (folder / file).write_text(content, encoding="utf-8")
    with pytest.raises(RebirthError) as caught:
        gather(folder)
    assert words in str(caught.value) and str(folder) in str(caught.value) and "\n" not in str(caught.value)


def test_hits_of_another_shape(tmp_path: Path) -> None:
    (base,) = reports.run_json(tmp_path, [("base", "base", [])])
    reports.result(base, {"top1": 1.0}, np.ones((3, 1), np.uint8))
    with pytest.raises(RebirthError, match="two numbers"):
        gather(tmp_path)


def test_a_long_log_becomes_a_short_curve(tmp_path: Path) -> None:
    losses: list[float | None] = [5.0 - index / 1000 for index in range(4000)]
    losses[7] = None
    rates = [0.1] * 1760 + [0.01] * 2240
    reports.log(tmp_path / "x.jsonl", losses, rates, test_every=500)
    found = read_log(tmp_path / "x.jsonl")
    assert found.iterations == 4000 and len(found.loss) == POINTS and found.bad == 1 and found.falls == (1760,)
    known = [loss for loss in losses if loss is not None]
    assert np.mean([loss for _, loss in found.loss]) == pytest.approx(np.mean(known), abs=0.01)
    assert found.tests["accuracy"][:2] == ((0.0, 0.0), (500.0, 0.125))


def test_tests_and_losses_that_are_no_number_are_not_drawn(tmp_path: Path) -> None:
    rows = [{"iteration": 0, "lr": 0.1, "loss": float("inf")}, {"iteration": 1, "lr": 0.1, "loss": 2.0}]
    rows = [
        row | {"tests": [{"iteration": row["iteration"], "net": 0, "outputs": {"accuracy": float("nan")}}]}
        for row in rows
    ]
    (tmp_path / "x.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    found = read_log(tmp_path / "x.jsonl")
    assert (found.bad, found.loss, found.tests) == (1, ((1.0, 2.0),), {})


def test_a_rate_that_falls_all_the_time_has_no_marks(tmp_path: Path) -> None:
    reports.log(tmp_path / "x.jsonl", [1.0] * 10, [1 - index / 10 for index in range(10)])
    assert read_log(tmp_path / "x.jsonl").falls == ()


def test_an_empty_log(tmp_path: Path) -> None:
    reports.log(tmp_path / "x.jsonl", [])
    assert read_log(tmp_path / "x.jsonl").iterations == 0


@pytest.mark.parametrize(
    ("metric", "outputs", "expected"),
    [
        ("top1", ["loss1/top-1", "loss3/top-1", "loss3/top-5"], "loss3/top-1"),
        ("top5", ["loss1/top-1", "loss3/top-1", "loss3/top-5"], "loss3/top-5"),
        ("top1", ["loss", "accuracy"], "accuracy"),
        ("top5", ["loss", "accuracy"], ""),
        ("my", ["my", "accuracy"], "my"),
    ],
)
def test_the_output_that_stands_for_a_metric(metric: str, outputs: list[str], expected: str) -> None:
    assert own_output(metric, outputs) == expected


def test_plots() -> None:
    points = [(float(index), 10.0 ** -(index / 10)) for index in range(41)]
    drawn = plot([Line(points)], "loss <1>", "iteration", marks=[20])
    assert "loss &lt;1&gt;" in drawn and drawn.count('class="mark"') == 1
    assert re.findall(r'text-anchor="end">([^<]+)<', drawn)[:5] == ["0.0001", "0.001", "0.01", "0.1", "1"]
    (path,) = re.findall(r'class="line tensor-line" d="M([^"]+)"', drawn)
    places = [tuple(map(float, place.split())) for place in path.split("L")]
    assert len(places) == 41
    steps = {round(b[1] - a[1], 1) for a, b in pairwise(places)}
    assert max(steps) - min(steps) < 0.11  # straight, since the axis is logarithmic
    for x, y in places:
        assert 62 <= x <= 464 and 26 <= y <= 224


def test_a_plot_of_one_value() -> None:
    for value in (0.0, 3.0, -2.0):
        assert plot([Line([(0.0, value)], dots=True)], "a", "b").count("<circle") == 1


def test_numbers_of_axes() -> None:
    assert [nice(value) for value in (0.3, 1.0, 1.1, 2.1, 70)] == pytest.approx([0.5, 1, 2, 5, 100])
    assert [tick(value) for value in (0.0, 1e-17, 0.25, 1000, 90_000)] == ["0", "0", "0.25", "1000", "90k"]


def test_durations() -> None:
    assert [duration(value) for value in (None, 7.2, 59.6, 90, 3600, 36_060)] == [
        "-",
        "7 s",
        "60 s",
        "2 min",
        "1 h 00 min",
        "10 h 01 min",
    ]


def test_words_from_files_do_nothing(tmp_path: Path) -> None:
    base, conv1 = reports.run_json(
        tmp_path,
        [("base", "base", []), ("conv1", "step", [EVIL])],
        name=EVIL,
        engines={EVIL: EVIL},
        commands=[{"command": ["rebirth", EVIL]}],
    )
    (tmp_path / "schedule.yaml").write_text("```\n</pre><script>\u202e\n", encoding="utf-8")
    reports.result(base, {"top1": 0.5, f"acc {EVIL}": 0.5})
    reports.result(conv1, {"top1": 0.5, f"acc {EVIL}": 0.5}, why=EVIL, status=EVIL)
    run = gather(tmp_path)
    for written in (page(run.title, EVIL, sections(run)), text(run.title, EVIL, sections(run))):
        assert "\u202e" not in written and "\n# no" not in written
    tags = Tags()
    tags.feed(page(run.title, EVIL, sections(run)))
    tags.close()
    assert tags.open == [] and "script" not in tags.seen and tags.addresses == []
    said = text(run.title, EVIL, sections(run))
    assert "<script>alert" not in said.split("```")[0] and "a\\|b" in said
    fence = next(line for line in said.splitlines() if set(line) == {"`"} and len(line) > 3)
    assert said.count(f"\n{fence}\n") == 2


def test_the_page_and_markdown_say_the_same(run: Run) -> None:
    found = sections(run)
    both = page(run.title, "", found), text(run.title, "", found)
    for section in found:
        for block in section.blocks:
            if isinstance(block, Table):
                for row in block.rows:
                    for cell in row:
                        assert f">{escape(cell)}<" in both[0] or not cell
                        assert f" {cell} " in both[1] or not cell
