"""Small traces and the ways to judge placements that tests share."""

from __future__ import annotations

import numpy as np
import pytest

from meshwright.planner.experts.generator import generate
from meshwright.planner.experts.trace import Trace


@pytest.fixture(scope="session")
def small() -> Trace:
    """1,500 tokens, 3 layers, 12 experts, 3 a token."""
    return generate(1500, 3, 12, 3, seed=5)


@pytest.fixture(scope="session")
def larger() -> Trace:
    """12,000 tokens, 4 layers, 64 experts, 6 a token."""
    return generate(12_000, 4, 64, 6, seed=1)


def drawn(random: np.random.Generator, tokens: int, layers: int, experts: int, top_k: int) -> np.ndarray:
    """Independent choices without replacement, some experts more popular."""
    score = random.gumbel(size=(tokens, layers, experts)) + random.standard_normal((layers, experts))
    return np.argsort(-score, axis=2)[:, :, :top_k]
