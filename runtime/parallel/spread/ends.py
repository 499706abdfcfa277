"""Ends: the rows of embedding and head that one rank of a pipeline holds, where they are spread over all ranks."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from ...blocks.embedding import Embedding
from ...blocks.head import Head
from ...blocks.shape import Shape
from ...mesh import Meshes
from ..sequence import Boundary
from ..tensor import TensorAxis
from ..vocabulary import VocabularyEmbedding, VocabularyHead


class Ends(nn.Module):
    """Of a tied model one parameter; names are those of the whole model. Shards go over pp x tp, in that order."""

    def __init__(self, shape: Shape, meshes: Meshes, *, sp: bool, dtype: torch.dtype):
        """Parameters are on the meta device."""
        super().__init__()
        axis = _axis(meshes, sp=sp)
        with torch.device("meta"):
            embedding = Embedding(shape.vocab, shape.hidden, dtype, shape.embedding_scale)
            head = Head(shape.vocab, shape.hidden, shape.logit_softcap)
        self.boundary = axis.boundary
        rows = VocabularyEmbedding(embedding, axis)
        self.model = nn.ModuleDict({"embed_tokens": rows})
        self.lm_head = VocabularyHead(head, axis)
        self.first = self.lm_head.first  # the first token whose row is here
        if shape.tied_embeddings:
            self.lm_head.weight = rows.weight

    def forward(self, x: Tensor) -> Tensor:
        """Ids [batch, tokens] to what this rank adds to their embeddings; hidden states [tokens, hidden] to the logits
        of its rows [tokens, share]."""
        if x.is_floating_point():
            return self.lm_head.logits(x)
        found: Tensor = self.model["embed_tokens"](x)
        return found


def _axis(meshes: Meshes, *, sp: bool) -> TensorAxis:
    """Rows over pp x tp; hidden states cross tensor-parallel boundaries as those of every block."""
    assert meshes.vocabulary is not None
    if meshes.tp is None:
        return TensorAxis(meshes.vocabulary, _Nowhere(meshes.vocabulary.get_group(), sp=False))
    return TensorAxis(meshes.vocabulary, Boundary(meshes.tp.get_group(), sp))


class _Nowhere(Boundary):
    """Without tensor parallelism there is nothing to cross."""

    def enter(self, x: Tensor) -> Tensor:
        return x

    def leave(self, x: Tensor) -> Tensor:
        return x
