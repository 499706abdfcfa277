"""Triton program that turns queries and keys by their positions, in either layout and direction."""

from __future__ import annotations

import triton
import triton.language as tl


@triton.jit
def turn_heads(
    x, to, cosine, sine, head_stride, to_head_stride, half, width, first,
    HEADS: tl.constexpr, BLOCK: tl.constexpr, HALF: tl.constexpr, REST: tl.constexpr,
    FROM_PAIRS: tl.constexpr, TO_PAIRS: tl.constexpr,
):  # fmt: skip
    """BLOCK heads of one token from head `first` on. Entries beyond the two halves are copied."""
    head = first + tl.arange(0, BLOCK)
    here, i = (head < HEADS)[:, None], tl.arange(0, HALF)
    source, target = x + head.to(tl.int64)[:, None] * head_stride, to + head.to(tl.int64)[:, None] * to_head_stride
    inside = here & (i < half)[None, :]
    both = tl.arange(0, 2 * HALF)[None, :]
    if FROM_PAIRS:
        pairs = tl.load(source + both, mask=here & (both < 2 * half), other=0.0).to(tl.float32)
        left, right = tl.split(tl.reshape(pairs, [BLOCK, HALF, 2]))
    else:
        left = tl.load(source + i[None, :], mask=inside, other=0.0).to(tl.float32)
        right = tl.load(source + half + i[None, :], mask=inside, other=0.0).to(tl.float32)
    kind: tl.constexpr = to.dtype.element_ty
    turned_left = (left * cosine[None, :] - right * sine[None, :]).to(kind)
    turned_right = (right * cosine[None, :] + left * sine[None, :]).to(kind)
    if TO_PAIRS:
        pairs = tl.reshape(tl.join(turned_left, turned_right), [BLOCK, 2 * HALF])
        tl.store(target + both, pairs, mask=here & (both < 2 * half))
    else:
        tl.store(target + i[None, :], turned_left, mask=inside)
        tl.store(target + half + i[None, :], turned_right, mask=inside)
    if REST > 0:
        rest = 2 * half + tl.arange(0, REST)[None, :]
        kept = tl.load(source + rest, mask=here & (rest < width), other=0.0)
        tl.store(target + rest, kept, mask=here & (rest < width))


@triton.jit
def rotary(
    query, key, to_query, to_key, cos, sin, positions, seq_len, half, width, direction,
    query_b, query_s, query_h, key_b, key_s, key_h, to_query_b, to_query_s, to_query_h, to_key_b, to_key_s, to_key_h,
    cos_s, sin_s, positions_b,
    HEADS: tl.constexpr, KEY_HEADS: tl.constexpr, BLOCK: tl.constexpr, HALF: tl.constexpr, REST: tl.constexpr,
    FROM_PAIRS: tl.constexpr, TO_PAIRS: tl.constexpr, PLACED: tl.constexpr,
):  # fmt: skip
    """All heads of one token: angles are read once for all of them, from the row of the tables that is the token's
    place in the sequence or, if PLACED, its position. `direction` is -1 in the backward pass."""
    b, s = (tl.program_id(0) // seq_len).to(tl.int64), (tl.program_id(0) % seq_len).to(tl.int64)
    row = tl.load(positions + b * positions_b + s).to(tl.int64) if PLACED else s
    i = tl.arange(0, HALF)
    cosine = tl.load(cos + row * cos_s + i, mask=i < half, other=0.0).to(tl.float32)
    sine = tl.load(sin + row * sin_s + i, mask=i < half, other=0.0).to(tl.float32) * direction
    source, target = query + b * query_b + s * query_s, to_query + b * to_query_b + s * to_query_s
    for first in tl.static_range(0, HEADS, BLOCK):
        turn_heads(source, target, cosine, sine, query_h, to_query_h, half, width, first,
                   HEADS, BLOCK, HALF, REST, FROM_PAIRS, TO_PAIRS)  # fmt: skip
    source, target = key + b * key_b + s * key_s, to_key + b * to_key_b + s * to_key_s
    for first in tl.static_range(0, KEY_HEADS, BLOCK):
        turn_heads(source, target, cosine, sine, key_h, to_key_h, half, width, first,
                   KEY_HEADS, BLOCK, HALF, REST, FROM_PAIRS, TO_PAIRS)  # fmt: skip
