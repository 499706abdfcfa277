"""Polish: exchanges judged by what they are for, distinct nodes (or ranks) a token, instead of pairs of experts.

Moving expert e from part a to b adds a visit to every token with e and nothing else in b, and saves one to every token
whose only expert in a is e. Exchanging e and f does both for each, but tokens with both visit what they visited: so the
change of every exchange is known exactly from two products of matrices.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from .trace import Ints

_EXCHANGES = 40


def polished(choices: Ints, parts: Ints, count: int, penalty: NDArray[np.float32], parents: Ints | None = None) -> Ints:
    """Parts [experts] after exchanges that lower visits a token plus the `penalty` [experts, experts] inside parts.

    `choices` is [top_k, tokens]. Only experts of equal `parents` [experts] are exchanged.
    """
    parts = parts.copy()
    incidence = _incidence(choices, len(parts))
    for _ in range(_EXCHANGES):
        change = _changes(choices, incidence, parts, count) + penalised(penalty, parts, count)
        change[parts[:, None] == parts[None, :]] = 0.0
        if parents is not None:
            change[parents[:, None] != parents[None, :]] = 0.0
        first, second = divmod(int(change.argmin()), len(parts))
        if change[first, second] > -1e-6:
            break
        parts[first], parts[second] = parts[second], parts[first]
    return parts


def _incidence(choices: Ints, experts: int) -> NDArray[np.float32]:
    """[tokens, experts]: 1 where a token chose an expert."""
    tokens = choices.shape[1]
    made = np.zeros((tokens, experts), np.float32)
    made[np.arange(tokens), choices] = 1.0
    return made


def _changes(choices: Ints, incidence: NDArray[np.float32], parts: Ints, count: int) -> NDArray[np.float32]:
    """[experts, experts]: visits a token that exchanging two experts of different parts adds."""
    tokens = len(incidence)
    inside = incidence @ np.eye(count, dtype=np.float32)[parts]
    alone = np.zeros_like(incidence)
    rows = np.arange(tokens)
    alone[rows, choices] = inside[rows, parts[choices]] == 1
    moves = incidence.T @ (inside == 0).astype(np.float32) - alone.sum(0)[:, None]
    both = alone.T @ incidence
    change = moves[:, parts] + moves[:, parts].T + both + both.T
    return np.asarray(change / np.float32(tokens))


def penalised(penalty: NDArray[np.float32], parts: Ints, count: int) -> NDArray[np.float32]:
    """[experts, experts]: what exchanging two experts of different parts adds to the penalty inside parts."""
    inside = penalty @ np.eye(count, dtype=np.float32)[parts]
    own = inside[np.arange(len(parts)), parts]
    there = inside[:, parts] - own[:, None]
    diagonal = np.diagonal(penalty)
    return np.asarray(2 * (there + there.T + diagonal[:, None] + diagonal[None, :] - 2 * penalty))
