"""Cross-entropy of next-token logits, whole or sharded over the vocabulary."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor

from . import expect
from .switch import runs_fast
from .terms import PLAIN, Share, Terms, check_targets, check_terms
from .vocabulary import columns_of, counted, gathered, gradient, summary, totals

IGNORED = -100
"""A target that counts nothing: padding. PyTorch's and transformers' own number for it; so does any below zero."""


def cross_entropy(logits: Tensor, targets: Tensor, terms: Terms = PLAIN) -> Tensor:
    """Sum of the losses in nats of `logits` [..., vocab] against token ids `targets` [...], in float32 (float64 of such).

    Targets below zero count nothing. Raises ValueError for ids that are not in the vocabulary (on a CPU).
    """
    _check("cross_entropy", logits, targets, terms)
    logits, targets = logits.flatten(0, -2), targets.flatten()
    logits = capped(logits.to(torch.promote_types(logits.dtype, torch.float32)), terms.softcap)
    targets = targets.masked_fill(~counted(targets), IGNORED)
    smoothing = terms.label_smoothing
    loss = F.cross_entropy(logits, targets, ignore_index=IGNORED, reduction="sum", label_smoothing=smoothing)
    if terms.z_loss:
        squares = logits.logsumexp(-1).square().masked_fill(~counted(targets), 0.0)
        loss = loss + terms.z_loss * squares.sum()
    return loss


def capped(logits: Tensor, softcap: float | None) -> Tensor:
    """Logits drawn into (-softcap, softcap)."""
    return logits if softcap is None else (logits / softcap).tanh() * softcap


def _check(kernel: str, logits: Tensor, targets: Tensor, terms: Terms) -> None:
    expect.dims(kernel, "logits", logits, 2)
    expect.floating(kernel, logits=logits)
    expect.shape(kernel, "targets", targets, logits.shape[:-1])
    expect.one_device(kernel, logits=logits, targets=targets)
    check_terms(kernel, terms)
    check_targets(kernel, targets, logits.shape[-1])


def cross_entropy_slopes(
    logits: Tensor,
    targets: Tensor,
    *,
    softcap: float | None = None,
    label_smoothing: float = 0.0,
    z_loss: float = 0.0,
) -> tuple[Tensor, Tensor]:
    """Losses in nats [rows] of `logits` [rows, vocab] against `targets` [rows], in float32, and the gradient of their sum
    by the logits, in the type of these: one read and one write. Options are those of `Terms`. No gradients pass through.
    """
    terms = Terms(softcap, label_smoothing, z_loss)
    _check("cross_entropy", logits, targets, terms)
    expect.rank("cross_entropy", "logits", logits, 2)
    if runs_fast("cross_entropy", logits, rows=len(logits), vocab=logits.shape[-1]):
        from .fast.cross_entropy import cross_entropy_slopes as fast

        return fast(logits, targets, *terms)
    return cross_entropy_slopes_reference(logits, targets, *terms)


@torch.no_grad()
def cross_entropy_slopes_reference(
    logits: Tensor,
    targets: Tensor,
    softcap: float | None = None,
    label_smoothing: float = 0.0,
    z_loss: float = 0.0,
) -> tuple[Tensor, Tensor]:
    """As `cross_entropy_slopes`."""
    wide = logits.to(torch.promote_types(logits.dtype, torch.float32), copy=True)
    terms, share = Terms(softcap, label_smoothing, z_loss), Share(None, 0, logits.shape[-1])
    losses, found = slopes_in_place(wide, targets, terms, share)
    return losses, found.to(logits.dtype)


def slopes_in_place(logits: Tensor, targets: Tensor, terms: Terms, share: Share) -> tuple[Tensor, Tensor]:
    """Losses [tokens] and their gradient by `logits` [tokens, share], which it overwrites. With a group, one collective."""
    slope = None
    if terms.softcap is not None:
        logits = logits.div_(terms.softcap).tanh_()
        slope = 1 - logits.square()
        logits = logits.mul_(terms.softcap)
    own = summary(logits, columns_of(targets, share.first), terms.numbers)
    whole = totals(gathered(own, share.group))
    found = gradient(logits, targets, share, whole.probability(own[1]), whole, terms)
    return whole.losses(targets, terms, share.vocab), found if slope is None else found.mul_(slope)


def vocabulary_cross_entropy(
    logits: Tensor, targets: Tensor, group: dist.ProcessGroup, first: int, vocab: int, terms: Terms = PLAIN
) -> Tensor:
    """As `cross_entropy`, where this rank of `group` holds the logits [..., share] of the tokens from `first` on, of
    `vocab`.

    Every rank passes the same targets and gets the same loss. Shares need not be equal, nor hold anything.
    """
    check_terms("vocabulary_cross_entropy", terms)
    check_targets("vocabulary_cross_entropy", targets, vocab)
    share = Share(group, first, vocab)
    return _vocabulary_cross_entropy(logits.flatten(0, -2), targets.flatten(), terms, share)


class _VocabularyCrossEntropy(torch.autograd.Function):
    """Keeps its gradient, as large as the logits in float32."""

    @staticmethod
    def forward(ctx: Any, logits: Tensor, targets: Tensor, terms: Terms, share: Share) -> Tensor:
        ctx.dtype = logits.dtype
        wide = logits.to(torch.promote_types(logits.dtype, torch.float32), copy=True)
        losses, found = slopes_in_place(wide, targets, terms, share)
        ctx.save_for_backward(found)
        return losses.sum()

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None, None, None]:
        (found,) = ctx.saved_tensors
        return (found * gradients[0]).to(ctx.dtype), None, None, None


_vocabulary_cross_entropy: Callable[[Tensor, Tensor, Terms, Share], Tensor] = _VocabularyCrossEntropy.apply
