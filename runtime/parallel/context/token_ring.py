"""TokenRing: queries travel, keys and values stay (arXiv:2412.20501).

Queries go round one way; what they found on a rank goes back to their own rank the other way, with its log-sum-exp.
Both are messages of one group and take turns (NCCL has one stream for them). Pays where queries and outputs are smaller
than keys and values, and their gradients.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from . import block
from .core import ContextCore
from .ring import rounds
from .tiles import Tile, View
from .transfer import Pending, exchange, pass_on


class TokenRingCore(ContextCore):
    """Sends (ranks - 1) blocks of queries one way and of outputs the other. Backward, queries, outputs and gradients of
    outputs go one way, gradients of queries the other; those of keys and values stay."""

    def read(self, query: Tensor, key: Tensor, value: Tensor, view: View) -> tuple[Tensor, Tensor]:
        merged, travelling, returning = block.Merged(query, value), query, []
        kinds = [(merged.output, query.dtype), (merged.lse, merged.lse.dtype)]
        for shift, step in rounds(view.shifts(-1)):
            following = None if step is None else pass_on([travelling], step, self.group)
            tile = view.tiles[(self.rank - shift) % self.size][self.rank]
            found = block.read(tile, view, travelling, key, value, self.scoring) if tile else ()
            returning.append(self._give_back(found, kinds, view, shift))
            if following is not None:
                [travelling] = following.wait()
        for tile, pending in returning:
            returned = pending.wait()  # even if nothing comes: what was sent must live until it has arrived
            if tile:
                merged.add(tile.rows, *returned)
        return merged.result()

    def read_backward(
        self, gradient: Tensor, query: Tensor, key: Tensor, value: Tensor, output: Tensor, lse: Tensor, view: View
    ) -> tuple[Tensor, Tensor, Tensor]:
        travelling: Sequence[Tensor] = (gradient, query, output, lse)
        own, found, returning = block.zeros(query), (block.zeros(key), block.zeros(value)), []
        for shift, step in rounds(view.shifts(-1)):
            following = None if step is None else pass_on(travelling, step, self.group)
            tile, back = view.tiles[(self.rank - shift) % self.size][self.rank], list[Tensor]()
            if tile:
                first, *others = block.read_backward(tile, view, travelling, key, value, self.scoring)
                back = [first.to(own.dtype)]
                for total, each in zip(found, others, strict=True):
                    total[:, :, tile.columns] += each
            returning.append(self._give_back(back, [(own, own.dtype)], view, shift))
            if following is not None:
                travelling = following.wait()
        for tile, pending in returning:
            returned = pending.wait()
            if tile:
                own[:, :, tile.rows] += returned[0]
        return own, *found

    def _give_back(
        self, found: Sequence[Tensor], kinds: Sequence[tuple[Tensor, torch.dtype]], view: View, shift: int
    ) -> tuple[Tile | None, Pending]:
        """Send what the queries of the rank `shift` places before this one found here, and await what this rank's found
        on the one as far behind; `kinds` have the shapes for all of its queries, and the dtypes."""
        tile = view.tiles[self.rank][(self.rank + shift) % self.size]
        if shift == 0:
            return tile, Pending(found, list(found))
        shapes = [(x[:, :, tile.rows].shape, dtype) for x, dtype in kinds] if tile else []
        into = [torch.empty(shape, dtype=dtype, device=kinds[0][0].device) for shape, dtype in shapes]
        return tile, exchange(found, -shift, into, shift, self.group)
