"""The proof of one plan, for tests beside the table: it trains as one process does."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from parity_table.outcome import Outcome
from parity_table.row import Row
from parity_table.run import run_rows


def assert_same(config: dict[str, Any], options: dict[str, Any], steps: int, folder: Path) -> Outcome:
    """`options` are those of plans.make_plan."""
    found = run_rows([Row("asked", {**options, "config": config})], folder, steps=steps, memory=False)["asked"]
    assert found.broken() == []
    return found
