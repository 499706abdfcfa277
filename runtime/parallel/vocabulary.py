"""Vocabulary parallelism: embedding, head and loss shared out over the tensor-parallel group.

Where the vocabulary does not divide, the last ranks have fewer tokens; nothing is padded.
"""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor
from torch.distributed.tensor import Replicate, Shard

from ...kernels.cross_entropy import capped, vocabulary_cross_entropy
from ...kernels.linear_cross_entropy import fuses, linear_cross_entropy
from ...kernels.terms import Share, Terms
from ..blocks.embedding import Embedding, LearnedPositions, add_positions, scaled
from ..blocks.head import Head
from ..blocks.linear import multiply
from ..blocks.transformer import Transformer
from ..shards import local
from .tensor import Sharded, TensorAxis, WholeNorm, replace


class VocabularyEmbedding(Sharded):
    """Each rank looks up the tokens whose rows it holds; the sum over the ranks has all of them."""

    def __init__(self, embedding: Embedding, axis: TensorAxis):
        super().__init__()
        self.boundary = axis.boundary
        self.dtype, self.scale = embedding.dtype, embedding.scale
        self.first = first_row(len(embedding.weight), axis)
        self.weight = axis.parameter(embedding.weight, Shard(0))

    def forward(self, tokens: Tensor) -> Tensor:
        weight = local(self.weight)
        row = tokens - self.first
        elsewhere = (row < 0) | (row >= len(weight))
        if len(weight) == 0:
            weight = F.pad(weight, (0, 0, 0, 1))
        found = F.embedding(row.masked_fill(elsewhere, 0), weight).to(self.dtype)
        return scaled(self.boundary.leave(found.masked_fill(elsewhere.unsqueeze(-1), 0.0)), self.scale)


class WholePositions(Sharded):
    """Learned positions that all ranks hold; where each adds them to other tokens, their gradients are partial."""

    def __init__(self, table: LearnedPositions, axis: TensorAxis):
        super().__init__()
        self.positions = table.positions
        self.weight = axis.parameter(table.weight, Replicate())
        self.partial = ("weight",) if axis.boundary.sp else ()

    def forward(self, x: Tensor) -> Tensor:
        return add_positions(x, local(self.weight), self.positions)


class VocabularyHead(Sharded):
    """Each rank computes the logits of its share of the vocabulary; with targets, all together the loss."""

    def __init__(self, head: Head, axis: TensorAxis):
        super().__init__()
        self.boundary, self.softcap, self.added = axis.boundary, head.softcap, head.added
        self.first, self.vocab = first_row(head.out_features, axis), head.out_features
        self.weight = axis.parameter(head.weight, Shard(0))

    @property
    def terms(self) -> Terms:
        """Of the loss."""
        return self.added._replace(softcap=self.softcap)

    @property
    def share(self) -> Share:
        """Which tokens of the vocabulary are here."""
        return Share(self.boundary.group, self.first, self.vocab)

    def forward(self, x: Tensor, targets: Tensor | None = None) -> Tensor:
        x = self.boundary.enter(x)
        return self.logits(x) if targets is None else self.loss(x, targets)

    def logits(self, x: Tensor) -> Tensor:
        """Of whole sequences [batch, tokens, hidden], those of this rank's tokens of the vocabulary."""
        return capped(multiply(x, local(self.weight)), self.softcap)

    def loss(self, x: Tensor, targets: Tensor) -> Tensor:
        """As Head.loss, equal on all ranks."""
        weight = local(self.weight)
        if fuses(x, weight):
            return linear_cross_entropy(x, weight, targets, **self.terms._asdict(), **self.share._asdict())
        return vocabulary_cross_entropy(self.logits(x), targets, *self.share, self.added)


def first_row(vocab: int, axis: TensorAxis) -> int:
    """The first token of this rank's share: DTensor gives equal parts, rounded up, as far as they go."""
    return min(vocab, -(-vocab // axis.size) * axis.rank)


def shard_ends(part: Transformer, axis: TensorAxis) -> None:
    """Share out what a stage has before its first and after its last layer."""
    replace(part.model, "embed_tokens", VocabularyEmbedding, axis)
    replace(part.model, "embed_positions", WholePositions, axis)
    replace(part.model, "norm", WholeNorm, axis, partial=axis.boundary.sp)
    replace(part, "lm_head", VocabularyHead, axis)
    if axis.boundary.sp:
        part.model.positions.rank, part.model.positions.ranks = axis.rank, axis.size
    part.tie()
