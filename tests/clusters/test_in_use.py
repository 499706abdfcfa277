"""Which devices remain where some are missing, and what remains known of a part of a cluster."""

from __future__ import annotations

import pytest

from meshwright.clusters import Topology
from meshwright.clusters.in_use import choices
from meshwright.clusters.part import first_devices, without_nodes

from .machines import FABRIC, MEASURED, single


def without(*missing, **changes):
    nodes = [{"node": f"only/{node}", "missing": devices} for node, devices in missing]
    return single(exceptions={"nodes": nodes}, **changes)


def test_nothing_missing_is_no_choice():
    assert choices(single()) == [()]


def test_every_node_gives_as_many_devices():
    """Four nodes of four, one with three: twelve of whole nodes, or three, two or one of each."""
    found = choices(without((1, [0])))
    assert [len(devices) for devices in found] == [12, 8, 4]
    assert found[0] == (0, 1, 2, 3, *range(8, 16))  # as many as three of each would be, in nodes that are whole
    assert found[1] == (0, 1, 5, 6, 8, 9, 12, 13)
    for devices in found:
        assert Topology(without((1, [0])), devices).num_devices == len(devices)


def test_a_node_that_is_gone_gives_none():
    assert choices(without((0, "all")))[0] == tuple(range(4, 16))


def test_larger_domains_stay_whole():
    cluster = without((1, [0]), devices=2, fabric=FABRIC | {"domain_devices": 4})
    assert choices(cluster)[0] == (4, 5, 6, 7)


@pytest.mark.parametrize("devices", [8, 12])
def test_a_part_keeps_what_is_known_of_its_nodes(devices):
    measured = single(exceptions={"matrix": {"rows": MEASURED}})
    part = first_devices(measured, devices)
    assert part.num_devices == devices
    assert choices(part)[0] == tuple(range(devices))
    assert Topology(part).border(4, 0, 1) == Topology(measured).border(4, 0, 1)
    assert without_nodes(measured, {"only": 1}).num_devices == 12
