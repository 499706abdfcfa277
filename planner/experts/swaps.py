"""Swaps: equal parts of experts with as much weight inside the parts as exchanges of two can give.

Kernighan and Lin's exchange (Bell System Technical Journal 49, 1970) on a matrix of pair weights, for many starts at
once: the gain of every exchange is known exactly from one product of the matrix with the parts, and those exchanges are
made together of which each is the best for both of its experts.
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from .trace import Ints

Weights = NDArray[np.float32]

_ROUNDS = 400
_NEVER = np.float32(1e30)  # what keeps experts of one part from being exchanged
_NEAR = 0.3  # of the best gain: what an exchange made beside it must reach


def improved(weights: Weights, parts: Ints, count: int, parents: Ints | None = None) -> tuple[Ints, Weights]:
    """Parts [starts, experts] after exchanges, and the weight inside them [starts] (each pair twice, the diagonal
    once).

    `weights` [experts, experts], or one such matrix a start, is symmetric. Only experts of equal `parents` [experts]
    are exchanged.
    """
    parts, tried, single = parts.copy(), parts.copy(), parts.copy()
    best = np.full(len(parts), -np.inf, np.float32)
    slack = np.float32(1e-5 * np.abs(weights).sum() / weights.size * weights.shape[-1])
    apart = None if parents is None else parents[:, None] != parents[None, :]
    open_ = np.arange(len(parts))
    for _ in range(_ROUNDS):
        matrix = weights if weights.ndim == 2 else weights[open_]
        joint, value = _joined(matrix, tried[open_], count)
        worse = value <= best[open_] + slack
        retry = worse & (single[open_] != tried[open_]).any(1)
        tried[open_[retry]] = single[open_[retry]]
        better = open_[~worse]
        if len(better):
            parts[better], best[better] = tried[better], value[~worse]
            matrix = matrix if matrix.ndim == 2 else matrix[~worse]
            gains = _gains(matrix, joint[~worse], parts[better], apart)
            tried[better], single[better] = _exchanged(gains, parts[better], slack)
        open_ = open_[retry | (~worse & (tried[open_] != parts[open_]).any(1))]
        if not len(open_):
            break
    return parts, best


def _joined(weights: Weights, parts: Ints, count: int) -> tuple[Weights, Weights]:
    """[starts, experts, parts], the weight between each expert and each part less that with its own; and what is
    inside all parts [starts]."""
    inside = (parts[:, :, None] == np.arange(count)).astype(np.float32)
    joint = np.matmul(weights, inside)
    own = np.einsum("sep,sep->se", joint, inside)
    return joint - own[:, :, None], own.sum(1)


def _gains(weights: Weights, joint: Weights, parts: Ints, apart: NDArray[np.bool_] | None) -> Weights:
    """[starts, experts, experts]: half of what exchanging two experts adds to the weight inside."""
    inside = (np.arange(joint.shape[2])[:, None] == parts[:, None, :]).astype(np.float32)
    there = np.matmul(joint, inside)  # each with the part of the other: a product is faster than to pick entries
    diagonal = np.diagonal(weights, axis1=-2, axis2=-1)
    gains = there + there.transpose(0, 2, 1)
    gains += diagonal[..., :, None] + diagonal[..., None, :] - 2 * weights
    gains -= _NEVER * np.matmul(inside.transpose(0, 2, 1), inside)
    if apart is not None:
        gains[:, apart] = -np.inf
    return np.asarray(gains)


def _exchanged(gains: Weights, parts: Ints, slack: np.float32) -> tuple[Ints, Ints]:
    """Parts after all exchanges that are the best for both, and after the very best one alone."""
    rows, columns = np.arange(len(parts)), np.arange(parts.shape[1])
    partner = gains.argmax(2)
    gain = gains[rows[:, None], columns, partner]
    mutual = partner[rows[:, None], partner] == columns
    first = gain.argmax(1)
    top = gain[rows, first]
    together = mutual & (gain > slack) & (gain >= _NEAR * top[:, None])
    many = np.where(together, parts[rows[:, None], partner], parts)
    one = parts.copy()
    go = rows[top > slack]
    here, there = first[go], partner[go, first[go]]
    one[go, here], one[go, there] = parts[go, there], parts[go, here]
    # where gains tie, the first maximum need not be mutual: the best exchange is then made by itself
    return np.where(together.any(1)[:, None], many, one), one


def starts(sizes: Ints, load: NDArray[np.floating], count: int) -> Ints:
    """[count, experts] parts of the given sizes: ids in blocks, balanced by load, and at random (always the same)."""
    known = _known_starts(tuple(map(int, sizes)), max(2, count))
    return np.concatenate([known[:1], dealt(load, sizes)[None], known[1:]])[:count]


@lru_cache(maxsize=8)
def _known_starts(sizes: tuple[int, ...], count: int) -> Ints:
    """Those that no load decides, once for all layers."""
    blocks = np.repeat(np.arange(len(sizes)), sizes)
    return np.stack([blocks, *(np.random.default_rng(seed).permutation(blocks) for seed in range(count - 2))])


def dealt(load: NDArray[np.floating], sizes: Ints) -> Ints:
    """Longest processing time first (Graham 1969) with limited places: each expert, the most loaded first, goes to the
    part of the least load that has room."""
    parts, held, room = np.zeros(len(load), np.intp), np.zeros(len(sizes)), np.array(sizes)
    if len(sizes) == 1:
        return parts
    for expert in np.argsort(-load, kind="stable"):
        part = int(np.argmin(np.where(room > 0, held / np.maximum(sizes, 1), np.inf)))
        parts[expert] = part
        held[part] += load[expert]
        room[part] -= 1
    return parts
