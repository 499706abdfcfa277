"""Head and loss in chunks of tokens, so that the logits of a microbatch never exist at once (arXiv:2506.03077)."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

from torch import Tensor, nn

from ...kernels.linear_cross_entropy import linear_cross_entropy
from .tensor import local


def chunk_loss(head: nn.Module, chunks: int) -> None:
    """Let a head, whole or a share of the vocabulary, compute losses in so many parts. Logits that are asked for are
    still made whole."""
    head.forward = partial(_forward, head, head.forward, chunks)


def _forward(
    head: Any, logits: Callable[[Tensor], Tensor], chunks: int, x: Tensor, targets: Tensor | None = None
) -> Tensor:
    if targets is None:
        return logits(x)
    boundary, softcap = getattr(head, "boundary", None), getattr(head, "softcap", None)
    weight: Tensor = local(head.weight)
    if boundary is None:
        return linear_cross_entropy(x, weight, targets, chunks=chunks, softcap=softcap)
    share = {"group": boundary.group, "first": head.first}
    return linear_cross_entropy(boundary.enter(x), weight, targets, chunks=chunks, softcap=softcap, **share)
