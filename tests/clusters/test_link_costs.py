"""Measured costs of links: exact where they were measured, in between and beyond as said, and told apart by path."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from meshwright.clusters.link_costs import OPERATIONS, LinkCost, MeasuredCosts, dearest_s, measured_costs, moved_bytes
from meshwright.clusters.paths import GroupPaths, Path, worst
from meshwright.clusters.save import written
from meshwright.errors import InputError
from meshwright.planner.cost import communication as price
from meshwright.schema import parse

POINTS = [{"bytes": 1024, "seconds": 1e-3}, {"bytes": 2**20, "seconds": 2e-3}, {"bytes": 2**22, "seconds": 5e-3}]


def cost(operation="all_reduce", members=4, factor=1.0, points=POINTS):
    given = {"operation": operation, "members": members, "factor": factor, "fixed": points}
    return parse(LinkCost, given, "cost")


def over(costs, bandwidth=1e8):
    """Four on one host over a path with these costs."""
    path = Path(bandwidth, 1e-4, "shared-memory", costs=measured_costs(costs))
    return GroupPaths(size=4, domains=1, inner=path, outer=None)


@pytest.mark.parametrize(
    ("size", "fixed"),
    [(1, 1e-3), (1024, 1e-3), (2**15, 1.5e-3), (2**20, 2e-3), (2**21, 3.5e-3), (2**22, 5e-3), (2**23, 9e-3)],
)
def test_between_sizes_by_logarithm_and_beyond_them_in_proportion(size, fixed):
    assert cost().fixed_s(size) == pytest.approx(fixed)


def test_what_was_measured_is_what_it_costs():
    found = price.all_reduce_s(over([cost()]), 2**20)
    assert found == pytest.approx(2e-3 + 1.5 * 2**20 / 1e8)


@pytest.mark.parametrize(
    ("name", "function", "moved"),
    [
        ("all_reduce", price.all_reduce_s, 1.5),
        ("all_gather", price.all_gather_s, 0.75),
        ("reduce_scatter", price.reduce_scatter_s, 0.75),
        ("all_to_all", price.all_to_all_s, 0.75),
        ("broadcast", price.broadcast_s, 1.0),
    ],
)
def test_every_operation_asks_for_its_own(name, function, moved):
    others = [cost(other, points=[{"bytes": 1, "seconds": 9}]) for other in OPERATIONS if other != name]
    found = function(over([*others, cost(name, factor=2)]), 2**20)
    assert found == pytest.approx(2e-3 + 2 * moved * 2**20 / 1e8)


def test_messages_ask_for_sends():
    path = over([cost("send", members=2)]).inner
    assert price.point_to_point_s(path, 2**20) == pytest.approx(2e-3 + 2**20 / 1e8)


def test_what_was_not_measured_costs_what_its_formula_says():
    group = over([cost("all_to_all")])
    plain = replace(group, inner=replace(group.inner, costs=()))
    assert price.all_reduce_s(group, 2**20) == price.all_reduce_s(plain, 2**20)


def test_another_size_of_group_has_as_many_more_steps():
    known = MeasuredCosts((cost(members=2), cost(members=4)))
    wire = moved_bytes("all_reduce", 8, 1024) / 1e8
    assert known.seconds("all_reduce", 8, 1024, 1e8) == pytest.approx(7 / 3 * 1e-3 + wire)
    assert known.seconds("all_reduce", 2, 1024, 1e8) == pytest.approx(1e-3 + moved_bytes("all_reduce", 2, 1024) / 1e8)


def test_of_several_links_the_dearest_counts():
    cheap, dear = measured_costs([cost()]), measured_costs([cost(factor=3)])
    both = worst([Path(1e8, 0, "a", costs=cheap), Path(1e9, 0, "b", costs=dear)])
    assert both.bandwidth_bytes_per_s == 1e8
    assert dearest_s(both.costs, "all_reduce", 4, 2**20, 1e8) == dear[0].seconds("all_reduce", 4, 2**20, 1e8)


@settings(max_examples=60, deadline=None)
@given(
    size=st.floats(1, 1e9),
    more=st.floats(1, 10),
    bandwidth=st.floats(1e6, 1e10),
    seconds=st.lists(st.floats(0, 1), min_size=1, max_size=5),
)
def test_less_bandwidth_is_never_faster_and_no_time_is_negative(size, more, bandwidth, seconds):
    points = [{"bytes": 4.0**index, "seconds": each} for index, each in enumerate(seconds, start=5)]
    known = cost(points=points)
    slow, fast = (price.all_reduce_s(over([known], rate), size) for rate in (bandwidth, more * bandwidth))
    assert 0 < fast <= slow
    assert math.isfinite(slow)


def test_slowed_links_take_that_much_longer_all_in_all():
    group = over([cost(factor=1.3)])
    slow = price.slowed(group, 2.5, 1)
    assert price.all_reduce_s(slow, 2**20) == pytest.approx(2.5 * price.all_reduce_s(group, 2**20))


def test_a_file_has_them_as_they_were():
    known = cost(factor=1.25)
    assert parse(LinkCost, written(known), "again") == known


@pytest.mark.parametrize(
    "change",
    [
        {"members": 1},
        {"factor": 0},
        {"fixed": []},
        {"fixed": [POINTS[1], POINTS[0]]},
        {"fixed": [{"bytes": 0, "seconds": 1}]},
        {"fixed": [{"bytes": 1, "seconds": -1}]},
        {"operation": "gossip"},
        {"bandwidth": 3},
    ],
)
def test_wrong_costs_are_refused(change):
    given = {"operation": "all_reduce", "members": 4, "fixed": POINTS}
    with pytest.raises(InputError):
        parse(LinkCost, given | change, "cost")
