"""Gather: every rank collects all keys and values, and reads them alone (Llama 3, arXiv:2407.21783, section 3.3.2).

One collective instead of many messages, and nothing beside it: simple, and good where keys are few. Keys and values are
collected again for the backward pass, whose gradients are summed and scattered to their ranks.
"""

from __future__ import annotations

from torch import Tensor

from . import block
from .core import ContextCore
from .tiles import View
from .transfer import all_gather, reduce_scatter


class GatherCore(ContextCore):
    """An all-gather of keys and values forward; it again and a reduce-scatter of their gradients backward."""

    def read(self, query: Tensor, key: Tensor, value: Tensor, view: View) -> tuple[Tensor, Tensor]:
        merged = block.Merged(query, value)
        gathered = all_gather(block.packed(key, value), self.group)
        for tile in view.tiles[self.rank]:
            if tile:
                parts = block.unpacked(gathered[tile.keys], key)
                merged.add(tile.rows, *block.read(tile, view, query, *parts, self.scoring))
        return merged.result()

    def read_backward(
        self, gradient: Tensor, query: Tensor, key: Tensor, value: Tensor, output: Tensor, lse: Tensor, view: View
    ) -> tuple[Tensor, Tensor, Tensor]:
        queries = (gradient, query, output, lse)
        gathered = all_gather(block.packed(key, value), self.group)
        found, gradients = block.zeros(query), block.zeros(gathered)
        for tile in view.tiles[self.rank]:
            if tile:
                parts = block.unpacked(gathered[tile.keys], key)
                each = block.read_backward(tile, view, queries, *parts, self.scoring)
                found[:, :, tile.rows] += each[0]
                gradients[tile.keys, :, :, tile.columns] += block.packed(*each[1:])
        return (found, *block.unpacked(reduce_scatter(gradients, self.group), key))
