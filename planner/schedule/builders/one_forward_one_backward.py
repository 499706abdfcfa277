"""1F1B (PipeDream-Flush, arXiv:2006.09503): warm up, then alternate. Rank r holds at most ranks - r microbatches."""

from __future__ import annotations

from ..builder import Builder, Held
from ..passes import DRAWN
from ..schedule import Schedule
from ..spelling import spell


def one_forward_one_backward(ranks: int, microbatches: int) -> Schedule:
    """Rank r warms up with ranks - r - 1 forwards, as far as there are so many."""
    rows = []
    for rank in range(ranks):
        warm_up = min(ranks - rank - 1, microbatches)
        words = ["F0"] * warm_up + ["F0", "B0"] * (microbatches - warm_up) + ["B0"] * warm_up
        rows.append(spell(words, [rank], microbatches))
    return Schedule("1f1b", ranks, ranks, microbatches, tuple(rows))


def _held_spread(ranks: int, microbatches: int, chunks: int, rank: int) -> Held:
    """arXiv:2411.05288, figure 10 (a)."""
    losses = min(1 + DRAWN, microbatches) if rank == ranks - 1 else 0
    return Held(((min(ranks - rank + DRAWN, microbatches), 0),), losses)


SCHEDULE = Builder(
    name="1f1b",
    source="arXiv:2006.09503",
    make=lambda ranks, microbatches, chunks: one_forward_one_backward(ranks, microbatches),
    held=lambda ranks, microbatches, chunks, rank: Held(((min(ranks - rank, microbatches), 0),), 1),
    held_spread=_held_spread,
    waiting=2,
)
