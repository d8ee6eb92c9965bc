"""What `rebirth plan` is told, and what a step of its plan is."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from deeprebirth_caffe.runs.planning.candidates import Merge


@dataclass(frozen=True)
class PlannedStep:
    """A step of a plan.

    Attributes:
        name: of the step.
        patterns: its stages as the schedule names them.
        merges: what it does, stage by stage.
        left_out: passes that would do something there too, and do not run.
    """

    name: str
    patterns: tuple[str, ...]
    merges: tuple[Merge, ...]
    left_out: tuple[str, ...] = ()
