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
from ..schedule import CUSTOM, make
from ..schedule.table import splits
from ..simulate.beside import gathered_before, reduced_beside
from ..simulate.engine import play
from ..simulate.work import Work
from .replica import replicas
from .setting import Setting
from .step import bare_work_of

_ROUNDING = 1 - 1e-12
"""Sums are in another order than the interpreter's."""
_PLAYED = 3


def lower_bound_s(setting: Setting, configuration: Configuration) -> float:
    """Seconds that the step takes at least: never more than `price` says."""
    return max(work_bound_s(asked, bare_work_of(seen, asked)) for seen, asked in replicas(setting, configuration))


def work_bound_s(configuration: Configuration, work: Work) -> float:
    """The same, of given work without stragglers. Where ranks share cores none is faster than one alone,
    and a spread vocabulary is played without that."""
    reduced_s = _reduced_s(configuration, work)
    if configuration.mesh.pp == 1 and (work.zero > 1 or work.steal > 0):
        reduced_s = max(reduced_s, _alone_s(configuration, work))
    after = [sum(each) for each in zip(work.optimizer_s, work.offload_s, strict=True)]
    return (reduced_s / max((1.0, *work.pace)) + max(after, default=0.0)) * _ROUNDING


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
    still = replace(work, gather_s=(), reduce_s=(), late_reduce_s=(), tied_s=0.0)
    return _reduced_s(configuration, still) / max((1.0, *work.pace)) * _ROUNDING


def _reduced_s(configuration: Configuration, work: Work) -> float:
    """Until the last gradient is whole. Collectives of ZeRO 2 and 3 count as those of 1: they are no fewer."""
    ranks, whole = configuration.mesh.pp, not splits(configuration) and configuration.schedule != CUSTOM
    firsts, backward_s = _first_forwards_s(configuration, work), _backwards_s(configuration, work)
    through = _through_s(configuration, work, firsts[configuration.rank_of(0)])
    reduced, end = [0.0] * ranks, 0.0
    passes_s = 0.0 if work.passes is None else work.passes.logits_s + work.passes.gradients_s  # before the backwards
    for rank in reversed(range(ranks)):
        stages = configuration.stages_of(rank)
        busy = sum(work.forward_s[v] + backward_s[v] for v in stages) + passes_s
        own = firsts[rank] + configuration.microbatches * busy - work.forward_s[stages[0]]
        back = whole and rank + 1 < ranks  # the last gradient goes back rank by rank
        after = end + _between_s(work, rank, rank + 1) + work.backward_s[rank] if back else 0.0
        end = max(own, after, through if stages[0] == 0 else 0.0)
        left = _reduction_s(work, rank, end) if whole else end + _last_piece_s(work, stages)
        reduced[rank] = left + _at(work.late_reduce_s, rank)
    ends = reduced[configuration.placement[0]], reduced[configuration.placement[-1]]
    return max(*reduced, max(ends) + work.tied_s)


def _backwards_s(configuration: Configuration, work: Work) -> Sequence[float]:
    """The least that a backward of each stage computes: whole or, where that is possible, in two halves."""
    if not splits(configuration):
        return work.backward_s
    halves = zip(work.backward_s, work.input_s, work.weight_s, strict=True)
    return [min(whole, first + second) for whole, first, second in halves]


def _first_forwards_s(configuration: Configuration, work: Work) -> list[float]:
    """When each rank's first forward ends at the earliest: that of its first stage."""
    firsts, arrival = [-1.0] * configuration.mesh.pp, 0.0
    for stage, rank in enumerate(configuration.placement):
        enters = firsts[rank] < 0
        end = _first_forward_s(work, stage, arrival) if enters else arrival + work.forward_s[stage]
        if enters:
            firsts[rank] = end
            if min(firsts) >= 0:
                break
        arrival = end + _hop_s(configuration, work, stage)
    return firsts


def _hop_s(configuration: Configuration, work: Work, stage: int) -> float:
    """From a stage to the next, or back."""
    places = configuration.placement
    if stage + 1 == len(places) or places[stage] == places[stage + 1]:
        return 0.0
    return _between_s(work, places[stage], places[stage + 1])


def _between_s(work: Work, a: int, b: int) -> float:
    """From one pipeline rank to another, at the least."""
    count = len(work.borders)
    if not count:
        return work.transfer_s
    if abs(a - b) == 1 and count > 2:
        return work.transfer_s * work.borders[min(a, b)]
    return work.transfer_s * (work.borders[-1] if {a, b} == {0, count - 1} and count > 2 else min(work.borders))


def _through_s(configuration: Configuration, work: Work, first_s: float) -> float:
    """When the first microbatch has been through all stages and back, at the least."""
    back = work.backward_s
    if splits(configuration):
        back = tuple(map(min, work.backward_s, work.input_s))
    hops = math.fsum(_hop_s(configuration, work, stage) for stage in range(len(back)))
    rest = _backwards_s(configuration, work)[0] - back[0]
    return first_s + math.fsum(work.forward_s[1:]) + math.fsum(back) + rest + 2 * hops


def _first_forward_s(work: Work, stage: int, arrival_s: float) -> float:
    """When the first forward of a rank, through its first stage, ends at the earliest."""
    gather_s, forward_s = _at(work.gather_s, stage), work.forward_s[stage]
    if not work.hides:
        return max(arrival_s, gather_s) + forward_s
    pieces = _at(work.pieces, stage) or 1
    first_s = gather_s / pieces
    return gathered_before(arrival_s, forward_s, int(pieces), first_s, gather_s, gather_s, 0.0)[1]


def _reduction_s(work: Work, rank: int, end_s: float) -> float:
    """When the gradients of a rank are reduced at the earliest, if its last backward ends at `end_s`."""
    reduce_s, backward_s = _at(work.reduce_s, rank), work.backward_s[rank]
    if not work.hides:
        return end_s + reduce_s
    pieces = int(_at(work.pieces, rank) or 1)
    return reduced_beside(end_s - backward_s, backward_s, pieces, reduce_s, 0.0, 0.0).data_end_s


def _last_piece_s(work: Work, stages: Sequence[int]) -> float:
    """What of a rank's reductions follows its last action at the least, whichever of its stages that is of."""
    pieces = [_at(work.pieces, stage) if work.hides else 1 for stage in stages]
    return min(_at(work.reduce_s, stage) / (each or 1) for stage, each in zip(stages, pieces, strict=True))


def _at(values: Sequence[float], place: int) -> float:
    return values[place] if values else 0.0
