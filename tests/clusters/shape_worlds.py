"""Synthetic devices whose kernels take what a formula says: what was measured can be compared with the truth."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import numpy as np

from meshwright.clusters.shapes import work

World = Callable[[Sequence[float]], float]
"""Seconds of one part of an operation at some sizes."""

AXIS = tuple(sorted(s for power in range(6, 13) for s in (2**power, 3 * 2 ** (power - 1)) if 64 <= s <= 4096))


def saturating(sizes: Sequence[float]) -> float:
    """A product whose rate rises with its size, and more with its depth than with its width."""
    m, n, k = sizes
    rate = 6e10 * (k / (k + 60)) * (n / (n + 30)) * (m / (m + 20))
    return 4e-6 + 2 * m * n * k / rate


def power_law(sizes: Sequence[float]) -> float:
    """Exactly what a regression on logarithms can say."""
    m, n, k = sizes
    return 1e-11 * m**0.9 * n**0.8 * k**0.95 * math.exp(0.01 * math.log2(m) * math.log2(k))


def bumpy(sizes: Sequence[float]) -> float:
    """Smooth over an octave or two, but no polynomial of the logarithms."""
    m, n, k = sizes
    waves = math.sin(1.1 * math.log2(m)) + math.sin(1.3 * math.log2(n)) + math.sin(1.2 * math.log2(k))
    return 2 * m * n * k / 5e10 * math.exp(0.25 * waves)


def lattice(axes: Sequence[Sequence[int]]) -> np.ndarray:
    """All sizes of some axes, [n, sizes]."""
    return np.array(np.meshgrid(*axes, indexing="ij"), dtype=float).reshape(len(axes), -1).T


def known(world: World, sizes: np.ndarray, name: str = "matmul") -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Works, seconds, and a spread of zero at some sizes."""
    works = np.array([work(name, row) for row in sizes])
    return works, np.array([world(row) for row in sizes]), np.zeros(len(sizes))
