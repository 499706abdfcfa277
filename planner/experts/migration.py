"""Migration: whether to place experts anew while training goes on, by what moving them costs."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from ...errors import InputError, Problem
from .layout import Layout


@dataclass(frozen=True, slots=True)
class Migration:
    """What a change of placement moves and what it gives."""

    moved: int  # copies of experts that a rank has to receive, all layers
    moved_bytes: float
    seconds: float  # that training waits for
    gain_s: float  # a step
    steps_left: int

    @property
    def pays_after(self) -> float:
        """Steps until the gain has paid for the move; infinite without gain."""
        return self.seconds / self.gain_s if self.gain_s > 0 else float("inf")

    @property
    def worthwhile(self) -> bool:
        """Whether the steps that are left, or that the routing stays alike, save more than the move takes."""
        return self.steps_left * self.gain_s > self.seconds


def migration(
    old: Any,
    new: Any,
    layout: Layout,
    *,
    expert_bytes: float,
    gain_s: float,
    steps_left: int,
    inner_bytes_per_s: float = 292.5e9,
    outer_bytes_per_s: float = 40e9,
) -> Migration:
    """From `rank_of` to `rank_of` of one layout. `expert_bytes` are of one expert's weights, gradients' master copy and
    optimizer states together (16 a parameter for Adam with bf16 weights and fp32 states, less what ZeRO shards). The
    busiest rank, in or out, sets the time; what lies on the same node comes over its inner links. Raises InputError."""
    problems = [
        Problem(name, value, "must be more than 0")
        for name, value in (
            ("expert_bytes", expert_bytes),
            ("inner_bytes_per_s", inner_bytes_per_s),
            ("outer_bytes_per_s", outer_bytes_per_s),
        )
        if not value > 0
    ]
    if steps_left < 0:
        problems.append(Problem("steps_left", steps_left, "must not be negative", "0"))
    if len(old) != len(new):
        problems.append(Problem("new", len(new), f"the old placement has {len(old)} layers"))
    if problems:
        raise InputError("migration", problems)
    traffic = np.zeros((2, 2, layout.ranks))  # [outer or inner, in or out, rank]
    moved = 0
    for before, after in zip(old, new, strict=True):
        for held, wanted in zip(before, after, strict=True):
            moved += _move(traffic, set(_ranks(held)), set(_ranks(wanted)), layout)
    rates = np.array([outer_bytes_per_s, inner_bytes_per_s])
    busiest = traffic.max((1, 2)) * expert_bytes / rates
    return Migration(moved, moved * expert_bytes, float(busiest.max()), gain_s, steps_left)


def _ranks(places: Any) -> list[int]:
    return [int(rank) for rank in np.atleast_1d(places)]


def _move(traffic: Any, held: set[int], wanted: set[int], layout: Layout) -> int:
    """Counts what each new rank of an expert receives, from an old one on its node where there is one."""
    nodes = layout.node_of_rank
    for rank in sorted(wanted - held):
        source = min(held, key=lambda each: (nodes[each] != nodes[rank], traffic[:, 1, each].sum(), each))
        near = int(nodes[source] == nodes[rank])
        traffic[near, 0, rank] += 1
        traffic[near, 1, source] += 1
    return len(wanted - held)


def worthwhile(old: Any, new: Any, layout: Layout, **costs: Any) -> bool:
    """Whether to change the placement; arguments as of `migration`."""
    return migration(old, new, layout, **costs).worthwhile
