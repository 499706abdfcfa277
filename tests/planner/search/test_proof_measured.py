"""The proof on clusters that were measured: kernels by shape, costs of links, what runs taught. Prices of a few points
are bumpy; no plan below a branch may take less than its bound all the same."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from typing import Any

from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

from meshwright.clusters.link_costs import OPERATIONS
from meshwright.clusters.schema import Cluster
from meshwright.clusters.shapes import KINDS, work
from meshwright.planner.search.request import Request
from meshwright.planner.search.space import recipes
from meshwright.planner.search.tree import Level, Tree

from .small import below_recipe, requests, seconds, setting_of
from .test_proof import branches

COUNTED: Counter[str] = Counter()
SIZES = {
    "matmul": [(m, n, k) for m in (256, 4096) for n in (512, 8192) for k in (512, 8192)],
    "optimizer": [(2**power,) for power in range(16, 29, 3)],
}


def shapes(draw: st.DrawFn, device: dict[str, Any]) -> dict[str, Any]:
    """Products and the optimizer at a few sizes, each up to twice as slow as its rate."""
    operations = []
    for name, sizes in SIZES.items():
        kind = KINDS[name]
        rows = []
        for each in sizes:
            flops, elements = work(name, each)
            base_s = 3e-6 + 2 * flops / 4e14 + (34 if name == "optimizer" else 2) * elements / 2e12
            parts = [base_s * draw(st.floats(0.5, 2.0)) for _ in kind.parts]
            rows.append([*each, *parts, 0.02])
        operations.append({"name": name, "sizes": kind.sizes, "parts": kind.parts, "chosen": "table",
                           "reach": [2.0] * len(kind.sizes), "points": rows})  # fmt: skip
    rates = {"peak_flops": device["peak_flops"]["bf16"], "memory_bandwidth": device["memory_bandwidth"]}
    return {"dtype": "bf16", **rates, "operations": operations}


def costs(draw: st.DrawFn) -> list[dict[str, Any]]:
    """Of every operation at some sizes."""
    return [
        {
            "operation": name, "members": draw(st.sampled_from([2, 4])), "factor": draw(st.floats(0.5, 2.0)),
            "fixed": [{"bytes": size, "seconds": draw(st.floats(0, 1e-3))} for size in (1024, 2**16, 2**22, 2**26)],
        }
        for name in OPERATIONS
    ]  # fmt: skip


@st.composite
def measured(draw: st.DrawFn) -> Request:
    """A small request on a cluster of which everything that a profile and runs can say was said."""
    request = draw(requests(layers=4))
    data = request.cluster.model_dump(mode="json", by_alias=True, exclude_none=True)
    group = data["node_groups"][0]
    group["device"]["calibration"]["shapes"] = shapes(draw, group["device"])
    group["fabric"]["costs"] = costs(draw)
    if draw(st.booleans()):
        group["device"]["calibration"]["overlap"] = {"compute": draw(st.floats(1, 2)), "collective": 1.0}
    scale = {"latency": draw(st.floats(0.5, 2)), "bandwidth": draw(st.floats(0.5, 2))}
    data["adjustment"] = {
        "source": "a test", "date": "2026-11-22", "compute": draw(st.floats(0.5, 2)), "fabric": scale,
        "layer": draw(st.floats(0, 1e-3)), "step": draw(st.floats(0, 1e-2)), "overlap": draw(st.floats(0.5, 1.5)),
    }  # fmt: skip
    return replace(request, cluster=Cluster.model_validate(data))


@settings(max_examples=20, deadline=None, suppress_health_check=list(HealthCheck), derandomize=True)
@given(request=measured(), data=st.data())
def test_no_plan_takes_less_than_the_bound_of_a_branch_above_it(request: Request, data: st.DataObject) -> None:
    setting, pins = setting_of(request), request.pins
    tree = Tree(setting, pins, runnable=False)
    roots = list(tree.roots())
    assume(roots)
    root = data.draw(st.sampled_from(roots))
    known = branches(tree, root)
    over_all = max((each.bound_s for each in known if each.level <= Level.ROOMY), default=0.0)
    for recipe in recipes(setting, pins, root.configuration):
        at = (Level.RECIPE, Level.LIMITED)
        bounds = [each.bound_s for each in known if each.configuration == recipe and each.level in at]
        least = max([over_all, *bounds])
        for configuration in below_recipe(setting, pins, recipe):
            took = seconds(setting, configuration)
            COUNTED["fit"] += took is not None
            assert took is None or least <= took * (1 + 1e-12), configuration


def test_this_has_listed_something() -> None:
    """Runs last in this file."""
    assert not COUNTED or COUNTED["fit"] > 100
