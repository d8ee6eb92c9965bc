"""What `rebirth time` may be told, and other commands that time nets."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import ClassVar

from deeprebirth_caffe.errors import UsageError
from deeprebirth_caffe.options.fields import ENGINE, MEASURE, OUTPUT, argument, group, option
from deeprebirth_caffe.options.kinds import COUNT, CPUS, FILE, MEMORY, NET, OUT, OneOf, Real, Whole
from deeprebirth_caffe.options.shared import caffe_option, force_option, python_layers_option, shapes_option

LAYER_PART = 5
"""After each run come a fifth as many passes layer by layer: their clocks would slow the run itself down."""
ENGINES = ("caffe", "torch", "opencv", "mnn", "onnxruntime", "ncnn")


@dataclass(frozen=True)
class Plan:
    """How to time.

    Attributes:
        layers: whether to time layers too.
    """

    TITLE: ClassVar[str] = MEASURE

    runs: int = option(10, "--runs", kind=Whole(1, 10**5), shown=True, help="Turns of each net.")
    iterations: int = option(50, "--iterations", kind=Whole(1, 10**6), shown=True, help="Passes in a run.")
    warmup: int = option(3, "--warmup", kind=Whole(0, 10**6), shown=True, help="Passes before a run, not counted.")
    cooldown: float = option(
        0.0, "--cooldown", kind=Real(0, 3600), metavar="S", help="Seconds of rest before each run."
    )
    layers: bool = True

    def steps(self, nets: int) -> int:
        """How many turns there are in all, for a progress bar."""
        return nets * self.runs

    @property
    def layer_iterations(self) -> int:
        """Passes after each run in which layers are timed."""
        return -(-self.iterations // LAYER_PART) if self.layers else 0


@dataclass(frozen=True)
class TimingOptions:
    """How nets are timed, whichever they are.

    Attributes:
        fit_bytes: memory for which to find the largest batch.
    """

    TITLE: ClassVar[str] = MEASURE

    engine: str = option("caffe", "--engine", kind=OneOf(ENGINES), title=ENGINE, shown=True, help="What runs the nets.")
    on: str = option(
        "local",
        "--on",
        metavar="WHERE",
        shown=True,
        help="The place to run: local, or a device: adb[:SERIAL], ssh:[USER@]HOST[:PORT].",
    )
    plan: Plan = group(Plan)
    threads: int | None = option(
        None, "--threads", kind=Whole(1, 1024), title=ENGINE, help="Threads of the engine. [default: the engine's own]"
    )
    cpus: Sequence[int] | None = option(
        None, "--cpus", kind=CPUS, help="Processors to run on: a list (0-3,6) or a mask (0x4f)."
    )
    batch: int | None = option(None, "--batch", kind=COUNT, help="Images of a pass, in every net. [default: NET's own]")
    fit_bytes: int | None = option(
        None, "--fit", kind=MEMORY, help="Find the largest batch for this much memory, e.g. 12GiB."
    )
    input_shapes: Mapping[str, tuple[int, ...]] = shapes_option()
    caffe: str | None = caffe_option()
    timeout: float | None = field(default=None, kw_only=True)


@dataclass(frozen=True)
class TimeOptions:
    """What `rebirth time` is told; see its help."""

    net: Path = argument("net", NET)
    weights: Path | None = option(
        None, "-w", "--weights", kind=FILE, help="NET's learned weights. [default: random ones]"
    )
    others: Sequence[Path] = option(
        (), "--vs", kind=FILE, many=True, metavar="NET", help="A net to time beside it; repeatable."
    )
    other_weights: Sequence[Path] = option(
        (),
        "--vs-weights",
        kind=FILE,
        many=True,
        help="Weights of each --vs, in their order: for all of them or for none.",
    )
    timing: TimingOptions = group(TimingOptions)
    by: str = option(
        "stage", "--by", kind=OneOf(("layer", "type", "stage")), title=MEASURE, shown=True, help="Rows to show."
    )
    csv_file: Path | None = option(None, "--csv", kind=OUT, title=OUTPUT, metavar="F", help="Write the layers as CSV.")
    html_file: Path | None = option(
        None, "--html", kind=OUT, title=OUTPUT, metavar="F", help="Write a page with plots."
    )
    python_layers: bool = python_layers_option()
    force: bool = force_option("Replace these files if they are there.")

    def verify(self, given: Collection[str]) -> None:
        """Raises UsageError for what does not go together."""
        if self.other_weights and len(self.other_weights) != len(self.others):
            raise UsageError(f"--vs-weights is given {len(self.other_weights)} times for {len(self.others)} --vs")
        if self.csv_file is not None and self.csv_file == self.html_file:
            raise UsageError(f"--csv and --html both name {self.csv_file}")

    @property
    def nets(self) -> list[tuple[Path, Path | None]]:
        """The nets, each with its weights; None: random ones."""
        weights: Sequence[Path | None] = self.other_weights or (None,) * len(self.others)
        return [(self.net, self.weights), *zip(self.others, weights, strict=True)]
