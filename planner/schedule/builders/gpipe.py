"""GPipe (arXiv:1811.06965): all forwards, then all backwards. Every microbatch is held at once."""

from __future__ import annotations

from ..builder import Builder, Held
from ..schedule import Schedule
from ..spelling import spell


def gpipe(ranks: int, microbatches: int) -> Schedule:
    """All forwards, then all backwards."""
    words = ["F0"] * microbatches + ["B0"] * microbatches
    rows = tuple(spell(words, [rank], microbatches) for rank in range(ranks))
    return Schedule("gpipe", ranks, ranks, microbatches, rows)


SCHEDULE = Builder(
    name="gpipe",
    source="arXiv:1811.06965",
    make=lambda ranks, microbatches, chunks: gpipe(ranks, microbatches),
    held=lambda ranks, microbatches, chunks, rank: Held(((microbatches, 0),), microbatches),
    waiting=2,
    searched=False,  # as fast as 1F1B, and holds more
)
