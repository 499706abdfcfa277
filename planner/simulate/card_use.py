"""Card use: which directions of which cards a transfer or a collective goes over, and the share of each it takes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

from ..schedule import Schedule
from ..schedule.program import Link
from .card import Direction
from .work import CardShares, Work

Shares = tuple[float, float]
Takes = tuple[tuple[Direction, float], ...]
_NONE: Takes = ()


@dataclass(frozen=True, slots=True)
class CardUse:
    """Of one play. `of_link`: transfers; `data`: the share that a rank's collectives take of either direction."""

    sending: Sequence[Direction]
    receiving: Sequence[Direction]
    of_link: Sequence[Takes]
    data: Sequence[float]

    def of_data(self, rank: int, pace: float = 1.0) -> Takes:
        """Of a rank's collectives, at so much of their pace: they send as they receive."""
        share = pace * self.data[rank]
        return ((self.sending[rank], share), (self.receiving[rank], share)) if share else _NONE


def card_use(schedule: Schedule, work: Work) -> CardUse:
    """One card a pipeline rank, nothing on its way yet."""
    ranks, cards = schedule.ranks, work.cards or CardShares()
    sending: list[Direction] = [[] for _ in range(ranks)]
    receiving: list[Direction] = [[] for _ in range(ranks)]
    of_link = []
    for link, (here, there) in enumerate(schedule.links):
        directions = sending[here], receiving[there]
        takes = zip(directions, _shares(cards.borders, link, (here, there), ranks), strict=True)
        of_link.append(tuple((direction, share) for direction, share in takes if share))
    return CardUse(sending, receiving, of_link, cards.data or (0.0,) * ranks)


def transfers_meet(schedule: Schedule, work: Work, arrivals_s: Sequence[float], hops: Sequence[float]) -> bool:
    """Whether two transfers want one direction of a card at once, by when each would arrive if none shared it."""
    use = card_use(schedule, work)
    steps = [(step.slot, step.link) for step in schedule.program if use.of_link[step.link] and hops[step.link]]
    for side in range(2):
        spans = sorted(
            (schedule.links[link][side], arrivals_s[slot] - hops[link], arrivals_s[slot], link) for slot, link in steps
        )
        for (card, _, end, link), (next_card, begin, _, other) in pairwise(spans):
            if card == next_card and link != other and begin < end:
                return True
    return False


def _shares(borders: Sequence[Shares], link: int, ends: Link, ranks: int) -> Shares:
    """Of the card that sends and of the one that receives, by the number of the link (`schedule.links`). What goes past
    a neighbour takes what the rank's dearer border does."""
    if not borders or 2 * ranks <= link < 3 * ranks:
        return 0.0, 0.0
    if link < ranks:
        return borders[link]
    if link < 2 * ranks:
        receives, sends = borders[ends[1]]
        return sends, receives
    here, there = (max(borders[rank][0], borders[rank - 1][1]) for rank in ends)
    return here, there
