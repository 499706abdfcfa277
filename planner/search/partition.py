"""Layers to stages: the split whose slowest virtual stage is fastest, and the one that memory leaves possible."""

from __future__ import annotations

import math
from bisect import bisect_left, bisect_right
from collections.abc import Sequence
from functools import lru_cache
from itertools import accumulate


@lru_cache(maxsize=4096)
def even_split(layers: int, stages: int) -> tuple[int, ...]:
    """As equal as whole layers allow; later stages take the larger share, as earlier ones hold more in flight."""
    few, more = divmod(layers, stages)
    return (few,) * (stages - more) + (few + 1,) * more


def balanced_split(layer_s: Sequence[float], stages: int, first_s: float = 0.0, last_s: float = 0.0) -> tuple[int, ...]:
    """Layers of each stage so that the slowest stage takes least: an exact chain partition.

    `layer_s[i]` is the time of layer i, `first_s` and `last_s` what the first and last stage hold besides (embedding,
    head). Every stage gets at least one layer. Among the splits with the least bottleneck, stages are kept near the
    average. Needs len(layer_s) >= stages.
    """
    sums = [first_s + done for done in accumulate(layer_s, initial=0.0)]
    sums[0] = 0.0  # the first stage starts before the embedding
    sums[-1] += last_s
    limit = _bottleneck(sums, stages)
    return _spread(sums, stages, limit)


def _bottleneck(sums: list[float], stages: int) -> float:
    """The least time of a slowest stage. Fill from the front under a limit; where that fails, one stage must take one
    layer more, and the cheapest such stage gives the next limit (Pinar and Aykanat 2004, "Fast optimal load balancing
    algorithms for 1D partitioning", section 4.3: exact bisection by bids)."""
    limit = sums[-1] / stages
    while True:
        limit *= 1 + SLACK
        reach, bid = _fill(sums, stages, limit)
        if reach is not None:
            return limit
        limit = max(limit, bid)


SLACK = 1e-12
"""Relative: above the rounding of running sums, far below any difference between two splits."""


def _fill(sums: list[float], stages: int, limit: float) -> tuple[list[int] | None, float]:
    """Fill stages from the front, each as full as the limit and one layer for each later stage allow.

    Returns where each stage ends (None: layers are left over), and the least limit under which some stage would take
    one layer more.
    """
    count, reach, bid = len(sums) - 1, [0], math.inf
    for stage in range(stages):
        start, most = reach[-1], len(sums) - stages + stage
        far = min(bisect_right(sums, sums[start] + limit) - 1, most)
        if far < most:
            bid = min(bid, sums[far + 1] - sums[start])
        if far <= start:
            return None, bid
        reach.append(far)
    return (reach if reach[-1] == count else None), bid


def _earliest_starts(sums: list[float], stages: int, limit: float) -> list[int]:
    """Filling from the back: the first layer at which stage v may start so that the rest fits within the limit."""
    count = len(sums) - 1
    starts = [count]
    for stage in range(stages - 1, -1, -1):
        start = bisect_left(sums, sums[starts[-1]] - limit)
        starts.append(max(start, stage))
    return starts[::-1]


def _spread(sums: list[float], stages: int, limit: float) -> tuple[int, ...]:
    """Of all splits within the limit, one that follows the average."""
    reach, _ = _fill(sums, stages, limit)
    assert reach is not None
    starts = _earliest_starts(sums, stages, limit)
    counts, at = [], 0
    for stage in range(stages - 1):
        target = sums[at] + (sums[-1] - sums[at]) / (stages - stage)
        far = min(bisect_right(sums, sums[at] + limit) - 1, reach[stage + 1])
        low = max(starts[stage + 1], at + 1)
        wanted = _nearest(sums, target)
        end = max(low, min(wanted, far))
        counts.append(end - at)
        at = end
    return (*counts, len(sums) - 1 - at)


def _nearest(sums: list[float], target: float) -> int:
    place = bisect_left(sums, target)
    if place == len(sums):
        return len(sums) - 1
    return place if place == 0 or sums[place] - target < target - sums[place - 1] else place - 1
