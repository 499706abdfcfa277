"""Terms: what a loss is made of beside the cross-entropy, and who has which part of the vocabulary."""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.distributed as dist
from torch import Tensor

from . import expect


class Terms(NamedTuple):
    """With logits z over a vocabulary of V, lse their log-sum-exp and t the target's, the loss of a token in nats is

        lse - (1 - e) t - (e / V) sum(z) + c lse^2

    `label_smoothing` e, as PyTorch's (Szegedy et al., arXiv:1512.00567, section 7); `z_loss` c keeps lse near zero
    (PaLM, arXiv:2204.02311, section 5). `softcap` s: logits are s tanh(z / s) before (Gemma 2, arXiv:2408.00118,
    section 2).
    """

    softcap: float | None = None
    label_smoothing: float = 0.0
    z_loss: float = 0.0

    @property
    def numbers(self) -> int:
        """Of a token, that a share of the vocabulary is summed up in."""
        return 4 if self.label_smoothing else 3


PLAIN = Terms()
"""Cross-entropy alone."""


class Share(NamedTuple):
    """Of `vocab` columns, this rank of `group` (None: there is one) has those from `first` on."""

    group: dist.ProcessGroup | None
    first: int
    vocab: int


def check_terms(kernel: str, terms: Terms) -> None:
    """Raise ValueError for what is no loss."""
    if terms.softcap is not None and not terms.softcap > 0:
        raise ValueError(f"{kernel}: softcap is {terms.softcap}, expected a number above 0, or None")
    if not 0 <= terms.label_smoothing <= 1:
        raise ValueError(f"{kernel}: label_smoothing is {terms.label_smoothing}, expected from 0 to 1")
    if not terms.z_loss >= 0:
        raise ValueError(f"{kernel}: z_loss is {terms.z_loss}, expected 0 or more")


def check_targets(kernel: str, targets: Tensor, vocab: int) -> None:
    """Raise ValueError for a token that the vocabulary does not have. On a GPU, where looking would make the host wait,
    such a token's loss is NaN instead. Fake tensors, a subclass, have no values to look at."""
    expect.dtype(kernel, "targets", targets, torch.int64)
    has_values = type(targets) is Tensor and targets.device.type == "cpu" and targets.numel()
    if has_values and not torch.compiler.is_compiling():
        largest = int(targets.max())
        if largest >= vocab:
            raise ValueError(f"{kernel}: targets hold {largest}, expected ids below the vocabulary of {vocab}")
