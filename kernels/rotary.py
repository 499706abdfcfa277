"""Rotary position embedding (RoFormer, arXiv:2104.09864), in the two layouts of Hugging Face checkpoints."""

from __future__ import annotations

from functools import partial

import torch
from torch import Tensor

from . import expect
from .switch import runs_fast


def rotary_tables(
    frequencies: Tensor, positions: Tensor, dtype: torch.dtype, *, magnitude: float = 1.0
) -> tuple[Tensor, Tensor]:
    """Cosines and sines [len(positions), 2 x len(frequencies)] of the given positions, times `magnitude`.

    Angles are kept in float32: in bfloat16 neighbouring positions beyond a few thousand fall together.
    """
    angles = torch.outer(positions.float(), frequencies.float()).repeat(1, 2)
    return (angles.cos() * magnitude).to(dtype), (angles.sin() * magnitude).to(dtype)


def rotary(
    query: Tensor, key: Tensor, cos: Tensor, sin: Tensor, positions: Tensor | None = None, *, pairs: bool = False
) -> tuple[Tensor, Tensor]:
    """Queries [batch, heads, seq_len, width] and keys [batch, kv_heads, seq_len, width] turned by the angle of their
    position, entry i with i + turned / 2, or with `pairs` 2i with 2i + 1 (these come out in halves).

    `cos` and `sin` [places, turned] are of `rotary_tables`, whose second half repeats the first; entries beyond
    `turned` are left. Without `positions`, places are those of the sequence; with them int64 [seq_len] or [batch,
    seq_len], they say which row of the tables each token has (below `places`: not checked on a GPU). kv_heads may be 0.
    """
    _check(query, key, cos, sin, positions)
    name = "rotary_pairs" if pairs else "rotary"
    batch, heads, seq_len, width = query.shape
    sizes = {"batch": batch, "heads": heads, "kv_heads": key.shape[1], "seq_len": seq_len, "width": width}
    if runs_fast(name, query, **sizes, turned=cos.shape[-1]):
        from .fast import rotary as fast

        return fast.rotary(query, key, cos, sin, positions, pairs=pairs)
    return rotary_reference(query, key, cos, sin, positions, pairs=pairs)


def rotary_reference(
    query: Tensor, key: Tensor, cos: Tensor, sin: Tensor, positions: Tensor | None = None, *, pairs: bool = False
) -> tuple[Tensor, Tensor]:
    """`rotary` in plain PyTorch."""
    if positions is not None:
        cos, sin = cos[positions], sin[positions]
        if positions.ndim == 2:
            cos, sin = cos.unsqueeze(1), sin.unsqueeze(1)
    turn = rotate_pairs if pairs else rotate
    return turn(query, cos, sin), turn(key, cos, sin)


rotary_pairs_reference = partial(rotary_reference, pairs=True)


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
    width = cos.shape[-1]
    if width < x.shape[-1]:
        return torch.cat((rotate_pairs(x[..., :width], cos, sin), x[..., width:]), dim=-1)
    return rotate(torch.cat((x[..., 0::2], x[..., 1::2]), dim=-1), cos, sin)


def _check(query: Tensor, key: Tensor, cos: Tensor, sin: Tensor, positions: Tensor | None) -> None:
    expect.rank("rotary", "query", query, 4)
    batch, _, seq_len, width = query.shape
    expect.rank("rotary", "key", key, 4)
    expect.shape("rotary", "key", key, (batch, key.shape[1], seq_len, width))
    expect.rank("rotary", "cos", cos, 2)
    expect.shape("rotary", "sin", sin, cos.shape)
    if cos.shape[1] > width or cos.shape[1] % 2:
        raise ValueError(f"rotary: cos has shape {list(cos.shape)}, expected an even width of at most {width}")
    if positions is None:
        expect.shape("rotary", "cos", cos, (seq_len, cos.shape[1]))
    elif positions.shape not in ((seq_len,), (batch, seq_len)):
        expect.shape("rotary", "positions", positions, (batch, seq_len))
    if positions is not None:
        expect.dtype("rotary", "positions", positions, torch.int64)
    expect.floating("rotary", query=query)
    for name, x in (("key", key), ("cos", cos), ("sin", sin)):
        expect.dtype("rotary", name, x, query.dtype)
    expect.one_device("rotary", query=query, key=key, cos=cos, sin=sin, positions=positions)
