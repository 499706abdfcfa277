"""Output projection and cross-entropy in chunks: products by PyTorch into one buffer, and Triton within it."""

from __future__ import annotations

from functools import partial
from typing import Any

import torch
from torch import Tensor

from ..chunks import Piece, in_chunks, scaled
from ..kernel import Sizes
from ..programs.program import Program
from ..terms import Share, Terms
from ..vocabulary import gathered
from . import memory
from .cross_entropy import ALIGNED, losses_and_slopes, slopes_into, summarise
from .cross_entropy import programs as programs_of_logits


def linear_cross_entropy(
    hidden: Tensor,
    weight: Tensor,
    targets: Tensor,
    chunks: int = 1,
    softcap: float | None = None,
    label_smoothing: float = 0.0,
    z_loss: float = 0.0,
) -> Tensor:
    """As `kernels.linear_cross_entropy.linear_cross_entropy` of a whole vocabulary."""
    wanted = torch.is_grad_enabled() and (hidden.requires_grad or weight.requires_grad)
    found: Tensor = _linear(hidden, weight, targets, chunks, softcap or 0.0, label_smoothing, z_loss, wanted)[0]
    return found


def of_share(terms: Terms, share: Share) -> Piece:
    """Losses of chunks where ranks have shares of the vocabulary: two programs a chunk, and a collective between."""
    return partial(_of_share, _Buffer(), terms, share)


class _Buffer:
    """The logits of one chunk after another: made for the first, which is the largest."""

    def __init__(self) -> None:
        self._held: Tensor | None = None

    def logits(self, part: Tensor, matrix: Tensor) -> tuple[Tensor, int]:
        """[tokens, share], and to where the buffer's rows may be read and written."""
        bound = -(-len(matrix) // ALIGNED) * ALIGNED
        if self._held is None:
            self._held = memory.empty((len(part), bound), part)
        logits = self._held[: len(part), : len(matrix)]
        torch.mm(part, matrix.t(), out=logits)
        return logits, bound


def _of_share(
    buffer: _Buffer, terms: Terms, share: Share, part: Tensor, matrix: Tensor, targets: Tensor
) -> tuple[Tensor, Tensor]:
    logits, bound = buffer.logits(part, matrix)
    every = gathered(summarise(logits, targets, share.first, terms, bound), share.group)
    return slopes_into(logits, logits, targets, every, share, terms, 1.0, bound), logits


def _whole(
    buffer: _Buffer, terms: Terms, wanted: bool, part: Tensor, matrix: Tensor, targets: Tensor
) -> tuple[Tensor, Tensor]:
    logits, bound = buffer.logits(part, matrix)
    return losses_and_slopes(logits, targets, terms, logits if wanted else None, bound), logits


@torch.library.custom_op("meshwright::linear_cross_entropy", mutates_args=())
def _linear(
    hidden: Tensor,
    weight: Tensor,
    targets: Tensor,
    chunks: int,
    softcap: float,
    label_smoothing: float,
    z_loss: float,
    wanted: bool,
) -> tuple[Tensor, Tensor, Tensor]:
    """The loss, and its gradients, empty unless they are wanted."""
    terms = Terms(softcap or None, label_smoothing, z_loss)
    made = in_chunks(hidden, weight, targets, chunks, partial(_whole, _Buffer(), terms, wanted), wanted)
    return made.loss, made.to_hidden, made.to_weight


@_linear.register_fake
def _(hidden: Tensor, weight: Tensor, targets: Tensor, chunks: int, *given: Any) -> tuple[Tensor, Tensor, Tensor]:
    wanted = given[-1]
    wide = torch.promote_types(hidden.dtype, torch.float32)
    loss = hidden.new_empty((), dtype=wide)
    to_weight = hidden.new_empty(weight.shape if wanted else 0, dtype=wide if chunks > 1 else hidden.dtype)
    return loss, hidden.new_empty(hidden.shape if wanted else 0), to_weight


def _save(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor, Tensor]) -> None:
    ctx.save_for_backward(*output[1:])
    ctx.dtype = inputs[1].dtype
    ctx.set_materialize_grads(False)


def _differentiate(ctx: Any, *gradients: Tensor | None) -> tuple[Tensor | None, ...]:
    if gradients[0] is None:
        return (None,) * 8
    return *scaled(ctx, gradients[0]), None, None, None, None, None, None


_linear.register_autograd(_differentiate, setup_context=_save)


def programs(sizes: Sizes, dtype: str) -> list[Program]:
    """Those of a chunk of logits; products are PyTorch's."""
    return programs_of_logits(sizes, dtype)
