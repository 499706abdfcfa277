"""Products beside a collective: as much is summed up as the budget has time for, and no round is left out."""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))
sys.path.insert(0, str(Path(__file__).parent.parent / "runtime"))

from harness import run_ranks
from overlap_ranks import buffers, rounds

WHOLE = 2**23
"""Elements: 32 MiB."""


def test_slow_links_are_sent_less() -> None:
    """A part takes the slower rank 0.1 s, and ten of them are sent: a 32nd of it all, three, and everything."""
    part = WHOLE // 32
    assert run_ranks(2, buffers, [0.1, 3.5, 1e6], [0.01, 0.1]) == [[part, 3 * part, WHOLE]] * 2


def test_a_small_budget_has_the_fewest_rounds() -> None:
    for found in run_ranks(2, rounds, 1e-6):
        assert len(found) == 3
        assert all(seconds > 0 for each in found for seconds in each)
