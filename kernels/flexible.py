"""Attention by FlexAttention (PyTorch's), with masks that skip blocks: for CUDA devices.

On a CPU PyTorch 2.13 has no backward pass for it, and its forward pass without a compiler holds all scores; there the
same rules are written out and go to scaled_dot_product_attention.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Hashable
from functools import cache
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from .facts.sparse import TILE
from .masks import Blocks, Rule
from .switch import chosen_kernels

if TYPE_CHECKING:  # it imports much, which processes without a CUDA device do without
    from torch.nn.attention.flex_attention import BlockMask

SIZE = TILE
"""Tokens of a block, as the kernel's tiles want them."""
_NARROWEST = 16
_KEPT = 8  # masks: of a few windows, and of the microbatches that a pipeline has under way


def runs_flexible(query: Tensor) -> bool:
    """Whether attention of such queries goes through FlexAttention."""
    if chosen_kernels() == "reference" or not query.is_cuda or torch.compiler.is_compiling():
        return False
    return query.dtype != torch.float64 and query.shape[-1] >= _NARROWEST


def block_mask(rule: Rule, blocks: Blocks, seq_len: int) -> BlockMask:
    """What FlexAttention reads: for each row of blocks those with pairs to be asked about, and those seen whole."""
    from torch.nn.attention.flex_attention import BlockMask

    asked = _listed(blocks.some & ~blocks.every)
    whole = _listed(blocks.every & blocks.some)
    return BlockMask.from_kv_blocks(
        *asked, *whole, BLOCK_SIZE=blocks.size, mask_mod=rule, seq_lengths=(seq_len, seq_len)
    )


def _listed(chosen: Tensor) -> tuple[Tensor, Tensor]:
    """How many blocks of each row, and their numbers, first those and then the others."""
    order = torch.argsort(chosen.to(torch.int32), dim=-1, descending=True, stable=True)
    return chosen.sum(-1, dtype=torch.int32), order.to(torch.int32)


class Masks:
    """The last block masks that were made: all layers of a stage read a microbatch with the same few."""

    def __init__(self) -> None:
        self._recent: deque[tuple[Hashable, Tensor | None, BlockMask]] = deque(maxlen=_KEPT)

    def of(self, key: Hashable, numbers: Tensor | None, make: Callable[[], BlockMask]) -> BlockMask:
        """The one known by this key and of these documents, the same tensor; or else a new one."""
        for known, held, mask in self._recent:
            if known == key and held is numbers:
                return mask
        self._recent.append((key, numbers, make()))
        return self._recent[-1][2]


def attention(query: Tensor, key: Tensor, value: Tensor, mask: BlockMask, scale: float) -> Tensor:
    """What queries [batch, heads, seq_len, width] find in keys and values [batch, kv_heads, seq_len, width]."""
    grouped = query.shape[1] != key.shape[1]
    found: Tensor = _compiled()(query, key, value, block_mask=mask, scale=scale, enable_gqa=grouped)
    return found


@cache
def _compiled() -> Any:
    from torch.nn.attention.flex_attention import flex_attention

    return torch.compile(flex_attention, dynamic=False)
