"""The proof, by listing everything: no plan below a branch takes less than its bound, and none beats the plan."""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import replace

import pytest
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

from meshwright.errors import InfeasibleError, InputError
from meshwright.planner.configuration import Configuration
from meshwright.planner.search.request import Request
from meshwright.planner.search.search import find_plan
from meshwright.planner.search.space import recipes, shares
from meshwright.planner.search.spread import spread_share
from meshwright.planner.search.tree import Level, Node, Tree

from .small import below_recipe, below_share, requests, seconds, setting_of

SLOW = settings(max_examples=25, deadline=None, suppress_health_check=list(HealthCheck), derandomize=True)
COUNTED: Counter[str] = Counter()


def branches(tree: Tree, node: Node) -> list[Node]:
    """A node and all branches below it that are not whole."""
    if node.level == Level.WHOLE:
        return []
    found = [node]
    for each in tree.open(node, math.inf):
        found += branches(tree, each)
    return found


def _schedule(configuration: Configuration) -> tuple[str, int]:
    return configuration.schedule, configuration.vpp


@SLOW
@given(request=requests(), data=st.data())
def test_no_plan_takes_less_than_the_bound_of_a_branch_above_it(request: Request, data: st.DataObject) -> None:
    """Of one share: its roots, what has room, every schedule and recipe, against every split and recomputation."""
    setting, pins = setting_of(request), request.pins
    tree = Tree(setting, pins, runnable=False)
    roots = list(tree.roots())
    assume(roots)
    root = data.draw(st.sampled_from(roots))
    known = branches(tree, root)
    over_all = max((each.bound_s for each in known if each.level <= Level.ROOMY), default=0.0)
    roomy = any(each.level == Level.ROOMY for each in known)
    together = {_schedule(each.configuration): each.bound_s for each in known if each.level == Level.SCHEDULE}
    for recipe in below_share(tree, root.configuration):
        bounds = {
            each.level: each.bound_s for each in known if each.configuration == recipe and each.level > Level.ROOMY
        }
        least = max([over_all, together.get(_schedule(recipe), 0.0)])
        least = max([least, *(bounds[level] for level in (Level.RECIPE, Level.LIMITED) if level in bounds)])
        COUNTED["scheduled"] += _schedule(recipe) in together
        for configuration in below_recipe(setting, pins, recipe):
            took = seconds(setting, configuration)
            COUNTED["listed"] += 1
            if took is not None:
                COUNTED["fit"] += 1
                assert roomy
                assert least <= took * (1 + 1e-12), configuration
                if recipe.mesh.pp > 1 and recipe in set(recipes(setting, pins, root.configuration)):
                    assert Level.LIMITED in bounds, configuration


@SLOW
@given(request=requests(layers=4))
def test_the_plan_is_the_best_of_all_that_are_listed(request: Request) -> None:
    setting, pins, best = setting_of(request), request.pins, math.inf
    assume(not setting.has_experts)  # searched as a list
    tree = Tree(setting, pins, runnable=False)
    for shared in shares(setting, pins):
        spread = spread_share(setting, pins, shared)
        for share in [shared] if spread is None else [shared, spread]:
            for recipe in below_share(tree, share):
                for configuration in below_recipe(setting, pins, recipe):
                    took = seconds(setting, configuration)
                    COUNTED["plans"] += 1
                    best = best if took is None else min(best, took)
    try:
        plan = find_plan(request)
    except (InfeasibleError, InputError):  # nothing fits, or nothing is legal
        assert math.isinf(best)
        return
    assert plan.predicted.step_time_s == pytest.approx(best, rel=1e-9)
    assert plan.proof.lower_bound_s <= best * (1 + 1e-9)


@settings(max_examples=6, deadline=None, suppress_health_check=list(HealthCheck), derandomize=True)
@given(request=requests(layers=4), gap=st.sampled_from([0.01, 0.1, 0.5]))
def test_a_gap_stops_within_what_it_says(request: Request, gap: float) -> None:
    assume(not setting_of(request).has_experts)
    try:
        exact = find_plan(request)
    except (InfeasibleError, InputError):
        return
    rough = find_plan(replace(request, gap=gap))
    COUNTED["gaps"] += 1
    assert rough.predicted.step_time_s * (1 - gap) <= exact.predicted.step_time_s * (1 + 1e-9)
    assert rough.proof.gap <= gap + 1e-9
    assert rough.proof.lower_bound_s <= exact.predicted.step_time_s * (1 + 1e-9)


def test_these_tests_have_listed_something() -> None:
    """Runs last in this file."""
    if COUNTED:
        assert COUNTED["listed"] > 1000
        assert COUNTED["fit"] > 100
        assert COUNTED["scheduled"] > 50
        assert COUNTED["plans"] > 1000
        assert COUNTED["gaps"] > 0
