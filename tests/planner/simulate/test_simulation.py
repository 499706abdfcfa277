"""A simulation: the parts agree with each other, and move the right way when the world changes."""

from __future__ import annotations

import json

import pytest

from meshwright.errors import InputError
from meshwright.planner.contract import plan_json
from meshwright.planner.plan import Plan
from meshwright.planner.simulate.simulation import simulate
from meshwright.planner.simulate.sweep import parse_sweep, sweep
from meshwright.planner.simulate.tables import table_of_sweep

CONTRACT = {"mesh", "schedule", "recompute", "zero", "microbatch", "predicted", "proof", "runners_up"}
PREDICTED = {
    "step_time_s",
    "step_time_interval_s",
    "tokens_per_s_per_device",
    "model_tflops_per_device",
    "mfu",
    "hfu",
    "peak_memory_bytes",
    "fits",
    "breakdown_s",
    "origin",
}
BREAKDOWN = {"compute", "tp", "cp", "ep", "pp", "dp", "bubble", "optimizer", "offload"}


def test_a_plan_simulates_as_it_was_predicted(plan: Plan) -> None:
    simulation = simulate(plan)
    assert simulation.prediction == plan.predicted
    assert simulation.proof == plan.proof


def test_the_step_is_the_pipeline_and_what_follows_it(plan: Plan) -> None:
    for settings in ([], ["offload=1.0"], ["mesh.pp=4"], ["cluster.network.bandwidth=0.01x"]):
        simulation = simulate(plan, settings)
        breakdown = simulation.prediction.breakdown_s
        after = breakdown.optimizer + breakdown.offload
        assert simulation.timeline.step_s == pytest.approx(simulation.step_time_s, rel=1e-9)
        assert simulation.timeline.reduced_s + after == pytest.approx(simulation.step_time_s, rel=1e-9)
        assert breakdown.total == pytest.approx(simulation.step_time_s, rel=1e-9)


def test_price_and_days(plan: Plan) -> None:
    """Eight devices at two dollars an hour."""
    simulation = simulate(plan, tokens=1e12)
    seconds = 1e12 / (4096 * 32 / simulation.step_time_s)
    assert simulation.days == pytest.approx(seconds / 86_400)
    assert simulation.price == pytest.approx(seconds / 3600 * 16)
    assert simulation.price_per_million_tokens == pytest.approx(simulation.price / 1e6)
    assert simulation.tokens_per_s == pytest.approx(simulation.prediction.tokens_per_s_per_device * 8)


def test_without_a_price_there_is_none(plan: Plan) -> None:
    simulation = simulate(plan, ["cluster.price=null"], tokens=1e12)
    assert (simulation.price, simulation.price_per_million_tokens) == (None, None)
    assert simulation.days is not None


@pytest.mark.parametrize(
    ("better", "worse"),
    [
        ("cluster.network.bandwidth=2x", "cluster.network.bandwidth=0.1x"),
        ("cluster.fabric.bandwidth=2x", "cluster.fabric.bandwidth=0.1x"),
        ("cluster.device.peak_flops.bf16=2x", "cluster.device.peak_flops.bf16=0.5x"),
        ("cluster.network.latency=0.5x", "cluster.network.latency=100x"),
    ],
)
def test_more_is_never_slower(plan: Plan, better: str, worse: str) -> None:
    assert simulate(plan, [better]).step_time_s <= simulate(plan).step_time_s < simulate(plan, [worse]).step_time_s


def test_what_does_not_fit_says_so(plan: Plan) -> None:
    simulation = simulate(plan, ["cluster.device.memory=4 GiB"])
    assert not simulation.prediction.fits
    assert simulation.shortage.startswith("stage ")
    assert simulation.shortage.endswith("of 4.00 GiB")
    assert simulate(plan).shortage == ""


def test_a_host_too_small_for_offloading_says_so(plan: Plan) -> None:
    assert simulate(plan, ["offload=1"]).shortage == ""
    small = simulate(plan, ["offload=1", "cluster.host.memory=1 GB"])
    assert not small.prediction.fits
    assert "host" in small.shortage


def test_json_holds_the_contract(plan: Plan) -> None:
    plain, changed = plan_json(plan), simulate(plan, ["job.seq_len=8192"]).to_json()
    for data in (plain, changed, simulate(plan).to_json()):
        assert set(data) >= CONTRACT
        assert set(data["mesh"]) == {"pp", "dp", "cp", "tp", "ep", "etp"}
        assert set(data["predicted"]) >= PREDICTED
        assert set(data["predicted"]["breakdown_s"]) == BREAKDOWN
        assert len(data["predicted"]["peak_memory_bytes"]) == data["mesh"]["pp"]
        assert json.loads(json.dumps(data)) == data
    proof = {"candidates": 10, "pruned": 4, "lower_bound_s": 0.1, "gap": 0.01, "orders": "", "seconds": 0.5}
    assert plain["proof"].items() >= proof.items()
    assert simulate(plan).to_json()["proof"] == plain["proof"]
    assert changed["proof"] is None, "a proof of the plan says nothing of another scenario"


def test_sweep_keeps_what_cannot_run(plan: Plan) -> None:
    found = sweep(plan, "job.global_batch=16,33,64", ["cluster.device.memory=40 GiB"])
    assert [row.value for row in found.rows] == ["16", "33", "64"]
    assert [bool(row.reason) for row in found.rows] == [False, True, False]
    assert "must be a multiple of" in found.rows[1].reason
    assert len(found.runnable) == 2
    memory = sweep(plan, "cluster.device.memory=4 GiB,80 GiB")
    assert memory.rows[0].reason.startswith("stage ")
    assert memory.rows[0].simulation is not None
    assert [row.value for row in memory.runnable] == ["80 GiB"]
    assert json.loads(json.dumps(found.to_json()))["rows"][1]["simulation"] is None


@pytest.mark.parametrize(
    ("text", "legal"),
    [
        ("device=h200,b200,a100-sxm-40gb", 3),
        ("node=dgx-a100-80g,dgx-h100,dgx-b200", 3),
        ("devices=4,8,12,16,17", 3),
        ("network=0.5x,1x,2x", 3),
        ("precision=bf16,fp32,fp8", 2),
        ("seq_len=2048,8192", 2),
        ("global_batch=32,64,65", 2),
        ("price=1,2.5", 2),
    ],
)
def test_sweeps_of_what_people_ask(plan: Plan, text: str, legal: int) -> None:
    found = sweep(plan, text)
    assert sum(row.simulation is not None for row in found.rows) == legal
    rows, head = table_of_sweep(found)
    assert {len(row) for row in rows} == {len(head)}
    assert "days" in table_of_sweep(sweep(plan, text, tokens=1e12))[1]


def test_values_may_be_lists(plan: Plan) -> None:
    assert parse_sweep("recompute=[full,none], [none,none],full") == (
        "recompute",
        ("[full,none]", "[none,none]", "full"),
    )
    rows = sweep(plan, "stage_layers=[4,4],[3,5]").rows
    assert [row.simulation.scenario.configuration.stage_layers for row in rows if row.simulation] == [(4, 4), (3, 5)]


def test_a_sweep_of_nothing_legal_is_an_error(plan: Plan) -> None:
    with pytest.raises(InputError, match="did you mean 'seq_len'"):
        sweep(plan, "job.seqlen=1,2")
    for text in ("job.seq_len", "job.seq_len=", "=1,2"):
        with pytest.raises(InputError, match="must be field=value,value"):
            parse_sweep(text)
