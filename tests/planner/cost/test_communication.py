"""Collectives against the volumes of the literature, by hand."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from meshwright.clusters.topology import GroupPaths, Path
from meshwright.planner.cost.communication import ALONE, all_gather_s, all_reduce_s, all_to_all_s, reduce_scatter_s

NVLINK = Path(bandwidth_bytes_per_s=400e9, latency_s=5e-6, link="nvswitch")
NETWORK = Path(bandwidth_bytes_per_s=40e9, latency_s=8e-6, link="infiniband")
COLLECTIVES = [all_gather_s, all_reduce_s, all_to_all_s]


def group(domains: int, per_domain: int) -> GroupPaths:
    inner, outer = NVLINK if per_domain > 1 else None, NETWORK if domains > 1 else None
    return GroupPaths(size=domains * per_domain, domains=domains, inner=inner, outer=outer)


def test_a_ring_of_eight_moves_seven_eighths():
    assert all_gather_s(group(1, 8), 8e9) == pytest.approx(7e9 / 400e9 + 7 * 5e-6)
    assert all_reduce_s(group(1, 8), 8e9) == pytest.approx(2 * (7e9 / 400e9 + 7 * 5e-6))


def test_between_domains_each_member_carries_its_share():
    """16 ranks on 2 domains: 1/8 of the data crosses the network on each card, half of it per direction."""
    network = 2 * 0.5 * 8e9 / 8 / 40e9 + 2 * 8e-6
    assert all_reduce_s(group(2, 8), 8e9) == pytest.approx(network + all_reduce_s(group(1, 8), 8e9))


def test_an_all_to_all_across_nodes_is_bound_by_the_network():
    assert all_to_all_s(group(4, 8), 32e6) == pytest.approx(24e6 / 40e9 + 24 * 8e-6)


@pytest.mark.parametrize("collective", COLLECTIVES)
def test_alone_there_is_nothing_to_do(collective):
    assert collective(ALONE, 1e9) == 0


@pytest.mark.parametrize("collective", COLLECTIVES)
@settings(max_examples=30, deadline=None)
@given(
    domains=st.integers(1, 64),
    per_domain=st.sampled_from([1, 2, 4, 8]),
    size=st.floats(0, 1e10),
    factor=st.floats(1, 10),
)
def test_more_bandwidth_is_never_slower_and_more_data_never_faster(collective, domains, per_domain, size, factor):
    slow = group(domains, per_domain)
    faster = [
        None if p is None else replace(p, bandwidth_bytes_per_s=p.bandwidth_bytes_per_s * factor)
        for p in (slow.inner, slow.outer)
    ]
    fast = replace(slow, inner=faster[0], outer=faster[1])
    assert collective(fast, size) <= collective(slow, size) <= collective(slow, size * factor)


def test_a_reduce_scatter_may_be_slower_than_an_all_gather():
    even = GroupPaths(size=4, domains=1, inner=Path(1e9, 1e-5, "shared-memory"), outer=None)
    slow = replace(even, inner=Path(1e9, 1e-5, "shared-memory", reduce_scatter=2.5))
    assert reduce_scatter_s(even, 1e6) == all_gather_s(even, 1e6)
    assert reduce_scatter_s(slow, 1e6) == pytest.approx(2.5 * all_gather_s(slow, 1e6))
    assert all_reduce_s(slow, 1e6) == all_reduce_s(even, 1e6)


def test_an_all_to_all_in_a_domain_reaches_all_peers_at_once():
    """Published: 64 bytes to each of 8 B200 take 10 us, to each of 2 8 us; the latency of the link counts once."""
    small = 8 * 64.0
    assert all_to_all_s(group(1, 8), small) < 1.1 * all_to_all_s(group(1, 2), small)
