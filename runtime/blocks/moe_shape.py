"""MoeShape: what the blocks must know of the experts of a config.json."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, slots=True, kw_only=True)
class MoeShape:
    """Routed experts in the place of dense feed-forward blocks."""

    layers: frozenset[int]  # those that have experts; the others are dense


def read_moe(config: Mapping[str, Any]) -> MoeShape | None:
    """The experts that a config.json describes; None for families without experts."""
    return None
