"""Passes: what is no product and no attention, where kernels of the device were measured by shape."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from ..model import Layer, Mlp
from .rates import Rates
from .sharding import Sharding


@dataclass(frozen=True, slots=True)
class Passes:
    """Element-wise kernels of a layer that have measured times: seconds of both directions, and what they would have
    counted otherwise, forward."""

    forward_s: float = 0.0
    backward_s: float = 0.0
    priced_bytes: float = 0.0
    kernels: int = 0


NOTHING = Passes()


def both_s(rates: Rates, name: str, *sizes: float) -> tuple[float, float] | None:
    """Seconds forward and backward of an element-wise operation, or None where it was not measured."""
    times = (rates.sixteen_bit or rates).times
    found = times.seconds(name, *sizes) if times is not None else None
    if found is None:
        return None
    more = rates.elementwise_bytes
    return (more * found[0], more * found[-1])


def norms_s(rates: Rates, tokens: float, hidden: int, count: int) -> tuple[float, float] | None:
    """Forward and backward of so many norms."""
    found = both_s(rates, "norm", tokens, hidden)
    return None if found is None else (count * found[0], count * found[1])


def layer_passes_s(layer: Layer, sharding: Sharding, seq_len: int, rates: Rates) -> Passes:
    """Norms, residuals and gated activations of one layer on one rank; what else there is stays with its bytes."""
    if rates.times is None and rates.sixteen_bit is None:
        return NOTHING
    own, hidden = sharding.tokens(seq_len) / sharding.sequence_split, layer.hidden
    total = NOTHING
    for count, elements, found in (
        (layer.norms, 2 * own * hidden, both_s(rates, "norm", own, hidden)),
        # the gradients of both branches are added up in the backward, as large as the sum of the forward
        (2, 3 * own * hidden, both_s(rates, "residual", own * hidden)),
        *(
            (1, 3 * tokens * width, both_s(rates, "activation", tokens, width))
            for tokens, width in _gates(layer, sharding, seq_len)
        ),
    ):
        if found is not None:
            total = _with(total, count, elements * rates.element_bytes, found)
    return total


def _gates(layer: Layer, sharding: Sharding, seq_len: int) -> Iterator[tuple[float, float]]:
    """Tokens and width of every gated activation of a layer. Experts' are one kernel over all their tokens."""
    tokens, ffn = sharding.tokens(seq_len), layer.ffn
    if isinstance(ffn, Mlp):
        if ffn.gated:
            yield tokens, ffn.width / sharding.tp
        return
    if ffn.shared is not None and ffn.shared.gated:
        yield tokens, ffn.shared.width / sharding.tp
    if ffn.expert.gated:
        yield tokens / sharding.sequence_split * ffn.top_k * sharding.etp, ffn.expert.width / sharding.etp


def _with(total: Passes, count: int, each_bytes: float, found: tuple[float, float]) -> Passes:
    return Passes(
        total.forward_s + count * found[0],
        total.backward_s + count * found[1],
        total.priced_bytes + count * each_bytes,
        total.kernels + count,
    )


def optimizer_s(rates: Rates, parameters: float) -> float | None:
    """Seconds of the norm of the gradients and AdamW's step over so many parameters, or None where not measured."""
    times = (rates.sixteen_bit or rates).times
    found = times.seconds("optimizer", parameters) if times is not None else None
    return None if found is None else rates.elementwise_bytes * found[0]
