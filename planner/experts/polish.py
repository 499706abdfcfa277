"""Polish: exchanges judged by what they are for, distinct nodes (or ranks) a token, instead of pairs of experts.

Moving expert e from part a to b adds a visit to every token with e and nothing else in b, and saves one to every token
whose only expert in a is e. Exchanging e and f does both for each, but tokens with both visit what they visited: so the
change of every exchange is known exactly from two products of matrices.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from .trace import Ints

Counted = NDArray[np.float32]

_EXCHANGES = 40


def polished(choices: Ints, parts: Ints, count: int, penalty: NDArray[np.float32], parents: Ints | None = None) -> Ints:
    """Parts [experts] after exchanges that lower visits a token plus the `penalty` [experts, experts] inside parts.

    `choices` is [top_k, tokens]. Only experts of equal `parents` [experts] are exchanged.
    """
    visits = Visited.of(choices, parts.copy(), count)
    parts = visits.parts
    for _ in range(_EXCHANGES):
        change = visits.changes() + penalised(penalty, parts, count)
        change[parts[:, None] == parts[None, :]] = 0.0
        if parents is not None:
            change[parents[:, None] != parents[None, :]] = 0.0
        first, second = divmod(int(change.argmin()), len(parts))
        if change[first, second] > -1e-6:
            break
        visits.exchange(first, second)
    return parts


@dataclass(slots=True)
class Visited:
    """Of some tokens and the parts of their experts; an exchange counts those tokens anew that chose any of the two."""

    parts: Ints
    incidence: Counted  # [tokens, experts]: 1 where a token chose an expert
    inside: Counted  # [tokens, parts]: its experts there
    alone: Counted  # [tokens, experts]: 1 where a chosen expert is its only one in the part
    both: Counted  # [experts, experts]: tokens with the first alone in its part, and the second
    without: Counted  # [experts, parts]: tokens with the expert and nothing in the part

    @classmethod
    def of(cls, choices: Ints, parts: Ints, count: int) -> Visited:
        tokens = choices.shape[1]
        incidence = np.zeros((tokens, len(parts)), np.float32)
        incidence[np.arange(tokens), choices] = 1.0
        inside = incidence @ np.eye(count, dtype=np.float32)[parts]
        alone = np.asarray(incidence * _where_one(inside, parts), np.float32)
        return cls(parts, incidence, inside, alone, alone.T @ incidence, incidence.T @ _empty(inside))

    def changes(self) -> Counted:
        """[experts, experts]: visits a token that exchanging two experts of different parts adds."""
        moves = self.without - np.diagonal(self.both)[:, None]
        there = moves[:, self.parts]
        return np.asarray((there + there.T + self.both + self.both.T) / np.float32(len(self.incidence)))

    def exchange(self, first: int, second: int) -> None:
        """Only tokens with one of the two visit other parts then; of both, one may be alone where the other was."""
        here, there = int(self.parts[first]), int(self.parts[second])
        rows = np.flatnonzero(self.incidence[:, first] + self.incidence[:, second])
        chosen, before, alone = self.incidence[rows], self.inside[rows], self.alone[rows]
        moved = chosen[:, first] - chosen[:, second]
        after = before.copy()
        after[:, here] -= moved
        after[:, there] += moved
        self.parts[first], self.parts[second] = there, here
        now = chosen * _where_one(after, self.parts)
        self.both += (now - alone).T @ chosen
        self.without += chosen.T @ (_empty(after) - _empty(before))
        self.inside[rows], self.alone[rows] = after, now


def _where_one(inside: Counted, parts: Ints) -> Counted:
    """[tokens, experts]: 1 where an expert's part has one of a token's. A product is faster than to pick columns."""
    return np.asarray(inside == 1, np.float32) @ np.eye(inside.shape[1], dtype=np.float32)[:, parts]


def _empty(inside: Counted) -> Counted:
    return np.asarray(inside == 0, np.float32)


def penalised(penalty: NDArray[np.float32], parts: Ints, count: int) -> NDArray[np.float32]:
    """[experts, experts]: what exchanging two experts of different parts adds to the penalty inside parts."""
    inside = penalty @ np.eye(count, dtype=np.float32)[parts]
    own = inside[np.arange(len(parts)), parts]
    there = inside[:, parts] - own[:, None]
    diagonal = np.diagonal(penalty)
    return np.asarray(2 * (there + there.T + diagonal[:, None] + diagonal[None, :] - 2 * penalty))
