"""Rule: one thing that a configuration must satisfy, and how its breach is said."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from ...errors import Problem
from ..configuration import Configuration
from ..cost.setting import Setting


@dataclass(frozen=True, slots=True)
class Rule:
    """`check` returns the problem, or None where the rule holds. `reason` says why the rule exists."""

    name: str
    reason: str
    check: Callable[[Setting, Configuration], Problem | None]


def nearest_divisor(number: int, wanted: int) -> int:
    """The divisor of `number` that is nearest to `wanted`; of two, the smaller."""
    return min((d for d in range(1, number + 1) if number % d == 0), key=lambda d: (abs(d - wanted), d))


def divides(field: str, value: int, number: int, what: str) -> Problem | None:
    """`value` must divide `number`."""
    if number % value == 0:
        return None
    return Problem(
        f"--pin {field}", value, f"must divide {what} ({number})", f"{field}={nearest_divisor(number, value)}"
    )
