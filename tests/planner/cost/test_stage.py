"""The stage: its compute, or the host's time to issue it, and what waits for the network."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest

from meshwright.planner.configuration import Configuration, Mesh
from meshwright.planner.cost.rates import PLAIN
from meshwright.planner.cost.setting import Setting
from meshwright.planner.cost.stage import RING_WAITS, _issued, stage_times, transfer_s
from meshwright.planner.frameworks.framework import Costs, Framework, Graphs

PIPELINE = Configuration(
    mesh=Mesh(pp=2, dp=1, tp=8), stage_layers=(16, 16), microbatch=1, microbatches=4, recompute=("none",) * 2
)


@pytest.fixture
def under(make_setting: Callable[..., Setting]) -> Callable[[Framework], Setting]:
    """A Llama 8B on two nodes of H100 under a framework."""
    setting = make_setting("llama-3.1-8b", "dgx-h100:2", 4096, 4)
    return lambda framework: replace(setting, framework=framework, _costs={})


def test_a_fast_host_costs_nothing(under: Callable[[Framework], Setting]) -> None:
    quick = PLAIN.model_copy(update={"costs": Costs(host_layer_s=1e-6, host_microbatch_s=1e-6)})
    assert stage_times(under(quick), PIPELINE) == stage_times(under(PLAIN), PIPELINE)


def test_a_slow_host_hides_compute_but_not_the_collectives(under: Callable[[Framework], Setting]) -> None:
    """Ten milliseconds a layer: far more than a layer computes; collectives that nothing hides come on top."""
    slow = under(PLAIN.model_copy(update={"costs": Costs(host_layer_s=1e-2, host_microbatch_s=0.5)}))
    costs = slow.costs(PIPELINE)
    waits_s = costs.exposed_forward[16] + costs.embedding.exchange.forward_s
    host_s = 16 * 1e-2 + 0.5
    assert waits_s > 0
    assert stage_times(slow, PIPELINE).forward_s[0] == pytest.approx(host_s + waits_s)
    again = stage_times(slow, replace(PIPELINE, recompute=("full",) * 2))
    assert again.backward_s[0] == pytest.approx(2 * host_s + costs.exposed_backward["full"][16], rel=0.02)


def test_graphs_leave_a_share_of_the_hosts_time(under: Callable[[Framework], Setting]) -> None:
    slow = PLAIN.model_copy(update={"costs": Costs(host_layer_s=1e-2)})
    half = slow.model_copy(update={"graphs": Graphs(layer=0.5)})
    saved = stage_times(under(slow), PIPELINE).forward_s[1] - stage_times(under(half), PIPELINE).forward_s[1]
    assert saved == pytest.approx(16 * 0.5e-2)


def test_rings_wait_for_the_network_only_in_frameworks_that_do(under: Callable[[Framework], Setting]) -> None:
    """With a slow host, so that the waiting shows: five collectives of seven hops in each of 16 layers."""
    host = PLAIN.model_copy(update={"costs": Costs(host_layer_s=1.0)})
    waiting = under(host.model_copy(update={"waits_for_rings": True}))
    latency_s = waiting.hop(8, 2).latency_s
    rings_s = 16 * RING_WAITS * 7 * latency_s
    waits_s = stage_times(under(host), PIPELINE).forward_s[0] - 16.0
    assert stage_times(waiting, PIPELINE).forward_s[0] == pytest.approx(16.0 + max(waits_s, rings_s))
    alone = replace(PIPELINE, mesh=Mesh(dp=2, tp=8), stage_layers=(32,), recompute=("none",))
    assert stage_times(waiting, alone) == stage_times(under(host), alone)


def test_the_longer_of_compute_and_host_counts() -> None:
    assert _issued(10.0, 2.0, 3.0, 0.0) == 10.0
    assert _issued(10.0, 2.0, 9.0, 0.0) == 11.0
    assert _issued(10.0, 2.0, 9.0, 4.0) == 13.0


def test_one_stage_sends_nothing_and_two_send_their_activations(under: Callable[[Framework], Setting]) -> None:
    setting = under(PLAIN)
    assert transfer_s(setting, replace(PIPELINE, mesh=Mesh(dp=2, tp=8), stage_layers=(32,))) == 0.0
    path = setting.hop(8, 2)
    sequence = replace(PIPELINE, sp=True)  # each rank holds and sends its share of the tokens
    sent = 4096 * 4096 * 2 / 8
    assert transfer_s(setting, sequence) == pytest.approx(path.latency_s + sent / path.bandwidth_bytes_per_s)
