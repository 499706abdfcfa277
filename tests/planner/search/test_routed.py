"""plan --routing: what the trace decides, what the plan holds, and every trace that is refused."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest
from pydantic import ValidationError
from typer.testing import CliRunner

from meshwright.cli import app, main
from meshwright.clusters.catalogue import load_cluster
from meshwright.errors import InfeasibleError, InputError
from meshwright.planner.contingency import contingency_plan
from meshwright.planner.cost.dispatch import Visits
from meshwright.planner.cost.sharding import Sharding
from meshwright.planner.cost.step import price
from meshwright.planner.experts.generator import generate
from meshwright.planner.experts.routing import Routing
from meshwright.planner.experts.routing_report import RoutingReport
from meshwright.planner.experts.trace import Trace
from meshwright.planner.experts.trace_file import write_trace
from meshwright.planner.families import load_model
from meshwright.planner.job import Job
from meshwright.planner.legality import placement_problems, runtime_problems
from meshwright.planner.lengths.reading import read_lengths
from meshwright.planner.pins import parse_pins
from meshwright.planner.plan import Plan, load_plan
from meshwright.planner.search import routed
from meshwright.planner.search.choose import choose
from meshwright.planner.search.contingency import with_contingency
from meshwright.planner.search.objective import price_as
from meshwright.planner.search.request import Request
from meshwright.planner.search.search import find_plan
from meshwright.planner.search.visits import prices_of
from meshwright.planner.simulate.simulation import simulate
from meshwright.runtime.checks import problems

PINS = ["dp=16", "tp=1", "cp=1", "microbatch=1", "zero=1", "schedule=1f1b", "recompute=full"]


def ask(trace: Trace | None, *pins: str, cluster="dgx-h100:2", **changes) -> Request:
    return Request(
        model=load_model("olmoe-1b-7b"),
        cluster=load_cluster(cluster),
        job=Job(seq_len=4096, global_batch=64),
        pins=parse_pins([*PINS, *pins]),
        routing=None if trace is None else Routing.of(trace, "made.jsonl"),
        **{"top": 2, **changes},
    )


@pytest.fixture(scope="module")
def trace() -> Trace:
    return generate(3000, 16, 64, 8, seed=3)


@pytest.fixture(scope="module")
def plan(trace: Trace) -> Plan:
    return find_plan(ask(trace, "ep=16"))


def test_the_plan_holds_a_legal_placement_and_what_it_gains(trace, plan):
    request = ask(trace)
    assert plan.placement is not None
    assert placement_problems(request.setting(), plan.configuration, plan.placement) == []
    assert runtime_problems(request.setting(), plan.configuration) == []
    assert plan.routing is not None
    assert (plan.routing.ep, plan.routing.per_node, plan.routing.tokens) == (16, 8, 3000)
    assert plan.routing.placed.layer_time_s <= plan.routing.contiguous.layer_time_s
    assert any("made.jsonl (3,000 tokens, half of them by prompt held out)" in each for each in plan.why)
    assert any(f"{plan.routing.gain:.1%} less" in each for each in plan.why)


def test_the_step_is_priced_with_the_busiest_rank_of_the_held_out_tokens(trace, plan):
    told = plan.routing
    given = ask(None).setting()
    by_hand = replace(given, routing=lambda *_: Visits(told.load, told.rank_share, told.node_share), _costs={})
    assert plan.predicted.step_time_s == pytest.approx(price(by_hand, plan.configuration).step_time_s, rel=1e-12)
    assert told.load > 1.0
    assert price(given, plan.configuration).step_time_s < plan.predicted.step_time_s  # balanced routing waits for none


def test_equal_requests_give_equal_plans_and_simulate_prices_the_same(trace, plan, tmp_path):
    again = find_plan(ask(trace, "ep=16"))
    assert (again.placement, again.routing, again.why[1:]) == (plan.placement, plan.routing, plan.why[1:])
    plan.save(tmp_path / "plan.yaml")
    read = load_plan(tmp_path / "plan.yaml")
    assert read.fingerprint == plan.fingerprint
    assert simulate(read).to_json()["predicted"]["step_time_s"] == pytest.approx(plan.predicted.step_time_s)


@pytest.mark.parametrize(
    ("field", "value"), [("load", 0.5), ("load", -3), ("rank_share", 1.5), ("node_share", 0), ("gap", -0.1)]
)
def test_what_no_trace_can_say_is_refused(plan, field, value):
    with pytest.raises(ValidationError, match=field):
        RoutingReport.model_validate(plan.routing.model_dump() | {field: value})


def test_contiguous_experts_have_no_bound(trace, monkeypatch):
    """A gap of nothing would say that no placement is better, which nobody has shown."""
    monkeypatch.setattr("meshwright.planner.experts.routing._placed", lambda *_: None)
    found = find_plan(ask(trace, "ep=16"))
    assert found.placement is None
    assert (found.routing.bound_s, found.routing.gap, found.routing.gain) == (None, None, 0.0)
    assert any("contiguous experts are as fast" in each for each in found.why)


def test_a_mesh_that_the_sample_flatters_is_not_chosen():
    """Layers that the search does not read choose other experts in each half, which no placement foresees."""
    chosen = generate(1200, 16, 64, 8, seed=5).experts.copy()
    for layer in set(range(16)) - {0, 5, 10, 15}:
        chosen[:600, layer], chosen[600:, layer] = np.arange(8), np.arange(8, 16)
    found = find_plan(ask(Trace(chosen, 64), "pp=1", "etp=1", top=5))
    assert found.placement is None
    assert found.mesh.ep == 1  # of which no trace says anything
    steps = [found.predicted.step_time_s, *(each.step_time_s for each in found.runners_up)]
    assert steps == sorted(steps)
    assert len({each.mesh for each in found.runners_up} | {found.mesh}) == len(steps) > 3


def test_plans_that_all_layers_leave_no_room_for_are_infeasible(trace, monkeypatch):
    def overfull(setting, configuration, value_of):
        priced = price_as(setting, configuration, value_of)
        return replace(priced, predicted=priced.predicted.model_copy(update={"fits": False}))

    monkeypatch.setattr(routed, "price_as", overfull)
    with pytest.raises(InfeasibleError, match=r"fits with the loads of all layers of made\.jsonl: .* of .*"):
        find_plan(ask(trace, "ep=16"))


def test_another_ep_group_than_the_trace_was_looked_at_for_is_refused(plan):
    with pytest.raises(InputError) as caught:
        simulate(plan, ("mesh.ep=8",))
    assert "mesh.ep=16" in {problem.fix for problem in caught.value.problems}


def test_without_a_trace_the_plan_says_that_routing_is_taken_as_balanced():
    found = find_plan(ask(None, "ep=16"))
    assert (found.placement, found.routing) == (None, None)
    assert any("taken as balanced" in each for each in found.why)


def test_copies_of_nobody_knows_what_are_said_not_to_run(trace):
    """As the launcher says it: which experts have copies is for a trace to say."""
    unknown, known = (find_plan(ask(given, "ep=16", "expert_replicas=16")) for given in (None, trace))
    assert any("cannot run it: a trace must say which experts have copies" in each for each in unknown.why)
    assert any("The built-in runtime can run it." in each for each in known.why)
    assert [problem.field for problem in problems(unknown, 16)] == ["expert_replicas"]
    assert problems(known, 16) == []


def test_copies_are_proposed_only_where_they_pay(trace):
    """Two experts that every token chooses: without copies their rank computes for all the others."""
    hot = trace.experts.copy()
    hot[:, :, 0] = np.where((hot[:, :, 1:] == 0).any(2), hot[:, :, 0], 0)
    plain, hot_plan = (find_plan(ask(each, "ep=16", "dispatch=ranks")) for each in (trace, replace(trace, experts=hot)))
    without = find_plan(ask(replace(trace, experts=hot), "ep=16", "dispatch=ranks", "expert_replicas=0"))
    assert hot_plan.expert_replicas > 0
    assert hot_plan.predicted.step_time_s < without.predicted.step_time_s
    assert len(hot_plan.placement.slots[0]) == 64 + hot_plan.expert_replicas
    assert placement_problems(ask(None).setting(), hot_plan.configuration, hot_plan.placement) == []
    if plain.expert_replicas:
        fewer = find_plan(ask(trace, "ep=16", "dispatch=ranks", "expert_replicas=0"))
        assert plain.predicted.step_time_s < fewer.predicted.step_time_s


def test_experts_that_are_not_spread_have_no_placement(trace):
    found = find_plan(ask(trace, "ep=1"))
    assert (found.placement, found.routing) == (None, None)
    said = "With ep 1 every rank has all experts: the trace has nothing to place."
    assert said in found.why
    assert said not in find_plan(ask(None, "ep=1")).why


def test_a_framework_with_its_own_routing_is_refused(trace):
    with pytest.raises(InputError) as caught:
        find_plan(ask(trace, "ep=16", framework="megatron-core"))
    assert [problem.field for problem in caught.value.problems] == ["--routing"]


def test_sequences_of_several_lengths_are_refused(trace):
    """Steps would be priced with experts placed, and the plan would place none."""
    request = ask(trace)
    job = request.job.model_copy(update={"lengths": read_lengths("lognormal:median=800,p99=4096")})
    with pytest.raises(InputError) as caught:
        choose(replace(request, job=job))
    assert [problem.field for problem in caught.value.problems] == ["--routing"]


@pytest.fixture
def refused(monkeypatch, capsys):
    """`refused(*arguments)`: what `plan` says on standard error where the input is wrong."""

    def run(*arguments: object) -> str:
        monkeypatch.setattr("sys.argv", ["meshwright", "plan", *map(str, arguments)])
        monkeypatch.setenv("COLUMNS", "400")
        with pytest.raises(SystemExit) as stop:
            main()
        assert stop.value.code == 2
        return capsys.readouterr().err

    return run


def test_wrong_lines_are_told_all_at_once(refused, tmp_path):
    row = {"step": 0, "stage": "pre_dispatch", "block": "decoder", "layer": 0, "rank": 0, "num_tokens": 1, "topk": 8}
    lines = [
        json.dumps(row | {"top_indices": [[0, 1, 2, 3, 4, 5, 6, 64]]}),
        json.dumps(row | {"top_indices": [[0, 1, 2, 3, 4, 5, 6]]}),
        json.dumps(row | {"topk": 2, "top_indices": [[0, 1]]}),
        json.dumps(row)[:40],
    ]
    (tmp_path / "trace.jsonl").write_text("\n".join(lines))
    said = refused("olmoe-1b-7b", "dgx-h100:1", "--routing", tmp_path / "trace.jsonl")
    for number in range(1, 5):
        assert f"trace.jsonl:{number}" in said


def test_layers_that_are_not_the_model_s(refused, small_trace, tmp_path):
    write_trace(small_trace, tmp_path / "other.jsonl")
    said = refused("olmoe-1b-7b", "dgx-h100:1", "--routing", tmp_path / "other.jsonl")
    assert "16 layers with experts" in said


@pytest.fixture
def small_trace() -> Trace:
    return generate(64, 2, 64, 8, seed=0)


def test_a_model_without_experts_has_no_routing(refused, tmp_path):
    said = refused("llama-3.2-1b", "dgx-h100:1", "--routing", tmp_path)
    assert "--routing" in said
    assert "no experts" in said


def test_a_file_that_is_not_there(refused, tmp_path):
    said = refused("olmoe-1b-7b", "dgx-h100:1", "--routing", tmp_path / "nothing.jsonl")
    assert "nothing.jsonl" in said


@pytest.mark.parametrize(("prompts", "said"), [(None, "tokens = 1"), (np.zeros(5, np.int64), "prompts = 1")])
def test_a_trace_too_short_for_two_halves(refused, tmp_path, prompts, said):
    experts = generate(5, 16, 64, 8, seed=0).experts
    given = {"experts": experts[:1]} if prompts is None else {"experts": experts, "prompt": prompts}
    np.savez(tmp_path / "short.npz", **given)
    assert said in refused("olmoe-1b-7b", "dgx-h100:1", "--routing", tmp_path / "short.npz")


def test_what_else_is_wrong_is_told_beside_it(refused, tmp_path):
    said = refused("olmoe-1b-7b", "dgx-h1:1", "--routing", tmp_path / "nothing.jsonl", "--pin", "ep=x")
    for each in ("nothing.jsonl", "pin ep", "dgx-h1"):
        assert each in said


def test_a_run_s_folder_is_read_by_its_routing(trace, tmp_path):
    (tmp_path / "routing").mkdir()
    write_trace(trace, tmp_path / "routing" / "rank-00000.jsonl")
    job = ["--seq-len", 4096, "--global-batch", 64, *(f"--pin={each}" for each in (*PINS, "ep=16", "dispatch=ranks"))]
    done = CliRunner().invoke(
        app, list(map(str, ["plan", "olmoe-1b-7b", "dgx-h100:2", *job, "--routing", tmp_path, "--json"]))
    )
    assert done.exit_code == 0, done.output
    found = json.loads(done.stdout)
    assert found["routing"]["held_out"] == "by time"
    assert len(found["placement"]["slots"]) == 16


def test_what_is_held_for_lost_nodes_keeps_the_ep_group_that_its_routing_was_looked_at_for(trace):
    """A plan file is edited by hand too: experts over other ranks would silently be priced as if routing were even."""
    request = replace(ask(trace, "ep=8", "dispatch=ranks", "dispatch_chunks=1", "expert_replicas=0"), top=0)
    ready = with_contingency(request, find_plan(request), 1)
    held = ready.contingency[0]
    assert contingency_plan(ready, held.lost).routing.ep == 8
    mesh = (ready.model_dump(mode="json") | held.fields)["mesh"] | {"ep": 4}
    edited = held.model_copy(update={"fields": held.fields | {"mesh": mesh}})
    with pytest.raises(InputError, match="the plan's routing was looked at for ep=8") as caught:
        contingency_plan(ready.model_copy(update={"contingency": (edited,)}), held.lost)
    assert [problem.field for problem in caught.value.problems] == ["mesh.ep"]


@pytest.mark.parametrize(("dispatch", "parts", "turns"), [("nodes", 1, True), ("nodes", 4, False), ("ranks", 1, False)])
def test_placement_is_priced_with_the_links_as_the_step_uses_them(dispatch, parts, turns):
    setting = ask(None).setting()
    sharding = Sharding(ep=16, dispatch=dispatch, dispatch_chunks=parts)
    found = prices_of(setting, sharding, setting.group(1, 16))
    assert (found.dispatch, found.turns) == (dispatch, turns)
