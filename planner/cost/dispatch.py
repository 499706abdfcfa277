"""Dispatch: what one rank sends when its tokens go to the ranks of their experts, and what that takes.

Where no trace says otherwise, routing is taken as balanced: a token's experts are `top_k` of all, equally likely, or
with group-limited routing (DeepSeek-V3, arXiv:2412.19437, section 2.1.2) `top_k` of those in `top_groups` equally
likely groups. Combining the experts' outputs sends the same back.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from statistics import NormalDist
from typing import Literal

from ...clusters.topology import GroupPaths
from ..configuration import Dispatch
from ..model import Moe
from .communication import all_to_all_s
from .overlap import overlaps


@dataclass(frozen=True, slots=True)
class Visits:
    """What routing does with the ranks of an ep group, for the busiest of which the others wait."""

    load: float  # rows of the busiest rank over the mean
    rank: float  # share of the tokens that visit it
    node: float  # share of the tokens that visit the busiest node


def balanced(moe: Moe, group: GroupPaths, spread: float = 0.0) -> Visits:
    """Of balanced routing, or where the loads of experts deviate by `spread`."""
    load = imbalance(moe, group.size, spread)
    return Visits(load, visited_share(moe, group.size), visited_share(moe, group.domains))


CHOICE_BYTES = 8
"""Of a choice of a token that is sent for a rank or node: its weight and its slot, on the way there alone."""


def arriving(moe: Moe, group: GroupPaths, dispatch: Dispatch, visits: Visits) -> float:
    """Rows that the busiest rank receives, over the tokens of one rank."""
    return moe.top_k * visits.load if dispatch == "copies" else group.size * visits.rank


def transfers_s(
    moe: Moe, group: GroupPaths, own_bytes: float, dispatch: Dispatch, visits: Visits
) -> tuple[float, float]:
    """Seconds of what follows one another until the tokens of every rank (`own_bytes` of hidden states) are where their
    experts are: a transfer, over both kinds of links at once, and what is then passed on inside nodes.

    "copies" and "ranks" go straight to a rank, one for each expert or one for each rank that a token visits; "nodes"
    one for each node, to the rank of equal place there, which passes it on to each rank inside that the token visits.
    """
    if group.size == 1:
        return 0.0, 0.0
    if dispatch == "copies":
        return all_to_all_s(group, own_bytes * moe.top_k * visits.load), 0.0
    if dispatch == "ranks":
        return all_to_all_s(group, own_bytes * group.size * visits.rank), 0.0
    return _between_s(group, own_bytes, visits.node), _inside_s(group, own_bytes, visits.rank)


def _between_s(group: GroupPaths, own_bytes: float, node: float) -> float:
    """A copy to each other node that a token visits, at the rank of equal place."""
    if group.outer is None:
        return 0.0
    copies, latency_s = (group.domains - 1) * node, (group.domains - 1) * group.outer.latency_s
    return copies * own_bytes / group.outer.bandwidth_bytes_per_s + latency_s


def _inside_s(group: GroupPaths, own_bytes: float, rank: float) -> float:
    """Passed on to each rank that a token visits; one of `per_domain` tokens is already there."""
    if group.inner is None:
        return 0.0
    copies = group.domains * (group.per_domain - 1) * rank
    return copies * own_bytes / group.inner.bandwidth_bytes_per_s + group.inner.latency_s


def in_turn(dispatch: Dispatch, parts: int, hides: bool) -> bool:
    """Whether links inside nodes wait for those between: the built-in runtime passes tokens on when all have arrived,
    and only another part of the microbatch is on its way meanwhile."""
    return dispatch == "nodes" and not overlaps(parts, hides)


def hops_s(between_s: float, inside_s: float, turns: bool) -> float:
    """Seconds of both kinds of links: one after the other (`in_turn`), or both at once, as in dispatchers that pass on
    what has arrived while the rest arrives."""
    return between_s + inside_s if turns else max(between_s, inside_s)


def dispatch_s(moe: Moe, group: GroupPaths, own_bytes: float, dispatch: Literal["copies", "distinct"]) -> float:
    """Seconds until the tokens of every rank (`own_bytes` of hidden states) are where their experts are.

    "copies": an all-to-all with a copy for each expert. "distinct": between domains a token travels once for each
    domain that it visits, to the rank of equal place there, which passes it on over NVLink to each rank that it visits
    (DeepEP's internode kernels, github.com/deepseek-ai/DeepEP; HybridEP likewise); both links work at once.
    """
    if group.size == 1:
        return 0.0
    if dispatch == "copies":
        return all_to_all_s(group, own_bytes * moe.top_k)
    ranks, domains = visited_share(moe, group.size), visited_share(moe, group.domains)
    inner = outer = 0.0
    if group.inner is not None:
        copies = group.domains * (group.per_domain - 1) * ranks
        inner = copies * own_bytes / group.inner.bandwidth_bytes_per_s + group.inner.latency_s
    if group.outer is not None:
        copies = (group.domains - 1) * domains
        outer = copies * own_bytes / group.outer.bandwidth_bytes_per_s + group.outer.latency_s
    return hops_s(outer, inner, turns=False)


def imbalance(moe: Moe, ep: int, spread: float) -> float:
    """Load of the busiest of `ep` ranks over their mean, for which all others wait: the expected largest of so many
    normal values (Blom 1958), each a mean over the experts of a rank, whose own loads deviate by `spread`."""
    if ep == 1 or spread == 0:
        return 1.0
    largest = NormalDist().inv_cdf((ep - 0.375) / (ep + 0.25))
    return 1.0 + spread * largest / math.sqrt(moe.experts / ep)


def visited_share(moe: Moe, parts: int) -> float:
    """Probability that a token visits one of `parts` equal parts of the experts.

    Hypergeometric: the part is missed when all `top_k` experts are among the others. Experts stand in order of their
    groups, so that a part holds whole groups, or lies in one.
    """
    groups, chosen = moe.groups, moe.top_groups
    each = moe.experts // groups
    eligible = chosen * each
    inside = moe.experts / parts
    if groups >= parts:  # whole groups: how many of them are chosen
        held = groups // parts
        missed = sum(
            _drawn(groups, held, chosen, count) * _missed(eligible, count * each, moe.top_k)
            for count in range(min(held, chosen) + 1)
        )
        return 1.0 - missed
    return chosen / groups * (1.0 - _missed(eligible, inside, moe.top_k))


def _drawn(total: int, marked: int, drawn: int, count: int) -> float:
    """Probability that `count` of `drawn` out of `total` are among the marked."""
    return math.comb(marked, count) * math.comb(total - marked, drawn - count) / math.comb(total, drawn)


def _missed(total: int, inside: float, drawn: int) -> float:
    """Probability that none of `drawn` experts out of `total` is among `inside`."""
    return math.prod(max(0.0, total - inside - index) / (total - index) for index in range(drawn))
