"""Nodes of a profile: which are alike enough to be one node group."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from statistics import median

from .parts import Result

ALIKE = 0.15
"""Nodes whose products are at most so much slower or faster than those of the first are one group: schedules wait for
the slowest anyway, and what a machine does beside the job moves its figures by some percent."""


def grouped(results: Sequence[Mapping[str, Result]], local_world: int) -> list[list[int]]:
    """Ranks of each node group, in the order of their first nodes. A node that measured nothing is taken for one like
    the first."""
    groups: list[list[int]] = []
    heads: list[tuple[tuple[object, ...], float]] = []
    for first in range(0, len(results), local_world):
        ranks = list(range(first, first + local_world))
        kind, speed = _kind(results, ranks), _speed(results, ranks)
        at = next((i for i, (known, rate) in enumerate(heads) if _alike(kind, known, speed, rate)), None)
        if at is None:
            groups.append(ranks)
            heads.append((kind, speed))
        else:
            groups[at] += ranks
    return groups


def _alike(kind: tuple[object, ...], known: tuple[object, ...], speed: float, rate: float) -> bool:
    if not speed or not rate:
        return not kind or not known or kind == known
    return kind == known and 1 / (1 + ALIKE) <= speed / rate <= 1 + ALIKE


def _kind(results: Sequence[Mapping[str, Result]], ranks: Sequence[int]) -> tuple[object, ...]:
    machine = next((results[rank]["machine"] for rank in ranks if "machine" in results[rank]), None)
    return (machine["kind"], machine["name"], machine["memory_bytes"]) if machine else ()


def _speed(results: Sequence[Mapping[str, Result]], ranks: Sequence[int]) -> float:
    """FLOP/s of the products that all measured; 0 where none did."""
    rates = [
        median(flops / seconds for flops, seconds in results[rank]["compute"]["matmul"])
        for rank in ranks
        if "compute" in results[rank]
    ]
    return median(rates) if rates else 0.0
