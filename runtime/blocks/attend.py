"""Attend: attention over one block of keys, forward with its log-sum-exp and backward from a merged one.

PyTorch's fused kernel where it can, else the plain reference: the same result from more memory.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from ...kernels.attention import attention, attention_backward
from .. import compat


@dataclass(frozen=True, slots=True, kw_only=True)
class Scoring:
    """How products of queries and keys become scores, and which count.

    `scale` multiplies them (None: one over the root of the key's width), `softcap` bounds them to its tanh, and a query
    sees `window` tokens, itself included (None: all before it).
    """

    scale: float | None = None
    window: int | None = None
    softcap: float | None = None

    def factor(self, query: Tensor) -> float:
        """What products with this query are multiplied by."""
        return float(query.shape[-1]) ** -0.5 if self.scale is None else self.scale


def attend(
    query: Tensor, key: Tensor, value: Tensor, scoring: Scoring, *, causal: bool = False, mask: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """Output [batch, heads, rows, value_width] and log-sum-exp [batch, heads, rows]; see `kernels.attention`.

    `causal`: as many rows as columns, and none sees what comes after it. Otherwise `mask` says what is seen.
    """
    scale = scoring.factor(query)
    if not _fused(query, scoring, mask):
        mask = _triangle(query) if causal else mask
        return attention(query, key, value, mask, scale=scale, softcap=scoring.softcap)
    queries, keys, values = _same_width(query, key, value)
    output, lse = compat.flash(queries, keys, values, _bias(mask, query), causal=causal, scale=scale)
    if mask is not None:  # the kernel says 0 for a row that sees nothing
        lse = lse.masked_fill(~mask.any(-1), -torch.inf)
    return output[..., : value.shape[-1]], lse


def attend_backward(
    gradient: Tensor,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    output: Tensor,
    lse: Tensor,
    scoring: Scoring,
    *,
    causal: bool = False,
    mask: Tensor | None = None,
) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients of queries, keys and values through one block, from the output and log-sum-exp of all blocks."""
    scale = scoring.factor(query)
    if not _fused(query, scoring, mask):
        mask = _triangle(query) if causal else mask
        given = (gradient, query, key, value, output, lse, mask)
        return attention_backward(*given, scale=scale, softcap=scoring.softcap)
    gradient, queries, keys, values, output = _same_width(gradient, query, key, value, output)
    given = (gradient, queries, keys, values, output, lse, _bias(mask, query))
    found = compat.flash_backward(*given, causal=causal, scale=scale)
    return found[0][..., : query.shape[-1]], found[1][..., : key.shape[-1]], found[2][..., : value.shape[-1]]


def _fused(query: Tensor, scoring: Scoring, mask: Tensor | None) -> bool:
    return scoring.softcap is None and compat.has_flash(query, masked=mask is not None)


def _triangle(query: Tensor) -> Tensor:
    """What a causal block sees, [rows, columns]."""
    return torch.ones(query.shape[2], query.shape[2], dtype=torch.bool, device=query.device).tril()


def _bias(mask: Tensor | None, query: Tensor) -> Tensor | None:
    """What is added to scores: -inf where a mask is false."""
    return None if mask is None else torch.zeros_like(mask, dtype=query.dtype).masked_fill(~mask, -torch.inf)


def _same_width(*tensors: Tensor) -> list[Tensor]:
    """Zeros added to the last dimension, up to the widest: the kernel wants one width, and zeros change no product."""
    width = max(x.shape[-1] for x in tensors)
    return [x if x.shape[-1] == width else F.pad(x, (0, width - x.shape[-1])) for x in tensors]
