"""Scores that the built-in runtime holds in fp32, a block at a time, where no fused kernel computes them
(`runtime/blocks/attend.py`, `kernels/attention.py`): this file alone says where that is.

Capped scores on every device. On GPUs under context parallelism windows too, as the fused kernel that says its
log-sum-exp takes no masks, and all of fp32.
"""

from __future__ import annotations

from ..model import Attention
from .sharding import Sharding

PLAIN, CAPPED = 16, 20
"""Bytes of a score at the fullest moment of the plain backward: scores, probabilities, and their gradient being made of
two more; the slope of a cap beside them."""


def are_held(attention: Attention, sharding: Sharding, *, on_cpu: bool, fp32: bool) -> bool:
    """Whether the runtime holds this attention's scores."""
    if attention.capped:
        return True
    return sharding.cp > 1 and not on_cpu and (fp32 or attention.window is not None)


def held_bytes(attention: Attention, sharding: Sharding, seq_len: int) -> float:
    """Of the largest block, while it goes backward, one layer and microbatch."""
    rows = columns = seq_len
    if sharding.cp > 1:  # a rank's tokens and those of another, or where heads are shared out of several
        rows = columns = round(sharding.tokens(seq_len) / sharding.microbatch) * sharding.cp_heads
    elif attention.window is not None and seq_len >= 2 * attention.window:  # windows one after another
        rows, columns = attention.window, 2 * attention.window - 1
    heads = sharding.microbatch * attention.heads / sharding.tp / sharding.cp_heads
    return (CAPPED if attention.capped else PLAIN) * heads * rows * columns
