"""Candidates made, timed and refitted, in a folder that goes away: what `rebirth plan --target` measures.

A few nets tell the time of every candidate: in each of them all stages are merged, by some of the passes, and an
engine's time of each layer gives each stage its part. Where an engine tells no layers (MNN), each candidate is a net.
"""

from __future__ import annotations

import re
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from deeprebirth_caffe.bench.breakdown import grouped
from deeprebirth_caffe.commands.convert import convert
from deeprebirth_caffe.commands.deploy import deploy
from deeprebirth_caffe.nets.rewriting import INIT
from deeprebirth_caffe.nets.strip import DEPLOY, DEPLOY_WEIGHTS
from deeprebirth_caffe.options.convert import ConvertOptions
from deeprebirth_caffe.options.deploy import DeployOptions
from deeprebirth_caffe.runs.planning.candidates import exactly

if TYPE_CHECKING:
    from deeprebirth_caffe.commands.time import TimedNet, Times
    from deeprebirth_caffe.options.time import TimingOptions

Show = Callable[[str, int, int], None]

Choice = Mapping[str, tuple[str, ...]]
"""The passes that run in each stage; stages that are not named stay as they are."""

Candidate = tuple[str, tuple[str, ...]]
"""A stage, and the passes that run in it."""

NUMBER = re.compile(r"\d+(\.\d+)?")


@dataclass(frozen=True)
class Made:
    """A net as files."""

    net: Path
    weights: Path


@dataclass(frozen=True)
class Savings:
    """What was measured.

    Attributes:
        total_ms: of the net as it is: the sum of its layers, or its median pass where the engine tells no layers.
        stages_ms: of each stage as it is; empty where the engine tells no layers.
        saved_ms: by each candidate.
    """

    total_ms: float
    stages_ms: Mapping[str, float]
    saved_ms: Mapping[Candidate, float]


@dataclass(frozen=True)
class Trials:
    """Makes candidates of one net.

    Attributes:
        options: of convert; its net and weights are where every candidate starts.
        relearn: the names of the passes that relearn.
        stages: all that the net has.
        timing: how nets are timed; which ones is filled in.
        show: is told how far it is.
        doubts: what makes the times worth less, one of a kind; filled in as nets are timed.
    """

    options: ConvertOptions
    relearn: Sequence[str]
    stages: Sequence[str]
    timing: TimingOptions
    show: Show
    doubts: dict[str, str] = field(default_factory=dict)

    @contextmanager
    def made(self, choice: Choice, **how: Any) -> Iterator[Made]:
        """Merges some stages; the files go away with the block.

        Args:
            choice: what is done in which stage.
            how: options of convert, in place of those of all candidates.

        Raises:
            RebirthError: as convert does.
        """
        with tempfile.TemporaryDirectory(prefix="rebirth-plan-") as folder:
            yield self._make(choice, Path(folder), **how)

    @property
    def start(self) -> tuple[Path, Path]:
        """The net as it is, and its weights."""
        assert self.options.weights is not None
        return self.options.net, self.options.weights

    def times(self, choices: Sequence[Choice]) -> Savings:
        """Measures what each candidate in some choices saves.

        Raises:
            EngineError: the engine is not there, or cannot run a net.
        """
        covers = cover(choices)
        before, *after = self._time([{}, *covers]).nets
        if all(row.tensor_share is not None for row in (before, *after)):
            own = _by_stage(before)
            saved: dict[Candidate, float] = {}
            for choice, row in zip(covers, after, strict=True):
                left = _by_stage(row)
                for stage, passes in choice.items():
                    saved.setdefault((stage, passes), own.get(stage, 0.0) - left.get(stage, 0.0))
            return Savings(sum(own.values()), own, saved)
        candidates = _candidates(choices)
        before, *after = self._time([{}, *({stage: passes} for stage, passes in candidates)]).nets
        total = before.median_ms
        return Savings(total, {}, {one: total - row.median_ms for one, row in zip(candidates, after, strict=True)})

    def speedup(self, choice: Choice) -> float:
        """How many times as fast the net is with a choice: both timed in turn."""
        return self._time([{}, choice]).ratios[0].median

    def _make(self, choice: Choice, folder: Path, **how: Any) -> Made:
        made = Made(*self.start)
        for number, passes in enumerate(dict.fromkeys(choice.values())):
            out = folder / f"merged-{number}"
            options = replace(
                self.options,
                net=made.net,
                weights=made.weights,
                out=out,
                only=tuple(exactly(stage, self.stages) for stage, mine in choice.items() if mine == passes),
                skip_passes=(*self.options.skip_passes, *(name for name in self.relearn if name not in passes)),
                **how,
            )
            convert(options)
            made = Made(out / made.net.name, out / INIT)
        return made

    def _time(self, choices: Sequence[Choice]) -> Times:
        """Times the nets of some choices as they would be deployed."""
        from deeprebirth_caffe.commands.time import time_nets

        with tempfile.TemporaryDirectory(prefix="rebirth-plan-") as folder:
            nets = []
            for number, choice in enumerate(choices):
                place = Path(folder) / str(number)
                made, out = self._make(choice, place), place / "deploy"
                deploy(DeployOptions(made.net, made.weights, out, input_shapes=self.options.input_shapes))
                nets.append((out / DEPLOY, out / DEPLOY_WEIGHTS))
            what = f"timing {len(nets)} nets"
            result = time_nets(nets, self.timing, lambda done, total: self.show(what, done, total))
        if result.interrupted:
            # It ends such a run with what it has; a plan wants all of it.
            raise KeyboardInterrupt
        for warning in result.warnings:
            # Where a net lay says nothing to people, and the same with other figures nothing new.
            whose, _, what = warning.partition(": ")
            words = f"one net: {what}" if whose.startswith(folder) else warning
            self.doubts.setdefault(NUMBER.sub("", words), words)
        return result


def cover(choices: Sequence[Choice]) -> list[Choice]:
    """As few of some choices as hold every candidate that is in one of them."""
    missing = set(_candidates(choices))
    found: list[Choice] = []
    while missing:
        best = max(choices, key=lambda choice: len(missing & set(choice.items())))
        found.append(best)
        missing -= set(best.items())
    return found


def _candidates(choices: Sequence[Choice]) -> list[Candidate]:
    return list(dict.fromkeys(one for choice in choices for one in choice.items()))


def _by_stage(row: TimedNet) -> dict[str, float]:
    return {stage: group.ms for stage, group in grouped(row.layers, "stage").items()}
