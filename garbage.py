"""Garbage: how often Python looks for objects that keep each other alive."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from contextlib import contextmanager

NEW_OBJECTS = 100_000
"""More made than freed before the youngest are looked at: a few MiB. Planning makes millions of small objects, nearly
none in cycles; Python's own 700 took a quarter of its time."""


@contextmanager
def seldom_collected() -> Iterator[None]:
    """Look seldom while this lasts."""
    before = gc.get_threshold()
    gc.set_threshold(max(NEW_OBJECTS, before[0]) if before[0] else 0, *before[1:])
    try:
        yield
    finally:
        gc.set_threshold(*before)
