"""What is sent to experts, and where these lie: what is refused, and with which fix."""

from __future__ import annotations

import pytest
from pydantic import ValidationError

from meshwright.clusters.catalogue import load_cluster
from meshwright.errors import InputError
from meshwright.planner.configuration import Configuration, Mesh
from meshwright.planner.cost.setting import Setting
from meshwright.planner.experts.planned import ExpertPlacement, contiguous
from meshwright.planner.families import architecture, load_model
from meshwright.planner.frameworks.framework import framework
from meshwright.planner.job import Job
from meshwright.planner.legality import placement_problems, problems, runtime_problems
from meshwright.planner.pins import parse_pins
from meshwright.planner.plan import Plan, load_plan
from meshwright.planner.search.request import Request
from meshwright.planner.search.search import find_plan


def setting(model="olmoe-1b-7b", cluster="dgx-h100:2") -> Setting:
    return Setting(architecture(load_model(model)), load_cluster(cluster), Job(seq_len=4096, global_batch=64))


def experts(ep=16, etp=1, model="olmoe-1b-7b", **levers) -> Configuration:
    layers = len(architecture(load_model(model)).layers)
    mesh = Mesh(dp=16, ep=ep, etp=etp)
    return Configuration(mesh=mesh, stage_layers=(layers,), microbatch=1, microbatches=4, **levers)


@pytest.mark.parametrize(
    ("configuration", "field", "fix"),
    [
        (experts(dispatch="ranks"), "", ""),
        (experts(dispatch="nodes"), "", ""),
        (experts(dispatch_chunks=4), "", ""),
        (experts(expert_replicas=32), "", ""),
        (experts(ep=1, dispatch="ranks"), "--pin dispatch", "dispatch=copies, or ep=2"),
        (experts(ep=1, dispatch_chunks=2), "--pin dispatch_chunks", "dispatch_chunks=1, or ep=2"),
        (experts(ep=1, expert_replicas=2), "--pin expert_replicas", "expert_replicas=0, or ep=2"),
        (experts(ep=8, dispatch="nodes"), "--pin dispatch", "dispatch=ranks"),
        (experts(ep=2, etp=8, dispatch="nodes"), "--pin dispatch", "dispatch=ranks"),
        (experts(ep=8, etp=2, dispatch="nodes"), "", ""),
        (experts(dispatch_chunks=5000), "--pin dispatch_chunks", "dispatch_chunks=4096"),
        (experts(expert_replicas=20), "--pin expert_replicas", "expert_replicas=16"),
        (experts(ep=2, expert_replicas=66), "--pin expert_replicas", "expert_replicas=64"),
    ],
)
def test_what_is_sent_is_legal_or_refused_with_a_fix(configuration, field, fix):
    found = [(problem.field, problem.fix) for problem in problems(setting(), configuration)]
    assert found == ([(field, fix)] if field else [])


def test_a_dense_model_sends_nothing():
    dense = experts(ep=1, dispatch="ranks", model="llama-3.2-1b")
    (problem,) = problems(setting("llama-3.2-1b"), dense)
    assert (problem.field, problem.fix) == ("--pin dispatch", "dispatch=copies")


def test_group_limited_routing_has_no_replicas():
    limited = experts(model="deepseek-v3", expert_replicas=16)
    (problem,) = problems(setting("deepseek-v3"), limited)
    assert (problem.field, problem.fix) == ("--pin expert_replicas", "expert_replicas=0")


@pytest.mark.parametrize(
    "levers", [{"dispatch": "ranks"}, {"dispatch": "nodes"}, {"dispatch_chunks": 2}, {"expert_replicas": 16}]
)
def test_all_that_is_sent_is_run(levers):
    assert runtime_problems(setting(), experts(**levers)) == []


@pytest.mark.parametrize(
    ("order", "refused"),
    [
        (tuple(range(16)), False),
        ((*range(8, 16), *range(8)), False),
        (tuple(reversed(range(16))), False),
        (tuple(node * 8 + place for place in range(8) for node in range(2)), True),
        ((*range(7), 8, 7, *range(9, 16)), True),
    ],
    ids=["in order", "nodes changed", "reversed", "in turn", "two changed"],
)
def test_neighbours_of_a_group_are_in_one_node_or_nothing_is_passed_on_inside(order, refused):
    found = runtime_problems(setting().mapped(order), experts(dispatch="nodes"))
    assert [problem.field for problem in found] == (["--pin dispatch"] if refused else [])
    assert runtime_problems(setting().mapped(order), experts(dispatch="ranks")) == []


@pytest.mark.parametrize("levers", [{"dispatch": "ranks"}, {"dispatch_chunks": 2}, {"expert_replicas": 16}])
def test_another_framework_is_priced_as_it_does_it_itself(levers):
    other = setting()
    other = Setting(other.architecture, other.cluster, other.job, framework=framework("megatron-core"))
    (problem,) = problems(other, experts(**levers))
    assert problem.field == f"--pin {next(iter(levers))}"
    assert problems(other, experts()) == []


@pytest.mark.parametrize(
    ("ep", "etp", "devices", "members"), [(8, 1, 8, 8), (16, 1, 8, 8), (16, 2, 8, 4), (16, 8, 8, 1)]
)
def test_ranks_of_a_group_in_each_node(ep, etp, devices, members):
    """Ranks of one group stand etp apart: counted."""
    places = [rank * etp // devices for rank in range(ep)]
    assert {places.count(node) for node in places} == {members}
    assert Mesh(ep=ep, etp=etp).ep_per_node(devices) == members


def test_a_group_that_does_not_fill_nodes_is_as_if_each_rank_were_one():
    assert Mesh(ep=12).ep_per_node(8) == 1


LAYERS = len(architecture(load_model("olmoe-1b-7b")).layers)
CONTIGUOUS = contiguous([64] * LAYERS)


def with_layer(*slots: int) -> ExpertPlacement:
    return ExpertPlacement(slots=(slots, *CONTIGUOUS.slots[1:]))


@pytest.mark.parametrize(
    ("placement", "replicas", "rule"),
    [
        (CONTIGUOUS, 0, ""),
        (with_layer(*range(63, -1, -1)), 0, ""),
        (ExpertPlacement(slots=CONTIGUOUS.slots[1:]), 0, "layers with experts"),
        (with_layer(*range(63), 0), 0, "at least once"),
        (with_layer(*range(64), 64), 1, "at least once"),
        (with_layer(*range(64), 0), 0, "must have 64 slots"),
        (ExpertPlacement(slots=((*range(64), *(0,) * 16),) * LAYERS), 16, "twice on ep rank"),
    ],
)
def test_a_placement_has_every_expert_in_equal_slots(placement, replicas, rule):
    found = placement_problems(setting(), experts(expert_replicas=replicas), placement)
    assert (rule in found[0].rule) if rule else found == []


def test_an_odd_number_of_slots_is_refused():
    found = placement_problems(setting(), experts(expert_replicas=1), with_layer(*range(64), 0))
    assert "equally many" in found[0].rule


@pytest.mark.parametrize("slots", [(), ((),), ((0, 2),), ((1_000_000_000,),), ((-1, 0),)])
def test_slots_of_a_file_hold_experts(slots):
    with pytest.raises(ValidationError):
        ExpertPlacement(slots=slots)


def test_of_many_wrong_layers_the_number_is_told():
    wrong = ExpertPlacement(slots=(tuple(range(63)),) * 16)
    *told, rest = placement_problems(setting(), experts(), wrong)
    assert len(told) == 8
    assert rest.rule.startswith("8 more")


@pytest.fixture(scope="module")
def plan() -> Plan:
    pins = ["ep=16", "dp=16", "pp=1", "tp=1", "microbatch=1", "zero=1", "schedule=1f1b", "recompute=full"]
    pins += ["dispatch=copies", "dispatch_chunks=1"]
    asked = Request(
        model=load_model("olmoe-1b-7b"),
        cluster=load_cluster("dgx-h100:2"),
        job=Job(seq_len=4096, global_batch=64),
        pins=parse_pins(pins),
    )
    return find_plan(asked)


def test_defaults_leave_the_fingerprint_as_it_was(plan):
    """The value of this plan before there were such fields."""
    assert plan.fingerprint == "0f65343128c97cd0"


@pytest.mark.parametrize(
    "changed", [{"dispatch": "ranks"}, {"dispatch_chunks": 2}, {"expert_replicas": 16}, {"placement": CONTIGUOUS}]
)
def test_what_is_not_the_default_changes_it(plan, changed):
    assert plan.model_copy(update=changed).fingerprint != plan.fingerprint


def test_a_placement_is_saved_and_read_again(plan, tmp_path):
    placed = plan.model_copy(update={"placement": with_layer(*range(63, -1, -1))})
    placed.save(tmp_path / "plan.yaml")
    again = load_plan(tmp_path / "plan.yaml")
    assert (again.placement, again.fingerprint) == (placed.placement, placed.fingerprint)


def test_a_placement_that_is_not_the_model_s_is_refused_where_the_plan_is_priced(plan):
    from meshwright.planner.simulate.simulation import simulate

    short = plan.model_copy(update={"placement": ExpertPlacement(slots=CONTIGUOUS.slots[1:])})
    with pytest.raises(InputError) as caught:
        simulate(short)
    assert [problem.field for problem in caught.value.problems] == ["placement.slots"]
