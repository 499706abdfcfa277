"""Worst: the largest error, where an error that is no number is the largest of all."""

from __future__ import annotations

import math
from collections.abc import Iterable


def worst(errors: Iterable[float]) -> float:
    """The largest; infinity if one is not finite, which `max` would pass over."""
    found = list(errors)
    return max(found) if all(math.isfinite(error) for error in found) else math.inf
