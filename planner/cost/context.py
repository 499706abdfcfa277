"""Context parallelism: what each algorithm sends, and how much of it attention does not hide.

Per layer, microbatch and rank. Gradients that are added up on their way travel in fp32. Which blocks nobody sees,
because they come later or lie outside of a window, is known beforehand: they are not sent.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from ...clusters.topology import GroupPaths
from ..configuration import CpAlgorithm
from ..model import Attention
from ..sequence import copies, halves, hops, local_tokens, reach
from .communication import all_gather_s, all_to_all_s, reduce_scatter_s, ring_exchange_s
from .sharding import Sharding

GRADIENT_BYTES = 4
LSE_BYTES = 4


@dataclass(frozen=True, slots=True, kw_only=True)
class Blocks:
    """Bytes that one rank has of one layer's attention; `elements` of them by kind, `lse` of its log-sum-exp."""

    cp: int
    heads: int  # ranks that share out heads: all in Ulysses, some in USP
    steps: int  # of the ring
    seen: float  # share of its queries that another rank's keys concern, on average
    query: float
    output: float
    key_value: float
    copies: int  # of each head of keys where heads are shared out
    lse: float
    element: int

    @property
    def gradients(self) -> float:
        """Over `element`, how much larger gradients are that are added up on their way."""
        return GRADIENT_BYTES / self.element


@dataclass(frozen=True, slots=True)
class Sent:
    """Bytes that a rank sends to others, on average over the ranks."""

    forward: float
    backward: float


def blocks_of(attention: Attention, sharding: Sharding, seq_len: int, element: int) -> Blocks:
    """What one rank has to send of a layer with this attention."""
    cp, tokens, heads = sharding.cp, sharding.tokens(seq_len), attention.heads // sharding.tp
    shared = sharding.cp_heads
    kv_heads, rings = sharding.kv_heads(attention.kv_heads), cp // shared
    local = local_tokens(seq_len, cp, sharding.sequence_split) * shared
    far = reach(rings, local, attention.window) if rings > 1 else 0
    pairs = sum(sum(row) - row[rank] for rank, row in enumerate(halves(rings, far)))
    return Blocks(
        cp=cp,
        heads=shared,
        steps=hops(rings, far),
        seen=pairs / 2 / rings / max(1, hops(rings, far)),
        query=tokens * heads * attention.head_dim * element,
        output=tokens * heads * attention.value_dim * element,
        key_value=tokens * kv_heads * (attention.head_dim + attention.value_dim) * element,
        copies=copies(heads, kv_heads, shared),
        lse=tokens * heads * LSE_BYTES,
        element=element,
    )


def sent(algorithm: CpAlgorithm, blocks: Blocks) -> Sent:
    """What a rank sends in the forward and in the backward pass of one layer."""
    return _SENT[algorithm](blocks)


def _ring(blocks: Blocks) -> Sent:
    """Keys and values to the next, and backward their gradients too, which go home at last (arXiv:2310.03294)."""
    moved = blocks.steps * blocks.copies * blocks.key_value
    home = (blocks.steps + min(1, blocks.steps)) * blocks.copies * blocks.key_value * blocks.gradients
    return Sent(moved, moved + home)


def _ulysses(blocks: Blocks) -> Sent:
    """Queries, keys and values to those who read these heads, outputs back (arXiv:2309.14509, section 3.2)."""
    kept = blocks.query + blocks.copies * blocks.key_value + blocks.output
    each = (blocks.heads - 1) / blocks.heads * kept
    return Sent(each, each)


def _product(blocks: Blocks) -> Sent:
    """Both (arXiv:2405.07719): a ring's blocks have more tokens of fewer heads."""
    shared, ring = _ulysses(blocks), _ring(blocks)
    return Sent(shared.forward + ring.forward, shared.backward + ring.backward)


def _token_ring(blocks: Blocks) -> Sent:
    """Queries one way, what they found the other (arXiv:2412.20501); backward also outputs and their gradients."""
    there, back = _directions(blocks)
    return Sent(
        blocks.steps * (there.forward + blocks.seen * back.forward),
        blocks.steps * (there.backward + blocks.seen * back.backward),
    )


def _directions(blocks: Blocks) -> tuple[Sent, Sent]:
    """Of one step of the token ring: with the queries, and back to them if all of them see something."""
    there = Sent(blocks.query, blocks.query + 2 * blocks.output + blocks.lse)
    return there, Sent(blocks.output + blocks.lse, blocks.query * blocks.gradients)


def _gather(blocks: Blocks) -> Sent:
    """All keys and values to all, backward again, and the sums of their gradients."""
    moved = (blocks.cp - 1) * blocks.key_value
    return Sent(moved, moved * (1 + blocks.gradients))


_SENT: dict[CpAlgorithm, Callable[[Blocks], Sent]] = {
    "ring": _ring,
    "ulysses": _ulysses,
    "usp": _product,
    "token-ring": _token_ring,
    "allgather": _gather,
}


@dataclass(frozen=True, slots=True)
class Exposed:
    """Seconds that attention does not hide; `again` when a layer is recomputed whose attention is kept."""

    forward_s: float = 0.0
    backward_s: float = 0.0
    again_s: float = 0.0


@dataclass(frozen=True, slots=True)
class Links:
    """Paths of the ranks that share a sequence, and in USP of those that share out heads and of their rings."""

    whole: GroupPaths
    heads: GroupPaths
    ring: GroupPaths


def exposed(algorithm: CpAlgorithm, blocks: Blocks, links: Links, attention_s: tuple[float, float]) -> Exposed:
    """Communication of one layer beside `attention_s`, its attention's seconds forward and backward."""
    if algorithm == "allgather":
        return _gather_s(blocks, links.whole)
    if algorithm == "token-ring":
        return _token_ring_s(blocks, links.whole, attention_s)
    if algorithm == "ring":
        return _ring_s(blocks, links.whole, attention_s)
    if algorithm == "ulysses":
        return _ulysses_s(blocks, links.whole)
    shared, ring = _ulysses_s(blocks, links.heads), _ring_s(blocks, links.ring, attention_s)
    return Exposed(shared.forward_s + ring.forward_s, shared.backward_s + ring.backward_s, shared.again_s)


def _ring_s(blocks: Blocks, ring: GroupPaths, attention_s: tuple[float, float]) -> Exposed:
    """Each hop beside the attention of the block at hand (Liu et al. 2023, arXiv:2310.01889); with the last hop of the
    gradients nothing runs."""
    if blocks.steps == 0:
        return Exposed()
    block = blocks.copies * blocks.key_value
    hop, hop_back = ring_exchange_s(ring, block), ring_exchange_s(ring, block * (1 + blocks.gradients))
    beside = [seconds / (blocks.steps + 1) for seconds in attention_s]
    home = ring_exchange_s(ring, block * blocks.gradients)
    forward, backward = (blocks.steps * max(0.0, each - s) for each, s in zip((hop, hop_back), beside, strict=True))
    return Exposed(forward, backward + home)


def _token_ring_s(blocks: Blocks, group: GroupPaths, attention_s: tuple[float, float]) -> Exposed:
    """Queries and returns one after the other, as messages of one group go (NCCL has one stream for them), beside the
    attention of the queries at hand; with the last return nothing runs."""
    if blocks.steps == 0:
        return Exposed()
    there, back = _directions(blocks)
    found = []
    for out, home, seconds in (
        (there.forward, back.forward, attention_s[0]),
        (there.backward, back.backward, attention_s[1]),
    ):
        hop, last, beside = ring_exchange_s(group, out), ring_exchange_s(group, home), seconds / (blocks.steps + 1)
        both = (blocks.steps - 1) * max(0.0, hop + last - beside)  # nothing returns beside the first hop
        found.append(max(0.0, hop - beside) + both + last)
    return Exposed(*found)


def _ulysses_s(blocks: Blocks, group: GroupPaths) -> Exposed:
    """One exchange before attention and one after it, hidden by nothing; recomputation repeats them."""
    before = all_to_all_s(group, blocks.query + blocks.copies * blocks.key_value)
    each = before + all_to_all_s(group, blocks.output)
    return Exposed(each, each, each)


def _gather_s(blocks: Blocks, group: GroupPaths) -> Exposed:
    whole = blocks.cp * blocks.key_value
    gathered = all_gather_s(group, whole)
    return Exposed(gathered, gathered + reduce_scatter_s(group, whole * blocks.gradients))


def passing_bytes(algorithm: CpAlgorithm, blocks: Blocks) -> float:
    """At the fullest moment of attention's backward: blocks on their way out and in, and the gradients added up."""
    own, grown = blocks.query * blocks.gradients, 1 + blocks.gradients
    ring = 2 * blocks.copies * blocks.key_value * grown + own
    shared = 2 * (blocks.query + blocks.copies * blocks.key_value + blocks.output)
    return {
        "ring": ring,
        "ulysses": shared,
        "usp": max(ring, shared),
        "token-ring": 2 * (blocks.query + 2 * blocks.output + blocks.lse + own) + blocks.key_value * blocks.gradients,
        "allgather": blocks.cp * blocks.key_value * grown + own,
    }[algorithm]
