"""Work of a layer: FLOPs against the model's own count, times against the roofline."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest

from meshwright.clusters.catalogue import load_cluster
from meshwright.planner.cost.compute import head_compute, layer_compute, layer_matmuls
from meshwright.planner.cost.core import core_s
from meshwright.planner.cost.dispatch import imbalance
from meshwright.planner.cost.kernels import Matmul, matmul_s
from meshwright.planner.cost.rates import Rates, cluster_device, device_rates
from meshwright.planner.cost.sharding import Sharding
from meshwright.planner.families import architecture, bundled_models, load_model
from meshwright.planner.frameworks.framework import Experts
from meshwright.planner.model import Attention, Mlp, Moe

SEQ_LEN = 4096
RATES = Rates(
    peak_flops=1e15,
    attention_flops=5e14,
    matmul=((math.log(1e9), 0.5), (math.log(1e11), 0.8)),
    bandwidth_bytes_per_s=2e12,
    elementwise_bytes_per_s=1.6e12,
    launch_s=4e-6,
    element_bytes=2,
)


def matmul_flops(layer, sharding):
    return sum(2 * each.m * each.n * each.k * each.count for each in layer_matmuls(layer, sharding, SEQ_LEN))


@pytest.mark.parametrize("name", bundled_models())
def test_unsharded_matmuls_are_the_models_flops(name):
    for layer in set(architecture(load_model(name)).layers):
        wanted = layer.forward_flops(SEQ_LEN) - layer.attention.score_flops(SEQ_LEN)
        assert matmul_flops(layer, Sharding()) == pytest.approx(wanted, rel=1e-3)


def test_tensor_parallelism_splits_the_matmuls():
    layer = architecture(load_model("llama-3.1-70b")).layers[0]
    assert matmul_flops(layer, Sharding(tp=8)) == pytest.approx(matmul_flops(layer, Sharding()) / 8)


def test_replicated_key_value_heads_are_computed_more_than_once():
    layer = architecture(load_model("llama-3.1-70b")).layers[0]
    assert matmul_flops(layer, Sharding(tp=16)) > matmul_flops(layer, Sharding()) / 16


def test_experts_compute_as_many_tokens_however_they_are_spread():
    layer = architecture(load_model("mixtral-8x7b")).layers[0]
    whole = matmul_flops(layer, Sharding())
    assert matmul_flops(layer, Sharding(ep=8)) == pytest.approx(whole)
    assert matmul_flops(layer, Sharding(tp=4, sp=True, ep=2, etp=4)) == pytest.approx(whole / 4, rel=0.01)


def test_a_large_matmul_is_bound_by_flops_and_a_thin_one_by_memory():
    large, thin = Matmul(8192, 8192, 8192), Matmul(1, 8192, 8192)
    assert matmul_s(RATES, large) == pytest.approx(2 * 8192**3 / (1e15 * 0.8) + 4e-6)
    assert matmul_s(RATES, thin) == pytest.approx((8192**2 + 2 * 8192) * 2 / 2e12 + 4e-6)


def test_efficiency_is_interpolated_on_the_logarithm():
    assert RATES.matmul_fraction(1e10) == pytest.approx(0.65)
    assert RATES.matmul_fraction(1e6) == 0.5
    assert RATES.matmul_fraction(1e15) == 0.8


def test_a_step_of_a_layer_takes_between_two_and_three_times_its_forward_again():
    layer = architecture(load_model("llama-3.1-70b")).layers[0]
    compute = layer_compute(layer, Sharding(), SEQ_LEN, RATES)
    assert 2 < compute.backward_s / compute.forward_s < 2.5
    assert compute.attention_forward_s < compute.forward_s


def test_a_mixed_cluster_is_priced_as_its_slowest_device():
    slow, fast = load_cluster("dgx-a100-80g"), load_cluster("dgx-h100")
    groups = (fast.node_groups[0], slow.node_groups[0])
    mixed = fast.model_copy(update={"node_groups": groups})
    assert cluster_device(mixed, "bf16") == slow.node_groups[0].device
    assert device_rates(cluster_device(mixed, "bf16"), "bf16").peak_flops == 312e12


def test_biases_of_experts_move_their_outputs_in_fp32():
    """Adding bias times probability expert by expert, counted pass by pass over the routed tokens' outputs: forward
    4 + (2 + 4 + 4) + (4 + 4) + (4 + 2) bytes, backward 2 + 4, 4 + 2, twice (4 + 4 + 4), 2 + 2."""
    moe = Moe(experts=8, top_k=2, expert=Mlp(width=64, gated=True))
    plain = replace(architecture(load_model("mixtral-8x7b")).layers[0], ffn=moe)
    biased = replace(plain, ffn=replace(moe, expert=replace(moe.expert, bias=True)))
    forward, backward = 4 + 10 + 8 + 6, 6 + 6 + 24 + 4
    routed = SEQ_LEN * 2 * plain.hidden
    added = layer_compute(biased, Sharding(), SEQ_LEN, RATES), layer_compute(plain, Sharding(), SEQ_LEN, RATES)
    seconds = [each.forward_s + each.backward_s for each in added]
    assert seconds[0] - seconds[1] == pytest.approx(routed * (forward + backward) / 1.6e12)


@pytest.mark.parametrize(("head_dim", "times"), [(64, 1.5), (128, 1.0), (192, 1.0)])
def test_narrow_heads_attend_more_slowly(head_dim, times):
    attention = Attention(heads=32, kv_heads=32, head_dim=head_dim, value_dim=head_dim)
    rates = replace(RATES, narrow_heads=2 / 3)
    plain, narrow = (core_s(attention, Sharding(), SEQ_LEN, each)[0] - 4e-6 for each in (RATES, rates))
    assert narrow == pytest.approx(times * plain)


def test_each_further_token_takes_the_head_once_more_and_a_projection():
    one, two = (head_compute(1024, 32000, Sharding(), SEQ_LEN, RATES, further) for further in (0, 1))
    join = matmul_s(RATES, Matmul(SEQ_LEN, 1024, 2048))
    assert two.forward_s == pytest.approx(2 * one.forward_s + join)
    assert two.backward_s == pytest.approx(2 * one.backward_s + 2 * join)


def test_routing_that_nothing_balances_slows_the_experts_matmuls_alone():
    layer = architecture(load_model("mixtral-8x7b")).layers[0]
    sharding = Sharding(ep=8)
    even = layer_compute(layer, sharding, SEQ_LEN, RATES)
    skewed = layer_compute(layer, sharding, SEQ_LEN, replace(RATES, routing=Experts(spread=0.25)))
    experts_s = sum(matmul_s(RATES, each) for each in layer_matmuls(layer, sharding, SEQ_LEN) if each.routed)
    assert skewed.forward_s - even.forward_s == pytest.approx((imbalance(layer.ffn, 8, 0.25) - 1) * experts_s)
