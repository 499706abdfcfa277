"""Output projection and cross-entropy in chunks of tokens: the logits of a whole sequence never exist.

What stays until the backward pass is as large as the hidden states and the weight.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor

from . import expect
from .chunks import Piece, in_chunks, scaled
from .cross_entropy import cross_entropy, slopes_in_place
from .switch import runs_fast
from .terms import Share, Terms, check_targets, check_terms

_NAME = "linear_cross_entropy"


def linear_cross_entropy(
    hidden: Tensor,
    weight: Tensor,
    targets: Tensor,
    *,
    chunks: int = 1,
    softcap: float | None = None,
    label_smoothing: float = 0.0,
    z_loss: float = 0.0,
    group: dist.ProcessGroup | None = None,
    first: int = 0,
    vocab: int | None = None,
) -> Tensor:
    """Sum of the losses in nats of `hidden` [..., width] times `weight` [vocab, width] against ids `targets` [...].

    Targets below zero count nothing. `softcap`, `label_smoothing` and `z_loss` are those of `terms.Terms`. With `group`,
    this rank holds the rows from `first` on, perhaps none, of a vocabulary of `vocab`; every rank passes the same hidden
    states and targets and gets the same loss, and the gradient of `hidden` is its own part of a sum. Ranks exchange
    three numbers a token (four with label smoothing), in one collective a chunk. Losses are added up in float32 (float64
    for such inputs), and the gradient of the weight too.
    Raises ValueError for other shapes, devices, options, and (on a CPU) ids that the vocabulary does not have.
    """
    terms, share = Terms(softcap, label_smoothing, z_loss), Share(group, first, len(weight) if vocab is None else vocab)
    _check(hidden, weight, targets, terms, share)
    if chunks < 1:
        raise ValueError(f"{_NAME}: chunks is {chunks}, expected 1 or more")
    pieces = min(chunks, max(1, targets.numel()))
    if not fuses(hidden, weight):
        return _linear_cross_entropy(hidden, weight, targets, pieces, partial(_piece, terms, share))
    from .fast import linear_cross_entropy as fast

    if group is None:
        return fast.linear_cross_entropy(hidden, weight, targets, pieces, *terms)
    return _linear_cross_entropy(hidden, weight, targets, pieces, fast.of_share(terms, share))


def fuses(hidden: Tensor, weight: Tensor) -> bool:
    """Whether Triton runs for these."""
    rows, width = hidden.shape[:-1].numel(), hidden.shape[-1]
    return runs_fast(_NAME, hidden, rows=rows, width=width, vocab=len(weight))


def _check(hidden: Tensor, weight: Tensor, targets: Tensor, terms: Terms, share: Share) -> None:
    expect.floating(_NAME, hidden=hidden, weight=weight)
    expect.dims(_NAME, "hidden", hidden, 2)
    expect.shape(_NAME, "weight", weight, (len(weight), hidden.shape[-1]))
    expect.shape(_NAME, "targets", targets, hidden.shape[:-1])
    expect.one_device(_NAME, hidden=hidden, weight=weight, targets=targets)
    check_terms(_NAME, terms)
    check_targets(_NAME, targets, share.vocab)


def linear_cross_entropy_reference(
    hidden: Tensor,
    weight: Tensor,
    targets: Tensor,
    chunks: int = 1,
    softcap: float | None = None,
    label_smoothing: float = 0.0,
    z_loss: float = 0.0,
) -> Tensor:
    """As `linear_cross_entropy` of a whole vocabulary, operator by operator, with all logits at once."""
    logits = F.linear(hidden, weight.to(hidden.dtype))
    return cross_entropy(logits, targets, Terms(softcap, label_smoothing, z_loss))


def _piece(terms: Terms, share: Share, part: Tensor, matrix: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
    logits = (part @ matrix.t()).to(torch.promote_types(part.dtype, torch.float32))
    losses, slopes = slopes_in_place(logits, targets, terms, share)
    return losses, slopes.to(part.dtype)


class _LinearCrossEntropy(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, hidden: Tensor, weight: Tensor, targets: Tensor, chunks: int, piece: Piece) -> Tensor:
        made = in_chunks(hidden, weight, targets, chunks, piece, any(ctx.needs_input_grad[:2]))
        ctx.save_for_backward(made.to_hidden, made.to_weight)
        ctx.dtype = weight.dtype
        return made.loss

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, Tensor | None, None, None, None]:
        return *scaled(ctx, gradients[0]), None, None, None


_linear_cross_entropy: Callable[..., Tensor] = _LinearCrossEntropy.apply
