"""Predictions beside what was measured: every row of a file of published runs."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from .comparison import Comparison
from .row import read_rows


def compare(path: Path, workers: int | None, progress: Callable[[int, int], None]) -> tuple[Comparison, ...]:
    """Predict every row of `path`, in its order. Raises InputError with every problem of the file."""
    read_rows(path)
    raise NotImplementedError
