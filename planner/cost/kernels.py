"""Kernels: what one matmul and one element-wise pass take on a device."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from .rates import Rates

if TYPE_CHECKING:
    from ...clusters.shape_times import ShapeTimes


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


def products_s(rates: Rates, matmul: Matmul) -> tuple[float, float, float]:
    """Seconds of one matmul forward, and of those that make the gradients of its input and of its weight: as measured,
    or three alike."""
    times = rates.times
    if times is not None:
        found = _measured_s(times, matmul)
        if found is not None:
            share = rates.matmul_share * (rates.experts if matmul.routed else 1.0)
            forward, inputs, weights = found
            return forward / share, inputs / share, weights / share
    forward = matmul_s(rates, matmul)
    return forward, forward, forward


def _measured_s(times: ShapeTimes, matmul: Matmul) -> tuple[float, ...] | None:
    """A grouped product whose like was not measured is so many, one after another."""
    m, n, k = matmul.m, matmul.n, matmul.k
    if matmul.grouped and times.has("grouped"):
        return times.seconds("grouped", matmul.count, m, n, k)
    found = times.seconds("matmul", m, n, k)
    return None if found is None else tuple(matmul.count * each for each in found)


def forward_s(rates: Rates, matmul: Matmul) -> float:
    """Seconds of one matmul forward, as measured or by the curve."""
    return products_s(rates, matmul)[0]


def elementwise_s(rates: Rates, moved_bytes: float, kernels: int) -> float:
    """Seconds of kernels that are bound by memory."""
    return moved_bytes / rates.elementwise_bytes_per_s + kernels * rates.launch_s
