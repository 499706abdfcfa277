"""Rotary position embedding (RoFormer, arXiv:2104.09864), in the two layouts of Hugging Face checkpoints."""

from __future__ import annotations

import torch
from torch import Tensor


def rotary_tables(
    frequencies: Tensor, positions: Tensor, dtype: torch.dtype, *, magnitude: float = 1.0
) -> tuple[Tensor, Tensor]:
    """Cosines and sines [len(positions), 2 x len(frequencies)] of the given positions, times `magnitude`.

    Angles are kept in float32: in bfloat16 neighbouring positions beyond a few thousand fall together.
    """
    angles = torch.outer(positions.float(), frequencies.float()).repeat(1, 2)
    return (angles.cos() * magnitude).to(dtype), (angles.sin() * magnitude).to(dtype)


def rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Rotate heads [batch, heads, seq_len, head_dim] by the angle of their position: entry i with i + head_dim/2.

    Tables that are narrower than the heads rotate their first entries and leave the rest.
    """
    width = cos.shape[-1]
    if width < x.shape[-1]:
        return torch.cat((rotate(x[..., :width], cos, sin), x[..., width:]), dim=-1)
    first, second = x.chunk(2, dim=-1)
    return x * cos + torch.cat((-second, first), dim=-1) * sin


def rotate_pairs(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """As `rotate`, of heads whose entries 2i and 2i + 1 turn together (DeepSeek); comes out in halves.

    Queries and keys change their order alike, so their products are those of the interleaved layout.
    """
    return rotate(torch.cat((x[..., 0::2], x[..., 1::2]), dim=-1), cos, sin)
