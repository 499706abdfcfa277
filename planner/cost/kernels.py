"""Kernels: what one matmul and one element-wise pass take on a device."""

from __future__ import annotations

from dataclasses import dataclass

from .rates import Rates


@dataclass(frozen=True, slots=True)
class Matmul:
    """[m, k] times [k, n], `count` times; a grouped one is a single launch."""

    m: float
    n: float
    k: float
    count: float = 1
    grouped: bool = False
    routed: bool = False  # of experts


def matmul_s(rates: Rates, matmul: Matmul) -> float:
    """Seconds of one matmul. A grouped one is priced at the efficiency of one of its groups."""
    m, n, k = matmul.m, matmul.n, matmul.k
    flops = 2.0 * m * n * k
    sustained = rates.peak_flops * rates.matmul_fraction(flops) * (rates.experts if matmul.routed else 1.0)
    moved = (m * k + k * n + m * n) * rates.element_bytes
    one = max(flops / sustained, moved / rates.bandwidth_bytes_per_s)
    return matmul.count * one + (1 if matmul.grouped else matmul.count) * rates.launch_s


def elementwise_s(rates: Rates, moved_bytes: float, kernels: int) -> float:
    """Seconds of kernels that are bound by memory."""
    return moved_bytes / rates.elementwise_bytes_per_s + kernels * rates.launch_s
