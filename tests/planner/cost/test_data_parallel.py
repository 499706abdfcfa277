"""What follows the pipeline: gradient reduction and parameter gathers, by hand on one node and on many."""

from __future__ import annotations

import pytest

from meshwright.planner.configuration import Configuration, Mesh
from meshwright.planner.cost.data_parallel import with_data_parallelism
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
    setting = make_setting("llama-3.1-8b", "dgx-h100:16", 4096, 128)
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
