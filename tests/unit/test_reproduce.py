"""`scripts/reproduce.py`: its schedules, its table, what it refuses. Doing it all takes hours."""

from __future__ import annotations

import importlib.util
import json
import sys
import time
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import reports

from deeprebirth_caffe.errors import RebirthError
from deeprebirth_caffe.runs.schedule.files import parse_schedule

for library in ("pydantic", "yaml"):
    pytest.importorskip(library)


@pytest.fixture(scope="module")
def script() -> ModuleType:
    """The script as a module."""
    path = Path(__file__).parents[2] / "scripts" / "reproduce.py"
    spec = importlib.util.spec_from_file_location("reproduce", path)
    assert spec is not None and spec.loader is not None
    found = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = found  # dataclasses look there
    spec.loader.exec_module(found)
    return found


@pytest.fixture
def work(script: ModuleType, tmp_path: Path) -> Any:
    """Nothing done yet."""
    return script.Work("googlenet64", tmp_path, tmp_path, 0.1, "cpu", 1, time.monotonic() + 3600, True)


@pytest.mark.parametrize("trained", [False, True])
@pytest.mark.parametrize("net", ["googlenet64", "alexnet64", "resnet64"])
def test_its_schedules_are_sound(script: ModuleType, work: Any, net: str, trained: bool) -> None:
    weights = work.out / "mine.caffemodel" if trained else None
    made = dict(script.schedules(replace(work, net=net, weights=weights), work.seed(3), 3))
    assert list(made) == ["base", "paper", "best", *(["fast"] if net == "googlenet64" else [])][trained:]
    assert made["best"]["weights"] == (str(weights) if trained else "base-run/01-joint/result.caffemodel")
    for name, data in made.items():
        schedule = parse_schedule(json.dumps(data), name)
        assert (schedule.seed, schedule.engine.name, schedule.engine.threads) == (3, "torch", 1)
        if name == "base":
            assert schedule.joint is not None and schedule.joint.finetune.epochs == pytest.approx(
                script.EPOCHS[net] / 10
            )
            assert (schedule.steps, schedule.joint.finetune.clip_gradients) == ((), 0)
        else:
            own = parse_schedule(
                (script.CONFIGS / f"{net}{'' if name == 'paper' else f'-{name}'}.yaml").read_text(), name
            )
            lengths = [[step.finetune.epochs for step in one.steps] for one in (schedule, own)]
            assert lengths[0] == pytest.approx([one / 10 for one in lengths[1]])
            assert schedule.time is not None and (schedule.time.engines, schedule.time.iterations) == (("caffe",), 50)
            assert schedule.steps[0].paper == (name == "paper")
            looks = [step.calibrate.source for step in (schedule.steps[0], schedule.tucker) if step and step.calibrate]
            assert set(looks) == ({"own"} if name == "paper" else {str(work.data / "train_lmdb")})


def test_without_caffe_pytorch_is_timed(script: ModuleType, work: Any) -> None:
    made = dict(script.schedules(replace(work, caffe=False), work.seed(1), 1))
    assert made["paper"]["time"]["engines"] == made["best"]["time"]["engines"] == ["torch"]


def test_a_folder_keeps_its_settings(script: ModuleType, work: Any) -> None:
    script.check_same(work)
    script.check_same(replace(work, deadline=0.0))
    with pytest.raises(RebirthError, match=r"begun with scale 0\.1; choose another"):
        script.check_same(replace(work, scale=1.0))


def test_what_is_done_is_not_done_again(work: Any) -> None:
    asked = []
    for _ in range(2):
        assert work.done(work.out / "a.json", lambda: asked.append(1) or {"b": 2}) == {"b": 2}
    assert asked == [1]


def test_nothing_begins_when_the_time_is_up(script: ModuleType, work: Any) -> None:
    assert work.rebirth("zoo", "list")["nets"]
    with pytest.raises(script.Stopped):
        replace(work, deadline=time.monotonic()).rebirth("zoo", "list")


def test_the_figures(script: ModuleType, work: Any) -> None:
    for name in ("paper", "best", "fast"):
        reports.made_up(work.seed(1) / f"{name}-run")
    hits = reports.np.load(work.seed(1) / "paper-run/03-top/test.npy")
    hits[:8, 1] = 0
    reports.result(work.seed(1) / "paper-run/03-top", reports.scores(hits), hits)
    reports.write(work.seed(1) / "caffe-best.json", {"step": "top", "top1": 0.5, "top5": 0.75})
    told = {"losses": {"caffe": [1.0] * 20}, "first": 1e-8, "median": 1e-6, "most": 2e-4}
    reports.write(work.seed(1) / "caffe-training.json", told)
    data = {"classes": ["a", "b"], "databases": [{"path": "x/train_lmdb", "records": 1200}]}
    text = script.results(work, [1], data)
    assert "2 classes; pictures: 1,200 in train_lmdb. 2 epochs" in text
    assert (
        "In real Caffe the last one has 50.00 % and 75.00 %." in text
        and "over 20 iterations" in text
        and "2.0e-04 at most" in text
    )
    rows = [line for line in text.splitlines() if line.startswith("| top |")]
    assert len(rows) == 3 and all(row.endswith("| 3.20 |") for row in rows)
    (against,) = (line for line in text.splitlines() if line.startswith("| 1 | merged |"))
    lost = 100 * float(reports.np.load(work.seed(1) / "best-run/03-top/test.npy")[:8, 1].sum()) / len(hits)
    assert f"| 0.00 | {lost:.2f} (" in against


def test_a_section_takes_the_place_of_an_older_one(script: ModuleType) -> None:
    old, new = "## a64 from scratch (x)\n\n1\n", "## a64 from scratch (y)\n\n### best\n\n2\n"
    other = "# Measured\n\n## Data\n\n3\n"
    assert script.with_section("", new) == new
    assert script.with_section(other, new) == f"{other}\n{new}"
    assert script.with_section(f"{other}\n{old}\n## End\n", new) == f"{other}\n{new}\n## End\n"
