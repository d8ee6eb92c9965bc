"""How the steps of a plan relearn: the paper's way, and the best one known.

A recipe is what stands under `defaults` in the schedule, and whether all is relearned together at the end. Lengths are
the paper's "2 epochs" a step unless the user says otherwise.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

TUCKER_RATIO = 0.5
"""The paper's: half of the weights stay."""
EPOCHS = 2.0
"""What the paper says that a step takes to converge."""
JOINT_TIMES = 5
"""How many times as long as a step the whole net relearns in the end (docs/results.md)."""


@dataclass(frozen=True)
class Recipe:
    """One way to relearn.

    Attributes:
        about: a line for people.
        defaults: of a schedule, without `finetune`.
        finetune: of a schedule, without its length.
        joint: `finetune` of the whole net after the steps; None: there is none.
        looks: whether it looks at calibration images.
    """

    about: str
    defaults: Mapping[str, Any]
    finetune: Mapping[str, Any]
    joint: Mapping[str, Any] | None
    looks: bool


RECIPES: Mapping[str, Recipe] = {
    "paper": Recipe(
        "rebirth layers start from Xavier noise at ten times the rate, which falls to a tenth at 44 % and at 89 %",
        {"paper": True, "init": "xavier", "lr_factor": 10},
        {
            "batch": 32,
            "base_lr": 0.001,
            "policy": "multistep",
            "drops": [0.4444, 0.8889],
            "gamma": 0.1,
            "momentum": 0.9,
        },
        joint=None,
        looks=False,
    ),
    "best": Recipe(
        "rebirth layers start from a least squares fit, then follow labels and the old net",
        {"init": "refit", "lr_factor": 10},
        {"batch": 64, "base_lr": 0.001, "policy": "poly", "momentum": 0.9, "teacher": {"temperature": 2}},
        joint={"base_lr": 0.01},
        looks=True,
    ),
}
