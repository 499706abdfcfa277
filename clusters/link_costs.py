"""Link costs: what collectives and messages were measured to take, where a straight line is a poor price.

A cost is a line and a table. The line is what the network carries: `factor` times the bytes that the textbook's
algorithm moves, at the bandwidth of the path, so that a slower path of the same kind takes that much longer. The table
is what comes on top whatever the bandwidth: latency, the library's own steps, threads that wait for a core. It is
interpolated between measured sizes on log(bytes), and goes on beyond the last as between the last two.
"""

from __future__ import annotations

import math
from bisect import bisect_right
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Annotated, Literal, get_args

from pydantic import BeforeValidator, Field, field_validator

from ..schema import Frozen
from ..units import parse_seconds

Operation = Literal["all_reduce", "all_gather", "reduce_scatter", "all_to_all", "broadcast", "send"]
OPERATIONS: tuple[Operation, ...] = get_args(Operation)


class FixedCost(Frozen):
    """What an operation over so many bytes takes besides bytes over bandwidth."""

    size_bytes: float = Field(alias="bytes", gt=0, description="of the whole buffer: what every member ends with")
    fixed_s: Annotated[float, BeforeValidator(parse_seconds), Field(ge=0)] = Field(alias="seconds")


class LinkCost(Frozen):
    """One operation over a group of so many members, as it was measured."""

    operation: Operation
    members: int = Field(ge=2)
    factor: float = Field(1.0, gt=0, description="bytes moved over the textbook's; near 2 for reduce-scatter on gloo")
    fixed: tuple[FixedCost, ...] = Field(min_length=1)  # ascending in bytes

    @field_validator("fixed")
    @classmethod
    def _ascending(cls, fixed: tuple[FixedCost, ...]) -> tuple[FixedCost, ...]:
        if any(a.size_bytes >= b.size_bytes for a, b in pairwise(fixed)):
            raise ValueError("must be in ascending order of bytes")
        return fixed

    def fixed_s(self, size_bytes: float) -> float:
        """Seconds besides bytes over bandwidth, never below 0."""
        points = self.fixed
        if size_bytes <= points[0].size_bytes or len(points) == 1:
            return points[0].fixed_s
        above = min(bisect_right([point.size_bytes for point in points], size_bytes), len(points) - 1)
        low, high = points[above - 1], points[above]
        if size_bytes > high.size_bytes:
            share = (size_bytes - low.size_bytes) / (high.size_bytes - low.size_bytes)
        else:
            share = math.log(size_bytes / low.size_bytes) / math.log(high.size_bytes / low.size_bytes)
        return max(0.0, low.fixed_s + share * (high.fixed_s - low.fixed_s))


def steps(operation: Operation, members: int) -> int:
    """How often members wait for each other: of rings, and of messages sent one after another."""
    if operation == "send":
        return 1
    return 2 * (members - 1) if operation == "all_reduce" else members - 1


def moved_bytes(operation: Operation, members: int, size_bytes: float) -> float:
    """Bytes that leave each member in the textbook's algorithm, over the whole buffer `size_bytes`: rings (Thakur et
    al. 2005), of a broadcast a chain, of a message all."""
    if operation in ("send", "broadcast"):
        return size_bytes
    return (2 if operation == "all_reduce" else 1) * (members - 1) / members * size_bytes


@dataclass(frozen=True, slots=True)
class MeasuredCosts:
    """The measured costs of one kind of links, all of them `times` as long where something slows them."""

    costs: tuple[LinkCost, ...]
    times: float = 1.0

    def seconds(self, operation: Operation, members: int, size_bytes: float, bytes_per_s: float) -> float | None:
        """Over a path that sustains `bytes_per_s`; None where the operation was not measured.

        A group of a size that was not measured costs as the nearest that was, with as many more or fewer steps.
        """
        known = [cost for cost in self.costs if cost.operation == operation]
        if not known:
            return None
        near = min(known, key=lambda cost: (abs(math.log(cost.members / members)), cost.members))
        fixed_s = near.fixed_s(size_bytes) * steps(operation, members) / steps(operation, near.members)
        return self.times * fixed_s + near.factor * moved_bytes(operation, members, size_bytes) / bytes_per_s


def measured_costs(costs: Sequence[LinkCost]) -> tuple[MeasuredCosts, ...]:
    """Of one node group's links: none where nothing was measured."""
    return (MeasuredCosts(tuple(costs)),) if costs else ()


def joined(costs: Iterable[tuple[MeasuredCosts, ...]]) -> tuple[MeasuredCosts, ...]:
    """Those of all the links that a group uses, each once: the dearest counts."""
    return tuple(dict.fromkeys(each for every in costs for each in every))


def dearest_s(
    costs: Sequence[MeasuredCosts], operation: Operation, members: int, size_bytes: float, bytes_per_s: float
) -> float | None:
    """Seconds by whichever of several links is slowest; None where none was measured."""
    found = [each.seconds(operation, members, size_bytes, bytes_per_s) for each in costs]
    return max((seconds for seconds in found if seconds is not None), default=None)


def slower(costs: Sequence[MeasuredCosts], factor: float) -> tuple[MeasuredCosts, ...]:
    """The same with everything but bandwidth taking so many times as long."""
    return tuple(replace(each, times=factor * each.times) for each in costs)
