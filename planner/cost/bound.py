"""What a step takes at least, without its schedule: only what no order of work avoids.

Before rank r starts, one microbatch has passed the stages before it, the first of which gathered its weights; then it
computes all its work; then the last microbatch goes back through the stages before it, and what the last backward
leaves is reduced. The times are those that the event interpreter plays.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace

from ..configuration import Configuration
from ..schedule import make
from ..simulate.beside import gathered_before, reduced_beside
from ..simulate.engine import play
from ..simulate.work import Work
from .setting import Setting
from .step import work_of

_ROUNDING = 1 - 1e-12
"""Sums are in another order than the interpreter's."""
_PLAYED = 3


def lower_bound_s(setting: Setting, configuration: Configuration) -> float:
    """Seconds that the step takes at least: never more than `price` says."""
    return work_bound_s(configuration, work_of(setting, configuration))


def work_bound_s(configuration: Configuration, work: Work) -> float:
    """The same, of given work without stragglers."""
    reduced_s = _reduced_s(configuration, work)
    if configuration.mesh.pp == 1 and (work.zero > 1 or work.steal > 0):
        reduced_s = max(reduced_s, _alone_s(configuration, work))
    after = [sum(each) for each in zip(work.optimizer_s, work.offload_s, strict=True)]
    return (reduced_s + max(after, default=0.0)) * _ROUNDING


def _alone_s(configuration: Configuration, work: Work) -> float:
    """Until the last gradient is whole, without a pipeline: the first microbatches as they are, and as much for each
    more as for the last of them. What the next one adds never shrinks: each path through the pieces of a step gains a
    fixed amount, and the longest counts."""
    count = configuration.microbatches
    played = min(count, _PLAYED)
    whole_s, before_s = (
        max(play(make(configuration.schedule, 1, each), work).done_s) for each in (played, max(1, played - 1))
    )
    return whole_s + (count - played) * (whole_s - before_s)


def pipeline_bound_s(configuration: Configuration, work: Work) -> float:
    """Seconds from the first forward to the last backward, at least, if collectives cost nothing."""
    return _reduced_s(configuration, replace(work, gather_s=(), reduce_s=(), late_reduce_s=(), tied_s=0.0)) * _ROUNDING


def _reduced_s(configuration: Configuration, work: Work) -> float:
    """Until the last gradient is whole. Collectives of ZeRO 2 and 3 count as those of 1: they are no fewer."""
    ranks, microbatches = configuration.mesh.pp, configuration.microbatches
    hop_s = work.transfer_s if ranks > 1 else 0.0
    firsts, arrival = [], 0.0
    for rank in range(ranks):
        firsts.append(_first_forward_s(work, rank, arrival))
        arrival = firsts[-1] + hop_s
    through = (
        firsts[0] + math.fsum(work.forward_s[1:]) + math.fsum(work.backward_s) + hop_s * 2 * (len(work.forward_s) - 1)
    )
    reduced, end = [], 0.0
    for rank in reversed(range(ranks)):
        busy = sum(work.forward_s[v] + work.backward_s[v] for v in configuration.stages_of(rank))
        own = firsts[rank] + microbatches * busy - work.forward_s[rank]
        end = max(own, end + hop_s + work.backward_s[rank], through if rank == 0 else 0.0)
        reduced.append(_reduction_s(work, rank, end) + _at(work.late_reduce_s, rank))
    return max(*reduced, max(reduced[0], reduced[-1]) + work.tied_s)


def _first_forward_s(work: Work, rank: int, arrival_s: float) -> float:
    """When a rank's first forward ends at the earliest."""
    gather_s, forward_s = _at(work.gather_s, rank), work.forward_s[rank]
    if not work.hides:
        return max(arrival_s, gather_s) + forward_s
    pieces = _at(work.pieces, rank) or 1
    first_s = gather_s / pieces
    return gathered_before(arrival_s, forward_s, int(pieces), first_s, gather_s, gather_s, 0.0)[1]


def _reduction_s(work: Work, rank: int, end_s: float) -> float:
    """When the gradients of a rank are reduced at the earliest, if its last backward ends at `end_s`."""
    reduce_s, backward_s = _at(work.reduce_s, rank), work.backward_s[rank]
    if not work.hides:
        return end_s + reduce_s
    pieces = int(_at(work.pieces, rank) or 1)
    return reduced_beside(end_s - backward_s, backward_s, pieces, reduce_s, 0.0, 0.0).data_end_s


def _at(values: Sequence[float], place: int) -> float:
    return values[place] if values else 0.0
