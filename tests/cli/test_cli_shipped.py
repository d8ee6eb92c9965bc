"""`rebirth config` and `rebirth docs`: what comes with the package."""

from __future__ import annotations

from pathlib import Path

import jsondocs
import pytest
from cli_tools import Cli, complaint

from deeprebirth_caffe.commands import shipped
from deeprebirth_caffe.runs.schedule.files import read_schedule

ROOT = Path(__file__).parents[2]


def test_list(cli: Cli) -> None:
    data = cli("config", "list", "--json").data
    jsondocs.check(data, "config list")
    assert [one["name"] for one in data["configs"]] == sorted(path.stem for path in (ROOT / "configs").glob("*.yaml"))
    shown = cli("config", "list").out.splitlines()
    assert len(shown) == len(data["configs"])
    assert all(
        one["description"] and one["description"] in line for one, line in zip(data["configs"], shown, strict=True)
    )


@pytest.mark.parametrize("name", [config.name for config in shipped.configs()])
def test_a_schedule_that_is_written_is_the_one_in_the_repository(cli: Cli, name: str) -> None:
    result = cli("config", "show", name, "-o", "mine.yaml")
    assert result.code == 0 and result.out.startswith("wrote mine.yaml")
    assert read_schedule(Path("mine.yaml")) == read_schedule(ROOT / "configs" / f"{name}.yaml")
    text = Path("mine.yaml").read_text(encoding="utf-8")
    assert "# rebirth run mine.yaml --net" in text and "configs/" not in text and "$schema" not in text
    assert cli("config", "show", name).out == text.replace("mine.yaml", f"{name}.yaml")


def test_nothing_is_overwritten(cli: Cli) -> None:
    Path("mine.yaml").write_text("precious")
    assert "--force" in complaint(cli("config", "show", "googlenet", "-o", "mine.yaml"), 1)
    assert Path("mine.yaml").read_text() == "precious"
    assert cli("config", "show", "googlenet", "-o", "mine.yaml", "--force").code == 0


def test_names_as_people_type_them(cli: Cli) -> None:
    assert cli("config", "show", "configs/googlenet.yaml").out == cli("config", "show", "googlenet").out
    assert "there is no schedule 'nope'; there are alexnet," in complaint(cli("config", "show", "nope"), 2)
    assert "there is no page 'nope'; there are android," in complaint(cli("docs", "nope"), 2)


def test_docs(cli: Cli) -> None:
    shown = cli("docs").out
    pages = sorted((ROOT / "docs").glob("*.md"))
    assert [line.split()[0] for line in shown.splitlines()] == [page.stem for page in pages]
    for name in ("caffe", "caffe.md", "docs/caffe.md"):
        assert cli("docs", name).out.rstrip() == (ROOT / "docs/caffe.md").read_text(encoding="utf-8").rstrip()


def test_an_installation_without_them_says_so(cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shipped, "PACKAGE", Path.cwd())
    assert "missing from this installation" in complaint(cli("config", "list"), 1)
