"""Spelling: a rank's row written as words, which are numbered afterwards.

A word is a kind and a chunk: `F1` is the next forward of the rank's second virtual stage. Forwards and backwards (B or
I) are counted by chunk, so that a builder says only in which rhythm its passes follow each other. `W1` is the oldest
weight gradient that an `I1` has left, `W` the oldest of any chunk.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence

from .action import KINDS, Action


def spell(words: Iterable[str], stages: Sequence[int], microbatches: int) -> tuple[Action, ...]:
    """The actions that words name; `stages` are those of the rank, chunk by chunk.

    Words beyond the last microbatch are left out: what is left of a sound schedule when all actions of a microbatch go
    is sound, so that a rhythm made for many microbatches also serves few.
    """
    counts: Counter[str] = Counter()
    pending: list[Action] = []
    row = []
    for word in words:
        if word[0] == "W":
            row.append(_oldest(pending, stages, word[1:]))
            continue
        line = word.replace("I", "B")
        action = Action(KINDS[word[0]], stages[int(word[1:])], counts[line])
        counts[line] += 1
        row.append(action)
        if action.kind == "I":
            pending.append(action._replace(kind="W"))
    return tuple(action for action in row if action.microbatch < microbatches)


def _oldest(pending: list[Action], stages: Sequence[int], chunk: str) -> Action:
    """Take the oldest weight gradient, of one chunk if that is said."""
    place = next(i for i, action in enumerate(pending) if not chunk or action.stage == stages[int(chunk)])
    return pending.pop(place)
