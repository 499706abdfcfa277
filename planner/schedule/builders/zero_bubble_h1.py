"""ZB-H1 (Zero Bubble Pipeline Parallelism, arXiv:2401.10241, section 3): 1F1B whose backwards come in two halves.

The next rank waits for the input gradient alone; weight gradients fill what would be bubbles. No rank holds more than
the first one does under 1F1B: rank r puts its weight gradients off by r microbatches, as it holds r microbatches less.
"""

from __future__ import annotations

from ..builder import Builder
from ..schedule import Schedule
from ..spelling import spell


def zero_bubble_h1(ranks: int, microbatches: int) -> Schedule:
    """Warm up as 1F1B does; then forward, input gradient, and the weight gradient of r microbatches ago."""
    rows = []
    for rank in range(ranks):
        warm_up = min(ranks - rank - 1, microbatches)
        words = ["F0"] * warm_up
        for turn in range(microbatches):
            words += ["F0", "I0"] if turn < microbatches - warm_up else ["I0"]
            words += ["W"] if turn >= rank else []
        rows.append(spell(words + ["W"] * min(rank, microbatches), [rank], microbatches))
    return Schedule("zb-h1", ranks, ranks, microbatches, tuple(rows))


SCHEDULE = Builder(
    name="zb-h1",
    source="arXiv:2401.10241, section 3",
    make=lambda ranks, microbatches, chunks: zero_bubble_h1(ranks, microbatches),
    splits=True,
    waiting=2,
)
