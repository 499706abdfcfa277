"""Chunks: output projection, loss and both products of the gradient, one chunk of tokens after another.

As in StreamBP (arXiv:2506.03077, section 3), a chunk's logits are made, their loss and their gradient computed at
once, and thrown away. The products are those of the whole, done earlier: both of the backward pass in the forward.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor

Piece = Callable[[Tensor, Tensor, Tensor], tuple[Tensor, Tensor]]
"""Of hidden states [tokens, width], the weight [share, width] in their type, and targets [tokens]: losses [tokens] and
their gradient by the logits [tokens, share], in that type too. The latter is used before the next call."""


class Made(NamedTuple):
    """The sum of the losses, in float32 (float64), and its gradients by the hidden states and by the weight: the
    latter in float32 where several chunks are added up. Empty where nobody wants gradients."""

    loss: Tensor
    to_hidden: Tensor
    to_weight: Tensor


def in_chunks(hidden: Tensor, weight: Tensor, targets: Tensor, chunks: int, piece: Piece, wanted: bool) -> Made:
    """`hidden` [..., width], `weight` [share, width], `targets` [...]."""
    rows, labels, matrix = hidden.flatten(0, -2), targets.flatten(), weight.to(hidden.dtype)
    wide = torch.promote_types(hidden.dtype, torch.float32)
    loss = torch.zeros((), dtype=wide, device=hidden.device)
    to_hidden, to_weight = _room(rows, matrix, wide if chunks > 1 else hidden.dtype, wanted)
    start = 0
    for part, label in zip(rows.tensor_split(chunks), labels.tensor_split(chunks), strict=True):
        losses, slopes = piece(part, matrix, label)
        loss += losses.sum()
        if wanted:
            torch.mm(slopes, matrix, out=to_hidden[start : start + len(part)])
            _add(to_weight, slopes, part, first=start == 0)
        start += len(part)
        del losses, slopes  # or they would stand beside the next chunk's logits
    return Made(loss, to_hidden.view_as(hidden) if wanted else to_hidden, to_weight)


def _room(rows: Tensor, matrix: Tensor, dtype: torch.dtype, wanted: bool) -> tuple[Tensor, Tensor]:
    sizes = (rows.shape, matrix.shape) if wanted else ((0,), (0,))
    return rows.new_empty(sizes[0]), matrix.new_empty(sizes[1], dtype=dtype)


def _add(to: Tensor, slopes: Tensor, part: Tensor, first: bool) -> None:
    """The first sets, so that nothing is set to zero before."""
    if to.dtype == part.dtype:
        torch.addmm(to, slopes.t(), part, beta=0 if first else 1, out=to)
    elif first:
        to.copy_(slopes.t() @ part)
    else:
        to += slopes.t() @ part


def scaled(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, Tensor | None]:
    """Gradients of hidden states and weight that `ctx` has saved, times that of their loss; the latter straight into
    the weight's own precision, without a second copy in float32."""
    to_hidden, to_weight = ctx.saved_tensors
    first = to_hidden * gradient.to(to_hidden.dtype) if ctx.needs_input_grad[0] else None
    if not ctx.needs_input_grad[1]:
        return first, None
    into = torch.empty_like(to_weight, dtype=ctx.dtype)
    return first, torch.mul(to_weight, gradient, out=into)
