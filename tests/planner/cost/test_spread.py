"""A vocabulary spread over the ranks of a pipeline: what each holds, computes and waits for."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest

from meshwright.planner.configuration import Configuration, Mesh
from meshwright.planner.cost.bound import lower_bound_s
from meshwright.planner.cost.communication import ALONE, all_gather_s, broadcast_s
from meshwright.planner.cost.data_parallel import rank_parameters, with_data_parallelism
from meshwright.planner.cost.footprint import footprint
from meshwright.planner.cost.setting import Setting
from meshwright.planner.cost.sharding import sharding_of
from meshwright.planner.cost.spread import passes_of
from meshwright.planner.cost.stage import stage_times
from meshwright.planner.cost.step import price
from meshwright.planner.families import load_model
from meshwright.planner.pins import parse_pins
from meshwright.planner.schedule.passes import logits_waiting
from meshwright.planner.schedule.table import build, held_by, held_of, waiting_of
from meshwright.planner.search.bound import Balancer
from meshwright.planner.search.request import Request
from meshwright.planner.search.search import find_plan

Configure = Callable[[Setting, str], Configuration]
PINS = "tp=2 pp=4 dp=2 zero=1 microbatch=1 recompute=none vpp=1 schedule=1f1b logits_chunks=1"
PINNED = parse_pins(["pp=8", "tp=2", "vpp=2"])


def both(setting: Setting, configure: Configure, pins: str = PINS) -> tuple[Configuration, Configuration]:
    """Without and with a spread vocabulary."""
    return configure(setting, pins), configure(setting, f"{pins} spread_vocabulary=true")


@pytest.mark.parametrize("model", ["llama-3.1-8b", "gemma-2-9b", "gpt2-xl"])
def test_the_ranks_of_a_pipeline_hold_the_model_once(model, make_setting, configure) -> None:
    """Tied embeddings, too, of which two stages else have a copy each. Norms are on every rank of tp."""
    setting = make_setting(model, "dgx-h100:2", 1024)
    plain, spread = both(setting, configure, PINS.replace("tp=2", "tp=1").replace("dp=2", "dp=4"))
    tied = setting.architecture.tied_embeddings

    def held(configuration: Configuration) -> list[float]:
        costs = setting.costs(configuration)
        return [rank_parameters(costs, configuration, rank, tied).total for rank in range(4)]

    assert sum(held(spread)) == setting.architecture.parameters
    assert max(held(spread)) < max(held(plain))


def test_layers_are_balanced_without_the_ends(make_setting, configure) -> None:
    setting = make_setting("gemma-2-9b", "dgx-h100:2", 4096)
    plain, spread = both(setting, configure)
    assert max(spread.stage_layers) - min(spread.stage_layers) <= 1
    assert max(plain.stage_layers) - min(plain.stage_layers) > 1


def test_the_matmuls_of_the_output_layer_are_split(make_setting, configure) -> None:
    """A quarter of a projection on each of four ranks: at large sizes, a quarter of the time."""
    setting = make_setting("gemma-2-9b", "dgx-h100:2", 8192)
    plain, spread = both(setting, configure)
    passes, head = passes_of(setting, spread), setting.costs(plain).head
    assert passes is not None
    assert passes_of(setting, plain) is None
    whole = head.forward_s + head.backward_s("none")
    assert passes.logits_s + passes.gradients_s == pytest.approx(whole / 4, rel=0.2)
    assert stage_times(setting, spread).passes == passes


def test_the_last_stage_is_no_longer_the_fullest_with_logits(make_setting, configure) -> None:
    made = make_setting("gemma-2-9b", "dgx-h100:2", 8192)  # with Triton's kernels nobody holds logits
    setting = Setting(made.architecture, made.cluster, made.job.model_copy(update={"kernels": "reference"}))
    configurations = both(setting, configure)
    plain, spread = (footprint(setting, each) for each in configurations)
    assert [memory.logits > 0 for memory in plain] == [False, False, False, True]
    assert all(0 < memory.logits < plain[-1].logits for memory in spread)
    fullest, least = (choose(memory.gradients for memory in spread) for choose in (max, min))
    layer = setting.costs(configurations[0]).heaviest.total
    assert 0 < fullest - least < 1.01 * 4 * layer  # two of the ranks have a layer more, one the final norm


def test_shared_gradients_are_reduced_last(make_setting, configure) -> None:
    setting = make_setting("llama-3.1-8b", "dgx-h100:2", 4096)
    _, spread = both(setting, configure)
    work = with_data_parallelism(setting, spread, stage_times(setting, spread))
    assert len(set(work.late_reduce_s)) == 1
    assert work.late_reduce_s[0] > 0
    assert work.tied_s == 0


@pytest.mark.parametrize("schedule", ["1f1b", "gpipe", "zb-h1", "zb-v", "interleaved", "dualpipev"])
@pytest.mark.parametrize("chunks", [1, 4])
def test_the_bound_is_below_the_price(schedule, chunks, make_setting, configure) -> None:
    setting = make_setting("gemma-2-9b", "dgx-h100:2", 4096)
    vpp = 1 if schedule in ("1f1b", "gpipe", "zb-h1") else 2
    pins = f"tp=2 pp=4 dp=2 zero=1 microbatch=1 recompute=none vpp={vpp} schedule={schedule} logits_chunks={chunks}"
    _, spread = both(setting, configure, pins)
    predicted = price(setting, spread)
    assert 0.8 * predicted.step_time_s < lower_bound_s(setting, spread) <= predicted.step_time_s
    assert predicted.breakdown_s.total == pytest.approx(predicted.step_time_s)


@pytest.mark.parametrize("schedule", ["1f1b", "gpipe", "zb-h1", "zb-v", "interleaved", "looped-bfs", "dualpipev"])
@pytest.mark.parametrize("microbatches", [4, 16, 24])
def test_what_ranks_hold_is_that_of_the_whole_list(schedule, microbatches) -> None:
    """Memory is asked of a few microbatches."""
    vpp = 1 if schedule in ("1f1b", "gpipe", "zb-h1") else 2
    spread = Configuration(
        mesh=Mesh(pp=4),
        stage_layers=(1,) * 4 * vpp,
        microbatch=1,
        microbatches=microbatches,
        schedule=schedule,
        vpp=vpp,
        spread_vocabulary=True,
    )
    whole = build(spread)
    assert [held_of(spread, rank) for rank in range(4)] == [held_by(whole, rank) for rank in range(4)]
    assert waiting_of(spread) == logits_waiting(whole)


def test_a_large_vocabulary_is_worth_spreading(make_setting, configure) -> None:
    """Where a pipeline cannot be balanced by layers: two of Gemma 2's stages a rank, whose output layer takes more."""
    setting = make_setting("gemma-2-9b", "dgx-h100:2", 4096)
    pins = PINS.replace("vpp=1 schedule=1f1b", "vpp=2 schedule=zb-v").replace("pp=4", "pp=8").replace("dp=2", "dp=1")
    plain, spread = both(setting, configure, pins.replace("zero=1", "zero=0"))
    assert price(setting, spread).step_time_s < 0.95 * price(setting, plain).step_time_s


def test_the_search_finds_it(make_setting) -> None:
    setting = make_setting("gemma-2-9b", "dgx-h100:2", 4096)
    for pinned, spreads in (({}, True), ({"spread_vocabulary": False}, False)):
        request = Request(
            model=load_model("gemma-2-9b"),
            cluster=setting.cluster,
            job=setting.job,
            pins=replace(PINNED, **pinned),
        )
        plan = find_plan(request)
        assert plan.spread_vocabulary == spreads
        assert ("Embedding and output layer are spread over all pipeline ranks." in plan.why) == spreads


def test_a_broadcast_takes_the_slowest_link_once(make_setting) -> None:
    group = make_setting("llama-3.1-8b", "dgx-h100:2").group(8, 2)
    assert group.outer is not None
    path = group.outer
    assert broadcast_s(group, 1e9) == pytest.approx(1e9 / path.bandwidth_bytes_per_s + path.latency_s)
    assert broadcast_s(ALONE, 1e9) == 0


def test_layers_stay_balanced_whatever_is_asked_first(make_setting, configure) -> None:
    """Equal shardings share a split; a spread vocabulary makes another one."""
    setting = make_setting("gemma-2-9b", "dgx-h100:2", 4096)
    plain, spread = both(setting, configure)
    balancer = Balancer(setting)
    assert [balancer.balanced(each).stage_layers for each in (plain, spread, plain)] == [
        plain.stage_layers, spread.stage_layers, plain.stage_layers,
    ]  # fmt: skip


def test_shares_of_the_vocabulary_cost_one_collective_of_three_numbers(make_setting, configure) -> None:
    """Over tp alone, and nothing where there is one share."""
    setting = make_setting("llama-3.1-8b", "dgx-h100:2", 1024)
    for pins, tp in (("tp=1 pp=1 dp=16 microbatch=2 sp=false", 1), ("tp=8 pp=1 dp=2 microbatch=2 sp=false", 8)):
        configuration = configure(setting, pins)
        group = setting.groups(sharding_of(configuration)).tp
        gathered = all_gather_s(group, tp * 3 * 4 * 2 * 1024)
        assert setting.costs(configuration).head.exchange.forward_s == pytest.approx(gathered)
        assert (gathered > 0) == (tp > 1)
