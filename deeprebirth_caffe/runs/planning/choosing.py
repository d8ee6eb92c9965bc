"""Which merges pay: the most milliseconds for the least error first, until a target is met.

Each stage offers several choices (all its passes, some of them, or none), and takes one. From a choice with s ms saved
and error e, one with s' > s and e' is a move with the price

    (e' - e) / (s' - s)

and the cheapest move comes first, one that lowers the error before all others. Errors of several stages are added, as
if each merge erred by itself; so are the milliseconds, which holds, for a merge changes nothing outside its stage.

A speed-up may be overshot by the last move. Then choices are taken back, the worst for its price first, as long as the
target holds without them.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Offer:
    """One way to merge a stage, measured.

    Attributes:
        stage: its name.
        passes: what is done there.
        saved_ms: how much less time the net takes.
        error: relative error of the net's output when this alone is merged and refitted.
        points: percentage points of accuracy that this alone is expected to cost; None where that was not measured.
    """

    stage: str
    passes: tuple[str, ...]
    saved_ms: float
    error: float
    points: float | None = None

    def __str__(self) -> str:
        return f"{self.stage} ({', '.join(self.passes)})"


Chosen = Mapping[str, Offer]
"""By stage."""


def choose(
    offers: Sequence[Offer], total_ms: float, *, speedup: float | None = None, accuracy: float | None = None
) -> dict[str, Offer]:
    """Takes the offers that pay.

    Args:
        offers: all that there are.
        total_ms: what the net takes without any.
        speedup: stop when the net is so many times as fast.
        accuracy: points that all together may cost; a move that costs more is passed over. Every offer has points then.

    Returns:
        What was taken. Where the targets cannot both be met it is what came nearest to the speed-up.
    """
    chosen: dict[str, Offer] = {}
    for grown in _grown(offers, accuracy):
        if speedup is not None and predicted(chosen, total_ms) >= speedup:
            break
        chosen = grown
    return chosen if speedup is None else _trimmed(chosen, total_ms, speedup)


def frontier(offers: Sequence[Offer], total_ms: float) -> list[dict[str, Offer]]:
    """What can be had: choices from the slowest to the fastest, none of them slower and dearer than another."""
    found: list[dict[str, Offer]] = []
    for grown in _grown(offers, None):
        # Moves that lower the error come first, so that an earlier choice may be slower and no cheaper.
        found = [one for one in found if points(one) < points(grown) or offers[0].points is None]
        found.append(grown)
    return found


def _grown(offers: Sequence[Offer], accuracy: float | None) -> Iterator[dict[str, Offer]]:
    """What is chosen after each move, the cheapest move first; see `choose`."""
    chosen: dict[str, Offer] = {}
    open_moves = [offer for offer in offers if offer.saved_ms > 0]
    while open_moves:
        moves = [offer for offer in open_moves if offer.saved_ms > _saved(chosen, offer.stage)]
        affordable = [
            offer for offer in moves if accuracy is None or points({**chosen, offer.stage: offer}) <= accuracy
        ]
        if not affordable:
            return
        best = min(affordable, key=lambda offer: _price(chosen, offer))
        chosen = {**chosen, best.stage: best}
        yield chosen
        open_moves = [offer for offer in moves if offer is not best]


def predicted(chosen: Chosen, total_ms: float) -> float:
    """How many times as fast the net is with what was chosen."""
    left = total_ms - sum(offer.saved_ms for offer in chosen.values())
    # Savings are measured, so noise alone could make them more than all there is.
    return total_ms / max(left, 1e-3 * total_ms)


def points(chosen: Chosen) -> float:
    """What all that was chosen is expected to cost, in percentage points."""
    return sum(offer.points or 0.0 for offer in chosen.values())


def _saved(chosen: Chosen, stage: str) -> float:
    return chosen[stage].saved_ms if stage in chosen else 0.0


def _price(chosen: Chosen, offer: Offer) -> tuple[float, float]:
    """What sorts moves: error for a millisecond; of equal ones the one that saves more."""
    before = chosen.get(offer.stage)
    gain = offer.saved_ms - (before.saved_ms if before else 0.0)
    cost = offer.error - (before.error if before else 0.0)
    return cost / gain, -gain


def _trimmed(chosen: dict[str, Offer], total_ms: float, speedup: float) -> dict[str, Offer]:
    """Takes back what the target holds without."""
    kept = dict(chosen)
    for offer in sorted(chosen.values(), key=lambda offer: offer.error / offer.saved_ms, reverse=True):
        rest = {stage: one for stage, one in kept.items() if one is not offer}
        if predicted(rest, total_ms) >= speedup:
            kept = rest
    return kept
