"""What `rebirth finetune` may be told."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import ClassVar

from deeprebirth_caffe.errors import UsageError
from deeprebirth_caffe.options.fields import LEARN, OUTPUT, TEACHER, argument, group, needed, option
from deeprebirth_caffe.options.kinds import COUNT, FILE, MAX_INT, POSITIVE, Place, Real, Whole
from deeprebirth_caffe.options.shared import EngineOptions, force_option


@dataclass(frozen=True)
class TeacherOptions:
    """What is said of a teacher."""

    TITLE: ClassVar[str] = TEACHER

    net: Path = needed(
        "--teacher", kind=FILE, help="A net that says what it would answer: a train_val or a deploy prototxt."
    )
    weights: Path = needed("--teacher-weights", kind=FILE, help="Its weights.")
    temperature: float = option(
        2.0,
        "--temperature",
        kind=POSITIVE,
        help="What scores are divided by. [default: 2]",
        schedule="What logits are divided by.",
    )
    alpha: float | None = option(
        None,
        "--alpha",
        kind=Real(0, 1),
        help="What the teacher's scores count; labels count the rest. [default: 0.5; 1 without losses]",
        schedule="The teacher's part of the loss; left out: 0.5, and all of it where there are no labels.",
    )
    match_blobs: bool = option(
        False,
        "--match-blobs",
        help="Compare what rebirth layers put out with the teacher's blobs, too.",
        schedule="Whether the outputs of rebirth blocks follow the teacher's too.",
    )
    match_weight: float = option(
        1.0, "--match-weight", kind=POSITIVE, help="What those count. [default: 1]", schedule="The weight of that."
    )

    def verify(self, given: Collection[str]) -> None:
        """Raises UsageError for a weight of nothing."""
        if "match_weight" in given and not self.match_blobs:
            raise UsageError("--match-weight needs --match-blobs")


@dataclass(frozen=True)
class FinetuneOptions:
    """What `rebirth finetune` is told; see its help.

    Attributes:
        cache: MiB, see `EngineOptions`.
    """

    solver: Path = argument("solver", FILE)
    weights: Sequence[Path] = option(
        (),
        "-w",
        "--weights",
        kind=FILE,
        many=True,
        help="Start from these; may be repeated. [default: what the solver names, or init.caffemodel beside it]",
    )
    resume: Path | None = option(
        None, "--resume", kind=FILE, title=LEARN, help="Go on from this solverstate, of either engine."
    )
    engine: EngineOptions = group(EngineOptions)
    cache: int | None = option(
        None,
        "--cache",
        kind=Whole(0, MAX_INT),
        metavar="MiB",
        title=LEARN,
        help="For what never changes in the embedded engine (layers with lr_mult 0, a teacher's answers); 0: nothing. "
        "[default: a quarter of the free memory]",
    )
    max_iter: int | None = option(
        None, "--max-iter", kind=COUNT, title=LEARN, help="Iterations, in place of the solver's max_iter."
    )
    log: Path | None = option(
        None,
        "--log",
        kind=Place(folder=False, dash="a log is gone on with when a run is resumed; name a file"),
        title=OUTPUT,
        help="Append a JSON object an iteration (docs/json.md).",
    )
    teacher: TeacherOptions | None = group(TeacherOptions, optional=True)
    force: bool = force_option("Write over an older run's snapshots and log.")

    @property
    def running(self) -> EngineOptions:
        """What runs it."""
        return self.engine if self.cache is None else replace(self.engine, cache=self.cache << 20)
