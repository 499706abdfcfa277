"""Fractional bound: the least visits of equal parts where, in a relaxation, two experts may share a part by halves.

Let w[e, f] be 1 where experts e and f share a part. 1 is at least 2 x - x^2, and 0 where x is 0: take for x the sum of
numbers a of those of a token's experts that lie in a part. For any numbers a the token then visits

    at least 2 sum a - sum a[e] a[f] w[e, f]

parts, and exactly so many where a is one over the number of the token's experts in the part. The best a for a
fractional w solve w a = 1, and the sum over tokens of 1' w^-1 1 is convex in w. Where w is flat, the line of the hull
over whole numbers (bound.py) is better, and taken instead. The w of parts of s experts are positive semidefinite with
eigenvalues up to s, have rows that add up to s, a diagonal of 1 and entries from 0 to 1: alternating directions (ADMM)
find the least sum over all these w. What counts as proof is then computed anew from the a it ends with, for all tokens:
sum a a' = M + R, where M is weighed by its largest eigenvalues and R by its positive entries.

With replicas, one copy of each expert and places left empty make parts of s, and every further copy brings an expert
together with at most s - 1 others; a is then positive.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import combinations

import numpy as np
from numpy.typing import NDArray

from .trace import Ints

Matrix = NDArray[np.float64]

_SAMPLE = 64
"""Tokens an expert by which w is sought."""

_CHUNK = 4096
_SEARCH, _FINISH = 24, 12
"""Steps on the sample (a quarter of the experts where that is more), and on all tokens."""

_RENEWED = 40
"""Experts a step for which numbers a are kept, two steps at least: where there are many experts, w moves slowly."""

_SOFT = 0.2
"""Added to the diagonal of w where a is sought: else a is wild where w is singular."""

_PENALTY, _INERTIA = 10 / 64, 0.5
"""Of ADMM: over the mean entry of sum a a', an expert."""


@dataclass(frozen=True, slots=True)
class _Lines:
    """Visits a token are at least `constant` less the sum of `matrix` times w."""

    constant: float
    matrix: Matrix


def fractional_visits(choices: Ints, experts: int, parts: int, hull: Matrix, replicas: int = 0) -> float:
    """Parts that a token visits at least, in the mean, of `parts` parts with equally many of the experts and `replicas`
    each, whatever lies in them.

    `choices` is [top_k, tokens]; `hull` [corners, 2] holds falling lines under (pairs inside parts, parts visited).
    """
    if len(hull) == 1 or parts == 1:
        return float(hull[-1, 1])
    places = experts + replicas
    rows = choices.astype(np.intp)
    sample = np.ascontiguousarray(rows[:, :: -(-rows.shape[1] // (_SAMPLE * places))])
    search = _Search.begin(_lines(_flat(places, parts), sample, hull), parts)
    for step in range(max(_SEARCH, experts // 4)):
        if step and step % max(2, experts // _RENEWED) == 0:
            search.lines = _lines(_unit(search.inner), sample, hull)
        search.advance()
    search.lines = _lines(_unit(search.inner), rows, hull, replicas > 0)
    further = _further(search.lines.matrix, parts, replicas)
    best = search.proven()
    for step in range(_FINISH):
        search.advance()
        if step % 3 == 2:
            best = max(best, search.proven())
    return best - further


@dataclass(slots=True)
class _Search:
    """ADMM between matrices with the right eigenvalues (`inner`) and those with the right entries (`outer`)."""

    lines: _Lines
    parts: int
    penalty: float
    inner: Matrix
    outer: Matrix
    pull: Matrix

    @classmethod
    def begin(cls, lines: _Lines, parts: int) -> _Search:
        matrix = lines.matrix
        experts = len(matrix)
        penalty = _PENALTY * float(matrix.sum() - np.trace(matrix)) / max(1, experts - 1) or 1.0
        flat = _flat(experts, parts)
        pull = (np.diag(matrix.sum(1)) - matrix) / penalty
        return cls(lines, parts, penalty, flat, flat, pull)

    def advance(self) -> None:
        self.inner = _nearest(self.outer - self.pull, self.parts)
        ahead = (self.inner + self.pull + self.lines.matrix / self.penalty + _INERTIA * self.outer) / (1 + _INERTIA)
        self.outer = np.clip(ahead, 0.0, 1.0)
        np.fill_diagonal(self.outer, 1.0)
        self.pull += self.inner - self.outer

    def proven(self) -> float:
        """A lower bound of the visits, valid whatever the search has found."""
        main = -self.penalty / 2 * (self.pull + self.pull.T)  # the search is in single precision, this is not
        rest = self.lines.matrix - main
        own = float(np.trace(rest))
        np.fill_diagonal(rest, 0.0)
        most = _most(main, self.parts) + own + float(np.maximum(rest, 0.0).sum())
        size = float(np.abs(main).sum() + np.abs(rest).sum())
        return self.lines.constant - most - 1e-12 * size


def _further(matrix: Matrix, parts: int, replicas: int) -> float:
    """What further copies add to the sum of the matrix times w at most: of each, the largest entries of its row."""
    if not replicas:
        return 0.0
    others = len(matrix) // parts - 1
    rows = np.sort(matrix - np.diag(np.diag(matrix)), axis=1)[:, len(matrix) - others :].sum(1)
    return 2 * float(np.sort(np.repeat(rows, parts - 1))[::-1][:replicas].sum())


def _flat(experts: int, parts: int) -> Matrix:
    """Every two experts share a part as often as any."""
    size = experts // parts
    matrix = np.full((experts, experts), (size - 1) / max(1, experts - 1))
    np.fill_diagonal(matrix, 1.0)
    return matrix


def _unit(matrix: Matrix) -> Matrix:
    """The same with a diagonal of 1, still positive semidefinite."""
    scale = 1 / np.sqrt(np.maximum(np.diag(matrix), 1e-6))
    return np.asarray(matrix * scale * scale[:, None])


def _centred(matrix: Matrix) -> Matrix:
    """On the complement of the constant vector, which has an eigenvalue below all others instead."""
    mean = matrix.mean(0)
    centre = matrix - mean - mean[:, None] + mean.mean()
    return np.asarray(centre - np.abs(matrix).sum() / len(matrix))


def _most(matrix: Matrix, parts: int) -> float:
    """The sum of the matrix times w is at most this for every w of equal parts."""
    largest = np.linalg.eigvalsh(_centred(matrix))[len(matrix) - parts + 1 :]
    return float(matrix.sum()) / parts + len(matrix) / parts * float(largest.sum())


def _nearest(matrix: Matrix, parts: int) -> Matrix:
    """The nearest matrix with rows that add up to s, a trace of parts times s, and eigenvalues from 0 to s."""
    size = len(matrix) / parts
    values, vectors = np.linalg.eigh(_centred(matrix).astype(np.float32))
    kept = _shifted(values[1:], size, len(matrix) - size)
    used = kept > 0
    basis = vectors[:, 1:][:, used]
    return np.asarray((basis * kept[used]) @ basis.T + 1 / parts)


def _shifted(values: Matrix, most: float, total: float) -> Matrix:
    """Values plus a number, cut to 0 .. `most`, that add up to `total`."""
    low, high = -float(values.max()), most - float(values.min())
    for _ in range(40):
        middle = (low + high) / 2
        if np.clip(values + middle, 0.0, most).sum() > total:
            high = middle
        else:
            low = middle
    return np.clip(values + high, 0.0, most)


def _lines(matrix: Matrix, choices: Ints, hull: Matrix, positive: bool = False) -> _Lines:
    """Of each token the line that is highest at `matrix`, all of them added up, over the number of tokens."""
    experts, tokens = len(matrix), choices.shape[1]
    total, own, constant = np.zeros(experts * experts), np.zeros(experts), 0.0
    for begin in range(0, tokens, _CHUNK):
        part = choices[:, begin : begin + _CHUNK]
        numbers, fixed = _numbers(matrix, part, hull, positive)
        constant += float(fixed.sum())
        own += np.bincount(part.ravel(), np.square(numbers).ravel(), experts)
        for left, right in combinations(range(len(part)), 2):
            code = part[left] * experts + part[right]
            total += np.bincount(code, numbers[left] * numbers[right], experts * experts)
    square = total.reshape(experts, experts)
    return _Lines(constant / tokens, (square + square.T + np.diag(own)) / tokens)


def _numbers(matrix: Matrix, choices: Ints, hull: Matrix, positive: bool) -> tuple[Matrix, Matrix]:
    """a [top_k, tokens] and the constants [tokens]. Where two experts may share several parts, a must be positive."""
    inside = matrix.astype(np.float32)[choices[:, None], choices[None]]
    pairs = (inside.sum((0, 1)) - np.trace(inside)) / 2
    inside[np.arange(len(choices)), np.arange(len(choices))] += np.float32(_SOFT)
    numbers = _solved(inside).astype(np.float64)
    if positive:
        numbers = np.maximum(numbers, 0.0)
    # (w + _SOFT) a = 1; the best multiple of a has the value (sum a)^2 / a' w a
    sums = numbers.sum(0)
    square = np.maximum(sums - _SOFT * np.square(numbers).sum(0), 1e-6)
    numbers *= sums / square
    constant, value = 2 * numbers.sum(0), sums**2 / square
    corner = np.maximum(np.searchsorted(hull[:, 0], pairs, "right") - 1, 0)
    slope = np.append(-np.diff(hull[:, 1]) / np.diff(hull[:, 0]), 0.0)[corner]
    line = hull[corner, 1] + slope * (hull[corner, 0] - pairs)
    better = line > value
    numbers[:, better] = np.sqrt(slope[better] / 2)
    start = hull[corner, 1] + slope * (hull[corner, 0] + len(choices) / 2)  # the diagonal of w is given back
    return numbers, np.where(better, start, constant)


def _solved(matrices: NDArray[np.float32]) -> NDArray[np.float32]:
    """[n, tokens]: of matrices [n, n, tokens] and a right side of ones, by Gauss, all tokens at once. Consumes them."""
    size = len(matrices)
    right = np.ones(matrices.shape[1:], np.float32)
    for row in range(size - 1):
        factor = matrices[row + 1 :, row] / matrices[row, row]
        matrices[row + 1 :, row + 1 :] -= factor[:, None] * matrices[row, row + 1 :]
        right[row + 1 :] -= factor * right[row]
    for row in range(size - 1, -1, -1):
        right[row] -= (matrices[row, row + 1 :] * right[row + 1 :]).sum(0)
        right[row] /= matrices[row, row]
    return right
