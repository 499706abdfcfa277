"""Packing: what is usual where lengths differ. Rows of seq_len tokens, filled first-fit, on groups of one degree."""

from __future__ import annotations

import numpy as np

from .assignment import timed
from .greedy import Rounds
from .instance import Instance


def packed(instance: Instance, row_tokens: int) -> Rounds:
    """Rows of at most `row_tokens` tokens a rank, the longest sequences first, dealt to groups in order. `instance` has
    one degree, whose ranks hold that many."""
    rows: list[list[int]] = []
    room = np.zeros(0, dtype=np.int64)
    tokens = instance.tokens[:, 0]
    for i in np.argsort(-tokens, kind="stable"):
        fitting = np.flatnonzero(room >= tokens[i])
        if len(fitting):
            place = int(fitting[0])
        else:
            place, room = len(rows), np.append(room, row_tokens)
            rows.append([])
        rows[place].append(int(i))
        room[place] -= tokens[i]
    degree = instance.degrees[0]
    groups = instance.lanes // degree
    packs = timed(instance, [(degree, row) for row in rows])
    return [packs[start : start + groups] for start in range(0, len(packs), groups)]
