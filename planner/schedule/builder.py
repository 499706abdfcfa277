"""Builder: a named schedule, what it asks of a configuration, and the function that lists its actions."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

from .placement import Placement, loop
from .schedule import Schedule


class Held(NamedTuple):
    """The most that one pipeline rank holds at once, in microbatches of one virtual stage.

    `moments` are the fullest ones, as (awaiting their backward or input gradient, awaiting their weight gradient
    alone): no other moment holds more of both. `losses`: of the last virtual stage, awaiting the backward.
    """

    moments: tuple[tuple[int, int], ...]
    losses: int

    def covers(self, other: Held) -> bool:
        """Whether another rank never holds more than this one can."""
        if self.losses < other.losses:
            return False
        for backward, weight in other.moments:
            if not any(mine[0] >= backward and mine[1] >= weight for mine in self.moments):
                return False
        return True


@dataclass(frozen=True, slots=True, kw_only=True)
class Builder:
    """One schedule. A file of `builders/` makes one of these, called SCHEDULE, and nothing else names it.

    `make(ranks, microbatches, chunks)` lists the actions; `chunks` are the virtual stages of a rank. `held`, where
    there is a closed form, says what one rank holds: `held(ranks, microbatches, chunks, rank)`, or None where it does
    not go; `held_spread` says the same where the vocabulary is spread over two ranks or more, and `waiting` of how many
    microbatches a rank then has logits, at most, whose gradients are not there yet (0: it has to be played).
    """

    name: str
    source: str
    make: Callable[[int, int, int], Schedule]
    chunks: range = range(1, 2)
    whole_groups: bool = False  # microbatches in multiples of ranks
    splits: bool = False  # backward in two halves
    place: Callable[[int, int], Placement] = loop
    held: Callable[[int, int, int, int], Held | None] | None = None
    held_spread: Callable[[int, int, int, int], Held | None] | None = None
    waiting: int = 0
    searched: bool = True  # whether a plan that nobody pinned may have it


ANY = range(2, 1 << 20)
"""Two virtual stages a rank, or more."""
