"""What collectives cost: latency and bandwidth (Hockney) over the real paths of a group.

A group spans `domains` NVLink domains with `k` members in each. Collectives run hierarchically: a ring inside
each domain and a ring between domains, where each member carries 1/k of the data over its own share of the
network (NCCL reaches the same volume with one ring per network card). Volumes: Thakur et al. 2005, "Optimization
of Collective Communication Operations in MPICH". Latency of an all-reduce between domains is that of NCCL's double
binary trees, logarithmic; all-gather and reduce-scatter are rings, linear.

Where the costs of an operation over some links were measured (`clusters/link_costs.py`), they stand for the formula of
that part: the ring inside a domain, that between domains, or a message.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import replace

from ...clusters.link_costs import Operation, dearest_s, slower
from ...clusters.topology import GroupPaths, Path


def all_gather_s(group: GroupPaths, full_bytes: float) -> float:
    """Every member ends with `full_bytes`, of which it gave 1/size."""
    return sum(_measured(*ring, "all_gather", _ring(*ring)) for ring in _rings(group, full_bytes))


def reduce_scatter_s(group: GroupPaths, full_bytes: float) -> float:
    """Every member ends with 1/size of the sum: an all-gather backwards, where the library is as good at it."""
    return sum(
        _measured(*ring, "reduce_scatter", ring[0].reduce_scatter * _ring(*ring)) for ring in _rings(group, full_bytes)
    )


def _rings(group: GroupPaths, full_bytes: float) -> Iterator[tuple[Path, int, float]]:
    """The ring between domains and the ring inside each: its members, and the bytes with which each of them ends."""
    k, d = group.per_domain, group.domains
    if group.outer is not None:
        yield group.outer, d, full_bytes / k
    if group.inner is not None:
        yield group.inner, k, full_bytes


def _measured(path: Path, members: int, size_bytes: float, operation: Operation, otherwise_s: float) -> float:
    """What the operation was measured to take over such a path, else what its formula says."""
    if not path.costs:
        return otherwise_s
    found = dearest_s(path.costs, operation, members, size_bytes, path.bandwidth_bytes_per_s)
    return otherwise_s if found is None else found


def all_reduce_s(group: GroupPaths, full_bytes: float) -> float:
    """Every member ends with the sum of `full_bytes`: reduce-scatter and all-gather, tree latency between domains."""
    k, d = group.per_domain, group.domains
    time = 0.0
    if group.outer is not None:
        moved = 2 * (d - 1) / d * full_bytes / k
        trees_s = moved / group.outer.bandwidth_bytes_per_s + 2 * math.ceil(math.log2(d)) * group.outer.latency_s
        time += _measured(group.outer, d, full_bytes / k, "all_reduce", trees_s)
    if group.inner is not None:
        time += _measured(group.inner, k, full_bytes, "all_reduce", 2 * _ring(group.inner, k, full_bytes))
    return time


def all_to_all_s(group: GroupPaths, sent_bytes: float) -> float:
    """Every member sends 1/size of `sent_bytes` to each; both kinds of links carry their share at once. Inside a domain
    all peers are reached at once: an all-to-all of 512 bytes takes 6, 7 and 7 us on 2, 4 and 8 H100, and 8, 10 and 10
    on B200 (nccl tables of ai-dynamo/aiconfigurator 095f58a51). Between domains they are taken one after another."""
    n, k = group.size, group.per_domain
    inner = outer = 0.0
    if group.inner is not None:
        inner = (k - 1) / n * sent_bytes / group.inner.bandwidth_bytes_per_s + group.inner.latency_s
        inner = _measured(group.inner, k, sent_bytes * k / n, "all_to_all", inner)
    if group.outer is not None:
        outer = (n - k) / n * sent_bytes / group.outer.bandwidth_bytes_per_s + (n - k) * group.outer.latency_s
        outer = _measured(group.outer, group.domains, sent_bytes, "all_to_all", outer)
    return max(inner, outer)


def ring_exchange_s(group: GroupPaths, block_bytes: float) -> float:
    """One hop of a ring: every member passes a block to the next, at the pace of the slowest link."""
    return max(point_to_point_s(path, block_bytes) for path in (group.inner, group.outer) if path is not None)


def point_to_point_s(path: Path, moved_bytes: float) -> float:
    """One message."""
    return _measured(path, 2, moved_bytes, "send", moved_bytes / path.bandwidth_bytes_per_s + path.latency_s)


def broadcast_s(group: GroupPaths, full_bytes: float) -> float:
    """From one member to all, or a sum from all to one: in pieces along a chain, so that the slowest link carries all
    of it once (NCCL's rings), and every member adds a latency."""
    paths = [
        (path, members) for path, members in ((group.outer, group.domains), (group.inner, group.per_domain)) if path
    ]
    if any(path.costs for path, _ in paths):
        return sum(_broadcast_s(path, members, full_bytes) for path, members in paths)
    rates = [full_bytes / path.bandwidth_bytes_per_s for path, _ in paths]
    return max(rates, default=0.0) + sum((members - 1) * path.latency_s for path, members in paths)


def _broadcast_s(path: Path, members: int, full_bytes: float) -> float:
    """One after another where a library was measured: its trees do not send in pieces across levels."""
    chain_s = full_bytes / path.bandwidth_bytes_per_s + (members - 1) * path.latency_s
    return _measured(path, members, full_bytes, "broadcast", chain_s)


def pipeline_transfer_s(
    path: Path, tokens: float, hidden: int, element_bytes: int, tp: int, inner: GroupPaths
) -> float:
    """Activations to the next stage: each tensor-parallel rank sends 1/tp, and the receivers gather over `inner`
    (scatter-gather optimisation, Narayanan et al. 2021, arXiv:2104.04473, section 4.1). With sequence parallelism
    the layer itself gathers: pass `inner` = ALONE."""
    total = tokens * hidden * element_bytes
    return point_to_point_s(path, total / tp) + all_gather_s(inner, total)


def _ring(path: Path, members: int, full_bytes: float) -> float:
    return (members - 1) * (full_bytes / members / path.bandwidth_bytes_per_s + path.latency_s)


def slowed(group: GroupPaths, inner: float, outer: float) -> GroupPaths:
    """The same group with everything inside a domain, and between domains, taking so many times as long."""
    return replace(group, inner=_slower(group.inner, inner), outer=_slower(group.outer, outer))


def _slower(path: Path | None, factor: float) -> Path | None:
    if path is None:
        return None
    rate, latency_s = path.bandwidth_bytes_per_s / factor, path.latency_s * factor
    return replace(path, bandwidth_bytes_per_s=rate, latency_s=latency_s, costs=slower(path.costs, factor))


ALONE = GroupPaths(size=1, domains=1, inner=None, outer=None)
"""A group of one: every collective over it is free."""


def flat(group: GroupPaths) -> GroupPaths:
    """One ring through all n members instead of rings inside and between d domains: its network links carry (n-1)/n of
    the data, not (d-1)/d, and the links inside move as much at the same time (github.com/NVIDIA/nccl, issue 569)."""
    if group.outer is None or group.inner is None:
        return group
    more = (1 - 1 / group.size) / (1 - 1 / group.domains)
    outer = replace(group.outer, bandwidth_bytes_per_s=group.outer.bandwidth_bytes_per_s / more)
    return replace(group, inner=None, outer=outer)
