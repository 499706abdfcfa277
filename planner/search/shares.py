"""Shares: how many microbatches each data-parallel replica computes, where their devices differ."""

from __future__ import annotations

import heapq
from collections.abc import Sequence
from dataclasses import replace

from ..configuration import Configuration
from ..cost.replica import classes, replica_ranks
from ..cost.setting import Setting
from ..cost.stage import stage_times
from ..legality import is_legal


def shared(setting: Setting, configuration: Configuration) -> Configuration:
    """The configuration with shares that suit its replicas, or as it is: where these are alike, or must compute as many
    microbatches."""
    if not setting.is_mixed or configuration.shares or len(classes(setting, configuration)) == 1:
        return configuration
    total = configuration.batch // configuration.microbatch
    shares = fair_shares(replica_times(setting, configuration), total)
    if len(set(shares)) == 1:
        return configuration
    found = replace(configuration, shares=shares, microbatches=max(shares))
    return found if is_legal(setting, found) else configuration


def replica_times(setting: Setting, configuration: Configuration) -> list[tuple[float, float]]:
    """Of every data-parallel rank: seconds before the first and of each microbatch, as a pipeline without collectives
    takes them. The slowest stage computes all microbatches, the others fill and drain around it."""
    times = [(0.0, 0.0)] * configuration.mesh.dp
    for each in classes(setting, configuration):
        work = stage_times(each.setting, configuration)
        ranks = [0.0] * configuration.mesh.pp
        for rank, forward_s, backward_s in zip(configuration.placement, work.forward_s, work.backward_s, strict=True):
            ranks[rank] += forward_s + backward_s
        for rank in replica_ranks(configuration, each):
            times[rank] = (sum(ranks) - max(ranks)) / configuration.vpp, max(ranks)
    return times


def fair_shares(times: Sequence[tuple[float, float]], total: int) -> tuple[int, ...]:
    """Whole shares of `total` microbatches, one at least for each, whose slowest rank is fastest.

    `times` are seconds of each rank before its first microbatch and of each. One microbatch after another goes to the
    rank that is done with it first: a rank's time grows with its share, so whatever shares end sooner than this would
    have to leave that microbatch to nobody. Needs `total` >= len(times).
    """
    ends = [(before_s + 2 * each_s, rank) for rank, (before_s, each_s) in enumerate(times)]
    heapq.heapify(ends)
    shares = [1] * len(times)
    for _ in range(total - len(times)):
        end_s, rank = ends[0]
        shares[rank] += 1
        heapq.heapreplace(ends, (end_s + times[rank][1], rank))
    return tuple(shares)
