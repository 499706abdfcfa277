"""Ways to send tokens and branches of a list, against every one of them priced."""

from __future__ import annotations

from dataclasses import replace
from itertools import product

import pytest

from meshwright.clusters.catalogue import load_cluster
from meshwright.planner.cost.exchange import experts_s, least_s
from meshwright.planner.cost.sharding import Sharding
from meshwright.planner.cost.step import price
from meshwright.planner.families import load_model
from meshwright.planner.job import Job
from meshwright.planner.legality import is_legal
from meshwright.planner.pins import Pins, parse_pins
from meshwright.planner.search.bound import Balancer
from meshwright.planner.search.branches import Listed
from meshwright.planner.search.dispatch import CHUNKS, choices
from meshwright.planner.search.request import Request
from meshwright.planner.search.search import find_plan
from meshwright.planner.search.space import below, listed_shares

KINDS = ("copies", "ranks", "nodes")
FEW = ["cp=1", "tp=1", "zero=1", "microbatch=1"]


def ask(model="olmoe-1b-7b", cluster="dgx-h100:2", pins=(), global_batch=32, **changes) -> Request:
    job = Job(seq_len=4096, global_batch=global_batch)
    return Request(
        model=load_model(model), cluster=load_cluster(cluster), job=job, pins=parse_pins([*FEW, *pins]), **changes
    )


SPACES = [
    ask(pins=["schedule=1f1b", "etp=1"], gap=0.0),
    ask("mixtral-8x7b", pins=["schedule=1f1b"], gap=0.0),
    ask(cluster="dgx-h100:4", pins=["pp=2", "ep=16", "etp=1"], gap=0.0),
]


@pytest.fixture(scope="module", params=SPACES, ids=["ep", "folded", "schedules"])
def space(request):
    """A request, and every legal configuration with every way to send tokens that fits, with its price."""
    asked, found = request.param, []
    setting = asked.setting()
    balancer = Balancer(setting)
    for shared in listed_shares(setting, replace(asked.pins, dispatch="copies", dispatch_chunks=1)):
        for recipe, kind, parts in product(below(setting, asked.pins, shared), KINDS, CHUNKS):
            made = replace(recipe, dispatch=kind, dispatch_chunks=parts)
            if is_legal(setting, made):
                balanced = balancer.balanced(made)
                predicted = price(setting, balanced)
                if predicted.fits:
                    found.append((balanced, predicted.step_time_s))
    return asked, found


def test_nothing_in_the_whole_space_is_faster(space):
    asked, everything = space
    plan, least = find_plan(asked), min(step_s for _, step_s in everything)
    assert plan.predicted.step_time_s <= least * (1 + 1e-9)  # polishing may find better
    assert plan.proof.lower_bound_s <= least * (1 + 1e-9)
    assert {configuration.dispatch for configuration, _ in everything} == set(KINDS)


def test_no_branch_holds_anything_below_its_bound(space):
    asked, everything = space
    setting = asked.setting()
    listed = Listed(asked, setting, asked.measure(setting))
    bounds = {}
    for shared in listed_shares(setting, asked.pins):
        key = shared.mesh, shared.microbatch
        bound = max(listed._bound(shared), listed._roomy(shared))
        bounds[key] = min(bound, bounds.get(key, bound))
    assert any(0 < bound < float("inf") for bound in bounds.values())
    for configuration, step_s in everything:
        assert bounds[configuration.mesh, configuration.microbatch] <= step_s * (1 + 1e-9)


@pytest.mark.parametrize("cluster", ["dgx-h100:1", "dgx-h100:4", "dgx-a100-80g:4"])
@pytest.mark.parametrize(("ep", "etp"), [(8, 1), (16, 1), (16, 2), (4, 8)])
def test_what_is_left_out_is_beaten_both_ways(cluster, ep, etp):
    setting = ask(cluster=cluster).setting()
    base = next(iter(listed_shares(setting, Pins(microbatch=1, tp=1, cp=1, pp=1))))
    if ep * etp > setting.num_devices:
        return
    configuration = replace(base, mesh=replace(base.mesh, ep=ep, etp=etp))
    kept = choices(setting, Pins(), configuration, {})
    layer = setting.architecture.layers[0]

    def times(kind, parts):
        sharding = Sharding(ep=ep, etp=etp, dispatch=kind, dispatch_chunks=parts)
        return experts_s(layer, sharding, 4096, setting.rates, setting.groups(sharding), True)

    for kind, parts in product(KINDS, CHUNKS):
        if is_legal(setting, replace(configuration, dispatch=kind, dispatch_chunks=parts)):
            own = times(kind, parts)
            better = (times(*each) for each in kept)
            assert any(all(a <= b * (1 + 1e-12) for a, b in zip(each, own, strict=True)) for each in better)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("tokens", [64, 4096, 65536])
def test_no_number_of_parts_takes_less_than_the_links_and_the_products(kind, tokens):
    setting = ask(cluster="dgx-h100:4").setting()
    layer, whole = setting.architecture.layers[0], Sharding(ep=32, dispatch=kind)
    groups = setting.groups(whole)
    least = least_s(layer, whole, tokens, setting.rates, groups, True)
    for parts in range(1, 40):
        found = experts_s(layer, replace(whole, dispatch_chunks=parts), tokens, setting.rates, groups, True)
        assert all(a <= b * (1 + 1e-12) for a, b in zip(least, found, strict=True))


def test_what_is_pinned_is_kept_and_a_processor_overlaps_nothing():
    setting = ask().setting()
    base = next(iter(listed_shares(setting, Pins(microbatch=1, tp=1, cp=1, pp=1))))
    wide = replace(base, mesh=replace(base.mesh, ep=16))
    assert choices(setting, Pins(dispatch="copies", dispatch_chunks=3), wide, {}) == [("copies", 3)]
    local = ask(cluster="local:4").setting()
    four = replace(base, mesh=replace(base.mesh, dp=4, ep=4))
    assert all(parts == 1 for _, parts in choices(local, Pins(), four, {}))
