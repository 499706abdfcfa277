"""Block: one tile of attention on the rank where its queries meet its keys, and the sum of what tiles gave."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from ....kernels.merge import merge_into
from ...blocks.attend import Scoring, attend, attend_backward
from .tiles import Sight, Tile, View


def read(tile: Tile, view: View, query: Tensor, key: Tensor, value: Tensor, scoring: Scoring) -> tuple[Tensor, Tensor]:
    """Output and log-sum-exp of the tile's rows of `query` over its columns of `key` and `value`."""
    rows, columns = tile.rows, tile.columns
    mask = view.mask(tile, query.device)
    causal = tile.sight is Sight.CAUSAL
    return attend(query[:, :, rows], key[:, :, columns], value[:, :, columns], scoring, causal=causal, mask=mask)


def read_backward(
    tile: Tile,
    view: View,
    rows: Sequence[Tensor],
    key: Tensor,
    value: Tensor,
    scoring: Scoring,
) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients of the tile's rows and columns. `rows` are gradient, query, output and log-sum-exp of all its rank's
    queries; output and log-sum-exp are merged over all tiles."""
    gradient, query, output, lse = (each[:, :, tile.rows] for each in rows)
    key, value = key[:, :, tile.columns], value[:, :, tile.columns]
    mask, causal = view.mask(tile, query.device), tile.sight is Sight.CAUSAL
    return attend_backward(gradient, query, key, value, output, lse, scoring, causal=causal, mask=mask)


class Merged:
    """Partial outputs of one rank's queries, added up in float32 at least."""

    def __init__(self, query: Tensor, value: Tensor):
        wide = torch.promote_types(query.dtype, torch.float32)
        self.dtype = query.dtype
        self.output = query.new_zeros((*query.shape[:-1], value.shape[-1]), dtype=wide)
        self.lse = query.new_full(query.shape[:-1], -torch.inf, dtype=wide)

    def add(self, rows: slice, output: Tensor, lse: Tensor) -> None:
        """What some rows saw in one more block."""
        merge_into(self.output[:, :, rows], self.lse[:, :, rows], output, lse)

    def result(self) -> tuple[Tensor, Tensor]:
        """Output, in the dtype of the queries, and log-sum-exp."""
        return self.output.to(self.dtype), self.lse


def zeros(x: Tensor) -> Tensor:
    """To add gradients of `x` up in, in float32 at least."""
    return torch.zeros_like(x, dtype=torch.promote_types(x.dtype, torch.float32), memory_format=torch.contiguous_format)


def packed(key: Tensor, value: Tensor) -> Tensor:
    """Both in one block, for one message."""
    return torch.cat([key, value], dim=-1)


def unpacked(both: Tensor, key: Tensor) -> tuple[Tensor, Tensor]:
    """The opposite; `key` says how wide keys are."""
    width = key.shape[-1]
    return both[..., :width], both[..., width:]
