"""One kernel: bound by arithmetic or by memory, launched once or many times."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest

from meshwright.planner.cost.kernels import Matmul, elementwise_s, matmul_s
from meshwright.planner.cost.rates import Rates

RATES = Rates(
    peak_flops=1e14,
    attention_flops=5e13,
    matmul=((math.log(1e6), 0.2), (math.log(1e10), 0.6)),
    bandwidth_bytes_per_s=1e12,
    elementwise_bytes_per_s=8e11,
    launch_s=5e-6,
    element_bytes=2,
)


def test_the_table_is_linear_in_the_logarithm_and_constant_beyond_its_ends() -> None:
    at = [RATES.matmul_fraction(flops) for flops in (1.0, 1e6, 1e8, 1e10, 1e13)]
    assert at == pytest.approx([0.2, 0.2, 0.4, 0.6, 0.6])


def test_groups_share_a_launch_and_copies_do_not() -> None:
    one = Matmul(512, 1024, 256)
    alone_s = matmul_s(RATES, one) - RATES.launch_s
    assert matmul_s(RATES, replace(one, count=8)) == pytest.approx(8 * (alone_s + 5e-6))
    assert matmul_s(RATES, replace(one, count=8, grouped=True)) == pytest.approx(8 * alone_s + 5e-6)


def test_experts_reach_their_share_where_arithmetic_binds_and_all_of_it_where_memory_does() -> None:
    slower = replace(RATES, experts=0.5)
    large, thin = Matmul(4096, 4096, 4096, routed=True), Matmul(1, 4096, 4096, routed=True)
    launch_s = RATES.launch_s
    assert matmul_s(slower, large) - launch_s == pytest.approx(2 * (matmul_s(RATES, large) - launch_s))
    assert matmul_s(slower, thin) == matmul_s(RATES, thin)
    assert matmul_s(slower, replace(large, routed=False)) == matmul_s(RATES, large)


def test_elementwise_kernels_pay_their_bytes_and_each_launch() -> None:
    assert elementwise_s(RATES, 8e11, 3) == pytest.approx(1 + 15e-6)
    assert elementwise_s(RATES, 0, 2) == pytest.approx(10e-6)
