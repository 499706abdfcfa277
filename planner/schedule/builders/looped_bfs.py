"""Breadth-first looped pipeline (arXiv:2211.05953): every microbatch through one virtual stage, then through the next.

Each virtual stage is visited once forward and once backward, which is what fully sharded weights want; everything is
held at once.
"""

from __future__ import annotations

from ..builder import ANY, Builder, Held
from ..schedule import Schedule
from ..spelling import spell


def looped_bfs(ranks: int, microbatches: int, chunks: int) -> Schedule:
    """All microbatches forward, chunk by chunk; then all backward, last chunk first."""
    words = [f"F{chunk}" for chunk in range(chunks) for _ in range(microbatches)]
    words += [f"B{chunk}" for chunk in reversed(range(chunks)) for _ in range(microbatches)]
    stages = ranks * chunks
    rows = tuple(spell(words, range(rank, stages, ranks), microbatches) for rank in range(ranks))
    return Schedule("looped-bfs", ranks, stages, microbatches, rows)


SCHEDULE = Builder(
    name="looped-bfs",
    source="arXiv:2211.05953",
    make=looped_bfs,
    chunks=ANY,
    held=lambda ranks, microbatches, chunks, rank: Held(((microbatches * chunks, 0),), microbatches),
    waiting=2,
    searched=False,  # interleaved 1F1B has the same bubble, and holds less
)
