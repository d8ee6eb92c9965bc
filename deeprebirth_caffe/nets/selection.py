"""Which stages a command is about: `--only` and `--skip`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from fnmatch import fnmatchcase

from deeprebirth_caffe.errors import UsageError
from deeprebirth_caffe.ir import Net


def names_stage(pattern: str, stage: str) -> bool:
    """Whether a pattern means a stage: its name, a glob, or the block it belongs to (res2a means res2a_branch1)."""
    return stage == pattern or fnmatchcase(stage, pattern) or stage.startswith((pattern + "_", pattern + "/"))


@dataclass(frozen=True)
class Selection:
    """Stages by name, glob or block.

    Attributes:
        only: if not empty, nothing else.
        skip: not these.
    """

    only: tuple[str, ...] = ()
    skip: tuple[str, ...] = ()

    def __call__(self, stage: str) -> bool:
        if self.only and not any(names_stage(pattern, stage) for pattern in self.only):
            return False
        return not any(names_stage(pattern, stage) for pattern in self.skip)

    def check(self, net: Net) -> None:
        """Raises UsageError for a pattern that means no stage of the net."""
        stages = list(dict.fromkeys(layer.stage for layer in net.layers))
        for flag, patterns in (("--only", self.only), ("--skip", self.skip)):
            for pattern in patterns:
                if not any(names_stage(pattern, stage) for stage in stages):
                    raise UsageError(f'{flag}: this net has no stage "{pattern}"; {_hint(pattern, stages)}')


def _hint(pattern: str, stages: Sequence[str]) -> str:
    near = get_close_matches(pattern, stages, n=3)
    return f"did you mean {' or '.join(near)}?" if near else f"its stages are {', '.join(stages)}"
