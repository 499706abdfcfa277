"""Contingency plans: legal, fitting, as fast as they say, and nothing that was tried is faster."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
from typer.testing import CliRunner

from meshwright.cli import app
from meshwright.clusters.catalogue import load_cluster
from meshwright.clusters.check import check
from meshwright.clusters.part import first_devices
from meshwright.clusters.schema import Exceptions, Nics, NodeException
from meshwright.errors import InfeasibleError, InputError
from meshwright.planner.contingency import contingency_plan
from meshwright.planner.cost.setting import Setting
from meshwright.planner.families import architecture, load_model
from meshwright.planner.job import Job
from meshwright.planner.legality import problems
from meshwright.planner.lengths.distribution import Lognormal
from meshwright.planner.pins import parse_pins
from meshwright.planner.plan import load_plan
from meshwright.planner.search.choose import choose
from meshwright.planner.search.contingency import with_contingency
from meshwright.planner.search.request import Request
from meshwright.planner.search.search import find_plan
from meshwright.planner.simulate.simulation import simulate
from meshwright.runtime.recipe import Recipe
from meshwright.runtime.run_folder import differences, open_run


def ask(model="llama-3.2-1b", cluster="dgx-a100-40g:4", global_batch=48, pins=("schedule=1f1b",), **changes) -> Request:
    job = Job(seq_len=2048, global_batch=global_batch)
    request = {"model": load_model(model), "cluster": load_cluster(cluster), "job": job, "pins": parse_pins(pins)}
    return Request(**request | changes)


REQUESTS = [
    ask(),
    ask(global_batch=64),
    ask("llama-3.1-8b", risk=0.9),
    ask(cluster="two-site", global_batch=64, pins=("schedule=1f1b", "microbatch=1")),
    ask(objective="cost", pins=("schedule=1f1b", "microbatch=1", "recompute=none")),
]


@pytest.fixture(scope="module", params=REQUESTS, ids=["48", "64", "risk", "two-site", "cost"])
def found(request):
    plan = choose(request.param)
    return request.param, plan, with_contingency(request.param, plan, 1)


def test_each_is_a_legal_plan_that_fits_and_keeps_the_batch(found):
    request, plan, ready = found
    if len(plan.cluster.node_groups) == 1 and sum(g.nodes for g in plan.cluster.node_groups) > 1:
        assert len(ready.contingency) == 1
    for each in ready.contingency:
        made = contingency_plan(ready, each.lost)
        setting = Setting(architecture(made.model), made.cluster, made.job)
        assert problems(setting, made.configuration) == []
        check(made.cluster, "left")
        assert made.predicted.fits
        assert made.configuration.batch == plan.configuration.batch == request.job.global_batch
        assert made.configuration.mesh.world <= made.cluster.num_devices == each.devices
        assert each.devices < plan.cluster.num_devices or request.objective == "cost"
        assert made.predicted.step_time_s == pytest.approx(each.step_time_s)
        assert max(made.predicted.peak_memory_bytes) == each.peak_memory_bytes
        assert each.slower_by == pytest.approx(each.step_time_s / plan.predicted.step_time_s - 1)
        assert simulate(made).step_time_s == pytest.approx(each.step_time_s)


def test_a_plan_file_carries_them_and_is_the_same_training(found, tmp_path):
    _, plan, ready = found
    assert ready.fingerprint == plan.fingerprint
    ready.save(tmp_path / "plan.yaml")
    again = load_plan(tmp_path / "plan.yaml")
    assert again == ready.model_copy(update={"proof": again.proof, "contingency": again.contingency})
    for each, saved in zip(ready.contingency, again.contingency, strict=True):
        assert contingency_plan(again, saved.lost).configuration == contingency_plan(ready, each.lost).configuration


def test_nothing_that_could_be_run_on_what_is_left_is_faster():
    """Three nodes of eight: every number of them searched to the end."""
    request = ask(gap=0.0)
    plan = choose(request)
    ready = with_contingency(request, plan, 1)
    steps = []
    for devices in (8, 16, 24):
        try:
            fewer = find_plan(replace(request, cluster=first_devices(plan.cluster, devices)))
        except (InputError, InfeasibleError):
            continue
        steps.append(fewer.predicted.step_time_s)
    assert ready.contingency[0].step_time_s == pytest.approx(min(steps))


@pytest.mark.parametrize(("zero", "devices", "shares"), [(1, 24, (3,) * 16 + (2,) * 8), (3, 16, ())])
def test_where_no_mesh_of_all_divides_the_batch_shares_differ_or_nodes_stay_idle(zero, devices, shares):
    """64 sequences over 24 replicas: 3 or 2 each, in three quarters of the time of 16 replicas with 4 each. ZeRO 3
    cannot have replicas that differ."""
    pins = ("schedule=1f1b", "pp=1", "tp=1", "cp=1", "microbatch=1", "recompute=none", f"zero={zero}")
    request = ask(global_batch=64, pins=pins)
    ready = with_contingency(request, choose(request), 1)
    made = contingency_plan(ready, "1")
    assert ready.contingency[0].devices == made.configuration.mesh.world == devices
    assert made.configuration.shares == shares
    assert made.configuration.batch == 64


def test_after_one_node_what_is_held_for_two_is_held_for_one_more():
    request = ask()
    ready = with_contingency(request, choose(request), 2)
    assert [each.lost for each in ready.contingency] == [{"dgx-a100-40g": 1}, {"dgx-a100-40g": 2}]
    one, two = contingency_plan(ready, "1"), contingency_plan(ready, "2")
    assert [each.lost for each in one.contingency] == [{"dgx-a100-40g": 1}]
    after = contingency_plan(one, "1")
    assert after.configuration == two.configuration
    assert after.predicted.step_time_s == two.predicted.step_time_s
    assert two.contingency == ()


def test_a_cluster_with_names_loses_its_last_nodes():
    away = (NodeException.model_validate({"node": "dgx-a100-40g/1", "missing": "all"}),)
    cluster = load_cluster("dgx-a100-40g:3").model_copy(update={"exceptions": Exceptions(nodes=away)})
    request = replace(ask(), cluster=cluster)
    ready = with_contingency(request, choose(request), 1)
    made = contingency_plan(ready, "1")
    assert made.cluster.num_devices == 8
    assert made.cluster.missing_devices == frozenset(range(8, 24))


def test_a_loss_that_leaves_too_little_has_none():
    """The fewest devices that hold 70 B parameters, less one node."""
    request = ask("llama-3.1-70b", "dgx-a100-80g:4", 32, objective="devices")
    plan = choose(request)
    assert plan.cluster.num_devices > 8
    ready = with_contingency(request, plan, 1)
    assert ready.contingency == ()
    assert ready.why[-1] == "With 1 node of dgx-a100-80g lost, nothing that is left holds the job."


def test_pins_stay_where_they_can():
    """Of two nodes one is left: tp = 4 is still possible, dp = 4 is not; ZeRO over one data-parallel rank is not."""
    request = ask(cluster="dgx-a100-40g:2", global_batch=16, pins=("tp=4", "dp=4", "schedule=1f1b"))
    made = contingency_plan(with_contingency(request, choose(request), 1), "1")
    assert (made.mesh.tp, made.mesh.dp) == (4, 2)
    request = ask(cluster="dgx-a100-40g:2", global_batch=16, pins=("tp=8", "zero=1"))
    assert contingency_plan(with_contingency(request, choose(request), 1), "1").configuration.mesh.world == 8


def test_what_is_not_held_is_refused():
    request = ask(cluster="two-site", global_batch=64, pins=("schedule=1f1b", "microbatch=1", "tp=1"))
    plan = choose(request)
    ready = with_contingency(request, plan, 1)
    for text, rule in (
        ("infiniband-site=2", "the plan holds nothing for that"),
        ("1", "of each group"),
        ("roce=1", "is not a node group"),
        ("roce-site=x", "must be a number"),
        ("roce-site=0", "must be a number"),
    ):
        with pytest.raises(InputError, match=rule):
            contingency_plan(ready, text)
    with pytest.raises(InputError, match="no loss at all"):
        contingency_plan(plan, "roce-site=1")
    with pytest.raises(InputError, match="must be below the 8 nodes"):
        with_contingency(request, plan, 8)


def test_groups_for_sequences_of_different_lengths_are_those_of_what_is_left():
    """Another mesh has other lanes, and leaves other memory for tokens."""
    job = Job(seq_len=32768, global_batch=48, lengths=Lognormal(median=1000, p99=20000))
    request = ask("llama-3.1-8b", "dgx-h100:3", job=job, pins=("zero=3", "recompute=full"))
    ready = with_contingency(request, choose(request), 1)
    made = contingency_plan(ready, "1")
    assert made.mix is not None
    assert made.mix != ready.mix
    assert made.expected is not None
    assert made.expected.step_time_s == made.predicted.step_time_s == ready.contingency[0].step_time_s
    assert simulate(made).step_time_s == pytest.approx(made.predicted.step_time_s)


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        ({"mesh": {"pp": "x"}}, "mesh.pp"),
        ({"zero": 7}, "zero"),
        ({"stage_layers": [1]}, "stage_layers"),
        ({"job": {"seq_len": 1, "global_batch": 1}}, "does not depend on how many devices there are"),
    ],
)
def test_fields_that_make_no_plan_are_refused(wrong, words):
    """A plan file is edited by hand too."""
    ready = with_contingency(ask(), choose(ask()), 1)
    held = ready.contingency[0]
    broken = held.model_copy(update={"fields": held.fields | wrong})
    with pytest.raises(InputError, match=words):
        contingency_plan(ready.model_copy(update={"contingency": (broken,)}), "1")


COMMAND = ["plan", "llama-3.2-1b", "dgx-a100-40g:2", "--seq-len", "2048", "--global-batch", "16"]
COMMAND += ["--pin", "schedule=1f1b", "--pin", "microbatch=1"]


def test_the_command_line(tmp_path):
    path = tmp_path / "plan.yaml"
    shown = CliRunner().invoke(app, [*COMMAND, "--contingency", "1", "--out", str(path)])
    assert shown.exit_code == 0, shown.output
    assert "1 node of dgx-a100-40g" in shown.output
    found = json.loads(CliRunner().invoke(app, [*COMMAND, "--contingency", "1", "--json"]).output)
    assert found["contingency"][0]["lost"] == {"dgx-a100-40g": 1}
    assert json.loads(CliRunner().invoke(app, [*COMMAND, "--json"]).output)["contingency"] == []
    assert load_plan(path).contingency[0].devices == 8


def test_launch_continues_the_same_run_with_it(tmp_path):
    """Everything that launch checks before it starts: of two nodes with one CPU worker each, one is left."""
    node = load_cluster("local:1").node_groups[0]
    nics = Nics.model_validate({"kind": "ethernet", "count": 1, "rate": "10 Gbit/s", "latency": "50 us"})
    group = node.model_copy(update={"nodes": 2, "nics": nics})
    cluster = load_cluster("local:1").model_copy(update={"node_groups": (group,)})
    job = Job(seq_len=64, global_batch=4, precision="fp32")
    request = Request(model=load_model("byte-llama"), cluster=cluster, job=job, runnable=True)
    ready = with_contingency(request, choose(request), 1)
    path, text = tmp_path / "plan.yaml", tmp_path / "text.txt"
    ready.save(path)
    text.write_text("to be or not to be " * 1000)
    left = contingency_plan(ready, "1")
    recipe = Recipe(steps=2, data=str(text))
    assert differences(ready, left, recipe, recipe) == []
    folder = open_run(tmp_path / "run", ready, recipe).path
    command = ["launch", str(path), "--run", str(folder), "--lost-nodes", "1", "--dry-run", "--json"]
    shown = CliRunner().invoke(app, command)
    assert shown.exit_code == 0, shown.output
    found = json.loads(shown.output)
    assert (found["workers"], found["fingerprint"]) == (1, left.fingerprint)
    with pytest.raises(InputError, match="the plan holds nothing for that"):
        CliRunner().invoke(app, [*command[:5], "2", *command[6:]], catch_exceptions=False)
    with pytest.raises(InputError, match="must be a number of nodes"):
        CliRunner().invoke(app, [*command[:5], "", *command[6:]], catch_exceptions=False)
    folders = ["launch", str(folder), "--lost-nodes", "1", "--dry-run"]
    assert CliRunner().invoke(app, folders).exit_code == 0
    with pytest.raises(InputError, match="the first to start replaces the one in the run folder"):
        CliRunner().invoke(app, [*folders, "--nnodes", "2"], catch_exceptions=False)
    with pytest.raises(InputError, match="the plan of the main job holds nothing for nodes lost"):
        CliRunner().invoke(app, ["launch", "--run", str(tmp_path / "new"), *folders[2:]], catch_exceptions=False)
