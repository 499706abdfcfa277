"""Projected: what GaLore (arXiv:2403.03507, algorithm 2) makes of the matrices inside of layers.

It steps attention and feed-forward matrices [m, n] in a space of `rank` dimensions, where they are larger than that;
experts' stacks, routers, embedding, head and vectors step as AdamW does (`runtime/optimizer.py`). Every rank that holds
a part of a matrix has all of its moments and its space: ZeRO does not shard them.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import astuple, dataclass

from ..model import Attention, Layer, Mlp
from ..optimizer import GaLore, States
from .declared import STATE_BYTES

SPACE_BYTES = 4
MOVED_BYTES = 32
"""Per parameter, in float32 as `kernels/galore.py` goes through it: the gradient read for its norm and for the
projection (8), what comes back written (4), the weight shrunk (8) and that added to it (12)."""


@dataclass(frozen=True, slots=True)
class Projected:
    """Sums over matrices: parameters, elements of one moment and of the spaces; FLOPs of a step and of a search for the
    spaces."""

    parameters: float = 0.0
    moments: float = 0.0
    spaces: float = 0.0
    step_flops: float = 0.0
    search_flops: float = 0.0

    def __add__(self, other: Projected) -> Projected:
        return Projected(*(a + b for a, b in zip(astuple(self), astuple(other), strict=True)))

    def __sub__(self, other: Projected) -> Projected:
        return Projected(*(a - b for a, b in zip(astuple(self), astuple(other), strict=True)))

    def states_bytes(self, states: States) -> float:
        """Of moments and spaces."""
        return 2 * STATE_BYTES[states] * self.moments + SPACE_BYTES * self.spaces

    def seconds(self, galore: GaLore, bytes_per_s: float, flops_per_s: float) -> float:
        """Of a step at the least: weights and gradients through memory, two products with the space, and the share of
        a search that falls to it, all of them at the peak in float32."""
        flops = self.step_flops + self.search_flops / galore.every
        return MOVED_BYTES * self.parameters / bytes_per_s + flops / flops_per_s


NOTHING = Projected()


def projected(layer: Layer, galore: GaLore) -> Projected:
    """Of a layer that is whole on its rank, as GaLore asks."""
    total = NOTHING
    for rows, columns in matrices(layer):
        short, long = sorted((rows, columns))
        if short > galore.rank:
            size = rows * columns
            search = 6 * long * short**2 + 11 * short**3  # Golub and Van Loan, Matrix Computations, section 8.6
            total += Projected(size, galore.rank * long, galore.rank * short, 4.0 * size * galore.rank, float(search))
    return total


def matrices(layer: Layer) -> Iterator[tuple[int, int]]:
    """Attention's and those of dense blocks and shared experts: outputs and inputs."""
    yield from _attention(layer.attention, layer.hidden)
    dense = layer.ffn if isinstance(layer.ffn, Mlp) else layer.ffn.shared
    if dense is not None:
        yield from [(dense.width, layer.hidden)] * (2 if dense.gated else 1)
        yield layer.hidden, dense.width


def _attention(attention: Attention, hidden: int) -> Iterator[tuple[int, int]]:
    latent = attention.latent
    yield hidden, attention.output_width
    if latent is None:
        yield attention.query_width, hidden
        yield attention.key_width, hidden
        yield attention.value_width, hidden
        return
    if latent.q_rank is not None:
        yield latent.q_rank, hidden
    yield attention.query_width, latent.q_rank or hidden
    yield latent.kv_rank + latent.rope_dim, hidden
    yield attention.heads * (latent.nope_dim + attention.value_dim), latent.kv_rank
