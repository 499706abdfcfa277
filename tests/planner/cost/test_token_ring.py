"""The token ring's two directions take turns: by hand over one path."""

from __future__ import annotations

import pytest

from meshwright.clusters.topology import GroupPaths, Path
from meshwright.planner.cost.context import Blocks, Links, exposed


def test_queries_and_returns_of_one_group_are_added_up():
    """4 ranks, three hops of 8 MB of queries; 8.5 MB come back from each, the last beside nothing.
    Backward 8 + 2 x 8 + 0.5 MB go and 16 MB of fp32 gradients return. 1 GB/s; attention takes nothing."""
    path = Path(bandwidth_bytes_per_s=1e9, latency_s=0.0, link="ethernet")
    group = GroupPaths(size=4, domains=4, inner=None, outer=path)
    blocks = Blocks(
        cp=4, heads=1, steps=3, seen=0.75, query=8e6, output=8e6, key_value=16e6, copies=1, lse=0.5e6, element=2
    )
    found = exposed("token-ring", blocks, Links(group, group, group), (0.0, 0.0))
    assert found.forward_s == pytest.approx(3 * 8e-3 + 3 * 8.5e-3)
    assert found.backward_s == pytest.approx(3 * 24.5e-3 + 3 * 16e-3)
    hidden = exposed("token-ring", blocks, Links(group, group, group), (4 * 16.5e-3, 4 * 40.5e-3))
    assert (hidden.forward_s, hidden.backward_s) == pytest.approx((8.5e-3, 16e-3))
