"""Plans on measured links: no order of the hosts is better than the one that is found, by trying all."""

from __future__ import annotations

from itertools import permutations

import pytest

from meshwright.planner.search.search import find_plan

from .ideal import results
from .planned import measured_cluster, predicted_s, request, virtual_step
from .scenario import SCENARIOS


@pytest.mark.parametrize("scenario", SCENARIOS[:3], ids=lambda scenario: scenario.name)
def test_the_best_order_is_found_and_the_bound_holds(scenario):
    cluster = measured_cluster("testbed", scenario.hosts, results(scenario))
    plan = find_plan(request(scenario, cluster))
    orders = permutations(range(scenario.hosts))
    best = min(predicted_s(scenario, cluster, plan.configuration, order) for order in orders)
    assert plan.predicted.step_time_s == pytest.approx(best, rel=1e-9)
    assert plan.proof.lower_bound_s <= best * (1 + 1e-9)
    assert plan.predicted.origin == "analytical"  # the weakest: compute is virtual


@pytest.mark.parametrize("scenario", SCENARIOS, ids=lambda scenario: scenario.name)
def test_a_step_does_what_the_plan_says(scenario):
    cluster = measured_cluster("testbed", scenario.hosts, results(scenario))
    plan = find_plan(request(scenario, cluster))
    step = virtual_step(scenario, cluster, plan.configuration, plan.rank_map)
    microbatches = 8 // plan.microbatch // step.dp
    assert sorted(step.hosts) == list(range(scenario.hosts))
    for row in step.actions:
        assert sorted(row) == sorted((kind, number) for kind in "FB" for number in range(microbatches))
    parameters = sum(size for sizes in step.buckets_bytes for size in sizes) / 4
    hidden, width = scenario.widths
    ends = 2 * 256 * hidden + hidden  # embedding, head, last norm
    layer = 4 * hidden * hidden + 3 * hidden * width + 2 * hidden
    assert parameters == pytest.approx(8 * layer + ends, rel=1e-4)
