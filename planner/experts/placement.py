"""Placement: where the experts of every layer lie, what that does, and how far from the best it can be."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from .layout import Layout
from .metrics import Metrics
from .trace import Ints


@dataclass(frozen=True, slots=True, eq=False)
class Placement:
    """`rank_of` [layers, experts] without replicas; with them, of each layer, for each expert, a tuple of ranks."""

    rank_of: Any
    layout: Layout
    metrics: Metrics
    bound_s: float  # no placement of these counts takes less, on this trace
    seconds: float

    @property
    def objective_s(self) -> float:
        """Predicted seconds of one microbatch, all layers."""
        return float(self.metrics.time_s.sum())

    @property
    def gap(self) -> float:
        """How much of the predicted time another placement could save at most."""
        return max(0.0, 1 - self.bound_s / self.objective_s)

    @property
    def permutation(self) -> Ints:
        """[layers, slots]: the expert in each slot, ranks one after another; equal ranks hold their experts in order.

        Row i of a layer's router and stacked expert weights becomes the old row permutation[layer, i]: a checkpoint
        that is converted so computes the same function with contiguous placement. With replicas an expert stands
        several times.
        """
        return np.array([_slots(ranks, self.layout) for ranks in self.rank_of])


def _slots(ranks: Any, layout: Layout) -> list[int]:
    held: list[list[int]] = [[] for _ in range(layout.ranks)]
    for expert, places in enumerate(ranks):
        for rank in np.atleast_1d(places):
            held[int(rank)].append(expert)
    return [expert for experts in held for expert in experts]
