"""Counts: what of a layer's trace decides a placement: loads by window, and how often two experts serve one token."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import combinations

import numpy as np
from numpy.typing import NDArray

from .trace import Floats, Ints


@dataclass(frozen=True, slots=True)
class Counts:
    """Of one layer; all a token. `choices` is [top_k, tokens]."""

    choices: Ints
    experts: int
    load: Floats  # [experts], of all tokens
    windows: Floats  # [windows, experts], of each window's tokens
    together: NDArray[np.float64]  # [experts, experts], 0 on the diagonal

    @property
    def top_k(self) -> int:
        return len(self.choices)

    @property
    def tokens(self) -> int:
        return int(self.choices.shape[1])

    @property
    def variation(self) -> NDArray[np.float64]:
        """[experts, experts]: mean over windows of the product of two loads. The sum of it inside parts is the mean
        square of the parts' loads."""
        return np.asarray(self.windows.T @ self.windows / len(self.windows))


def counted(choices: Ints, experts: int, window: int) -> Counts:
    """Of `choices` [top_k, tokens], with windows of so many tokens; a rest is left out, and fewer tokens are one."""
    windows = windowed(choices, experts, window)
    return Counts(choices, experts, expert_load(choices, experts), windows, pairs(choices, experts))


def expert_load(choices: Ints, experts: int) -> NDArray[np.float64]:
    """[experts]: choices of each a token."""
    return np.asarray(np.bincount(choices.ravel(), minlength=experts) / choices.shape[1])


def windowed(choices: Ints, experts: int, window: int) -> NDArray[np.float64]:
    """[windows, experts]: tokens that chose an expert over the tokens of the window."""
    tokens = choices.shape[1]
    count = max(1, tokens // window)
    each = min(tokens, window)
    place = np.repeat(np.arange(count) * experts, each)
    total = np.zeros(count * experts)
    for row in choices:
        total += np.bincount(place + row[: count * each], minlength=count * experts)
    return np.asarray(total.reshape(count, experts) / each)


def pairs(choices: Ints, experts: int) -> NDArray[np.float64]:
    """[experts, experts]: tokens that chose both, over all tokens."""
    rows = [row.astype(np.intp) for row in choices]
    total = np.zeros(experts * experts)
    for left, right in combinations(rows, 2):
        total += np.bincount(left * experts + right, minlength=experts * experts)
    square = total.reshape(experts, experts)
    return np.asarray((square + square.T) / len(rows[0]))
