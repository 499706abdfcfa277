"""Counting choices for a balancing loss, and sums of the gradients of copies: by hand, and where they show."""

from __future__ import annotations

from dataclasses import replace

import pytest

from meshwright.clusters.catalogue import load_cluster
from meshwright.planner.configuration import Configuration, Mesh
from meshwright.planner.cost.balance import counts_s
from meshwright.planner.cost.communication import all_reduce_s
from meshwright.planner.cost.data_parallel import replicas_s
from meshwright.planner.cost.setting import Setting
from meshwright.planner.cost.step import price, work_of
from meshwright.planner.families import architecture, load_model
from meshwright.planner.frameworks.framework import framework
from meshwright.planner.job import Job


def setting(model="olmoe-1b-7b", **changes) -> Setting:
    return Setting(
        architecture(load_model(model)), load_cluster("dgx-h100:2"), Job(seq_len=4096, global_batch=64), **changes
    )


PLAIN = Configuration(mesh=Mesh(dp=8, tp=2, ep=16), stage_layers=(16,), microbatch=1, microbatches=8, sp=True, zero=1)


def test_counts_are_summed_over_every_group_in_every_layer():
    given = setting()
    groups = given.group(2, 8), given.group(1, 2)
    expected = 16 * sum(all_reduce_s(group, 8 * 64) for group in groups)
    assert counts_s(given, PLAIN, given.architecture.layers) == pytest.approx(expected)


def test_counting_is_exposed_in_every_forward_and_shown_as_expert_communication(monkeypatch):
    import meshwright.planner.cost.stage as stage
    import meshwright.planner.cost.step as step

    given = setting()
    found, each = price(given, PLAIN), counts_s(given, PLAIN, given.architecture.layers)
    monkeypatch.setattr(stage, "counts_s", lambda *_: 0.0)
    monkeypatch.setattr(step, "counts_s", lambda *_: 0.0)
    without = price(given, PLAIN)
    assert found.breakdown_s.ep - without.breakdown_s.ep == pytest.approx(8 * each)
    assert found.step_time_s - without.step_time_s == pytest.approx(8 * each, rel=1e-6)


def test_a_router_with_a_bias_counts_once_a_step_and_other_frameworks_as_they_were_measured():
    biased = setting("deepseek-v3")
    assert counts_s(biased, PLAIN, biased.architecture.layers) == 0.0
    measured = setting(framework=framework("megatron-core"))
    assert counts_s(measured, PLAIN, measured.architecture.layers) == 0.0


def test_copies_of_experts_are_held_stepped_and_summed():
    given, copied = setting(), replace(PLAIN, expert_replicas=16)
    plain, more = (price(given, each) for each in (PLAIN, copied))
    for name in ("weights", "gradients", "optimizer"):
        ours, theirs = (getattr(each.memory[0], name) for each in (plain, more))
        experts = given.costs(PLAIN).expert[-1] / (given.costs(PLAIN).expert[-1] + given.costs(PLAIN).dense[-1])
        assert 1 < theirs / ours <= 1 + experts * 16 / 64 + 0.1
    held = given.costs(copied).expert[-1]
    assert held == pytest.approx(given.costs(PLAIN).expert[-1] * 80 / 64)
    expected = 4 * held * 32 / 80 / given.group(1, 16).outer.bandwidth_bytes_per_s
    assert replicas_s(given, copied, held) == pytest.approx(expected * given.execution.network, rel=0.01)
    assert sum(work_of(given, copied).late_reduce_s) == pytest.approx(replicas_s(given, copied, held))
    assert not work_of(given, PLAIN).late_reduce_s


def test_parts_cost_launches_and_smaller_products_and_save_waiting():
    """DeepSeek-V3's experts on 8 nodes: few parts are best, a great many are worse than none."""
    whole = Setting(
        architecture(load_model("deepseek-v3")), load_cluster("dgx-h100:8"), Job(seq_len=4096, global_batch=64)
    )
    base = Configuration(
        mesh=Mesh(dp=64, ep=64), stage_layers=(len(whole.architecture.layers),), microbatch=1, microbatches=1, zero=1,
        dispatch="nodes",
    )  # fmt: skip
    times = {parts: whole.costs(replace(base, dispatch_chunks=parts)).forward[-1] for parts in (1, 2, 4, 8, 512)}
    best = min(times, key=times.__getitem__)
    assert best in (2, 4, 8)
    assert times[512] > times[1]
    again = {kind: whole.costs(replace(base, dispatch=kind)).forward[-1] for kind in ("copies", "ranks", "nodes")}
    assert again["nodes"] < again["ranks"] < again["copies"]
