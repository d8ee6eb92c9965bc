"""What never changes in a net, worked out once an image: a teacher's blobs, or layers below those that learn.

The values that still layers (`still.py`) hand to the rest of the net are kept by image, as long as they fit; when all
images of a batch are known, the layers that only lead there do not run. An image is known by a digest of what the data
layer gave, so random crops and mirrored images are other images; where nothing comes again in a pass over the data, the
cache gives up. What it hands out has the bits, and the layout in memory, that the layers would have given: a batch with
an unknown image is worked out whole, and a layer whose numbers depend on the place of an image in its batch (tried
once, on the first batch) is never passed over.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field

import torch

from deeprebirth_caffe.engines.torch.build import Step
from deeprebirth_caffe.engines.torch.memory import free_bytes
from deeprebirth_caffe.engines.torch.still import is_view, still_steps

Values = dict[int, torch.Tensor]
Run = Callable[[Step, Values], Sequence[torch.Tensor]]
"""Gives a step's tops."""

SHARE = 4
"""A quarter of the memory that is free may be used, where nobody says how much."""

PATIENCE = 3
"""A full cache that saw so many times as many images as it holds, and could pass over no batch, gives up."""


class Budget:
    """Bytes that several caches share.

    Attributes:
        left: what is not in use yet.
    """

    def __init__(self, limit: int) -> None:
        self.left = limit

    @classmethod
    def of(cls, limit: int | None, device: str | torch.device) -> Budget:
        """So many bytes; None: a quarter of what is free on the device now."""
        return cls(free_bytes(torch.device(device)) // SHARE if limit is None else limit)

    def take(self, size: int) -> bool:
        """Takes some, if they are there."""
        if size > self.left:
            return False
        self.left -= size
        return True


class FrozenCache:
    """Still values by image, for one net.

    Attributes:
        budget: where its memory comes from.
        hits: how many images of the batches so far were known.
        passed: how many batches were not worked out.
        off: why it has given up; empty: it has not.
        full: whether there was no room for a batch.
    """

    def __init__(
        self, budget: Budget, steps: Sequence[Step], data: Collection[int], moved: Collection[int], train: bool
    ) -> None:
        """Finds what stands still; stores nothing yet.

        Args:
            budget: where its memory comes from.
            steps: the net's, in order.
            data: the numbers of the values that data layers or the caller give.
            moved: `id` of each blob that changes while the net is used.
            train: whether the net is in phase TRAIN.
        """
        self.budget = budget
        self.hits = 0
        self.passed = 0
        self.off = ""
        self._steps = list(steps)
        self._data = frozenset(data)
        self._still = still_steps(steps, data, moved, train)
        self._plan: _Plan | None = None
        self._blocks: list[Values] = []
        self._where: dict[bytes, tuple[int, int]] = {}
        self._taken = 0
        self._in_vain = 0
        self.full = False
        self._first_key = ""
        if not any(step.blobs for step in self._still):
            self.off = "no layer with weights stands still"

    def begin(self, values: Values, held: Collection[int], run: Run) -> Turn | None:
        """Starts a forward pass.

        Args:
            values: what the data layers and the caller gave.
            held: the values that are asked for.
            run: runs a step, to try it.

        Returns:
            What knows which steps need not run, and is told what the others give; None: all must run.
        """
        if self.off:
            return None
        if self._plan is None:
            self._plan = self._first(values, held, run)
            if self._plan is None:
                return None
        plan = self._plan
        if not plan.covers(held) or plan.shapes != {number: values[number].shape for number in plan.roots}:
            return None
        digests = _digests([values[number] for number in plan.roots])
        known = sum(digest in self._where for digest in digests)
        self.hits += known
        self._in_vain += len(digests)
        if known == len(digests):
            self.passed += 1
            self._in_vain = 0
            return Turn(self, plan, digests, [self._where[digest] for digest in digests])
        if self.full and self._in_vain > PATIENCE * len(self._where):
            self._give_up("the images it holds do not come together again")
            return None
        return Turn(self, plan, digests, None)

    def seen(self, keys: Sequence[str]) -> None:
        """Is told what the records of the batch that has begun are called, so that it knows when a pass is over."""
        if not keys or self.off:
            return
        if not self._first_key:
            self._first_key = keys[0]
        elif self._first_key in keys and not self.hits:
            self._give_up("no image came twice in a pass over the data")

    def clear(self) -> None:
        """Forgets everything: the net has other weights."""
        self._plan = None
        self._free()

    def store(self, plan: _Plan, digests: Sequence[bytes], kept: Mapping[int, torch.Tensor]) -> None:
        """Keeps what is new of a batch; called by `Turn.end`."""
        new = {digest: row for row, digest in enumerate(digests) if digest not in self._where}
        rows = list(new.values())
        size = sum(tensor.element_size() * tensor.numel() // len(digests) for tensor in kept.values()) * len(rows)
        if not self.budget.take(size):
            self.full = True
            if not self._where:
                self._give_up(f"not even one batch fits: it takes {size} bytes, and {self.budget.left} are left")
            return
        self._taken += size
        whole = len(rows) == len(digests)
        self._blocks.append({number: tensor if whole else tensor[rows] for number, tensor in kept.items()})
        block = len(self._blocks) - 1
        self._where.update((digest, (block, row)) for row, digest in enumerate(new))

    def rows(self, number: int, places: Sequence[tuple[int, int]]) -> list[torch.Tensor]:
        """A value's numbers for some images, in the order they have in memory."""
        return [self._blocks[block][number][row] for block, row in places]

    def _first(self, values: Values, held: Collection[int], run: Run) -> _Plan | None:
        """The plan after each step that may be passed over has been tried; None: there is nothing to gain."""
        unsteady: set[Step] = set()
        while True:
            plan = _Plan.of(self._steps, self._still, self._data, held, values, unsteady)
            if plan is None:
                self._give_up("no layer with weights can be passed over")
                return None
            found = _unsteady(plan, values, run)
            if not found:
                return plan
            unsteady |= found

    def _give_up(self, why: str) -> None:
        self.off = why
        self._free()

    def _free(self) -> None:
        self.budget.left += self._taken
        self._taken = 0
        self._blocks, self._where = [], {}
        self.full = False


class Turn:
    """One forward pass.

    Attributes:
        known: whether all its images are known.
    """

    def __init__(
        self,
        cache: FrozenCache,
        plan: _Plan,
        digests: Sequence[bytes],
        places: Sequence[tuple[int, int]] | None,
    ) -> None:
        self.known = places is not None
        self._idle = self.known or cache.full
        self._cache, self._plan, self._digests, self._places = cache, plan, digests, places
        self._kept: Values = {}

    def passes(self, step: Step) -> bool:
        """Whether a step need not run."""
        return self.known and step in self._plan.passed

    def recall(self, step: Step) -> Values:
        """What a step that does not run would have given, as far as anyone needs it."""
        assert self._places is not None
        return {
            number: self._plan.layouts[number].build(self._cache.rows(number, self._places))
            for number in step.outs
            if number in self._plan.stored
        }

    def note(self, number: int, tensor: torch.Tensor) -> None:
        """Is told a value that was worked out, before anything can write on it."""
        if self._idle or number not in self._plan.stored:
            return
        layout = self._plan.layouts[number]
        if _Layout.of(tensor) == layout:
            self._kept[number] = layout.flat(tensor.detach()).clone()

    def end(self) -> None:
        """Ends the pass: keeps what was worked out."""
        if not self._idle and len(self._kept) == len(self._plan.stored):
            self._cache.store(self._plan, self._digests, self._kept)


@dataclass(frozen=True)
class _Layout:
    """How a dense tensor whose first axis is the outermost lies in memory."""

    shape: tuple[int, ...]
    stride: tuple[int, ...]
    dtype: torch.dtype
    device: torch.device

    @classmethod
    def of(cls, tensor: torch.Tensor) -> _Layout:
        return cls(tuple(tensor.shape), tensor.stride(), tensor.dtype, tensor.device)

    @property
    def _order(self) -> list[int]:
        """The axes, the one with the largest steps first; those of length 1 take none."""
        return [0, *sorted(range(1, len(self.shape)), key=lambda axis: (self.shape[axis] == 1, -self.stride[axis]))]

    def dense(self, tensor: torch.Tensor) -> bool:
        """Whether a tensor of this layout has no gaps and goes image by image."""
        return bool(self.shape) and tensor.permute(self._order).is_contiguous()

    def flat(self, tensor: torch.Tensor) -> torch.Tensor:
        """A row an image, of what lies in memory: the tensor's own."""
        return tensor.permute(self._order).view(self.shape[0], -1)

    def build(self, rows: Sequence[torch.Tensor]) -> torch.Tensor:
        """A new tensor from its rows."""
        made = torch.empty_strided(self.shape, self.stride, dtype=self.dtype, device=self.device)
        torch.stack(list(rows), out=self.flat(made))
        return made


@dataclass
class _Plan:
    """What is passed over, and what is stored for it.

    Attributes:
        still: the steps that it counts with, in order.
        passed: those that need not run where all images are known.
        given: the values that only they give.
        stored: those of them that others need.
        roots: the data that decide about them.
        shapes: of those, as they have to be.
        layouts: of what is stored.
    """

    still: list[Step]
    passed: frozenset[Step]
    given: frozenset[int]
    stored: frozenset[int]
    roots: tuple[int, ...]
    shapes: dict[int, torch.Size]
    layouts: dict[int, _Layout] = field(default_factory=dict)

    @classmethod
    def of(
        cls,
        steps: Sequence[Step],
        still: Sequence[Step],
        data: Collection[int],
        held: Collection[int],
        values: Values,
        without: Collection[Step],
    ) -> _Plan | None:
        """Plans; None: no layer with weights can be passed over.

        Args:
            steps: the net's.
            still: those that stand still.
            data: the numbers of what comes from outside.
            held: the values that are asked for.
            values: the data at hand.
            without: steps that are not passed over all the same.
        """
        producer: dict[int, Step] = {}
        weighty: set[int] = set()
        known = set(data)
        for step in still:
            if step not in without and known.issuperset(step.ins):
                known.update(step.outs)
                producer.update(dict.fromkeys(step.outs, step))
                if step.blobs or not weighty.isdisjoint(step.ins):
                    weighty.update(step.outs)
        kept = [step for step in still if step.outs and step.outs[0] in producer]
        outside = set(steps).difference(kept)
        wanted = [*held, *(number for step in outside for number in step.ins)]
        stored, run = set[int](), set[Step]()
        while wanted:
            number = wanted.pop()
            found = producer.get(number)
            if found is None or found in run or number in stored:
                continue
            if number in weighty and not is_view(found.layer):
                stored.add(number)
            else:  # cheaper to do again than to keep, or no memory of its own
                run.add(found)
                wanted += found.ins
        passed = frozenset(kept).difference(run)
        if not any(step.blobs for step in passed):
            return None
        roots = _roots(stored, producer, data)
        given = frozenset(number for step in passed for number in step.outs)
        shapes = {number: values[number].shape for number in roots}
        return cls(kept, passed, given, frozenset(stored), roots, shapes)

    def covers(self, held: Collection[int]) -> bool:
        """Whether all that is asked for is there when steps are passed over."""
        return all(number in self.stored for number in held if number in self.given)


def _roots(numbers: Collection[int], producer: Mapping[int, Step], data: Collection[int]) -> tuple[int, ...]:
    """The data that values are made of."""
    open_, seen = list(numbers), set[int]()
    while open_:
        number = open_.pop()
        if number not in seen:
            seen.add(number)
            if number in producer:
                open_ += producer[number].ins
    return tuple(sorted(seen.intersection(data)))


def _digests(tensors: Sequence[torch.Tensor]) -> list[bytes]:
    """For each image what tells it from others."""
    arrays = [tensor.detach().cpu().contiguous().numpy() for tensor in tensors]
    found = []
    for row in range(len(arrays[0])):
        digest = hashlib.sha256()
        for array in arrays:
            digest.update(array[row].data)
        found.append(digest.digest())
    return found


@torch.no_grad()
def _unsteady(plan: _Plan, values: Values, run: Run) -> set[Step]:
    """Runs the still steps, and again with each image one place further; gives those that cannot be passed over.

    These give other bits at another place, or tops that are not one image after the other. Sets the plan's layouts.
    """
    counts = {shape[0] if shape else 0 for shape in plan.shapes.values()}
    if len(counts) != 1 or 0 in counts:
        return set(plan.still)
    here = {number: values[number] for number in plan.roots}
    there = {number: torch.roll(tensor, 1, 0) for number, tensor in here.items()}
    last = {number: step for step in plan.still for number in step.ins}
    found: set[Step] = set()
    for step in plan.still:
        if not here.keys() >= set(step.ins):
            continue  # nothing stored depends on it, or it depends on what cannot be passed over
        tops = [dict(zip(step.outs, run(step, some))) for some in (here, there)]
        if all(_agree(plan, number, top, tops[1][number], *counts) for number, top in tops[0].items()):
            here.update(tops[0])
            there.update(tops[1])
        else:
            found.add(step)
        for number in {*step.ins, *step.outs}:
            if last.get(number, step) is step:
                here.pop(number, None)
                there.pop(number, None)
    return found


def _agree(plan: _Plan, number: int, top: torch.Tensor, moved: torch.Tensor, count: int) -> bool:
    """Whether a top goes image by image, and is the same to the bit wherever an image stands."""
    layout = _Layout.of(top)
    if not top.dim() or top.shape[0] != count or (number in plan.stored and not layout.dense(top)):
        return False
    plan.layouts[number] = layout
    return torch.equal(torch.roll(top, 1, 0), moved)
