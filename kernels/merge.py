"""Merge partial attention: queries saw two disjoint blocks of keys, find what they would see in both."""

from __future__ import annotations

import torch
from torch import Tensor

from . import expect
from .switch import runs_fast


def merge(output: Tensor, lse: Tensor, other: Tensor, other_lse: Tensor) -> tuple[Tensor, Tensor]:
    """Outputs [..., rows, width] weighted by their share of the exponentials, and the log-sum-exp [..., rows] of both.

    Exact in any order (FlashAttention, arXiv:2205.14135, section 3.1). -inf stands for a block in which a query saw
    nothing. The result has the dtype of `output`, which should be float32 at least; `other` may be narrower.
    """
    _check(output, lse, other, other_lse)
    if _runs_fast(output, lse, other, other_lse):
        from .fast import merge as fast

        return fast.merge(output, lse, other, other_lse)
    return merge_reference(output, lse, other, other_lse)


@torch.no_grad()
def merge_into(output: Tensor, lse: Tensor, other: Tensor, other_lse: Tensor) -> None:
    """As `merge`, and the results take the place of `output` and `lse`; no gradients."""
    _check(output, lse, other, other_lse)
    expect.dense_rows("merge_into", "output", output)
    if output.ndim <= 4 and _runs_fast(output, lse, other, other_lse):
        from .fast import merge as fast

        fast.merge_into(output, lse, other, other_lse)
        return
    both = merge_reference(output, lse, other, other_lse)
    output.copy_(both[0])
    lse.copy_(both[1])


def merge_reference(output: Tensor, lse: Tensor, other: Tensor, other_lse: Tensor) -> tuple[Tensor, Tensor]:
    """`merge` in plain PyTorch."""
    both = torch.logaddexp(lse, other_lse.to(lse.dtype))
    return _weight(lse, both) * output + _weight(other_lse, both) * other.to(output.dtype), both


def _weight(lse: Tensor, both: Tensor) -> Tensor:
    """exp(lse - both) [..., rows, 1]; 0 where neither saw anything."""
    return torch.exp(lse.to(both.dtype) - both.masked_fill(both == -torch.inf, 0.0)).unsqueeze(-1)


def _check(output: Tensor, lse: Tensor, other: Tensor, other_lse: Tensor) -> None:
    expect.dims("merge", "output", output, 2)
    expect.shape("merge", "lse", lse, output.shape[:-1])
    expect.shape("merge", "other", other, output.shape)
    expect.shape("merge", "other_lse", other_lse, lse.shape)
    expect.floating("merge", output=output, lse=lse, other=other, other_lse=other_lse)
    expect.one_device("merge", output=output, lse=lse, other=other, other_lse=other_lse)


def _runs_fast(output: Tensor, lse: Tensor, other: Tensor, other_lse: Tensor) -> bool:
    """The running output and both log-sum-exps in float32, as attention gives them."""
    wide = all(x.dtype == torch.float32 for x in (output, lse, other_lse))
    leading = output.shape[:-2]
    batch = heads = 1
    if leading:
        batch, heads = leading[:-1].numel(), leading[-1]
    return wide and runs_fast("merge", other, batch=batch, heads=heads, rows=output.shape[-2], width=output.shape[-1])
