"""From rows of measured operations to link costs: a factor on the textbook's bytes, and what comes on top by size."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from itertools import combinations
from statistics import median
from typing import Any

from ..clusters.link_costs import OPERATIONS, Operation, moved_bytes
from ..units import significant

LARGE_BYTES = 2**19
"""From here on bandwidth decides: the factor is the slope of time over bytes among these sizes."""

Row = Mapping[str, Any]
Bandwidth = Mapping[tuple[int, ...], float]


def link_costs(rows: Iterable[Row], bandwidth: Bandwidth) -> list[dict[str, Any]]:
    """Costs as a cluster file has them, of every operation and group size among the rows.

    `bandwidth` is what the ring of each group of workers sustains, in bytes per second. Of several groups of one size
    the fastest are taken: what they need on top of bytes over bandwidth shows best.
    """
    found: dict[tuple[Operation, int], list[Row]] = {}
    for row in rows:
        found.setdefault((row["operation"], row["members"]), []).append(row)
    order = sorted(found, key=lambda key: (OPERATIONS.index(key[0]), key[1]))
    return [_cost(name, members, found[name, members], bandwidth) for name, members in order]


def _cost(name: Operation, members: int, rows: Sequence[Row], bandwidth: Bandwidth) -> dict[str, Any]:
    rates = {ranks: bandwidth[ranks] for ranks in (tuple(row["ranks"]) for row in rows)}
    fastest = max(rates.values())
    samples: dict[float, list[tuple[float, float]]] = {}
    for row in rows:
        rate = rates[tuple(row["ranks"])]
        if rate >= 0.85 * fastest:
            wire_s = moved_bytes(name, members, row["bytes"]) / rate
            samples.setdefault(float(row["bytes"]), []).append((wire_s, row["seconds"]))
    curve = [(size, *(median(each) for each in zip(*found, strict=True))) for size, found in sorted(samples.items())]
    factor = _factor([(wire_s, seconds) for size, wire_s, seconds in curve if size >= LARGE_BYTES] or
                     [(wire_s, seconds) for _, wire_s, seconds in curve[-1:]])  # fmt: skip
    fixed = [
        {"bytes": size, "seconds": significant(max(0.0, seconds - factor * wire_s))} for size, wire_s, seconds in curve
    ]
    return {"operation": name, "members": members, "factor": factor, "fixed": fixed}


def _factor(samples: Sequence[tuple[float, float]]) -> float:
    """The median slope between two sizes (Theil and Sen), never so steep that less than nothing is left on top."""
    steepest = min(seconds / wire_s for wire_s, seconds in samples)
    slopes = [(d - b) / (c - a) for (a, b), (c, d) in combinations(samples, 2) if c > a]
    slope = median(slopes) if slopes else steepest
    return significant(min(slope, steepest) if slope > 0 else steepest)
