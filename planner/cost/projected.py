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
WHOLE_BYTES = 8
"""Of a parameter of a whole matrix, in float32 as `kernels/galore.py` goes through it on every rank: the gradient read
for the projection, what comes back from the space written."""
OWN_BYTES = 24
"""Of those parameters that a rank owns: the gradient read for its norm (4), the weight shrunk (8), what came back added
to it (12)."""
SMALL_BYTES = 12
"""Of an element of a moment, beside its step of AdamW: the gradient in the space written, the step from zero zeroed,
and read to be brought back."""
LAUNCHES = 10
"""Of a matrix: the projection and the way back, zeros, a step of AdamW with its table, and the weight's operators."""

SEARCH_SHARE = {"cpu": 0.5, "cuda": 0.022}
"""Of the peak in float32 that torch.linalg.svd reaches by the FLOPs counted here. CUDA: published, not measured by us.
The first step of GaLore's own Llama of 1.3B (2048 x 5461, 24 layers; 3.1e13 FLOPs of searches) took 70 s on an A100
(19.5 TFLOP/s), later ones 30 ms (github.com/jiaweizzhao/GaLore/issues/16). CPU: measured, matrices of 256 to 1024 on
one core, 0.42 to 0.53 of what a product reached beside them."""


@dataclass(frozen=True, slots=True)
class Pace:
    """Of a device: bytes through its memory, FLOPs at the peak in float32, and a launch."""

    bytes_per_s: float
    flops_per_s: float
    launch_s: float
    search_share: float


@dataclass(frozen=True, slots=True)
class Projected:
    """Sums over matrices: parameters, elements of one moment and of the spaces, FLOPs of a step and of a search for the
    spaces, and how many matrices."""

    parameters: float = 0.0
    moments: float = 0.0
    spaces: float = 0.0
    step_flops: float = 0.0
    search_flops: float = 0.0
    matrices: float = 0.0

    def __add__(self, other: Projected) -> Projected:
        return Projected(*(a + b for a, b in zip(astuple(self), astuple(other), strict=True)))

    def __sub__(self, other: Projected) -> Projected:
        return Projected(*(a - b for a, b in zip(astuple(self), astuple(other), strict=True)))

    def states_bytes(self, states: States) -> float:
        """Of moments and spaces."""
        return 2 * STATE_BYTES[states] * self.moments + SPACE_BYTES * self.spaces

    def step_s(self, pace: Pace, owners: int, adamw_bytes: float) -> float:
        """Of a step at the least, without a search: weights, gradients and moments (a step of AdamW moves so many bytes
        an element) through memory, two products with the space at the peak in float32. `owners` share weights out."""
        through = WHOLE_BYTES + OWN_BYTES / owners
        moved = through * self.parameters + (SMALL_BYTES + adamw_bytes) * self.moments + 2 * SPACE_BYTES * self.spaces
        return moved / pace.bytes_per_s + self.step_flops / pace.flops_per_s + LAUNCHES * self.matrices * pace.launch_s

    def search_s(self, pace: Pace, replicas: int) -> float:
        """Of one search for all spaces, which replicas share out, without what they send each other."""
        searchers = max(1.0, min(float(replicas), self.matrices))
        return self.search_flops / searchers / (pace.search_share * pace.flops_per_s)


NOTHING = Projected()


def projected(layer: Layer, galore: GaLore) -> Projected:
    """Of a layer that is whole on its rank, as GaLore asks."""
    total = NOTHING
    for rows, columns in matrices(layer):
        short, long = sorted((rows, columns))
        if short > galore.rank:
            size = rows * columns
            search = 6 * long * short**2 + 11 * short**3  # Golub and Van Loan, Matrix Computations, section 8.6
            step = 4.0 * size * galore.rank
            total += Projected(size, galore.rank * long, galore.rank * short, step, float(search), 1)
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
