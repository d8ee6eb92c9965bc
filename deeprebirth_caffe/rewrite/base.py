"""What a pass is: it finds matches in a net, or says why not, and rewrites one match at a time."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from enum import Enum
from typing import TYPE_CHECKING, Any, ClassVar, Generic, TypeVar

from deeprebirth_caffe.ir import Layer, Net
from deeprebirth_caffe.results import ABSENT, Absent

if TYPE_CHECKING:
    from deeprebirth_caffe.rewrite.rewriter import Rewriter

PlanT = TypeVar("PlanT")


class Kind(str, Enum):
    """Whether a rewrite keeps the function of the net."""

    EXACT = "exact"
    RELEARN = "relearn"


@dataclass(frozen=True)
class Reason:
    """Why something cannot be done, in words; what finds no reason gives None."""

    text: str

    def __str__(self) -> str:
        return self.text


@dataclass(frozen=True)
class Refusal:
    """Why a pass left a place alone that it looked at."""

    layer: Layer
    reason: Reason


@dataclass(frozen=True)
class Match(Generic[PlanT]):
    """One place that a pass can rewrite.

    Attributes:
        layer: the layer that names the place, for messages.
        touches: every layer that the rewrite reads or changes; two matches that share one are not applied together.
        plan: what the pass needs again in `apply`.
    """

    layer: Layer
    touches: frozenset[Layer]
    plan: PlanT

    @property
    def stage(self) -> str:
        return self.layer.stage


@dataclass
class Applied:
    """What one rewrite did, as the manifest tells it.

    Attributes:
        removed: the layers that are gone.
        rebirth: the layers that were made and must be learned again (RELEARN), or that hold folded weights (EXACT).
        macs_before, macs_after: multiply-adds of the layers involved; None where a shape is not known.
        notes: what a person should know, such as the shift of the sampling grid.
        ranks, error: of a decomposition, as the manifest tells them.
    """

    removed: list[str] = field(default_factory=list)
    rebirth: list[str] = field(default_factory=list)
    macs_before: int | None = None
    macs_after: int | None = None
    notes: list[str] = field(default_factory=list)
    ranks: Sequence[int] | Absent = ABSENT
    error: float | Absent = ABSENT


class Pass(ABC, Generic[PlanT]):
    """A rewrite of one kind. Concrete passes are frozen dataclasses whose fields are their options.

    `PlanT` is what `match` finds out of a place, and hands to `apply`.
    """

    name: ClassVar[str]
    kind: ClassVar[Kind]

    @abstractmethod
    def match(self, net: Net) -> Iterator[Match[PlanT] | Refusal]:
        """Finds every place, in the order of the file; changes nothing."""

    @abstractmethod
    def apply(self, match: Match[PlanT], rewriter: Rewriter) -> Applied:
        """Rewrites one place, through the rewriter alone."""


class ExactPass(Pass[PlanT]):
    """An exact rewrite that `deploy` and `convert --exact` make by themselves (`nets.exactness` finds its module)."""

    kind: ClassVar[Kind] = Kind.EXACT
    reshapes: ClassVar[bool] = False
    """Whether the net gets another shape, which hides branches, reducers and pools from other passes.

    Such a pass runs at the end. One that only takes layers away also runs in front of passes that have to be relearned.
    """
    after: ClassVar[tuple[str, ...]] = ()
    """Names of passes that run before this one."""


AnyPass = Pass[Any]
"""A pass, whatever it plans."""
