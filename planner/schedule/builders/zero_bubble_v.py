"""ZB-V (arXiv:2401.10241, section 6; arXiv:2405.15362): two virtual stages a rank in a V, backwards in two halves.

The last stage is on the rank of the first, so that the first microbatch is back early: no bubble where forward, input
and weight gradient take equally long, and no rank holds more than the first one does under 1F1B.
"""

from __future__ import annotations

from ..builder import Builder, Held
from ..placement import vee
from ..schedule import Schedule
from ..spelling import spell

_DOWN, _UP = ["F0", "I0", "W0"], ["F1", "I1", "W1"]
"""One pass of a microbatch through the rank's stage on the way down the V, and on the way up."""


def zero_bubble_v(ranks: int, microbatches: int) -> Schedule:
    """Fill the V, alternate between its two arms, and put the last weight gradients off to the end."""
    rows = []
    for rank in range(ranks):
        above = ranks - rank  # ranks from here to the turn of the V, this one included
        steady = max(microbatches, 2 * ranks - 1) - 2 * ranks + rank + 1
        words = ["F0"] * (2 * above - 1) + ["F1", "F0"] * rank + _UP * above
        words += (_DOWN + _UP) * steady + [*_DOWN[1:], *_UP] * (above - 1)
        words += ["I0", "I1"] * rank + ["I0", "W0"] * above + ["W1"] * rank + ["W0"] * rank
        rows.append(spell(words, [rank, 2 * ranks - 1 - rank], microbatches))
    return Schedule("zb-v", ranks, 2 * ranks, microbatches, tuple(rows), vee(ranks, 2 * ranks))


def _held(ranks: int, microbatches: int, chunks: int, rank: int, drawn: int = 0) -> Held | None:
    """Where microbatches fill the V: it is full of forwards, or of one less and one that waits for its weight gradient;
    and a lower rank puts more weight gradients off at the end."""
    if microbatches < 2 * ranks - 1:
        return None
    full = 2 * ranks + drawn
    late = [(ranks - 2 + rank - each, 2 + each) for each in range(2 * rank)]
    return Held(((full, 0), (full - 1, 1), *late), 0 if rank else 1 + drawn)


def _held_spread(ranks: int, microbatches: int, chunks: int, rank: int) -> Held | None:
    """With one forward more: a second one would never end."""
    return _held(ranks, microbatches, chunks, rank, drawn=1)


SCHEDULE = Builder(
    name="zb-v",
    source="arXiv:2401.10241, section 6; arXiv:2405.15362",
    make=lambda ranks, microbatches, chunks: zero_bubble_v(ranks, microbatches),
    chunks=range(2, 3),
    splits=True,
    place=vee,
    held=_held,
    held_spread=_held_spread,
    waiting=1,
)
