"""Projection and loss in chunks against PyTorch's own operators on the whole."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from meshwright.kernels.linear_cross_entropy import linear_cross_entropy

BATCH, SEQ_LEN, WIDTH, VOCAB = 2, 13, 8, 31


def inputs(dtype: torch.dtype = torch.float64) -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    hidden = torch.randn(BATCH, SEQ_LEN, WIDTH, generator=generator, dtype=torch.float64)
    weight = torch.randn(VOCAB, WIDTH, generator=generator, dtype=torch.float64)
    targets = torch.randint(0, VOCAB, (BATCH, SEQ_LEN), generator=generator)
    targets[0, :3] = -100
    targets[1, -1] = -1
    return hidden.to(dtype).requires_grad_(), weight.to(dtype).requires_grad_(), targets


def whole(hidden: Tensor, weight: Tensor, targets: Tensor, softcap: float | None = None) -> Tensor:
    logits = F.linear(hidden, weight).flatten(0, 1)
    if softcap is not None:
        logits = softcap * torch.tanh(logits / softcap)
    return F.cross_entropy(logits, targets.flatten().clamp(min=-1), reduction="sum", ignore_index=-1)


@pytest.mark.parametrize("softcap", [None, 2.0])
@pytest.mark.parametrize("chunks", [1, 4, 5, 26, 1000])
def test_chunks_equal_the_whole(chunks: int, softcap: float | None) -> None:
    hidden, weight, targets = inputs()
    expected = whole(hidden, weight, targets, softcap)
    found = linear_cross_entropy(hidden, weight, targets, chunks=chunks, softcap=softcap)
    torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-12)
    for mine, theirs in zip(
        torch.autograd.grad(found / 7, (hidden, weight)),
        torch.autograd.grad(expected / 7, (hidden, weight)),
        strict=True,
    ):
        torch.testing.assert_close(mine, theirs, rtol=1e-12, atol=1e-12)


def test_gradient_of_the_weight_is_added_up_in_float32() -> None:
    """1024 halves are 512; a sum in bfloat16 stands still at 128."""
    hidden = torch.ones(1, 1024, 1, dtype=torch.bfloat16)
    weight = torch.zeros(2, 1, dtype=torch.bfloat16, requires_grad=True)
    loss = linear_cross_entropy(hidden, weight, torch.zeros(1, 1024, dtype=torch.int64), chunks=1024)
    loss.backward()
    assert loss.dtype == torch.float32
    assert weight.grad is not None
    assert weight.grad.dtype == torch.bfloat16
    assert weight.grad.flatten().tolist() == [-512.0, 512.0]


def test_bfloat16_is_near_the_exact_value() -> None:
    hidden, weight, targets = inputs(torch.bfloat16)
    found = linear_cross_entropy(hidden, weight, targets, chunks=4)
    torch.testing.assert_close(found.double(), whole(hidden.double(), weight.double(), targets), rtol=1e-2, atol=0.0)


def test_nothing_but_padding_costs_nothing() -> None:
    hidden, weight, targets = inputs()
    loss = linear_cross_entropy(hidden, weight, torch.full_like(targets, -100), chunks=3)
    loss.backward()
    assert loss.item() == 0.0
    assert hidden.grad is not None
    assert not hidden.grad.any()
    assert weight.grad is not None
    assert not weight.grad.any()


def test_large_logits_do_not_overflow() -> None:
    hidden, weight, targets = inputs()
    far = hidden.detach().mul(1e4).requires_grad_()
    loss = linear_cross_entropy(far, weight, targets, chunks=4)
    torch.testing.assert_close(loss, whole(far, weight, targets))


class Largest(TorchDispatchMode):
    """Remembers the most elements of any tensor that an operator returned."""

    elements = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        for each in result if isinstance(result, tuple | list) else (result,):
            if isinstance(each, Tensor):
                self.elements = max(self.elements, each.numel())
        return result


def test_logits_never_exist_at_once() -> None:
    hidden = torch.randn(1, 512, 4, requires_grad=True)
    weight = torch.randn(64, 4, requires_grad=True)
    targets = torch.zeros(1, 512, dtype=torch.int64)
    with Largest() as plain:
        whole(hidden, weight, targets).backward()
    with Largest() as chunked:
        linear_cross_entropy(hidden, weight, targets, chunks=16).backward()
    assert plain.elements == 512 * 64
    assert chunked.elements == 512 * 64 // 16
