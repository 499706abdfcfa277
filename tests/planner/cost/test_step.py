"""The step: closed forms where they are exact, bounds that hold, parts that sum."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from meshwright.planner.configuration import Configuration, Mesh
from meshwright.planner.cost.bound import lower_bound_s, pipeline_bound_s
from meshwright.planner.cost.setting import Setting
from meshwright.planner.cost.step import price
from meshwright.planner.legality import is_legal
from meshwright.planner.pins import Pins
from meshwright.planner.schedule import build
from meshwright.planner.search.bound import Balancer
from meshwright.planner.search.space import candidates
from meshwright.planner.simulate.engine import makespan
from meshwright.planner.simulate.work import Slowness, Work

CASES = [
    ("llama-3.1-8b", "dgx-h100:2", 8192, 32),
    ("gpt-3-175b", "dgx-a100-80g:8", 2048, 64),
    ("mixtral-8x7b", "dgx-h100:2", 4096, 32),
    ("deepseek-v2-lite", "dgx-a100-80g:2", 4096, 32),
    ("gemma-2-9b", "rtx4090-ethernet:2", 4096, 32),
    ("qwen2.5-7b", "two-site", 32768, 64),
]


@pytest.fixture(scope="module", params=CASES, ids=lambda case: f"{case[0]}-{case[1]}")
def space(request, make_setting) -> tuple[Setting, list[Configuration]]:
    setting = make_setting(*request.param)
    recomputed = [*candidates(setting, Pins()), *candidates(setting, Pins(recompute="selective", schedule="gpipe"))]
    return setting, [each for each in recomputed if is_legal(setting, each)]


@settings(max_examples=25, deadline=None)
@given(data=st.data())
def test_the_bound_holds_and_the_parts_sum(space, data):
    setting, legal = space
    configuration = Balancer(setting).balanced(data.draw(st.sampled_from(legal)))
    predicted = price(setting, configuration)
    assert lower_bound_s(setting, configuration) <= predicted.step_time_s
    assert predicted.breakdown_s.total == pytest.approx(predicted.step_time_s)
    assert min(predicted.breakdown_s.model_dump().values()) >= 0
    low, high = predicted.step_time_interval_s
    assert low < predicted.step_time_s < high
    assert 0 < predicted.mfu <= predicted.hfu < 1
    assert len(predicted.peak_memory_bytes) == configuration.mesh.pp


@settings(max_examples=60, deadline=None)
@given(
    ranks=st.integers(1, 6),
    groups=st.integers(1, 4),
    chunks=st.integers(1, 3),
    name=st.sampled_from(["gpipe", "1f1b", "interleaved"]),
    data=st.data(),
)
def test_no_schedule_beats_the_pipeline_bound(ranks, groups, chunks, name, data):
    vpp = chunks + 1 if name == "interleaved" else 1
    seconds = st.lists(st.floats(0.1, 10), min_size=ranks * vpp, max_size=ranks * vpp)
    times = Work(tuple(data.draw(seconds)), tuple(data.draw(seconds)), data.draw(st.floats(0, 2)))
    configuration = Configuration(
        mesh=Mesh(pp=ranks),
        stage_layers=(1,) * (ranks * vpp),
        microbatch=1,
        microbatches=groups * ranks,
        schedule=name,
        vpp=vpp,
    )
    assert pipeline_bound_s(configuration, times) <= makespan(build(configuration), times)


@pytest.mark.parametrize("name", ["gpipe", "1f1b"])
@pytest.mark.parametrize(("ranks", "count"), [(1, 5), (4, 4), (4, 12), (8, 3)])
def test_with_equal_stages_the_bound_is_the_closed_form(name, ranks, count):
    """(m + p - 1)(f + b), Narayanan et al. 2021, arXiv:2104.04473, section 2.2."""
    configuration = Configuration(
        mesh=Mesh(pp=ranks), stage_layers=(1,) * ranks, microbatch=1, microbatches=count, schedule=name
    )
    times = Work((2.0,) * ranks, (4.0,) * ranks)
    assert pipeline_bound_s(configuration, times) == pytest.approx((count + ranks - 1) * 6)
    assert makespan(build(configuration), times) == pytest.approx((count + ranks - 1) * 6)


def faster(setting: Setting, factor: float) -> Setting:
    """The same request on a cluster whose fabric and network have `factor` times the bandwidth."""
    groups = []
    for group in setting.cluster.node_groups:
        fabric = group.fabric.model_copy(update={"bandwidth_bytes_per_s": factor * group.fabric.bandwidth_bytes_per_s})
        nics = group.nics.model_copy(update={"rate_bytes_per_s": factor * group.nics.rate_bytes_per_s})
        groups.append(group.model_copy(update={"fabric": fabric, "nics": nics}))
    links = [
        link.model_copy(update={"bandwidth_bytes_per_s": factor * link.bandwidth_bytes_per_s})
        for link in setting.cluster.links
    ]
    cluster = setting.cluster.model_copy(update={"node_groups": tuple(groups), "links": tuple(links)})
    return Setting(setting.architecture, cluster, setting.job)


@settings(max_examples=8, deadline=None)
@given(data=st.data())
def test_more_bandwidth_is_never_slower(space, data):
    setting, legal = space
    configuration = Balancer(setting).balanced(data.draw(st.sampled_from(legal)))
    slow, fast = price(setting, configuration), price(faster(setting, 2.0), configuration)
    assert fast.step_time_s <= slow.step_time_s * (1 + 1e-9)


def test_recomputation_costs_time_and_shows_in_hfu_only(make_setting, configure):
    setting = make_setting("llama-3.1-8b", "dgx-h100:2", 8192, 32)
    none = configure(setting, "tp=2 pp=2 microbatch=1 schedule=1f1b recompute=none")
    predicted, again = price(setting, none), price(setting, replace(none, recompute=("full", "full")))
    assert again.step_time_s > 1.2 * predicted.step_time_s
    assert predicted.mfu == predicted.hfu
    assert again.hfu / again.mfu == pytest.approx(4 / 3, rel=0.03)  # the head is not recomputed


def test_mfu_is_model_flops_over_the_peak(make_setting, configure):
    setting = make_setting("llama-3.1-8b", "dgx-h100:1", 8192, 32)
    predicted = price(setting, configure(setting, "tp=1 pp=1 microbatch=1 zero=3"))
    flops = setting.architecture.training_flops(8192) * 32
    assert predicted.mfu == pytest.approx(flops / predicted.step_time_s / (8 * setting.device.peak_flops["bf16"]))


def test_offloaded_states_leave_the_device_and_cost_time(make_setting, configure):
    setting = make_setting("llama-3.1-8b", "dgx-h100:1", 8192, 32)
    on_device, off_device = (
        price(setting, configure(setting, f"tp=1 pp=1 microbatch=1 zero=1 offload={share}")) for share in (0, 1)
    )
    assert on_device.memory[0].optimizer == pytest.approx(3 * off_device.memory[0].optimizer)  # the masters stay
    assert off_device.breakdown_s.offload > 0 == on_device.breakdown_s.offload


def test_zero_three_pays_for_every_microbatch(make_setting, configure):
    setting = make_setting("llama-3.1-8b", "rtx4090-ethernet:4", 2048, 512)
    exposed = [
        price(setting, configure(setting, f"tp=1 pp=1 microbatch=1 zero={zero} recompute=none")).breakdown_s.dp
        for zero in (1, 2, 3)
    ]
    assert exposed[0] < exposed[1] < exposed[2]


@pytest.mark.parametrize("slow", [Slowness(ranks=(1.0, 1.5)), Slowness(links=(1e3, 1.0)), Slowness(data=(1.0, 50.0))])
def test_a_straggler_costs_time_and_the_parts_still_sum(make_setting, configure, slow):
    setting = make_setting("llama-3.1-8b", "dgx-h100:2", 8192, 32)
    configuration = configure(setting, "tp=2 pp=2 microbatch=1 zero=1 schedule=1f1b")
    normal, straggling = price(setting, configuration), price(setting, configuration, slow)
    assert straggling.step_time_s > normal.step_time_s
    parts = straggling.breakdown_s
    assert parts.total == pytest.approx(straggling.step_time_s)
    changed = {name for name, seconds in dict(parts).items() if seconds > 1.01 * getattr(normal.breakdown_s, name)}
    assert changed >= ({"compute"} if slow.ranks else {"pp"} if slow.links else {"dp"})
