"""Ring: keys and values travel, queries stay (Ring Self-Attention, arXiv:2105.13120; Ring Attention, arXiv:2310.01889;
overlap and backward as in LightSeq, arXiv:2310.03294).

While a rank computes on one block it already sends it on and receives the next. The backward pass sends keys and values
round again, and their gradients after them, which arrive at home with the last step. Rounds that no rank needs, because
of windows or documents, are jumped over.
"""

from __future__ import annotations

from itertools import pairwise

from torch import Tensor

from . import block
from .core import ContextCore
from .tiles import View
from .transfer import Pending, pass_on


class RingCore(ContextCore):
    """Sends (ranks - 1) blocks of keys and values forward; as many, and `ranks` of their gradients, backward."""

    def read(self, query: Tensor, key: Tensor, value: Tensor, view: View) -> tuple[Tensor, Tensor]:
        merged = block.Merged(query, value)
        travelling = block.packed(key, value)
        for shift, step in rounds(view.shifts(1)):
            following = None if step is None else pass_on([travelling], step, self.group)
            if tile := view.tiles[self.rank][(self.rank - shift) % self.size]:
                merged.add(tile.rows, *block.read(tile, view, query, *block.unpacked(travelling, key), self.scoring))
            if following is not None:
                [travelling] = following.wait()
        return merged.result()

    def read_backward(
        self, gradient: Tensor, query: Tensor, key: Tensor, value: Tensor, output: Tensor, lse: Tensor, view: View
    ) -> tuple[Tensor, Tensor, Tensor]:
        queries = (gradient, query, output, lse)
        travelling, found = block.packed(key, value), block.zeros(query)
        after: Pending | None = None  # the gradients of the block at hand, from the rank that had it before
        for shift, step in rounds(view.shifts(1)):
            following = None if step is None else pass_on([travelling], step, self.group)
            gradients = block.zeros(travelling)
            if tile := view.tiles[self.rank][(self.rank - shift) % self.size]:
                each = block.read_backward(tile, view, queries, *block.unpacked(travelling, key), self.scoring)
                found[:, :, tile.rows] += each[0]
                gradients[:, :, tile.columns] += block.packed(*each[1:])
            if after is not None:
                gradients += after.wait()[0]
            after = pass_on([gradients], -shift if step is None else step, self.group)
            if following is not None:
                [travelling] = following.wait()
        assert after is not None
        return (found, *block.unpacked(after.wait()[0], key))


def rounds(shifts: list[int]) -> list[tuple[int, int | None]]:
    """Each shift with the distance to the next one; None: it is the last."""
    steps = [after - before for before, after in pairwise(shifts)]
    return list(zip(shifts, [*steps, None], strict=True))
