"""Spelling: a rank's row written as words, which are numbered afterwards.

A word is a kind and a chunk: `F1` is the next forward of the rank's second virtual stage. Forwards and backwards (B or
I) are counted by chunk, so that a builder says only in which rhythm its passes follow each other. `W1` is the oldest
weight gradient that an `I1` has left, `W` the oldest of any chunk.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from .action import KINDS, Action


def spell(words: Iterable[str], stages: Sequence[int], microbatches: int) -> tuple[Action, ...]:
    """The actions that words name; `stages` are those of the rank, chunk by chunk.

    Words beyond the last microbatch are left out: what is left of a sound schedule when all actions of a microbatch go
    is sound, so that a rhythm made for many microbatches also serves few.
    """
    counts = {"F": [0] * len(stages), "B": [0] * len(stages)}
    pending: list[tuple[int, int]] = []  # chunk and microbatch of weight gradients, oldest first
    row = []
    for word in words:
        if word[0] == "W":
            chunk, microbatch = _oldest(pending, word[1:])
        else:
            chunk, line = int(word[1:]), counts["F" if word[0] == "F" else "B"]
            microbatch = line[chunk]
            line[chunk] += 1
        if microbatch < microbatches:
            row.append(Action(KINDS[word[0]], stages[chunk], microbatch))
        if word[0] == "I":
            pending.append((chunk, microbatch))
    return tuple(row)


def _oldest(pending: list[tuple[int, int]], chunk: str) -> tuple[int, int]:
    """Take the oldest weight gradient, of one chunk if that is said."""
    if not chunk or pending[0][0] == int(chunk):
        return pending.pop(0)
    return pending.pop(next(place for place, (other, _) in enumerate(pending) if other == int(chunk)))
