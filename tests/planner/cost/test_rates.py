"""Rates of a device under a framework: its costs scale the kernel tables, on a kind of device by its own figures."""

from __future__ import annotations

import pytest

from meshwright.clusters.devices import device_mapping
from meshwright.clusters.local import cpu_cluster
from meshwright.clusters.schema import Device
from meshwright.planner.cost.rates import CEILING, PLAIN, device_rates
from meshwright.planner.frameworks.framework import Costs, Framework, Keeps, Overrides

SLOW = Framework(
    name="slow",
    title="",
    source="",
    costs=Costs(matmul=0.5, attention=0.25, elementwise=2.0, experts=0.8, host_layer_s=1e-3),
    on={"h100": Overrides(matmul=0.75, host_layer_s=2e-3)},
    keeps=Keeps(scores=True, dropout=True),
    accumulate_bytes=6,
)


def device(name: str) -> Device:
    return Device.model_validate(device_mapping(name))


def fractions(name: str, framework: Framework) -> list[float]:
    return [fraction for _, fraction in device_rates(device(name), "bf16", framework).matmul]


def test_costs_scale_the_kernel_tables() -> None:
    plain, slow = (device_rates(device("a100-sxm-80gb"), "bf16", each) for each in (PLAIN, SLOW))
    assert [b / a for (_, a), (_, b) in zip(plain.matmul, slow.matmul, strict=True)] == pytest.approx(
        [0.5] * len(plain.matmul)
    )
    assert slow.attention_flops == pytest.approx(plain.attention_flops / 4)
    assert slow.elementwise_bytes_per_s == pytest.approx(plain.elementwise_bytes_per_s / 2)
    assert (slow.peak_flops, slow.bandwidth_bytes_per_s) == (plain.peak_flops, plain.bandwidth_bytes_per_s)
    assert (slow.scores, slow.dropout, slow.accumulate_bytes, slow.experts) == (True, True, 6, 0.8)
    assert (plain.scores, plain.dropout, plain.accumulate_bytes, plain.experts) == (False, False, 0, 1)


def test_a_kind_of_device_has_figures_of_its_own_for_what_is_named() -> None:
    """Every H100 alike, and H200, which is the same chip; A100 takes the general figure, as what is not overridden."""
    for name, share in (("h100-sxm-80gb", 0.75), ("h200-sxm-141gb", 0.75), ("a100-sxm-40gb", 0.5)):
        assert fractions(name, SLOW) == pytest.approx([share * each for each in fractions(name, PLAIN)])
    assert SLOW.costs_on(device("h100-sxm-80gb")) == SLOW.costs.model_copy(
        update={"matmul": 0.75, "host_layer_s": 2e-3}
    )


def test_no_share_lifts_a_product_beyond_what_any_reaches() -> None:
    fast = PLAIN.model_copy(update={"costs": Costs(matmul=1.2)})
    plain, lifted = fractions("a100-sxm-80gb", PLAIN), fractions("a100-sxm-80gb", fast)
    assert lifted[0] == pytest.approx(1.2 * plain[0])
    assert max(lifted) == CEILING < 1.2 * max(plain)


def test_nothing_fitted_reaches_a_cpu() -> None:
    """Neither the bundled share of one nor this machine's, which is named after its processor."""
    detected = cpu_cluster(2).node_groups[0].device
    assert SLOW.costs_on(detected) == SLOW.costs_on(device("cpu-core")) == Costs()
    assert device_rates(detected, "bf16", SLOW).matmul == device_rates(detected, "bf16", PLAIN).matmul
    assert fractions("cpu-core", SLOW) == fractions("cpu-core", PLAIN)


def test_fp8_keeps_a_rate_for_what_stays_in_16_bits() -> None:
    wide, narrow = (device_rates(device("h100-sxm-80gb"), each, SLOW) for each in ("bf16", "fp8"))
    assert narrow.sixteen_bit == wide
    assert narrow.peak_flops == pytest.approx(2 * wide.peak_flops, rel=1e-3)
    assert narrow.attention_flops == wide.attention_flops
    assert wide.sixteen_bit is None
