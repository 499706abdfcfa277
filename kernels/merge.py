"""Merge partial attention: queries saw two disjoint blocks of keys, find what they would see in both."""

from __future__ import annotations

import torch
from torch import Tensor


def merge(output: Tensor, lse: Tensor, other: Tensor, other_lse: Tensor) -> tuple[Tensor, Tensor]:
    """Outputs [..., rows, width] weighted by their share of the exponentials, and the log-sum-exp [..., rows] of both.

    Exact in any order (FlashAttention, arXiv:2205.14135, section 3.1). -inf stands for a block in which a query saw
    nothing. The result has the dtype of `output`, which should be float32 at least.
    """
    both = torch.logaddexp(lse, other_lse.to(lse.dtype))
    return _weight(lse, both) * output + _weight(other_lse, both) * other.to(output.dtype), both


def _weight(lse: Tensor, both: Tensor) -> Tensor:
    """exp(lse - both) [..., rows, 1]; 0 where neither saw anything."""
    return torch.exp(lse.to(both.dtype) - both.masked_fill(both == -torch.inf, 0.0)).unsqueeze(-1)
