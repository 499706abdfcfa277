"""Layers that were measured: looked up, between two that were, or in proportion to the formulas; and what data
parallelism and the rest of a step were measured to take."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from meshwright.clusters.adjustment import Adjustment
from meshwright.clusters.local import cpu_cluster
from meshwright.clusters.schema import Cluster
from meshwright.planner.configuration import Configuration, Mesh
from meshwright.planner.cost.blocks import Block
from meshwright.planner.cost.bound import lower_bound_s
from meshwright.planner.cost.dispatch import Visits
from meshwright.planner.cost.measured import head_sizes, sizes_of
from meshwright.planner.cost.setting import Setting
from meshwright.planner.cost.step import price, work_of
from meshwright.planner.families import architecture, load_model
from meshwright.planner.job import Job
from meshwright.planner.pins import parse_pins
from meshwright.planner.search.request import Request
from meshwright.planner.search.search import find_plan

MODEL = load_model("byte-llama")
ARCHITECTURE = architecture(MODEL)
JOB = Job(seq_len=256, global_batch=8, precision="fp32")
LAYER, LAYERS = ARCHITECTURE.layers[0], len(ARCHITECTURE.layers)


def row(microbatch: int, forward_s: float, backward_s: float, **more: Any) -> dict[str, Any]:
    at = {"dtype": "fp32", "seq_len": 256, "microbatch": microbatch, "sizes": sizes_of(LAYER)}
    return {"forward_s": forward_s, "backward_s": backward_s} | at | more


def end(kind: str, microbatch: int) -> dict[str, Any]:
    return row(microbatch, 0.001, 0.002, kind=kind, sizes=head_sizes(ARCHITECTURE.hidden, ARCHITECTURE.vocab))


ROWS = [
    row(1, 0.010, 0.020, input_s=0.015, weight_s=0.009, recompute_s=0.011, kept_bytes=5e6),
    row(4, 0.040, 0.080, kept_bytes=2e7),
    row(1, 0.013, 0.023, sharding={"tp": 2}),
    *(end(kind, 1) for kind in ("embedding", "head")),
]
UNITS = [
    {"zero": zero, "ranks": 2, "parameters": parameters, "forward_s": 1e-3 + zero * parameters * 1e-9,
     "first_s": 2e-3, "backward_s": 3e-3, "last_s": 4e-3}
    for zero in range(4) for parameters in (100_000, 400_000)
]  # fmt: skip
TAILS = [{"sharded": shared, "parameters": 10**6, "seconds": 0.005, "step_s": 0.001} for shared in (False, True)]


def cluster(workers: int, **times: Any) -> Cluster:
    """This machine with layers as if they had been measured."""
    data = cpu_cluster(workers).model_dump(mode="json", by_alias=True, exclude_none=True)
    data["node_groups"][0]["device"]["calibration"]["layers"] = {"layers": ROWS} | times
    return Cluster.model_validate(data)


def setting(workers: int, **times: Any) -> Setting:
    return Setting(ARCHITECTURE, cluster(workers, **times), JOB)


def configuration(**changes: Any) -> Configuration:
    plain = Configuration(mesh=Mesh(), stage_layers=(LAYERS,), microbatch=1, microbatches=8, zero=0)
    return replace(plain, **changes)


def test_what_was_measured_is_what_it_costs() -> None:
    block = setting(1).costs(configuration()).layers[0]
    assert block.forward_s == pytest.approx(0.010)
    assert block.backward_s("none") == pytest.approx(0.020)
    assert block.forward_s + block.backward_s("full") == pytest.approx(0.010 + 0.020 + 0.011)
    assert block.compute.weight_s == pytest.approx(0.009)
    assert block.split_s == pytest.approx(0.015 + 0.009 - 0.020)
    assert block.kept_bytes("none") == pytest.approx(5e6)


def test_collectives_are_part_of_what_was_measured() -> None:
    """The time of a layer of a tensor-parallel group is that of its compute and its exchange together."""
    block = setting(2).costs(configuration(mesh=Mesh(tp=2))).layers[0]
    assert block.forward_s == pytest.approx(0.013)
    assert block.exchange.forward_s > 0
    assert block.backward_s("none") == pytest.approx(0.023)


@pytest.mark.parametrize("mesh", [Mesh(), Mesh(tp=2)], ids=str)
def test_what_runs_taught_meets_all_compute_that_was_measured_and_no_collective(mesh: Mesh) -> None:
    rows = [row(1, 0.013, 0.023, sharding={"tp": 2}, recompute_s=0.015), *ROWS]
    plain = cluster(mesh.world, layers=rows)
    taught = Adjustment(source="a test", date="2026-11-22", compute=0.5, layer=0.003)
    before, after = (
        Setting(ARCHITECTURE, each, JOB).costs(configuration(mesh=mesh)).layers[0]
        for each in (plain, plain.model_copy(update={"adjustment": taught}))
    )
    assert before.again_s is not None
    assert before.recompute_compute_s("full") > 0
    assert after.recompute_compute_s("full") == pytest.approx(2 * before.recompute_compute_s("full") + 0.001)
    assert after.exposed_s("full") == before.exposed_s("full")
    assert after.split_s == 2 * before.split_s


def test_between_two_microbatches_on_the_line() -> None:
    block = setting(1).costs(configuration(microbatch=2, microbatches=4)).layers[0]
    assert block.forward_s == pytest.approx(0.010 + (0.040 - 0.010) / 3)
    assert block.kept_bytes("none") == pytest.approx(5e6 + (2e7 - 5e6) / 3)


def test_beyond_in_proportion_to_the_formulas() -> None:
    """A sharding or a length that nobody measured: compute by formula, as measured to formula alone on the device."""
    plain = Setting(ARCHITECTURE, cpu_cluster(1), JOB)
    ratio = 0.040 / plain.costs(configuration(microbatch=4, microbatches=2)).layers[0].forward_s
    asked = configuration(microbatch=8, microbatches=1)
    assert setting(1).costs(asked).layers[0].forward_s == pytest.approx(ratio * plain.costs(asked).layers[0].forward_s)


def test_splitting_a_backward_costs_its_share_beyond_what_was_measured() -> None:
    """15 + 9 ms in halves, 20 in one: a fifth more, also where that microbatch was not split."""
    rows = [ROWS[0], *ROWS[3:]]
    block = setting(1, layers=rows).costs(configuration(microbatch=8, microbatches=1)).layers[0]
    assert block.split_s == pytest.approx(0.2 * block.compute.backward_s)
    assert block.split_s > 0


def test_what_splitting_adds_is_the_median_of_the_microbatches() -> None:
    """Of -5, 10 and 30 %: one that was timed badly moves nothing, and none is faster in halves."""
    halves = {1: 0.019, 2: 0.044, 4: 0.104}
    rows = [
        row(size, 0.010 * size, 0.020 * size, input_s=seconds / 2, weight_s=seconds / 2)
        for size, seconds in halves.items()
    ]
    for size in halves:
        block = setting(1, layers=rows).costs(configuration(microbatch=size, microbatches=8 // size)).layers[0]
        assert block.split_s == pytest.approx(0.1 * 0.020 * size)
    alone = setting(1, layers=rows[:1]).costs(configuration()).layers[0]
    assert alone.split_s == 0


def test_other_layers_cost_what_they_did() -> None:
    """No row for wider layers: the same prices as without any."""
    config = {**MODEL.config, "intermediate_size": 768}
    wider = architecture(MODEL.model_copy(update={"config": config}))
    with_rows = Setting(wider, cluster(1), JOB).costs(configuration())
    without = Setting(wider, cpu_cluster(1), JOB).costs(configuration())
    assert with_rows.layers == without.layers


def test_units_and_tails_make_up_a_step() -> None:
    """One stage on two ranks: every forward and backward, once more for the first and the last, and the tail."""
    seen = setting(2, units=UNITS, tails=TAILS)
    held = seen.costs(configuration()).layers[0].held.total
    rest = ARCHITECTURE.vocab * ARCHITECTURE.hidden * 2 + ARCHITECTURE.hidden
    for zero in range(4):
        asked = configuration(mesh=Mesh(dp=2), microbatches=4, zero=zero)
        forward = (LAYERS + 1) * 1e-3 + zero * 1e-9 * (LAYERS * held + rest)
        owned = (LAYERS * held + rest) / (2 if zero else 1)
        each = LAYERS * 0.030 + 2 * 0.003 + forward + (LAYERS + 1) * 3e-3
        once = (LAYERS + 1) * (2e-3 + 4e-3) + 0.001 + 0.005 * owned / 1e6
        assert price(seen, asked).step_time_s == pytest.approx(4 * each + once, rel=0.01), zero


@pytest.mark.parametrize(
    ("mesh", "units"),
    [
        (Mesh(dp=4), LAYERS + 1),
        (Mesh(dp=4, ep=2), 2 * LAYERS + 1),
        (Mesh(dp=2, tp=2, etp=2), 2 * LAYERS + 1),
        (Mesh(dp=4, ep=4), LAYERS + 1),
    ],
    ids=str,
)
def test_experts_that_ranks_share_out_are_units_of_their_own(mesh: Mesh, units: int) -> None:
    """Over the ranks that hold the same, where more than one does; else they are part of their layer's."""
    mixture = {"architectures": ["MixtralForCausalLM"], "model_type": "mixtral", "num_local_experts": 4}
    model = architecture(MODEL.model_copy(update={"config": {**MODEL.config, **mixture}}))
    asked = configuration(mesh=mesh, microbatches=2)
    forwards = []
    for forward_s in (1e-3, 0.0):
        rows = [row | {"ranks": ranks, "forward_s": forward_s} for row in UNITS for ranks in (2, 4)]
        forwards.append(work_of(Setting(model, cluster(4, units=rows), JOB), asked).forward_s[0])
    assert forwards[0] - forwards[1] == pytest.approx(units * 1e-3)


def test_busy_ranks_cost_more_than_balanced_ones_that_were_measured() -> None:
    """A profile's tokens are routed evenly; a trace says otherwise, and what the formulas make of that is added."""
    mixture = {"architectures": ["MixtralForCausalLM"], "model_type": "mixtral", "num_local_experts": 4}
    model = architecture(MODEL.model_copy(update={"config": {**MODEL.config, **mixture}}))
    found = row(1, 0.010, 0.020, sizes=sizes_of(model.layers[0]), sharding={"ep": 2})
    asked = configuration(mesh=Mesh(dp=2, ep=2), microbatches=4)

    def layer(on: Cluster, *visits: float) -> Block:
        routing = (lambda *_: Visits(*visits)) if visits else None
        return Setting(model, on, JOB, routing=routing).costs(asked).layers[0]

    def more(on: Cluster) -> tuple[float, float]:
        busy, even = layer(on, 1.5, 0.9, 0.9), layer(on)
        return busy.forward_s / even.forward_s, busy.backward_s("none") / even.backward_s("none")

    known = cluster(2, layers=[found])
    assert layer(known).forward_s == pytest.approx(0.010)
    assert more(known) == pytest.approx(more(cpu_cluster(2)))
    assert min(more(known)) > 1.1


def test_workers_that_share_cores_cost_no_bubble() -> None:
    """Two ranks on one core: a pipeline takes what its work takes, and the bound stays below."""
    shared = setting(2, pace={1: 2.0, 2: 1.0})
    asked = configuration(mesh=Mesh(pp=2), stage_layers=(3, 3), microbatches=8, recompute=("none",) * 2)
    alone = setting(2)
    work = work_of(alone, asked)
    busy = 8 * (sum(work.forward_s) + sum(work.backward_s)) / 2
    found = price(shared, asked)
    assert busy + max(work.optimizer_s) <= found.step_time_s < price(alone, asked).step_time_s
    assert found.step_time_s == pytest.approx(busy + max(work.optimizer_s), rel=0.02)
    assert lower_bound_s(shared, asked) <= found.step_time_s


def test_who_has_to_be_woken_up_is_slower_than_who_never_waits() -> None:
    asked = configuration(mesh=Mesh(pp=2), stage_layers=(3, 3), microbatches=8, recompute=("none",) * 2)
    woken, alone = setting(2, pace={1: 0.9, 2: 0.8}), setting(2)
    assert price(alone, asked).step_time_s < price(woken, asked).step_time_s < price(alone, asked).step_time_s / 0.8
    assert lower_bound_s(woken, asked) <= price(woken, asked).step_time_s


@pytest.mark.parametrize("spread", [False, True])
def test_waking_up_costs_a_step_something_whatever_the_schedule(spread: bool) -> None:
    """Two messages from rank to rank and one microbatch; with a spread vocabulary its passes wait for others, too."""
    asked = replace(
        configuration(mesh=Mesh(pp=2), stage_layers=(3, 3), recompute=("none",) * 2, microbatches=1),
        microbatch=8,
        spread_vocabulary=spread,
    )
    woken, alone = (price(setting(2, wake_s=wake_s), asked).step_time_s for wake_s in ({1: 0.5, 2: 0.5}, {}))
    messages = round((woken - alone) / 0.5, 6)
    assert messages == 2 if not spread else messages > 4
    assert lower_bound_s(setting(2, wake_s={1: 0.5, 2: 0.5}), asked) <= woken


def test_a_search_prices_what_was_measured() -> None:
    """The plan found is no slower than any of a few that are pinned, and its bound holds."""
    known = cluster(2, units=UNITS, tails=TAILS, pace={1: 1.5, 2: 1.0})
    request = Request(model=MODEL, cluster=known, job=JOB, runnable=True)
    found = find_plan(request)
    for pins in (["dp=2", "zero=0"], ["pp=2"], ["tp=2"], ["dp=2", "zero=3"]):
        other = find_plan(replace(request, pins=parse_pins(pins)))
        assert found.predicted.step_time_s <= other.predicted.step_time_s * 1.011
        assert other.proof.lower_bound_s <= other.predicted.step_time_s


def test_rows_of_equal_size_are_one() -> None:
    """A layer may be as large as what a model has beside its layers."""
    twice = [*UNITS, *(row | {"parameters": 100_000} for row in UNITS)]
    asked = configuration(mesh=Mesh(dp=2), microbatches=4)
    assert price(setting(2, units=twice, tails=TAILS * 2), asked).step_time_s > 0


def test_what_runs_taught_of_compute_holds_for_all_that_was_measured() -> None:
    """Compute at half its rate: recomputation and the halves of a backward take twice as long, too."""
    known = cluster(1)
    slower = known.model_copy(update={"adjustment": Adjustment(source="", date="2026-11-22", compute=0.5)})
    one, other = (Setting(ARCHITECTURE, each, JOB).costs(configuration()).layers[0] for each in (known, slower))
    assert other.backward_s("full") == pytest.approx(2 * one.backward_s("full"))
    assert other.split_s == pytest.approx(2 * one.split_s)
