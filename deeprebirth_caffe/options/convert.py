"""What `rebirth convert` may be told."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from operator import not_
from pathlib import Path
from typing import ClassVar

from deeprebirth_caffe.errors import UsageError
from deeprebirth_caffe.options.fields import LEARN, MERGE, OUTPUT, START, argument, group, option
from deeprebirth_caffe.options.kinds import COUNT, FILE, FLAG, FOLDER, KERNEL, NET, PARTS, REDUCE, SEED, OneOf
from deeprebirth_caffe.options.shared import (
    CalibrationOptions,
    EngineOptions,
    SolverOptions,
    calibration,
    check_option,
    fixed_size_option,
    force_option,
    only_option,
    passes_option,
    shapes_option,
    skip_option,
)
from deeprebirth_caffe.wording import STANDS_FOR

REFIT = "refit"
"""The start that is fitted to calibration data (`relearn.refitting`)."""
DEFAULT_REDUCE = 0.5
"""The paper's: inception_3a/3x3_reduce goes from 96 to 48."""
DEFAULT_PARTS = ("1x1", "1xk", "kx1")
"""The kernels beside the main one, unless others are named."""


@dataclass(frozen=True)
class RewriteOptions:
    """What every command is told that rewrites a net to be learned again; see their help."""

    suffix: ClassVar[str]
    """What the output directory is called by default, behind the name of the net."""

    net: Path = argument("net", NET)
    weights: Path | None = option(
        None, "-w", "--weights", kind=FILE, title="", help="Learned weights; gives init.caffemodel."
    )
    solver: Path | None = option(
        None, "--solver", kind=FILE, title=LEARN, help="A solver that lends what the paper does not fix."
    )
    out: Path | None = option(
        None,
        "-o",
        "--out",
        kind=FOLDER,
        title=OUTPUT,
        help="Output directory. [default: <stem>-rebirth beside the net]",
    )
    only: tuple[str, ...] = only_option()
    skip: tuple[str, ...] = skip_option()
    input_shapes: Mapping[str, tuple[int, ...]] = shapes_option()
    batch: int | None = option(
        None,
        "--batch",
        kind=COUNT,
        title=LEARN,
        help="Batch size of the training data layers.",
        record="batch",
        kw_only=True,
    )
    solver_options: SolverOptions = group(SolverOptions, merged=True, kw_only=True)
    step_over: bool = option(
        False,
        "--step-over",
        title=LEARN,
        help="Let rebirth layers of an earlier conversion learn at their own rates, also if none is new.",
        kw_only=True,
    )
    engine: EngineOptions = group(EngineOptions, kw_only=True)
    dry_run: bool = option(False, "--dry-run", title=OUTPUT, help="Write nothing.", kw_only=True)
    force: bool = force_option()

    def verify(self, given: Collection[str]) -> None:
        """Raises UsageError where there is no place for the results."""
        if str(self.net) in STANDS_FOR and self.out is None and not self.dry_run:
            raise UsageError("a net from standard input lies in no folder; say where the results go: -o DIR")

    def read_files(self) -> Iterator[Path | None]:
        """The files that the command reads."""
        yield from (self.net, self.weights, self.solver)

    @property
    def directory(self) -> Path:
        """Where the results go: -o, or a folder beside the net."""
        return self.out if self.out is not None else self.net.with_name(f"{self.net.stem}{self.suffix}")


@dataclass(frozen=True)
class ConvertOptions(RewriteOptions):
    """What `rebirth convert` is told; see its help.

    `paper` sets what the paper does: pools are folded in nets of inception modules alone, and none behind a Concat or
    Eltwise; BatchNorm is pruned, and rebirth layers start from Xavier noise, unless `bn` or `init` say otherwise; 32
    images are learned at a time, unless `batch` says otherwise; gradients are cut only where somebody says so
    (`usual_clip`). `fixed_size` says that images always have the size of the file. `portable` first says in plain
    Caffe what a fork says, wherever that can be done, whatever `only` and `skip` name.
    """

    TITLE: ClassVar[str] = MERGE
    suffix: ClassVar[str] = "-rebirth"

    paper: bool = option(
        False,
        "--paper",
        help="As the paper: pools of inception nets, BatchNorm pruned, Xavier start, batch 32.",
        schedule="As the paper: pools of inception nets alone, BatchNorm pruned, Xavier start.",
        record="paper",
    )
    exact: bool = option(
        False,
        "--exact",
        help="Only rewrites that keep the net's function.",
        schedule="Only rewrites that keep the net's function.",
    )
    portable: bool = option(
        False, "--portable", help="Say what a fork of Caffe says in plain Caffe first (docs/forks.md)."
    )
    fixed_size: bool = fixed_size_option()
    streamline: bool = option(
        True,
        "--no-streamline",
        kind=FLAG,
        takes=not_,
        says=not_,
        help="Leave pooling and LRN (and BatchNorm to prune) alone.",
        schedule="Merge pooling and LRN (and BatchNorm to prune).",
    )
    branch: bool = option(
        True, "--no-branch", kind=FLAG, takes=not_, says=not_, help="Leave branches alone.", schedule="Merge branches."
    )
    skip_passes: tuple[str, ...] = passes_option(schedule="Passes to leave out.")
    bn: str | None = option(
        None,
        "--bn",
        kind=OneOf(("fold", "prune")),
        help="What becomes of BatchNorm and Scale. [default: fold; --paper: prune]",
        schedule="BatchNorm and Scale; left out: fold, or prune as the paper.",
    )
    kernel: str | int = option(
        "keep",
        "--kernel",
        kind=KERNEL,
        shown=True,
        help="Kernel of a layer that takes a pool in.",
        schedule="Kernel of a layer that takes a pool in.",
        record="kernel",
    )
    reduce: float = option(
        DEFAULT_REDUCE,
        "--reduce",
        kind=REDUCE,
        many=True,
        takes=lambda typed: next((ratio for pattern, ratio in reversed(typed) if not pattern), DEFAULT_REDUCE),
        says=lambda ratio: () if ratio == DEFAULT_REDUCE else (("", ratio),),
        help="Scale of reducers. [default: 0.5]",
        schedule="Scale of the reducers of merged branches.",
        record="reduce",
    )
    reduce_patterns: tuple[tuple[str, float], ...] = option(
        (),
        "--reduce",
        kind=REDUCE,
        many=True,
        takes=lambda typed: tuple((pattern, ratio) for pattern, ratio in typed if pattern),
        schedule="Scale of the reducers with such names (globs), in place of `reduce`.",
        record="reduce_patterns",
    )
    force_merge: bool = option(
        False,
        "--force-merge",
        help="Merge even where the predicted cost rises.",
        schedule="Merge even where the predicted cost rises.",
        record="force_merge",
    )
    init: str | None = option(
        None,
        "--init",
        kind=OneOf(("inherit", "xavier", REFIT)),
        title=START,
        help="How they start. [default: inherit; --paper: xavier]",
        schedule=(
            "Start of rebirth layers; left out: inherit, or xavier as the paper; refit: least squares on `calibrate`."
        ),
        record="init",
    )
    seed: int = option(
        0, "--seed", kind=SEED, title=START, shown=True, help="Seed of the random numbers of the start.", record="seed"
    )
    calibrate: CalibrationOptions | None = calibration("Pictures without labels, for --init refit and --reparam")
    reparam: bool = option(
        False,
        "--reparam",
        title=START,
        help="Let rebirth layers learn as several, one when deployed.",
        schedule=(
            "Rebirth layers relearn as several parallel kernels with BatchNorm, summed into one when they are deployed."
        ),
        record="reparam",
    )
    reparam_parts: tuple[str, ...] = option(
        DEFAULT_PARTS,
        "--reparam-parts",
        kind=PARTS,
        title=START,
        help="The parts that they learn as. [default: bn,1x1,1xk,kx1]",
    )
    check: bool = check_option("Compare each run of exact rewrites in real Caffe.")

    def verify(self, given: Collection[str]) -> None:
        """Raises UsageError for what does not go together."""
        super().verify(given)
        if self.exact and self.bn == "prune":
            raise UsageError("--exact and --bn prune exclude each other: a pruned BatchNorm has to be relearned")
        if "reparam_parts" in given and not self.reparam:
            raise UsageError("--reparam-parts says what --reparam makes; give it too")
        if self.exact and self.reparam:
            raise UsageError("--exact and --reparam exclude each other: --reparam is for layers that are relearned")
        if self.calibrate is not None and self.init != REFIT and not self.reparam:
            raise UsageError("--calibrate is what --init refit and --reparam measure on; give one of them too")

    def read_files(self) -> Iterator[Path | None]:
        """The files that the command reads."""
        yield from super().read_files()
        if self.calibrate is not None:
            yield from self.calibrate.read_files()

    @property
    def start(self) -> str:
        """How rebirth layers start: "inherit", "xavier" or `REFIT`."""
        return self.init or ("xavier" if self.paper else "inherit")
