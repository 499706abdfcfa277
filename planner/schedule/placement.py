"""Placement: which pipeline rank holds which virtual stage, as a tuple of ranks by stage."""

from __future__ import annotations

from functools import lru_cache

Placement = tuple[int, ...]


@lru_cache(maxsize=256)
def loop(ranks: int, stages: int) -> Placement:
    """Round after round: stage v on rank v % ranks (arXiv:2104.04473)."""
    return tuple(stage % ranks for stage in range(stages))


@lru_cache(maxsize=256)
def vee(ranks: int, stages: int) -> Placement:
    """Down and up again: rank r holds stages r and 2 ranks - 1 - r, so that the first and the last stage meet on rank 0
    (arXiv:2405.15362). Every further round turns round, too."""
    return tuple(min(stage % (2 * ranks), 2 * ranks - 1 - stage % (2 * ranks)) for stage in range(stages))


@lru_cache(maxsize=4096)
def stages_of(placement: Placement, rank: int) -> tuple[int, ...]:
    """The virtual stages of one rank, ascending."""
    return tuple(stage for stage, holder in enumerate(placement) if holder == rank)
