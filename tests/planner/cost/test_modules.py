"""What selective recomputation repeats, module by module, and what gradient accumulation adds."""

from __future__ import annotations

from dataclasses import replace

import pytest

from meshwright.clusters.catalogue import load_cluster
from meshwright.planner.cost.compute import accumulated, layer_compute, module_s
from meshwright.planner.cost.rates import Rates, cluster_device, device_rates
from meshwright.planner.cost.sharding import Sharding
from meshwright.planner.families import architecture, load_model
from meshwright.planner.model import Layer

DENSE, EXPERTS = "llama-3.1-8b", "deepseek-v3"
SEQ_LEN = 4096


@pytest.fixture(scope="module")
def rates() -> Rates:
    return device_rates(cluster_device(load_cluster("dgx-h100"), "bf16"), "bf16")


def last_layer(name: str) -> Layer:
    return architecture(load_model(name)).layers[-1]


@pytest.mark.parametrize(
    ("name", "modules"),
    [
        (DENSE, ("core_attn", "layernorm", "mlp")),
        (EXPERTS, ("core_attn", "layernorm", "mla_up_proj", "moe")),
    ],
)
def test_modules_are_parts_of_their_layer(name: str, modules: tuple, rates: Rates) -> None:  # type: ignore[type-arg]
    layer, sharding = last_layer(name), Sharding()
    parts = [module_s(layer, sharding, SEQ_LEN, rates, module) for module in modules]
    assert min(parts) > 0
    assert sum(parts) < layer_compute(layer, sharding, SEQ_LEN, rates).forward_s


def test_a_layer_has_only_its_own_modules(rates: Rates) -> None:
    dense, routed = last_layer(DENSE), last_layer(EXPERTS)
    for module in ("moe", "mla_up_proj", "moe_act"):
        assert module_s(dense, Sharding(), SEQ_LEN, rates, module) == 0
    assert module_s(routed, Sharding(), SEQ_LEN, rates, "mlp") == 0
    act_s, moe_s = (module_s(routed, Sharding(), SEQ_LEN, rates, each) for each in ("moe_act", "moe"))
    assert 0 < act_s < moe_s


def test_the_feed_forward_block_is_two_matmuls_and_an_activation(rates: Rates) -> None:
    """Of Llama 8B: gate and up together, down, and three widths of 16 bits moved between; no other figure."""
    flat = replace(rates, matmul=((0.0, 0.5),), bandwidth_bytes_per_s=1e30)
    flops = 2 * SEQ_LEN * 4096 * 3 * 14336
    moved = 3 * SEQ_LEN * 14336 * 2
    wanted = flops / (flat.peak_flops * 0.5) + moved / flat.elementwise_bytes_per_s + 3 * flat.launch_s
    assert module_s(last_layer(DENSE), Sharding(), SEQ_LEN, flat, "mlp") == pytest.approx(wanted)


@pytest.mark.parametrize(("name", "rank"), [("deepseek-v3", 1536), ("deepseek-v2-lite", 2048)])
def test_up_projections_make_queries_too(name: str, rank: int, rates: Rates) -> None:
    """Queries of 192 a head from a latent (of Lite from 2048 hidden states), keys and values of 128 each from 512."""
    layer = last_layer(name)
    flat = replace(rates, matmul=((0.0, 0.5),), bandwidth_bytes_per_s=1e30)
    flops = 2 * SEQ_LEN * layer.attention.heads * (rank * 192 + 512 * 256)
    wanted = flops / (flat.peak_flops * 0.5) + 2 * flat.launch_s
    assert module_s(layer, Sharding(), SEQ_LEN, flat, "mla_up_proj") == pytest.approx(wanted)


def test_accumulation_adds_its_traffic_to_the_backward_alone(rates: Rates) -> None:
    compute = layer_compute(last_layer(DENSE), Sharding(), SEQ_LEN, rates)
    adding = replace(rates, accumulate_bytes=10.0, bandwidth_bytes_per_s=2e12)
    added = accumulated(compute, adding, 1e9)
    assert added.backward_s - compute.backward_s == pytest.approx(10e9 / 2e12)
    assert replace(added, backward_s=compute.backward_s) == compute
    assert accumulated(compute, rates, 1e9) == compute
