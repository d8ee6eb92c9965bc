"""What the commands may be told that look at nets and at this machine, or write what comes with rebirth."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from deeprebirth_caffe.options.fields import argument, option
from deeprebirth_caffe.options.kinds import FILE, NET, OUT, OUT_FILE, OneOf
from deeprebirth_caffe.options.shared import caffe_option, force_option, replace_option, shapes_option

PHASE = OneOf(("TRAIN", "TEST"))


@dataclass(frozen=True)
class InspectOptions:
    """What `rebirth inspect` is told; see its help."""

    net: Path = argument("net", NET)
    weights: Path | None = option(
        None, "-w", "--weights", kind=FILE, help="Learned weights: they tell channels, and are checked against the net."
    )
    phase: str | None = option(None, "--phase", kind=PHASE, help="Which phase; default: TEST, if the file has it.")
    stages: tuple[str, ...] = option(
        (), "--stage", many=True, metavar="S", help="A NetState stage of an all-in-one net."
    )
    input_shapes: Mapping[str, tuple[int, ...]] = shapes_option()


@dataclass(frozen=True)
class DiffOptions:
    """What `rebirth diff` is told; see its help."""

    a: Path = argument("a", NET)
    b: Path = argument("b", NET)
    phase: str = option("TEST", "--phase", kind=PHASE, shown=True, help="Which phase.")
    input_shapes: Mapping[str, tuple[int, ...]] = shapes_option()
    exit_code: bool = option(False, "--exit-code", help="End with exit code 3 if the nets differ.", kw_only=True)


@dataclass(frozen=True)
class DoctorOptions:
    """What `rebirth doctor` is told; see its help."""

    net: Path | None = argument("net", NET, default=None)
    caffe: str | None = caffe_option()


@dataclass(frozen=True)
class ZooOptions:
    """What `rebirth zoo` is told; see its help."""

    name: str = argument("name")
    out: Path | None = option(
        None, "-o", "--out", kind=OUT, help="Output directory; - prints one file. [default: NAME]"
    )
    part: str = option(
        "train_val", "--part", kind=OneOf(("train_val", "deploy", "solver")), shown=True, help="Which file -o - prints."
    )
    force: bool = force_option()


@dataclass(frozen=True)
class ConfigListOptions:
    """What `rebirth config list` is told: nothing."""


@dataclass(frozen=True)
class ConfigShowOptions:
    """What `rebirth config show` is told; see its help."""

    name: str = argument("name")
    out: Path | None = option(None, "-o", "--out", kind=OUT_FILE, help="Write it here. [default: print it]")
    force: bool = replace_option()


@dataclass(frozen=True)
class DocsOptions:
    """What `rebirth docs` is told; see its help."""

    page: str | None = argument("page", default=None)
