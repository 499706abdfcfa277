"""Objectives against pricing everything, at their deadlines, and where something is missing."""

from __future__ import annotations

import json
from dataclasses import replace
from functools import cache

import pytest
from typer.testing import CliRunner

from meshwright.cli import app
from meshwright.clusters.catalogue import load_cluster
from meshwright.clusters.check import check
from meshwright.clusters.part import first_devices, nodes_of, part_sizes, without_nodes
from meshwright.clusters.schema import Exceptions, NodeException
from meshwright.errors import InfeasibleError, InputError
from meshwright.planner.cost.bound import lower_bound_s
from meshwright.planner.cost.setting import Setting
from meshwright.planner.cost.step import price
from meshwright.planner.families import architecture, load_model
from meshwright.planner.job import Job
from meshwright.planner.legality import is_legal
from meshwright.planner.lengths.distribution import Histogram
from meshwright.planner.pins import parse_pins
from meshwright.planner.plan import Plan, load_plan
from meshwright.planner.search.bound import Balancer
from meshwright.planner.search.choose import choose, sizes, too_few
from meshwright.planner.search.objective import LATE, Measure
from meshwright.planner.search.request import Request
from meshwright.planner.search.search import find_plan
from meshwright.planner.search.space import candidates
from meshwright.planner.simulate.simulation import simulate

TOKENS = 10**11


def ask(model="llama-3.2-1b", cluster="dgx-a100-80g:2", seq_len=2048, global_batch=16, pins=(), **changes) -> Request:
    job = Job(seq_len=seq_len, global_batch=global_batch)
    return Request(model=load_model(model), cluster=load_cluster(cluster), job=job, pins=parse_pins(pins), **changes)


def legal(request: Request) -> list:
    """Every legal configuration of the space, with balanced layers, and its prediction where it fits."""
    setting = Setting(architecture(request.model), request.cluster, request.job, every_device=False)
    balancer, found = Balancer(setting), []
    for configuration in candidates(setting, request.pins):
        if is_legal(setting, configuration):
            balanced = balancer.balanced(configuration)
            predicted = price(setting, balanced)
            if predicted.fits:
                found.append((setting, balanced, predicted))
    return found


ENUMERATED = [
    ask("llama-3.2-1b", gap=0.0),
    ask("olmoe-1b-7b", "dgx-a100-80g:1", gap=0.0, pins=["microbatch=1", "recompute=none"]),
]


@pytest.fixture(scope="module", params=ENUMERATED, ids=lambda request: request.model.name)
def space(request) -> tuple[Request, list]:
    return request.param, legal(request.param)


def as_plan(found: Plan, configuration, predicted) -> Plan:
    """A plan file of another configuration, for the simulator to judge."""
    mesh = vars_of(configuration.mesh)
    names = ("zero", "sp", "recompute", "dp_replicate", "dispatch", "dispatch_chunks")
    fields = {name: getattr(configuration, name) for name in names}
    schedule = {"name": configuration.schedule, "vpp": configuration.vpp, "microbatches": configuration.microbatches}
    data = found.model_dump(mode="json", by_alias=True) | fields
    data |= {"mesh": mesh, "schedule": schedule, "stage_layers": configuration.stage_layers}
    return Plan(**data | {"microbatch": configuration.microbatch, "logits_chunks": configuration.logits_chunks})


def vars_of(mesh) -> dict:
    return {name: getattr(mesh, name) for name in ("pp", "dp", "cp", "tp", "ep", "etp")}


def test_no_configuration_costs_less(space):
    request, everything = space
    plan = choose(replace(request, objective="cost"))
    rate = request.cluster.node_groups[0].price_per_device_hour / 3600
    least = min(each.step_time_s * rate * configuration.mesh.world for _, configuration, each in everything)
    assert plan.proof.value <= least * (1 + 1e-9)
    assert plan.proof.value == pytest.approx(plan.predicted.step_time_s * rate * plan.configuration.mesh.world)
    assert plan.proof.lower_bound <= least * (1 + 1e-9)
    assert plan.proof.lower_bound == pytest.approx(plan.proof.value * (1 - plan.proof.gap))


def test_no_configuration_takes_less_energy(space):
    """The simulator judges: its energy is that of the timeline that it plays."""
    request, everything = space
    plan = choose(replace(request, objective="energy"))
    assert plan.proof.value == pytest.approx(simulate(plan).energy.step_j)
    few = sorted(everything, key=lambda each: each[2].step_time_s * each[1].mesh.world)[:40]
    for _, configuration, predicted in few:
        other = simulate(as_plan(plan, configuration, predicted))
        assert other.step_time_s == pytest.approx(predicted.step_time_s)
        assert plan.proof.value <= other.energy.step_j * (1 + 1e-9)
        assert plan.proof.lower_bound <= other.energy.step_j * (1 + 1e-9)


@pytest.mark.parametrize("objective", ["time", "cost", "energy"])
def test_a_bound_is_never_above_the_value_and_never_falls(space, objective):
    _, everything = space
    for setting, configuration, predicted in everything[:: max(1, len(everything) // 60)]:
        for limit_s in (float("inf"), predicted.step_time_s, predicted.step_time_s * 0.99):
            measure = Measure(setting, objective, limit_s)
            value, bound_s = measure.of(configuration, predicted), lower_bound_s(setting, configuration)
            assert measure(configuration, bound_s) <= value * (1 + 1e-9)
            rising = [measure(configuration, bound_s * factor) for factor in (0.5, 0.9, 1.0, 1.1, 2.0, 4.0)]
            assert rising == sorted(rising)
            assert (value >= LATE) is (predicted.step_time_s > limit_s)


@cache
def by_devices() -> dict[int, Plan | None]:
    """The fastest plan on every number of devices that is tried, searched without any deadline."""
    request, found = fewest_request(), {}
    for devices in sizes(request):
        try:
            part = replace(request, cluster=first_devices(request.cluster, devices), objective="time", gap=0.0)
            found[devices] = find_plan(part)
        except (InputError, InfeasibleError):
            found[devices] = None
    return found


def fewest_request(**changes) -> Request:
    return ask("llama-3.1-8b", "dgx-a100-80g:4", pins=["schedule=1f1b", "zero=1"], objective="devices", **changes)


def test_the_fewest_devices_that_fit():
    plan = choose(fewest_request())
    fitting = [devices for devices, found in by_devices().items() if found is not None]
    assert plan.configuration.mesh.world == plan.cluster.num_devices == min(fitting) > 1
    assert plan.proof.value == plan.proof.lower_bound == min(fitting)
    assert str(min(fitting)) in plan.why[0]


@pytest.mark.parametrize("devices", [16, 24, 32])
@pytest.mark.parametrize("slack", [1 + 1e-6, 1 - 1e-6])
def test_the_fewest_devices_at_the_edge_of_a_deadline(devices, slack):
    """A run of just so long on so many devices, and one that is a millionth shorter."""
    found = by_devices()
    run_s = TOKENS / found[devices].job.tokens_per_step * found[devices].predicted.step_time_s
    request = fewest_request(tokens=TOKENS, deadline_s=run_s * slack)
    steps = [(size, plan.predicted.step_time_s) for size, plan in found.items() if plan is not None]
    meeting = [size for size, step_s in steps if step_s <= request.step_limit_s]
    if meeting:
        plan = choose(request)
        assert plan.cluster.num_devices == min(meeting)
        assert plan.training.days * 86_400 <= request.deadline_s
    else:
        with pytest.raises(InfeasibleError, match="with 32 devices"):
            choose(request)


def test_what_arithmetic_rules_out_does_not_fit_or_meet():
    request = fewest_request(tokens=TOKENS, deadline_s=40 * 86_400)
    setting = request.setting()
    for devices, plan in by_devices().items():
        if too_few(request, setting, devices):
            assert plan is None or plan.predicted.step_time_s > request.step_limit_s
    assert too_few(request, setting, 1)
    assert not too_few(request, setting, 32)


def test_a_late_plan_is_told_of_where_all_devices_make_none():
    """16 sequences are shared out over 8 and 16 replicas, not over 24."""
    pins = ["pp=1", "tp=1", "cp=1"]
    request = ask(cluster="dgx-a100-80g:3", objective="devices", tokens=TOKENS, deadline_s=3 * 86_400.0, pins=pins)
    with pytest.raises(InfeasibleError, match="with 16 devices"):
        choose(request)
    with pytest.raises(InputError, match="24 devices"):
        choose(replace(request, objective="time"))


def test_short_sequences_ask_for_less_arithmetic_than_the_longest():
    """Most of them are far below --seq-len: one device meets a deadline that it would miss if all were as long."""
    lengths = Histogram(lengths=(128, 4096), counts=(99, 1))
    job = Job(seq_len=4096, global_batch=16, lengths=lengths)
    request = replace(ask(cluster="dgx-a100-80g:1", tokens=TOKENS), job=job, objective="devices")
    alone = choose(replace(request, cluster=first_devices(request.cluster, 1), objective="time"))
    deadline_s = TOKENS / job.tokens_per_step * alone.predicted.step_time_s * 1.001
    assert choose(replace(request, deadline_s=deadline_s)).cluster.num_devices == 1


@pytest.mark.parametrize("cost", [{"objective": "cost"}, {"objective": "cost", "tokens": TOKENS}])
def test_nothing_is_the_cheapest_where_all_is_free(cost):
    request = ask(cluster="dgx-a100-80g:1", **cost)
    group = request.cluster.node_groups[0].model_copy(update={"price_per_device_hour": 0.0})
    free = request.cluster.model_copy(update={"node_groups": (group,)})
    with pytest.raises(InputError, match="above 0"):
        choose(replace(request, cluster=free))


@pytest.mark.parametrize("objective", ["time", "cost", "energy"])
def test_the_best_plan_that_meets_a_deadline(space, objective):
    """Against all configurations in time; the deadline lies between the fastest and the cheapest."""
    request, everything = space
    free, fastest = choose(replace(request, objective=objective)), choose(request)
    limit_s = max(fastest.predicted.step_time_s, (free.predicted.step_time_s + fastest.predicted.step_time_s) / 2)
    deadline_s = limit_s * TOKENS / request.job.tokens_per_step * (1 + 1e-9)
    plan = choose(replace(request, objective=objective, tokens=TOKENS, deadline_s=deadline_s))
    assert plan.predicted.step_time_s <= limit_s * (1 + 1e-8)
    assert plan.proof.value >= free.proof.value * (1 - 1e-9)
    if objective == "cost":
        in_time = [each for each in everything if each[2].step_time_s <= limit_s]
        least = min(s.dollars_per_s(c.mesh.world) * p.step_time_s for s, c, p in in_time)
        assert plan.proof.value <= least * (1 + 1e-9)


@pytest.mark.parametrize("objective", ["time", "cost", "devices", "energy"])
def test_a_deadline_that_nothing_meets_names_one_that_is_met(objective):
    request = ask(objective=objective, tokens=TOKENS, deadline_s=60.0, pins=["schedule=1f1b"])
    with pytest.raises(InfeasibleError) as caught:
        choose(request)
    assert caught.value.exit_code == 3
    assert "with 16 devices" in caught.value.binding
    from meshwright.units import parse_duration

    written = caught.value.change.removeprefix("--deadline ")
    plan = choose(replace(request, deadline_s=parse_duration(written)))
    assert plan.configuration.mesh.world == 16


def test_a_deadline_needs_tokens_and_an_objective_what_it_counts():
    with pytest.raises(InputError, match="needs the tokens of the whole run"):
        choose(ask(deadline_s=100.0))
    with pytest.raises(InputError) as caught:
        choose(ask(deadline_s=-1.0, tokens=0, gap=2.0, top=-1))
    assert {problem.field for problem in caught.value.problems} == {"--gap", "--top", "--tokens", "--deadline"}


@pytest.mark.parametrize("objective", ["cost", "energy"])
def test_every_group_without_a_price_or_power_is_named(objective):
    cluster = load_cluster("two-site")
    bare = [
        group.model_copy(
            update={"price_per_device_hour": None, "device": group.device.model_copy(update={"power_w": None})}
        )
        for group in cluster.node_groups
    ]
    request = replace(ask(objective=objective), cluster=cluster.model_copy(update={"node_groups": tuple(bare)}))
    with pytest.raises(InputError) as caught:
        choose(request)
    named = "price_per_device_hour" if objective == "cost" else "device.power_w"
    assert [problem.field for problem in caught.value.problems] == [f"node_groups[{n}].{named}" for n in range(2)]
    assert all("--objective time" in problem.fix for problem in caught.value.problems)


def test_energy_that_idles_above_its_power_is_refused():
    cluster = load_cluster("dgx-a100-80g:1")
    device = cluster.node_groups[0].device.model_copy(update={"idle_power_w": 1000.0})
    group = cluster.node_groups[0].model_copy(update={"device": device})
    request = replace(ask(objective="energy"), cluster=cluster.model_copy(update={"node_groups": (group,)}))
    with pytest.raises(InputError, match="idle_power_w"):
        choose(request)


def test_parts_of_clusters():
    two = load_cluster("two-site")
    part = first_devices(two, 40)
    assert [group.num_devices for group in part.node_groups] == [32, 8]
    assert part.links == two.links
    assert first_devices(two, 16).links == ()
    assert first_devices(two, 2).node_groups[0].devices_per_node == 2
    for wrong in (12, 3, 36):
        with pytest.raises(ValueError, match="no whole nodes"):
            first_devices(two, wrong)
    assert part_sizes(load_cluster("dgx-h100:5")) == [8, 16, 24, 32, 40]
    assert part_sizes(load_cluster("dgx-h100:40"), 1) == [8, 16, 32, 64, 128, 256, 320]
    assert part_sizes(load_cluster("gb200-nvl72:54"), 1) == [4, 8, 16, 32, 64, 72, 144, 216]


def test_parts_of_a_cluster_whose_nodes_have_names():
    """A node without a device, and one that is away: numbers stay, what is not in a part is missing."""
    away = (NodeException(node="dgx-h100/1", missing=(0,)), NodeException(node="dgx-h100/2", missing="all"))
    cluster = load_cluster("dgx-h100:5").model_copy(update={"exceptions": Exceptions(nodes=away)})
    assert part_sizes(cluster) == [8, 15, 23, 31]
    part = first_devices(cluster, 15)
    assert part.num_devices == 15
    assert part.node_groups == cluster.node_groups
    assert {each.node for each in part.exceptions.nodes if each.missing == "all"} == {
        f"dgx-h100/{n}" for n in (2, 3, 4)
    }
    assert first_devices(cluster, 31).num_devices == 31
    check(part, "part")
    with pytest.raises(ValueError, match="no whole nodes"):
        first_devices(cluster, 16)
    assert nodes_of(cluster) == {"dgx-h100": 4}
    left = without_nodes(cluster, {"dgx-h100": 1})
    assert left.num_devices == 23
    assert without_nodes(cluster, {"dgx-h100": 4}) is None
    check(left, "left")


def test_what_is_left_without_some_nodes():
    two = load_cluster("two-site")
    assert nodes_of(two) == {"infiniband-site": 4, "roce-site": 4}
    assert [group.nodes for group in without_nodes(two, {"roce-site": 1}).node_groups] == [4, 3]
    alone = without_nodes(two, {"roce-site": 4})
    assert [group.name for group in alone.node_groups] == ["infiniband-site"]
    assert alone.links == ()
    assert without_nodes(load_cluster("dgx-h100:1"), {"dgx-h100": 1}) is None


def test_a_plan_file_keeps_goal_and_run(tmp_path):
    plan = choose(ask(tokens=TOKENS, deadline_s=1e9, objective="cost", pins=["schedule=1f1b"]))
    plan.save(tmp_path / "plan.yaml")
    again = load_plan(tmp_path / "plan.yaml")
    assert again.goal == plan.goal
    assert again.training == plan.training
    simulation = simulate(again, tokens=TOKENS)
    assert plan.training.days == pytest.approx(simulation.days)
    assert plan.training.price == pytest.approx(simulation.price)
    assert plan.training.kwh == pytest.approx(simulation.bill().run_kwh)
    assert again.fingerprint == find_plan(ask(objective="cost", pins=["schedule=1f1b"])).fingerprint


COMMAND = ["plan", "llama-3.2-1b", "dgx-a100-80g:1", "--seq-len", "2048", "--global-batch", "16"]
COMMAND += ["--pin", "schedule=1f1b"]


def test_the_command_line_says_what_a_run_takes():
    shown = CliRunner().invoke(app, [*COMMAND, "--objective", "energy", "--tokens", "100B", "--deadline", "900d"])
    assert shown.exit_code == 0, shown.output
    assert "whole run of 100 B tokens" in shown.output
    assert "J a step" in " ".join(shown.output.split()) or "kWh) a step" in " ".join(shown.output.split())
    found = json.loads(CliRunner().invoke(app, [*COMMAND, "--json", "--tokens", "100B"]).output)
    assert found["goal"] == {"objective": "time", "tokens": TOKENS, "deadline_s": None, "risk": None}
    assert found["training"]["tokens"] == TOKENS
    assert found["proof"]["objective"] == "time"
    assert json.loads(CliRunner().invoke(app, [*COMMAND, "--json"]).output)["training"] is None
