"""What an explanation says against pricing and planning the same by hand."""

from __future__ import annotations

import json
from dataclasses import asdict, replace

import pytest
from typer.testing import CliRunner

from meshwright.cli import app
from meshwright.clusters.catalogue import load_cluster
from meshwright.planner.configuration import LEVERS
from meshwright.planner.cost.step import price
from meshwright.planner.families import load_model
from meshwright.planner.job import Job
from meshwright.planner.legality import is_legal, runtime_problems
from meshwright.planner.pins import parse_pins
from meshwright.planner.search.choose import choose
from meshwright.planner.search.explanation import difference, explanation
from meshwright.planner.search.neighbours import neighbours
from meshwright.planner.search.request import Request
from meshwright.planner.search.search import find_plan


def ask(model="llama-3.2-1b", cluster="dgx-a100-40g:2", seq_len=2048, global_batch=32, pins=(), **changes) -> Request:
    job = Job(seq_len=seq_len, global_batch=global_batch)
    return Request(model=load_model(model), cluster=load_cluster(cluster), job=job, pins=parse_pins(pins), **changes)


REQUESTS = [
    ask(pins=["schedule=1f1b"]),
    ask("llama-3.1-8b", "dgx-a100-80g:2", 4096, 32, ["pp=4"]),
    ask("olmoe-1b-7b", "dgx-a100-80g:1", 2048, 32, runnable=True),
    ask("llama-3.1-8b", "dgx-h100:2", 32768, 8, ["cp=4"]),
]
DEGREES = ("pp", "cp", "tp")
FOLLOWS = {
    **{degree: {"dp", "microbatches", "zero", "sp", "dp_replicate", "stage_layers", "recompute"} for degree in DEGREES},
    "microbatch": {"microbatches"},
    "schedule": {"vpp", "in_flight", "stage_layers"},
    "vpp": {"in_flight", "stage_layers"},
}
"""What follows from a choice."""


def differing(a, b) -> set[str]:
    names = ("pp", "dp", "cp", "tp", "ep", "etp")
    meshes = {name for name in names if getattr(a.mesh, name) != getattr(b.mesh, name)}
    others = ("stage_layers", "microbatch", "microbatches", "schedule", "vpp", "in_flight", "actions", *LEVERS)
    return meshes | {name for name in others if getattr(a, name) != getattr(b, name)}


@pytest.mark.parametrize("request_", REQUESTS, ids=lambda each: f"{each.model.name}-{each.job.seq_len}")
def test_neighbours_are_legal_and_differ_in_one_choice(request_):
    plan, setting = find_plan(request_), request_.setting()
    found = list(neighbours(setting, request_.pins, plan.configuration, request_.runnable))
    assert found
    assert len({(each.choice, each.change) for each in found}) == len(found)
    for each in found:
        differs = differing(plan.configuration, each.configuration)
        assert each.choice in differs
        assert differs <= {each.choice} | FOLLOWS.get(each.choice, set()), each
        assert is_legal(setting, each.configuration)
        assert each.configuration.mesh.world == plan.configuration.mesh.world
        assert not (request_.runnable and runtime_problems(setting, each.configuration))
        for name, value in request_.pins.given().items():
            assert getattr(each.configuration.mesh, name, None) == value or getattr(each.configuration, name) == value


@pytest.fixture(scope="module")
def found():
    request = REQUESTS[0]
    plan = choose(request)
    return request, plan, explanation(request, plan)


def test_alternatives_are_the_nearest_of_all_neighbours(found):
    request, plan, why = found
    setting = request.setting()
    priced = [
        (price(setting, each.configuration), each)
        for each in neighbours(setting, request.pins, plan.configuration, runnable=False)
    ]
    fitting: dict[str, float] = {}
    for predicted, each in sorted(priced, key=lambda one: one[0].step_time_s):
        if predicted.fits:
            fitting.setdefault(each.choice, predicted.step_time_s)
    assert [each.step_time_s for each in why.nearest] == sorted(fitting.values())[:5]
    assert {each.choice for each in why.nearest} <= fitting.keys()
    for each in why.nearest:
        assert each.worse == pytest.approx(each.step_time_s / plan.predicted.step_time_s - 1)
        more = each.step_time_s - plan.predicted.step_time_s
        assert sum(each.more_s.values()) == pytest.approx(more, abs=1e-9)
        assert each.fits


def test_what_does_not_fit_would_be_better_and_lacks_memory():
    request = ask("llama-3.1-70b", "dgx-a100-80g:4", 4096, 128, ["schedule=1f1b", "zero=1", "tp=8"], gap=0.05)
    plan = choose(request)
    why = explanation(request, plan)
    assert why.too_large
    for each in why.too_large:
        assert each.worse < 0 < each.short_bytes
        assert each.step_time_s < plan.predicted.step_time_s
    memory = next(each for each in why.binding if each.resource == "memory")
    group = request.cluster.node_groups[0]
    device = group.device.model_copy(update={"memory_bytes": 1.1 * group.device.memory_bytes})
    larger = request.cluster.model_copy(update={"node_groups": (group.model_copy(update={"device": device}),)})
    step_s = find_plan(replace(request, cluster=larger, top=0)).predicted.step_time_s
    assert memory.gain == pytest.approx(max(0.0, 1 - step_s / plan.predicted.step_time_s))
    assert next(each for each in why.purchases if each.bought == "twice the memory").times > 1.01


def test_ten_percent_of_one_resource_gain_at_most_that(found):
    _, plan, why = found
    assert [each.gain for each in why.binding] == sorted((each.gain for each in why.binding), reverse=True)
    assert {each.resource for each in why.binding} == {
        "compute", "memory_bandwidth", "launch", "fabric", "network", "host_link", "memory",
    }  # fmt: skip
    rates = [each for each in why.binding if each.resource != "memory"]
    assert all(-1e-9 <= each.gain <= 1 - 1 / 1.1 + 1e-9 for each in rates)
    assert 0 < sum(each.gain for each in rates) <= 1 - 1 / 1.1 + 1e-3
    assert why.binding[0].of in {*plan.predicted.breakdown_s.model_dump(), ""}


def test_a_single_node_waits_for_no_network():
    request = ask(cluster="dgx-a100-40g:1", pins=["schedule=1f1b", "microbatch=1"])
    why = explanation(request, choose(request))
    assert next(each for each in why.binding if each.resource == "network").gain == 0


def test_purchases_are_plans(found):
    request, plan, why = found
    bought = {each.bought: each for each in why.purchases}
    nodes = find_plan(replace(request, cluster=load_cluster("dgx-a100-40g:4"), top=0))
    assert bought["twice the nodes"].step_time_s == nodes.predicted.step_time_s
    assert bought["twice the nodes"].times == pytest.approx(plan.predicted.step_time_s / nodes.predicted.step_time_s)
    assert bought["twice the nodes"].change == difference(plan.configuration, nodes.configuration)
    batch = find_plan(replace(request, job=Job(seq_len=2048, global_batch=64), top=0))
    expected = 2 * plan.predicted.step_time_s / batch.predicted.step_time_s
    assert bought["twice the global batch"].times == pytest.approx(expected)
    assert all(each.times >= 1 - 0.011 for each in why.purchases)
    assert 1 < bought["twice the peak FLOP/s"].times <= 2


def test_costs_are_explained_in_dollars():
    request = ask(pins=["schedule=1f1b", "microbatch=1"], objective="cost")
    plan = choose(request)
    why = explanation(request, plan)
    rate = request.cluster.node_groups[0].price_per_device_hour / 3600
    nodes = next(each for each in why.purchases if each.bought == "twice the nodes")
    assert nodes.times == pytest.approx(1, abs=0.02)
    assert plan.proof.value == pytest.approx(rate * plan.configuration.mesh.world * plan.predicted.step_time_s)
    assert all(each.worse >= -1e-9 or each.choice == "recompute" for each in why.nearest)


COMMAND = ["plan", "llama-3.2-1b", "dgx-a100-40g:1", "--seq-len", "2048", "--global-batch", "16"]
COMMAND += ["--pin", "schedule=1f1b", "--pin", "microbatch=1"]


def test_the_command_line_explains_where_it_was_asked():
    shown = CliRunner().invoke(app, [*COMMAND, "--explain"])
    assert shown.exit_code == 0, shown.output
    for title in ("one choice made otherwise", "the best of other meshes", "what binds", "what one could buy"):
        assert title in shown.output
    assert "what binds" not in CliRunner().invoke(app, COMMAND).output
    plain = json.loads(CliRunner().invoke(app, [*COMMAND, "--json"]).output)
    found = json.loads(CliRunner().invoke(app, [*COMMAND, "--json", "--explain"]).output)
    assert found.keys() - plain.keys() == {"explanation"}
    assert found["explanation"].keys() == {"nearest", "too_large", "meshes", "binding", "purchases"}
    assert found["explanation"]["binding"][0].keys() == {"resource", "words", "gain", "of"}


def test_asdict_of_an_alternative_is_its_json(found):
    _, _, why = found
    assert why.to_json()["nearest"][0] == asdict(why.nearest[0])
