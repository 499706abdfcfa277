"""placeholder"""
from __future__ import annotations
from typing import Any
from .counts import Counts
from .layout import Layout
from .prices import Prices
from .trace import Ints

def replicated(counts: Counts, made: Layout, prices: Prices, window: int) -> Any:
    raise NotImplementedError

def targets_of(ranks: Any, choices: Ints, made: Layout) -> Ints:
    return ranks[choices]
