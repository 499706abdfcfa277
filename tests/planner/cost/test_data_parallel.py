"""What follows the pipeline: gradient reduction and parameter gathers, by hand on one node and on many."""

from __future__ import annotations

from dataclasses import replace

import pytest

from meshwright.planner.configuration import Configuration, Mesh
from meshwright.planner.cost.data_parallel import rank_parameters, stage_parameters, with_data_parallelism
from meshwright.planner.cost.footprint import offloaded_bytes
from meshwright.planner.cost.rates import PLAIN
from meshwright.planner.cost.step import work_of
from meshwright.planner.schedule import build
from meshwright.planner.simulate.engine import step_time
from meshwright.planner.simulate.work import Work


def sharded(devices: int, zero: int) -> Configuration:
    return Configuration(
        mesh=Mesh(dp=devices), stage_layers=(32,), microbatch=1, microbatches=1, zero=zero, recompute=("none",)
    )


def exposed_s(setting, zero: int) -> float:
    """Nothing to hide behind: all of the communication."""
    configuration = sharded(setting.cluster.num_devices, zero)
    work = with_data_parallelism(setting, configuration, Work((0.0,), (0.0,)))
    return step_time(build(configuration), work).exposed_s


def test_every_layer_pays_the_latency_of_its_collective(make_setting):
    """32 layers, each gathered twice and reduced once over a ring of 16 nodes with 8 rings side by side."""
    setting = replace(make_setting("llama-3.1-8b", "dgx-h100:16", 4096, 128), framework=PLAIN)
    network = setting.cluster.node_groups[0].nics
    fabric = setting.cluster.node_groups[0].fabric
    parameters, node_bytes_per_s = setting.architecture.parameters, 8 * network.rate_bytes_per_s * network.efficiency
    between = 15 / 16 * parameters / node_bytes_per_s  # a byte of each parameter crosses each node's cards
    within = 7 / 8 * parameters / (fabric.bandwidth_bytes_per_s * fabric.efficiency)
    latency = 32 * (15 * network.latency_s + 7 * fabric.latency_s)
    gather, reduce = (each * (between + within) + latency for each in (2, 4))
    assert exposed_s(setting, 1) == pytest.approx(gather + reduce, rel=1e-6)
    assert exposed_s(setting, 3) == pytest.approx(2 * gather + reduce, rel=1e-6)


def test_fp8_gathers_weights_of_16_bits(make_setting):
    """Transformer Engine makes its 8-bit copies on each device: they hold memory, and do not travel."""
    in_16_bits = make_setting("llama-3.1-8b", "dgx-h100:2", 4096, 128)
    in_8_bits = make_setting("llama-3.1-8b", "dgx-h100:2", 4096, 128, "fp8")
    for zero in (1, 3):
        assert exposed_s(in_8_bits, zero) == exposed_s(in_16_bits, zero)


@pytest.mark.parametrize("model", ["llama-3.2-1b", "mixtral-8x7b"])  # the first ties its embeddings
def test_stages_hold_what_their_ranks_hold(make_setting, model):
    setting = make_setting(model, "dgx-h100:2", 4096, 128)
    layers = len(setting.architecture.layers) // 8
    configuration = Configuration(
        mesh=Mesh(pp=4, dp=4), stage_layers=(layers,) * 8, microbatch=1, microbatches=8, schedule="interleaved", vpp=2
    )
    costs, tied = setting.costs(configuration), setting.architecture.tied_embeddings
    stages = stage_parameters(costs, configuration, tied)
    for rank in range(4):
        held = rank_parameters(costs, configuration, rank, tied)
        assert sum(each.dense for each in stages[rank::4]) == held.dense
        assert sum(each.expert for each in stages[rank::4]) == held.expert
    copies = 2 if tied else 1
    extra = (copies - 1) * costs.embedding.held.total
    assert sum(each.total for each in stages) == setting.architecture.parameters + extra


def test_when_collectives_happen_follows_the_zero_stage(make_setting):
    """Nothing to hide behind, three microbatches: gathers and reductions in the numbers that the stage asks for."""
    setting = make_setting("llama-3.1-8b", "dgx-h100:1", 4096, 24)
    whole = work_of(setting, sharded(8, 1))
    gather, reduce = whole.gather_s[0], whole.reduce_s[0]
    assert work_of(setting, sharded(8, 0)).gather_s == (0.0,)
    for zero, exposed in ((1, gather + reduce), (2, gather + 3 * reduce), (3, 3 * (2 * gather + reduce))):
        configuration = replace(sharded(8, zero), microbatches=3)
        work = with_data_parallelism(setting, configuration, Work((0.0,), (0.0,)))
        assert step_time(build(configuration), work).exposed_s == pytest.approx(exposed)


def test_embedding_and_head_stay_on_the_device_when_layers_are_swapped(make_setting):
    """Only layers pass the host link, 4 bytes a parameter each way, and only they take room on the host (16 bytes)."""
    setting = make_setting("llama-3.2-1b", "dgx-h100:1", 4096, 8)
    swapped = Configuration(
        mesh=Mesh(), stage_layers=(16,), microbatch=1, microbatches=8, zero=0, swap_layers=2, recompute=("none",)
    )
    architecture = setting.architecture
    layers = sum(layer.parameters for layer in architecture.layers)
    assert layers < architecture.parameters
    work = with_data_parallelism(setting, swapped, Work((0.0,), (0.0,)))
    link_s = 4 * layers / setting.host_link_bytes_per_s
    assert (work.gather_s, work.reduce_s) == (pytest.approx((link_s,)), pytest.approx((link_s,)))
    assert offloaded_bytes(setting, swapped) == pytest.approx(16 * layers)
