"""Front: placements from least traffic to most even load, of which none is worse than another in both."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from .assign import assignments
from .counts import counted
from .layout import layout
from .metrics import Metrics
from .place import measure, transposed
from .prices import Prices
from .trace import Ints, Trace, as_trace

WEIGHTS = (0.0, 1.0, 4.0, 16.0, 64.0, 256.0)


@dataclass(frozen=True, slots=True, eq=False)
class Point:
    """One placement of all layers: `rank_of` [layers, experts]. `weight` is that of load beside traffic."""

    weight: float
    rank_of: Ints
    metrics: Metrics

    @property
    def imbalance(self) -> float:
        return float(np.mean(self.metrics.imbalance))

    @property
    def remote_nodes(self) -> float:
        return float(np.mean(self.metrics.remote_nodes))


def front(
    trace: Trace | Ints | Any,
    *,
    num_experts: int,
    ranks_per_node: Sequence[int],
    n_group: int = 1,
    prices: Prices | None = None,
    window: int = 4096,
    weights: tuple[float, ...] = WEIGHTS,
) -> list[Point]:
    """Points by rising traffic and falling imbalance, without replicas. Arguments and errors as of `place`."""
    given, made, prices = (
        as_trace(trace, num_experts),
        layout(num_experts, ranks_per_node, n_group=n_group),
        prices or Prices(),
    )
    counts = [counted(each, num_experts, window) for each in transposed(given, window)]
    points = []
    for weight in weights:
        ranks = np.stack([next(iter(assignments(each, made, prices, (weight,)))) for each in counts])
        points.append(Point(weight, ranks, measure(ranks, given, made, prices, window)))
    return best_of(points)


def best_of(points: list[Point]) -> list[Point]:
    """Without those that another is no worse than in both."""
    kept: list[Point] = []
    for point in sorted(points, key=lambda each: (each.remote_nodes, each.imbalance)):
        if not kept or point.imbalance < kept[-1].imbalance:
            kept.append(point)
    return kept
