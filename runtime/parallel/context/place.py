"""Place: a stage of the model, and a batch, as one rank of a context-parallel group has them."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from ....kernels.cross_entropy import IGNORED
from ....planner.configuration import CpAlgorithm
from ...blocks.core import Core
from ...blocks.transformer import Layer, Transformer
from ...mesh import Meshes
from ..batch import Batch
from .algorithms import CORES, Groups
from .tiles import Views
from .zigzag import Zigzag


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """Where a rank stands in its group and which tokens it has."""

    layout: Zigzag
    rank: int
    groups: Groups
    algorithm: CpAlgorithm

    @classmethod
    def of(cls, meshes: Meshes, layout: Zigzag, algorithm: CpAlgorithm) -> Place:
        assert meshes.cp is not None
        heads, ring = (mesh if mesh is None else mesh.get_group() for mesh in (meshes.cp_heads, meshes.cp_ring))
        groups = Groups(whole=meshes.cp.get_group(), heads=heads, ring=ring)
        return cls(layout=layout, rank=meshes.cp_rank, groups=groups, algorithm=algorithm)

    def spread(self, part: Transformer) -> None:
        """Let every layer of a stage read the tokens of all ranks, and every position be that of this rank's tokens."""
        views = Views()
        for layer in part.model.layers.values():
            assert isinstance(layer, Layer)
            assert isinstance(layer.self_attn.core, Core)
            layer.self_attn.core = CORES[self.algorithm](layer.self_attn.core, self.groups, views)
        part.model.positions.order = self._positions

    def share(self, batch: Batch) -> Batch:
        """This rank's tokens of whole sequences; documents are those of all ranks, as attention reads them."""
        tokens = self.layout.share(batch.tokens, self.rank, padding=0)
        targets = self.layout.share(batch.targets, self.rank, padding=IGNORED)
        documents, parts = batch.documents, self.groups.readers(self.algorithm)
        if documents is not None:
            documents = self.layout.spread(documents, padding=0, parts=parts)
        return replace(batch, tokens=tokens, targets=targets, documents=documents)

    def _positions(self, length: int, device: torch.device) -> Tensor:
        if length != self.layout.local:
            raise ValueError(f"{length} tokens, not the {self.layout.local} of one rank")
        return self.layout.positions(self.rank, device)
