"""Products: the matmuls of one layer, forward and for the gradients of inputs and weights, on a rank with some load."""

from __future__ import annotations

from dataclasses import dataclass, replace

from .kernels import Matmul, matmul_s, products_s
from .rates import Rates


@dataclass(frozen=True, slots=True)
class Products:
    """Seconds. `weight_s` is the part of the backward that can be put off; `routed_*` are experts', in the totals."""

    forward_s: float
    backward_s: float
    weight_s: float
    routed_forward_s: float
    routed_backward_s: float


def layer_products(rates: Rates, found: list[Matmul], parts: int, load: float) -> Products:
    """Of all products of a layer; experts run in `parts` and carry `load` times the mean."""
    loads = [load if each.routed else 1.0 for each in found]
    if rates.times is None:
        times = [_in_parts_s(rates, each, parts) * more for each, more in zip(found, loads, strict=True)]
        return _sums(found, times, times, times)
    by_part = zip(*(each_in_parts_s(rates, each, parts) for each in found), strict=True)
    forward, inputs, weights = ([time * more for time, more in zip(times, loads, strict=True)] for times in by_part)
    return _sums(found, forward, inputs, weights)


def _sums(found: list[Matmul], forward: list[float], inputs: list[float], weights: list[float]) -> Products:
    routed = [each.routed for each in found]
    return Products(
        forward_s=sum(forward),
        backward_s=sum(inputs) + sum(weights),
        weight_s=sum(time for time, skip in zip(weights, routed, strict=True) if not skip),
        routed_forward_s=sum(time for time, own in zip(forward, routed, strict=True) if own),
        routed_backward_s=sum(one + other for one, other, own in zip(inputs, weights, routed, strict=True) if own),
    )


def _in_parts_s(rates: Rates, matmul: Matmul, parts: int) -> float:
    """One product; that of routed experts in so many parts one after another: each is launched, and its groups are
    smaller."""
    if parts == 1 or not matmul.routed:
        return matmul_s(rates, matmul)
    return parts * matmul_s(rates, replace(matmul, m=matmul.m / parts))


def each_in_parts_s(rates: Rates, matmul: Matmul, parts: int) -> tuple[float, float, float]:
    """Likewise, with the products of its gradients."""
    if parts == 1 or not matmul.routed:
        return products_s(rates, matmul)
    forward, inputs, weights = products_s(rates, replace(matmul, m=matmul.m / parts))
    return parts * forward, parts * inputs, parts * weights
