"""Head and loss in chunks of tokens, so that the logits of a microbatch never exist at once (arXiv:2506.03077)."""

from __future__ import annotations

from functools import partial
from typing import Any

from torch import Tensor

from ...kernels.linear_cross_entropy import linear_cross_entropy
from ..blocks.head import Head
from ..shards import local
from .vocabulary import VocabularyHead


def chunk_loss(head: Any, chunks: int) -> None:
    """Let a head compute losses in so many parts. Logits that are asked for are still made whole."""
    head.loss = partial(_loss, head, chunks)


def _loss(head: Head | VocabularyHead, chunks: int, x: Tensor, targets: Tensor) -> Tensor:
    share: dict[str, Any] = head.share._asdict() if isinstance(head, VocabularyHead) else {}
    return linear_cross_entropy(x, local(head.weight), targets, chunks=chunks, **head.terms._asdict(), **share)
