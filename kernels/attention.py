"""Attention with its log-sum-exp, and its backward from a merged output and log-sum-exp: the plain reference.

A block of keys and values may be only a part of what a query sees: the log-sum-exp says how much weight the part has.
Parts can then be merged (`merge.py`), and each part's gradients found from the merged results alone (FlashAttention-2,
arXiv:2307.08691, section 3.1; Ring Attention, arXiv:2310.01889).
"""

from __future__ import annotations

import torch
from torch import Tensor


def attention(
    query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None, *, scale: float, softcap: float | None = None
) -> tuple[Tensor, Tensor]:
    """What queries [batch, heads, rows, width] find in a block of keys [batch, kv_heads, columns, width] and values
    [batch, kv_heads, columns, value_width]; `heads` is a multiple of `kv_heads`.

    `mask` (bool, broadcast to [batch, heads, rows, columns]) is true where a query sees a key; None: everywhere.
    `softcap` bounds scores to its tanh (Gemma 2, arXiv:2408.00118, section 2). Returns the output [batch, heads, rows,
    value_width] and the natural logarithm of the sum of exponentials [batch, heads, rows], in float32 at least; they
    are 0 and -inf for a query that sees nothing.
    """
    scores, _ = _scores(query, key, mask, scale, softcap)
    lse = scores.logsumexp(-1)
    output = _probabilities(scores, lse) @ _of_each_head(value, query).to(scores.dtype)
    return output.to(query.dtype), lse


def attention_backward(
    gradient: Tensor,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    output: Tensor,
    lse: Tensor,
    mask: Tensor | None,
    *,
    scale: float,
    softcap: float | None = None,
) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients of queries, keys and values through this block, in float32 at least.

    `output` and `lse` are those of all blocks that the queries saw, merged; `gradient` is that of the merged output.
    """
    scores, slope = _scores(query, key, mask, scale, softcap)
    probabilities = _probabilities(scores, lse.to(scores.dtype))
    gradient, output = gradient.to(scores.dtype), output.to(scores.dtype)
    each_key, each_value = (_of_each_head(x, query).to(scores.dtype) for x in (key, value))
    score_gradient = probabilities * (gradient @ each_value.mT - (gradient * output).sum(-1, keepdim=True))
    if slope is not None:
        score_gradient = score_gradient * slope
    query_gradient = score_gradient @ each_key * scale
    key_gradient = score_gradient.mT @ query.to(scores.dtype) * scale
    return query_gradient, _of_each_group(key_gradient, key), _of_each_group(probabilities.mT @ gradient, value)


def _scores(
    query: Tensor, key: Tensor, mask: Tensor | None, scale: float, softcap: float | None
) -> tuple[Tensor, Tensor | None]:
    """Scores, -inf where masked, and the slope of their cap, if there is one."""
    wide = torch.promote_types(query.dtype, torch.float32)
    scores, slope = query.to(wide) @ _of_each_head(key, query).to(wide).mT * scale, None
    if softcap is not None:
        bounded = torch.tanh(scores / softcap)
        scores, slope = bounded * softcap, 1 - bounded.square()
    return scores if mask is None else scores.masked_fill(~mask, -torch.inf), slope


def _probabilities(scores: Tensor, lse: Tensor) -> Tensor:
    """exp(scores - lse), 0 for a query that sees nothing."""
    return torch.exp(scores - lse.masked_fill(lse == -torch.inf, 0.0).unsqueeze(-1))


def _of_each_head(x: Tensor, query: Tensor) -> Tensor:
    """The keys or values that each head of `query` sees."""
    return x.repeat_interleave(query.shape[1] // x.shape[1], dim=1)


def _of_each_group(gradient: Tensor, x: Tensor) -> Tensor:
    """Sum the gradients of all heads that shared a head of `x`."""
    return torch.unflatten(gradient, 1, (x.shape[1], -1)).sum(2)
