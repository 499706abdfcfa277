"""Exchanges by visits: what they keep up to date is what counting anew gives, and what they foretell comes true."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from meshwright.planner.experts.metrics import visits_of
from meshwright.planner.experts.polish import Visited, polished

from .conftest import drawn


@settings(deadline=None, max_examples=40)
@given(seed=st.integers(0, 10_000), shape=st.sampled_from([(2, 4, 3), (3, 3, 4), (4, 2, 2), (2, 3, 6)]))
def test_after_any_exchanges_all_counts_are_those_of_a_new_count(seed: int, shape: tuple[int, int, int]) -> None:
    count, size, top_k = shape
    random = np.random.default_rng(seed)
    choices = np.ascontiguousarray(drawn(random, 50, 1, count * size, top_k)[:, 0].T)
    visited = Visited.of(choices, random.permutation(np.repeat(np.arange(count), size)), count)
    for _ in range(6):
        first, second = random.choice(count * size, 2, replace=False).tolist()
        if visited.parts[first] == visited.parts[second]:
            continue
        before, told = visits_of(visited.parts, choices, count).sum(), visited.changes()[first, second]
        visited.exchange(first, second)
        assert visits_of(visited.parts, choices, count).sum() - before == pytest.approx(told, abs=1e-5)
        anew = Visited.of(choices, visited.parts, count)
        for name in ("inside", "alone", "both", "without"):
            assert (getattr(visited, name) == getattr(anew, name)).all(), name


@pytest.mark.parametrize("seed", range(3))
def test_no_exchange_is_left_that_saves_visits(seed: int) -> None:
    random = np.random.default_rng(seed)
    choices = np.ascontiguousarray(drawn(random, 400, 1, 12, 4)[:, 0].T)
    parts = polished(choices, random.permutation(np.repeat(np.arange(3), 4)), 3, np.zeros((12, 12), np.float32))
    least = visits_of(parts, choices, 3).sum()
    for first in range(12):
        for second in range(first):
            other = parts.copy()
            other[[first, second]] = parts[[second, first]]
            assert visits_of(other, choices, 3).sum() >= least - 1e-6
