"""One operation of clusters/shapes.py at given sizes, by the device's curve and rates alone: what measured shapes are
compared with, and what prices it where none were measured."""

from __future__ import annotations

from .compute import CROSS_ENTROPY_BYTES, ELEMENTWISE_BACKWARD
from .core import FUSED_BACKWARD, width_share
from .data_parallel import ADAMW_BYTES
from .kernels import Matmul, elementwise_s, matmul_s
from .rates import Rates

_ELEMENTS = {"norm": 2, "activation": 3}  # moved forward, per element of the output


def by_rates(rates: Rates, name: str, sizes: tuple[float, ...]) -> tuple[float, ...] | None:
    """Seconds of each part; None for copies, which no kernel makes."""
    if name in ("matmul", "grouped"):
        return (_product_s(rates, sizes),) * 3
    if name == "attention":
        heads, tokens, width = sizes
        forward = 2 * heads * tokens * (tokens + 1) * width / (rates.attention_flops * width_share(width, rates))
        return forward + rates.launch_s, FUSED_BACKWARD * forward + rates.launch_s
    if name == "embedding":
        moved = sizes[0] * sizes[1]
        forward = elementwise_s(rates, 2 * moved * rates.element_bytes, 2)
        return forward, elementwise_s(rates, moved * (rates.element_bytes + 8), 1)
    if name == "loss":
        moved = sizes[0] * sizes[1]
        return tuple(elementwise_s(rates, each * moved, 3) for each in CROSS_ENTROPY_BYTES)
    return _elementwise_s(rates, name, sizes)


def _product_s(rates: Rates, sizes: tuple[float, ...]) -> float:
    *groups, m, n, k = sizes
    return matmul_s(rates, Matmul(m, n, k, groups[0], True, True) if groups else Matmul(m, n, k))


def _elementwise_s(rates: Rates, name: str, sizes: tuple[float, ...]) -> tuple[float, ...] | None:
    if name == "residual":
        return (elementwise_s(rates, 3 * sizes[0] * rates.element_bytes, 1),)
    if name == "optimizer":
        precision = "fp32" if rates.element_bytes == 4 else "bf16"
        return (elementwise_s(rates, ADAMW_BYTES[precision] * sizes[0], 1),)
    if name not in _ELEMENTS:
        return None
    forward = elementwise_s(rates, _ELEMENTS[name] * sizes[0] * sizes[1] * rates.element_bytes, 1)
    return forward, ELEMENTWISE_BACKWARD * forward
