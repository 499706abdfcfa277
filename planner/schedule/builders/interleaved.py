"""Interleaved 1F1B (arXiv:2104.04473): several virtual stages a rank, and a bubble as many times smaller."""

from __future__ import annotations

from typing import Literal

from ..action import Action
from ..builder import ANY, Builder, Held
from ..passes import DRAWN
from ..schedule import Schedule


def interleaved(ranks: int, microbatches: int, chunks: int) -> Schedule:
    """1F1B over `chunks` virtual stages a rank; microbatches advance in groups of `ranks`.

    Raises ValueError unless microbatches is a multiple of ranks.
    """
    if microbatches % ranks:
        raise ValueError(f"interleaved needs microbatches ({microbatches}) in multiples of ranks ({ranks})")
    total = microbatches * chunks
    rows = []
    for rank in range(ranks):
        warm_up = min(total, 2 * (ranks - rank - 1) + (chunks - 1) * ranks)
        forward = [_pass("F", k, rank, ranks, chunks) for k in range(total)]
        backward = [_pass("B", k, rank, ranks, chunks) for k in range(total)]
        row = forward[:warm_up]
        for k in range(warm_up, total):
            row += [forward[k], backward[k - warm_up]]
        rows.append(tuple(row + backward[total - warm_up :]))
    return Schedule("interleaved", ranks, ranks * chunks, microbatches, tuple(rows))


def _pass(kind: Literal["F", "B"], k: int, rank: int, ranks: int, chunks: int) -> Action:
    """The k-th forward or backward of a rank: groups of `ranks` microbatches, chunk after chunk."""
    group, place = divmod(k, ranks * chunks)
    chunk, offset = divmod(place, ranks)
    if kind == "B":
        chunk = chunks - 1 - chunk
    return Action(kind, chunk * ranks + rank, group * ranks + offset)


def _held(ranks: int, microbatches: int, chunks: int, rank: int) -> Held:
    """arXiv:2205.05198, section 5.1."""
    return Held(((min(microbatches * chunks, 2 * (ranks - rank - 1) + (chunks - 1) * ranks + 1), 0),), 1)


def _held_spread(ranks: int, microbatches: int, chunks: int, rank: int) -> Held:
    """With as many forwards more as are drawn; of the last stage no more than a group of microbatches."""
    losses = min(1 + DRAWN, ranks) if rank == ranks - 1 else 0
    flying = _held(ranks, microbatches, chunks, rank).moments[0][0] + DRAWN
    return Held(((min(microbatches * chunks, flying), 0),), losses)


SCHEDULE = Builder(
    name="interleaved",
    source="arXiv:2104.04473",
    make=interleaved,
    chunks=ANY,
    whole_groups=True,
    held=_held,
    held_spread=_held_spread,
    waiting=2,
)
