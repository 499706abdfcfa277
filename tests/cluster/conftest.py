"""What tests of real hosts need."""

from __future__ import annotations

import sys

import pytest

from .tier import best_tier, says


@pytest.fixture
def as_root(capsys):
    """Says which tier this machine has, and leaves out what needs root where that is another."""
    tier = best_tier()
    with capsys.disabled():
        sys.stdout.write(f"\n{says(tier)}\n")
    if tier != "root":
        pytest.skip(f"needs root: {says(tier)}")
