"""Overlap: dispatch, experts and combine of the parts of a microbatch, one part's transfers beside another's products.

Links between nodes, links inside them and compute work at once, each on one part at a time (Tutel's adaptive
pipelining, arXiv:2206.03382, section 3.3; with links inside and between nodes scheduled together FSMoE,
arXiv:2501.10714, section 4), in the order in which the runtime issues them: a new part begins each time that all begun
ones have gone a piece, the newest first, and a transfer starts behind the products that were issued before it. Every
part pays its latencies and launches, and products of fewer rows run at a lower rate, so that few parts are best.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Parts:
    """Seconds of one part of a microbatch; dispatch goes first between, then inside nodes, combine the other way."""

    count: int
    between_s: float
    inside_s: float  # after dispatch, with what expert-tensor ranks gather
    back_s: float  # inside nodes before the way back

    @property
    def transfers_s(self) -> float:
        """Of all parts, there and back, one after another."""
        return self.count * (2 * self.between_s + self.inside_s + self.back_s)


def overlaps(count: int, hides: bool) -> bool:
    """Whether links work beside one another and beside products: only different parts of a microbatch do."""
    return count > 1 and hides


def exposed_s(parts: Parts, experts_s: float, steal: float, hides: bool) -> float:
    """What transfers add to `experts_s` of all parts together: those that nothing hides, and the share of compute that
    the others take from products beside them."""
    if not overlaps(parts.count, hides):
        return parts.transfers_s
    exposed = whole_s(parts, experts_s) - experts_s
    return exposed + steal * min(experts_s, max(0.0, parts.transfers_s - exposed))


def whole_s(parts: Parts, experts_s: float) -> float:
    """From the first dispatch to the last combine. As long as the backward, which goes the other way."""
    inside = [(1, parts.inside_s, parts.back_s)] if parts.inside_s + parts.back_s else []
    hops = [(0, parts.between_s, parts.between_s), *inside]
    there = [(link, going_s) for link, going_s, _ in hops]
    transfers = [*there, *((link, coming_s) for link, _, coming_s in reversed(hops))]
    now, free, arrived, gone = 0.0, [0.0, 0.0], [0.0] * parts.count, [0] * parts.count
    for tick in range(parts.count + len(transfers)):
        for part in range(min(tick, parts.count - 1), max(-1, tick - len(transfers) - 1), -1):
            now = max(now, arrived[part])
            now += experts_s / parts.count if gone[part] == len(hops) else 0.0
            if gone[part] < len(transfers):
                link, takes_s = transfers[gone[part]]
                arrived[part] = free[link] = max(now, free[link]) + takes_s
                gone[part] += 1
    return now
