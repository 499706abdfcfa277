"""Layers to stages whose devices differ: the split whose slowest stage is fastest, by dynamic programming.

Filling stages from the front is exact where they are alike (`partition.py`), but not here: a stage of slow devices must
have a layer too, and which one it gets counts.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

Costs = NDArray[np.float64]

SLACK = 1e-12
"""Relative: above the rounding of sums, far below any difference between two splits."""


def uneven_split(
    layer_s: Sequence[Sequence[float]], first_s: float = 0.0, last_s: float = 0.0, most: Sequence[int] = ()
) -> tuple[int, ...] | None:
    """Layers of each stage so that the slowest stage takes least; every stage gets one at least.

    `layer_s[v][i]` is the time of layer i on the devices of stage v, `first_s` and `last_s` what the first and last
    stage hold besides, `most[v]` the layers that stage v has memory for. Among the splits with the least bottleneck it
    is one with the least sum of squared times: near the average, and with less on slow devices. None where the layers
    do not fit. Needs at least as many layers as stages.
    """
    costs = _costs(layer_s, first_s, last_s, most)
    bottleneck, _ = _chain(costs, np.maximum)
    if not np.isfinite(bottleneck):
        return None
    limit = bottleneck * (1 + SLACK)
    _, ends = _chain([np.where(cost <= limit, cost * cost, np.inf) for cost in costs], np.add)
    return tuple(int(end - start) for start, end in zip([0, *ends], ends, strict=False))


def _costs(layer_s: Sequence[Sequence[float]], first_s: float, last_s: float, most: Sequence[int]) -> list[Costs]:
    """Of each stage a matrix: its time from layer `row` up to, without, layer `column`; infinite where it cannot."""
    count, known = len(layer_s[0]), dict[int, Costs]()
    sizes = np.arange(count + 1)[None, :] - np.arange(count + 1)[:, None]
    costs = []
    for stage, times in enumerate(layer_s):
        if id(times) not in known:
            sums = np.concatenate(([0.0], np.cumsum(times)))
            known[id(times)] = np.where(sizes > 0, sums[None, :] - sums[:, None], np.inf)
        cost = known[id(times)]
        if most:
            cost = np.where(sizes <= most[stage], cost, np.inf)
        costs.append(cost)
    costs[0] = costs[0] + first_s
    costs[-1] = costs[-1] + last_s
    return costs


def _chain(costs: list[Costs], join: np.ufunc) -> tuple[float, list[int]]:
    """The least value of a chain of stages over all layers, and where each stage ends."""
    best, froms = costs[0][0], []
    for cost in costs[1:]:
        joined = join(best[:, None], cost)
        start = joined.argmin(axis=0)
        froms.append(start)
        best = joined[start, np.arange(len(start))]
    ends = [len(best) - 1]
    for start in reversed(froms):
        ends.append(int(start[ends[-1]]))
    return float(best[-1]), ends[::-1]
