"""Vocabulary parallelism: embedding, head and loss shared out over the tensor-parallel group."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor
from torch.distributed.tensor import Shard

from ...kernels.cross_entropy import vocabulary_cross_entropy
from ..blocks.embedding import Embedding
from ..blocks.head import Head
from ..blocks.linear import project
from ..blocks.transformer import Transformer
from .tensor import ReplicatedNorm, Sharded, TensorAxis, local, replace


class VocabularyEmbedding(Sharded):
    """Each rank looks up the tokens whose rows it holds; the sum over the ranks has all of them."""

    def __init__(self, embedding: Embedding, axis: TensorAxis):
        super().__init__()
        self.boundary = axis.boundary
        self.rank = axis.mesh.get_local_rank()
        self.dtype = embedding.dtype
        self.weight = axis.parameter(embedding.weight, Shard(0))

    def forward(self, tokens: Tensor) -> Tensor:
        weight = local(self.weight)
        row = tokens - self.rank * len(weight)
        elsewhere = (row < 0) | (row >= len(weight))
        found = F.embedding(row.masked_fill(elsewhere, 0), weight).to(self.dtype)
        return self.boundary.leave(found.masked_fill(elsewhere.unsqueeze(-1), 0.0))


class VocabularyHead(Sharded):
    """Each rank computes the logits of its share of the vocabulary; with targets, all together the loss."""

    def __init__(self, head: Head, axis: TensorAxis):
        super().__init__()
        self.boundary = axis.boundary
        self.weight = axis.parameter(head.weight, Shard(0))

    def forward(self, x: Tensor, targets: Tensor | None = None) -> Tensor:
        logits = project(self.boundary.enter(x), local(self.weight), None)
        return logits if targets is None else vocabulary_cross_entropy(logits, targets, self.boundary.group)


def shard_ends(part: Transformer, axis: TensorAxis) -> None:
    """Share out what a stage has before its first and after its last layer."""
    replace(part.model, "embed_tokens", VocabularyEmbedding, axis)
    replace(part.model, "norm", ReplicatedNorm, axis, partial=axis.boundary.sp)
    replace(part, "lm_head", VocabularyHead, axis)
    part.tie()
