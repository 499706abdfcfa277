"""Prices where kernels were measured by shape: each product at its own time, everything else as before."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import replace

import pytest

from meshwright.clusters.devices import device_mapping
from meshwright.clusters.schema import Calibration, Device
from meshwright.clusters.shapes import KINDS, Overlap, Shapes
from meshwright.clusters.topology import GroupPaths
from meshwright.planner.cost.compute import (
    embedding_compute,
    head_compute,
    layer_compute,
    layer_matmuls,
    module_s,
    routed_launches_s,
)
from meshwright.planner.cost.context import Links
from meshwright.planner.cost.core import core_s
from meshwright.planner.cost.exchange import Groups, experts_s, least_s
from meshwright.planner.cost.kernels import Matmul, forward_s, matmul_s, products_s
from meshwright.planner.cost.operations import by_rates
from meshwright.planner.cost.passes import layer_passes_s, optimizer_s
from meshwright.planner.cost.rates import PLAIN, costs_of, device_rates
from meshwright.planner.cost.sharding import Sharding
from meshwright.planner.families import architecture, load_model
from meshwright.planner.frameworks.framework import Costs, Framework

MODEL = architecture(load_model("llama-3.1-8b"))
LAYER, ONE = MODEL.layers[0], Sharding()
SEQ_LEN = 1024
PACE = {"forward": 1.0, "input": 2.0, "weight": 3.0, "backward": 4.0, "step": 1.0, "to_device": 1.0, "to_host": 1.0}


def operation(name, each_s):
    """Every element of work takes as long, each part its own times that."""
    from meshwright.clusters.shapes import work

    kind = KINDS[name]
    sizes = [tuple(float(2 ** (4 + 3 * number + place)) for place in range(len(kind.sizes))) for number in range(4)]
    rows = [(*each, *(PACE[part] * each_s * max(work(name, each)) for part in kind.parts), 0.0) for each in sizes]
    given = {"name": name, "sizes": kind.sizes, "parts": kind.parts, "chosen": "table", "points": rows}
    return {**given, "reach": [4.0] * len(kind.sizes)}


def device(*names, dtype="bf16", each_s=1e-12, overlap=None, base="h100-sxm-80gb"):
    plain = Device.model_validate(device_mapping(base))
    shapes = None
    if names:
        shapes = Shapes.model_validate(
            {
                "dtype": dtype,
                "peak_flops": plain.peak_flops[dtype],
                "memory_bandwidth": plain.memory_bandwidth_bytes_per_s,
                "operations": [operation(name, each_s) for name in names],
            }
        )
    calibration = plain.calibration.model_copy(update={"shapes": shapes, "overlap": overlap})
    return plain.model_copy(update={"calibration": calibration})


def rates(*names, framework=PLAIN, precision="bf16", **how):
    return device_rates(device(*names, **how), precision, framework)


def test_the_three_products_have_times_of_their_own():
    found = products_s(rates("matmul"), Matmul(1024, 4096, 512))
    assert found[0] == pytest.approx(1e-12 * 1024 * 4096 * 512, rel=0.2)
    assert [each / found[0] for each in found] == pytest.approx([1, 2, 3], rel=0.01)
    assert forward_s(rates("matmul"), Matmul(1024, 4096, 512)) == found[0]


def test_without_shapes_they_are_alike_and_what_they_were():
    plain, matmul = rates(), Matmul(1024, 4096, 512)
    assert products_s(plain, matmul) == (matmul_s(plain, matmul),) * 3


@pytest.mark.parametrize("how", [{"dtype": "fp16"}, {"precision": "fp16"}])
def test_another_number_format_is_not_asked(how):
    assert rates("matmul", **how).times is None


def test_in_fp8_attention_and_head_ask_the_16_bit_times_and_products_do_not():
    found = rates("matmul", "attention", "norm", precision="fp8")
    plain = rates(precision="fp8")
    assert products_s(found, Matmul(512, 512, 512)) == products_s(plain, Matmul(512, 512, 512))
    assert core_s(LAYER.attention, ONE, SEQ_LEN, found) != core_s(LAYER.attention, ONE, SEQ_LEN, plain)
    assert layer_passes_s(LAYER, ONE, SEQ_LEN, found).kernels == LAYER.norms


@pytest.mark.parametrize("parts", [1, 4])
def test_ways_to_send_tokens_are_compared_by_the_backward_that_a_step_has(parts):
    """Gradients of experts take five times what the forward does here, not twice."""
    layer, sharding = architecture(load_model("olmoe-1b-7b")).layers[0], replace(ONE, dispatch_chunks=parts)
    alone = GroupPaths(1, 1, None, None)
    found = rates("matmul")
    forward, backward = layer_compute(layer, sharding, SEQ_LEN, found, 1.0).experts_s
    assert backward / forward == pytest.approx(5, rel=0.01)
    launches = routed_launches_s(sharding, found)
    groups = Groups(alone, Links(alone, alone, alone), alone, alone)
    seen = experts_s(layer, sharding, SEQ_LEN, found, groups, True)
    assert seen == pytest.approx((forward + launches, backward + 2 * launches))
    assert least_s(layer, sharding, SEQ_LEN, found, groups, True) == pytest.approx(seen)


def test_a_layer_goes_back_by_input_and_weight():
    found = rates("matmul")
    compute, plain = (layer_compute(LAYER, ONE, SEQ_LEN, each) for each in (found, rates()))
    products = [products_s(found, each) for each in layer_matmuls(LAYER, ONE, SEQ_LEN)]
    others = [plain.forward_s, plain.backward_s]
    curve = sum(matmul_s(rates(), each) for each in layer_matmuls(LAYER, ONE, SEQ_LEN))
    assert compute.forward_s - sum(each[0] for each in products) == pytest.approx(others[0] - curve)
    assert compute.backward_s - sum(a + b for _, a, b in products) == pytest.approx(others[1] - 2 * curve)
    assert compute.weight_s == pytest.approx(sum(each[2] for each in products))


def test_a_grouped_product_is_so_many_where_its_like_was_not_measured():
    one, many = Matmul(256, 512, 512), Matmul(256, 512, 512, 8, True, True)
    alone = rates("matmul")
    assert products_s(alone, many) == pytest.approx([8 * each for each in products_s(alone, one)])
    grouped = rates("matmul", "grouped", each_s=2e-12)
    assert products_s(grouped, many)[0] == grouped.times.seconds("grouped", 8, 256, 512, 512)[0]


def test_attention_asks_for_its_heads_and_keeps_their_share():
    found = rates("attention")
    whole = found.times.seconds("attention", LAYER.attention.heads, SEQ_LEN, LAYER.attention.head_dim)
    assert core_s(LAYER.attention, ONE, SEQ_LEN, found) == pytest.approx(whole)
    half = core_s(LAYER.attention, Sharding(cp=2), SEQ_LEN, found)
    assert half == pytest.approx([each / 2 for each in whole])
    tp, batch = (core_s(LAYER.attention, Sharding(**each), SEQ_LEN, found) for each in ({"tp": 2}, {"microbatch": 2}))
    heads = LAYER.attention.heads
    assert tp == pytest.approx(found.times.seconds("attention", heads / 2, SEQ_LEN, 128))
    assert batch == pytest.approx(found.times.seconds("attention", heads * 2, SEQ_LEN, 128))


def test_what_was_measured_leaves_the_bytes_and_the_rest_stays():
    plain, found = rates(), rates("norm", "residual", "activation")
    passes = layer_passes_s(LAYER, ONE, SEQ_LEN, found)
    assert passes.kernels == LAYER.norms + 2 + 1
    own = SEQ_LEN * LAYER.hidden
    counted = LAYER.norms * 2 * own + 2 * 3 * own + 3 * SEQ_LEN * LAYER.ffn.width
    assert passes.priced_bytes == counted * plain.element_bytes
    compute, before = (layer_compute(LAYER, ONE, SEQ_LEN, each) for each in (found, plain))
    removed = passes.priced_bytes / plain.elementwise_bytes_per_s + passes.kernels * plain.launch_s
    assert compute.forward_s == pytest.approx(before.forward_s - removed + passes.forward_s)
    assert compute.backward_s == pytest.approx(before.backward_s - 2 * removed + passes.backward_s)


def test_ends_optimizer_and_modules():
    found = rates("matmul", "norm", "loss", "embedding", "optimizer")
    times = found.times
    forward, backward = times.seconds("embedding", SEQ_LEN, 4096, 1000)
    embedding = embedding_compute(4096, ONE, SEQ_LEN, found, 1000)
    assert (embedding.forward_s, embedding.backward_s) == (forward, backward)
    head = head_compute(4096, 32000, ONE, SEQ_LEN, found)
    matmul, norm = times.seconds("matmul", SEQ_LEN, 32000, 4096), times.seconds("norm", SEQ_LEN, 4096)
    loss = times.seconds("loss", SEQ_LEN, 32000)
    assert head.forward_s == pytest.approx(matmul[0] + norm[0] + loss[0])
    assert head.backward_s == pytest.approx(matmul[1] + matmul[2] + norm[1] + loss[1])
    assert optimizer_s(found, 1e6) == times.seconds("optimizer", 1e6)[0]
    assert optimizer_s(rates(), 1e6) is None
    assert module_s(LAYER, ONE, SEQ_LEN, found, "layernorm") == pytest.approx(LAYER.norms * norm[0])


def test_a_framework_s_shares_count_as_they_did():
    slow = Framework(name="slow", title="", source="", costs=Costs(matmul=0.5, attention=0.25, elementwise=2.0))
    one, other = (rates("matmul", "attention", "norm", framework=each) for each in (PLAIN, slow))
    matmul = Matmul(512, 512, 512)
    assert products_s(other, matmul) == pytest.approx([2 * each for each in products_s(one, matmul)])
    cores = [core_s(LAYER.attention, ONE, SEQ_LEN, each) for each in (one, other)]
    assert cores[1] == pytest.approx([4 * each for each in cores[0]])
    passes = [layer_passes_s(LAYER, ONE, SEQ_LEN, each).forward_s for each in (one, other)]
    assert passes[1] == pytest.approx(2 * passes[0])


def test_a_measured_overlap_takes_the_place_of_the_framework_s_but_on_a_cpu():
    framework = Framework(name="f", title="", source="", costs=Costs(steal=0.3))
    overlap = Overlap(compute=1.25, collective=1.1)
    assert costs_of(framework, device()).steal == 0.3
    assert costs_of(framework, device(overlap=overlap)).steal == pytest.approx(0.2)
    assert device_rates(device(overlap=overlap), "bf16", framework).steal == pytest.approx(0.2)
    assert costs_of(framework, device(overlap=overlap, base="cpu-core")).steal == 0.0


@pytest.mark.parametrize("name", [name for name in KINDS if name != "copy"])
def test_the_price_without_shapes_of_every_operation(name):
    """One for each part, above zero, and more for more work."""
    kind = KINDS[name]
    small, large = (by_rates(rates(), name, tuple(each for _ in kind.sizes)) for each in (64.0, 512.0))
    assert len(small) == len(kind.parts)
    assert all(0 < a < b for a, b in zip(small, large, strict=True))


def test_the_price_without_shapes_is_the_cost_model_s():
    plain = rates()
    assert by_rates(plain, "matmul", (64.0, 128.0, 256.0)) == (matmul_s(plain, Matmul(64, 128, 256)),) * 3
    attention = replace(LAYER.attention, kv_heads=LAYER.attention.heads)
    expected = core_s(attention, ONE, SEQ_LEN, plain)
    assert by_rates(plain, "attention", (attention.heads, SEQ_LEN, attention.head_dim)) == pytest.approx(expected)
    embedding = embedding_compute(512, ONE, SEQ_LEN, plain)
    assert by_rates(plain, "embedding", (SEQ_LEN, 512, 100)) == (embedding.forward_s, embedding.backward_s)
    assert by_rates(plain, "copy", (1e6,)) is None


def test_planning_without_shapes_does_not_load_numpy_for_them():
    code = (
        "import sys\n"
        "from meshwright.clusters import load_cluster\n"
        "from meshwright.planner.cost.rates import device_rates\n"
        "device_rates(load_cluster('dgx-h100').node_groups[0].device, 'bf16')\n"
        "sys.exit('meshwright.clusters.shape_times' in sys.modules or 'numpy' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_the_bundled_have_none():
    assert Calibration.model_fields["shapes"].default is None
    assert rates().times is None
