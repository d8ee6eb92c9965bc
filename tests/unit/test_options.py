"""The models of options: what a command line says, what a model says on a command line, and what is remembered."""

from __future__ import annotations

import importlib
import pkgutil
import shlex
from collections.abc import Iterator
from dataclasses import dataclass, fields, is_dataclass, replace
from pathlib import Path
from typing import Any

import click
import pytest

from deeprebirth_caffe import options
from deeprebirth_caffe.cli import COMMANDS, rebirth
from deeprebirth_caffe.cli.reading import command as told
from deeprebirth_caffe.errors import UsageError
from deeprebirth_caffe.options.convert import ConvertOptions
from deeprebirth_caffe.options.fields import (
    TITLES,
    argument,
    group,
    keys,
    leaves,
    needed,
    option,
    read,
    record,
    scheduled,
    taken,
    words,
)
from deeprebirth_caffe.options.finetune import FinetuneOptions, TeacherOptions
from deeprebirth_caffe.options.kinds import FLAG, TEXT, Flag, Kind, OneOf, Place, Real, Spelled, Whole
from deeprebirth_caffe.options.plan import PlanOptions, Target
from deeprebirth_caffe.options.shared import CalibrationOptions, EngineOptions, PictureOptions, SolverOptions

MODELS = {
    "convert": ConvertOptions,
    "finetune": FinetuneOptions,
    "plan": PlanOptions,
}


def models() -> Iterator[type[Any]]:
    """All classes with options."""
    for part in pkgutil.iter_modules(options.__path__):
        module = importlib.import_module(f"{options.__name__}.{part.name}")
        for value in vars(module).values():
            own = isinstance(value, type) and is_dataclass(value) and value.__module__ == module.__name__
            if own and any("rebirth" in one.metadata for one in fields(value)):
                yield value


def parsed(command: click.Command, line: list[str]) -> Any:
    """What a command's function is given for a command line."""
    taken: list[Any] = []
    inner = told(str(command.name), MODELS[str(command.name)], json=False)(lambda found: taken.append(found))
    inner.main(line, standalone_mode=False)
    return taken[0]


def command_of(name: str) -> click.Command:
    found = rebirth.get_command(click.Context(rebirth), name)
    assert found is not None
    return found


def test_each_option_says_what_it_is() -> None:
    count = 0
    for model in models():
        helped = {leaf.option.name for leaf in leaves(model) if leaf.option.help or leaf.option.place}
        for leaf in leaves(model):
            count += 1
            assert (leaf.option.title or "") in ("", *TITLES)
            assert leaf.option.name in helped or model is CalibrationOptions, (model, leaf.path)
    assert count > 150


def test_flags_mean_one_thing_in_a_command() -> None:
    for model in models():
        kinds: dict[str, Kind] = {}
        for leaf in leaves(model):
            for flag in leaf.option.flags:
                assert kinds.setdefault(flag, leaf.option.kind) == leaf.option.kind, (model, flag)


def test_defaults_are_those_of_the_command_line() -> None:
    net, weights, out = Path("net"), Path("w"), Path("out")
    for name, made in (
        ("convert", ConvertOptions(net)),
        ("finetune", FinetuneOptions(net)),
        ("plan", PlanOptions(net, weights, out)),
    ):
        Path(net).touch(), Path(weights).touch()
        assert parsed(command_of(name), words(made)) == made


@pytest.fixture(autouse=True)
def _folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("net", "w", "a b", "mean"):
        Path(name).touch()


PICTURES = PictureOptions(mean_value=(1.0, 2.5, 3.0), scale=0.017)
ENGINE = EngineOptions("torch", "cuda", "bf16", 3, caffe="/opt/my caffe", python_layers=True)


@pytest.mark.parametrize(
    ("name", "made"),
    [
        (
            "convert",
            ConvertOptions(
                Path("net"),
                Path("w"),
                only=("conv1", "inception_*"),
                streamline=False,
                branch=False,
                skip_passes=("remove-lrn",),
                bn="prune",
                kernel=5,
                reduce=0.25,
                reduce_patterns=(("*/5x5", 0.75), ("a=b", 1.0)),
                init="refit",
                seed=7,
                calibrate=CalibrationOptions("photos", 9, PICTURES, ENGINE),
                reparam=True,
                reparam_parts=("3x1",),
                input_shapes={"data": (3, 8, 8), "a=b": (1,)},
                solver_options=SolverOptions(base_lr=1e-5, stepsize=3, clip_gradients=0.0),
                step_over=True,
                check=True,
                engine=ENGINE,
                dry_run=True,
                force=True,
            ),
        ),
        (
            "finetune",
            FinetuneOptions(
                Path("net"),
                (Path("w"), Path("a b")),
                engine=ENGINE,
                cache=0,
                max_iter=7,
                log=Path("l"),
                teacher=TeacherOptions(Path("a b"), Path("w"), 3.14159265, 0.123456789, True, 0.1),
            ),
        ),
        (
            "plan",
            PlanOptions(
                Path("net"),
                Path("w"),
                Path("s.yaml"),
                tucker=False,
                images=CalibrationOptions("photos", 12, PictureOptions(mean_file=Path("mean"))),
                target=Target(2.5, 0.4),
            ),
        ),
        ("plan", PlanOptions(Path("net"), Path("w"), Path("s.yaml"), tucker=True)),
    ],
)
def test_the_words_of_options_say_them_again(name: str, made: Any) -> None:
    line = words(made)
    assert parsed(command_of(name), line) == made
    assert shlex.split(shlex.join(line)) == line


def test_what_is_said_by_default_needs_no_words() -> None:
    assert words(ConvertOptions(Path("net"))) == ["net"]
    assert words(FinetuneOptions(Path("s"), (Path("a b"),), cache=0)) == ["s", "-w", "a b", "--cache", "0"]
    teacher = TeacherOptions(Path("a"), Path("w"))
    assert words(FinetuneOptions(Path("s"), teacher=teacher)) == ["s", "--teacher", "a", "--teacher-weights", "w"]


def test_what_a_manifest_remembers() -> None:
    made = ConvertOptions(Path("net"), kernel=3, input_shapes={"data": (3, 8, 8)})
    found = record(made)
    assert (found["kernel"], found["input_shapes"], found["calibrate"]) == (3, {"data": [3, 8, 8]}, None)
    assert "fixed_size" not in found and record(replace(made, fixed_size=True))["fixed_size"] is True
    assert "force" not in found and "engine" not in found


def test_a_schedule_says_options() -> None:
    pytest.importorskip("pydantic")
    from deeprebirth_caffe.runs.schedule.model import EngineChoice, Recipe

    recipe = Recipe.model_validate({"paper": True, "kernel": 3, "skip_passes": "remove-lrn", "lr_factor": 4})
    made = taken(ConvertOptions, recipe, net=Path("net"), reduce_patterns=())
    wanted = ConvertOptions(
        Path("net"), paper=True, kernel=3, skip_passes=("remove-lrn",), solver_options=SolverOptions(lr_factor=4.0)
    )
    assert made == wanted
    known = {leaf.path[-1] for leaf in keys(ConvertOptions)}
    assert known == set(Recipe.model_fields) - {"calibrate", "distil", "finetune", "budget"}
    assert taken(EngineOptions, EngineChoice(**scheduled(ENGINE))) == replace(ENGINE, python_layers=False)
    assert scheduled(EngineOptions()) == {} and scheduled(PICTURES) == {"mean_value": [1.0, 2.5, 3.0], "scale": 0.017}


@dataclass(frozen=True)
class Inner:
    """A group."""

    source: str = needed("--source", help="s")
    other: str = needed("--other", help="o")
    count: int = option(2, "--count", kind=Whole(), help="c")


@dataclass(frozen=True)
class Outer:
    """A model."""

    name: str = argument("name")
    inner: Inner | None = group(Inner, optional=True)
    loud: bool = option(False, "--loud", help="l")


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"count": 3}, "--count needs --source"),
        ({"other": "x"}, "--other needs --source"),
        ({"source": "x"}, "--source needs --other"),
        ({}, None),
        ({"source": "x", "other": "y", "count": 4}, None),
    ],
)
def test_a_group_that_may_be_left_out(values: dict[str, Any], said: str | None) -> None:
    everything = {"name": "n", "source": None, "other": None, "count": 2, "loud": False, **values}
    if said is not None:
        with pytest.raises(UsageError, match=said):
            read(Outer, everything, values.keys())
        return
    found = read(Outer, everything, values.keys())
    assert found == Outer("n", Inner("x", "y", 4) if values else None)
    assert words(found) == (["n", "--source", "x", "--other", "y", "--count", "4"] if values else ["n"])


def test_kinds_spell_what_they_read() -> None:
    from deeprebirth_caffe.options import kinds

    texts = {
        "KERNEL": ("keep", "3"),
        "REDUCE": ("0.5", "a=b=0.25"),
        "PARTS": ("bn,1x1,kxk", "bn"),
        "SHAPE": ("data=3,224,224",),
        "SIZE": ("240x320",),
        "MEANS": ("104.0,117.0,123.0", "3.0"),
        "BATCHES": ("0", "12"),
        "CPUS": ("0,1,2,6",),
        "MEMORY": ("1024B",),
    }
    known = {name for name, kind in vars(kinds).items() if isinstance(kind, Spelled)}
    assert known == set(texts)
    for name, examples in texts.items():
        kind = getattr(kinds, name)
        for text in examples:
            assert kind.spell(kind.parse(text)) == text
        with pytest.raises(ValueError, match="none of these"):
            kind.parse("none of these,9x")
    assert {type(kind) for kind in (FLAG, TEXT)} == {Flag, Kind} and OneOf(("a",)) != Place() and Real() != Whole()


def test_every_command_is_made_of_a_model_or_has_few_options() -> None:
    for name in COMMANDS:
        command = command_of(name)
        inner = command.commands.values() if isinstance(command, click.Group) else [command]
        for each in inner:
            own = [p for p in each.params if isinstance(p, click.Option) and not hasattr(p, "title")]
            assert {p.name for p in own} <= {"as_json", "quiet", "verbose", "schema"}, (name, each.name)
