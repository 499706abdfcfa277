"""What the loss holds at its fullest, by PyTorch's own record of allocations, beside what the planner counts."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from parity_table.memory import PeakMemory
from torch import Tensor, nn

from meshwright.kernels import switch
from meshwright.kernels.cross_entropy import vocabulary_cross_entropy
from meshwright.planner.cost.loss import WIDE_BYTES, Loss, shared_bytes
from meshwright.planner.frameworks.framework import DEFAULT, framework
from meshwright.runtime.blocks.head import Head
from meshwright.runtime.parallel.chunks import chunk_loss

TOKENS, WIDTH, VOCAB = 640, 64, 4096
LITTLE = 64 * TOKENS
"""Bytes of numbers a token."""


@pytest.fixture(autouse=True)
def plain_products(monkeypatch: pytest.MonkeyPatch) -> None:
    """On processors with AMX oneDNN packs a matrix for the time of a product: bytes that are not the loss's."""
    monkeypatch.setattr(torch.backends.mkldnn, "enabled", False)


def head(dtype: torch.dtype, chunks: int, device: str = "cpu", tokens: int = TOKENS) -> tuple[Head, Tensor, Tensor]:
    """With inputs for it."""
    made = Head(VOCAB, WIDTH)
    made.weight = nn.Parameter(torch.randn(VOCAB, WIDTH, dtype=dtype, device=device))
    if chunks > 1:
        chunk_loss(made, chunks)
    x = torch.randn(1, tokens, WIDTH, dtype=dtype, device=device, requires_grad=True)
    return made, x, torch.randint(0, VOCAB, (1, tokens), device=device)


def peak_bytes(run: Callable[[], object], device: str = "cpu") -> int:
    if device == "cpu":
        with PeakMemory() as memory:
            run()
        return memory.bytes
    torch.cuda.synchronize()
    before = torch.cuda.memory_allocated()
    torch.cuda.reset_peak_memory_stats()
    run()
    return torch.cuda.max_memory_allocated() - before


def counted(dtype: torch.dtype, chunks: int, *, fused: bool, tokens: int = TOKENS) -> Loss:
    return Loss(
        element=dtype.itemsize,
        chunks=chunks,
        fused=fused,
        logits=tokens * VOCAB,
        hidden=tokens * WIDTH,
        weight=VOCAB * WIDTH,
    )


@pytest.mark.parametrize("chunks", [2, 5])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_chunks_in_plain_pytorch(dtype: torch.dtype, chunks: int) -> None:
    made, x, targets = head(dtype, chunks)
    expected = counted(dtype, chunks, fused=False)
    assert expected.product_bytes == 0  # while logits in fp32 stood, there was more
    forward = peak_bytes(lambda: made(x, targets))
    assert forward == pytest.approx(expected.ahead_bytes + expected.logits_bytes, abs=LITTLE)
    both = peak_bytes(lambda: made(x, targets).backward())
    assert both == pytest.approx(max(forward, expected.ahead_bytes + expected.scaled_bytes), abs=LITTLE)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_all_logits_at_once_in_plain_pytorch(dtype: torch.dtype) -> None:
    made, x, targets = head(dtype, 1)
    both = peak_bytes(lambda: made(x, targets).backward())
    assert both == pytest.approx(framework(DEFAULT).keeps.logit_bytes * TOKENS * VOCAB, abs=LITTLE)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_share_of_the_vocabulary_in_plain_pytorch(dtype: torch.dtype) -> None:
    """Beside the logits' own gradient, which is made last."""
    logits = torch.randn(TOKENS, VOCAB, dtype=dtype, requires_grad=True)
    targets = torch.randint(0, VOCAB, (TOKENS,))

    def run() -> None:
        loss = vocabulary_cross_entropy(logits, targets, None, 0, VOCAB)
        torch.autograd.grad(loss, logits)

    assert peak_bytes(run) == pytest.approx(shared_bytes(dtype.itemsize) * TOKENS * VOCAB, abs=LITTLE)


@pytest.mark.parametrize("chunks", [1, 4])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
def test_by_kernel(dtype: torch.dtype, chunks: int, device: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Forward, and what the backward makes. A CPU adds numbers of two types by way of a copy."""
    monkeypatch.setattr(switch, "INTERPRETED", True)
    tokens = 64  # which an interpreter goes through one by one
    made, x, targets = head(dtype, chunks, device, tokens)
    expected, copied = counted(dtype, chunks, fused=True, tokens=tokens), 0
    if expected.product_bytes and device == "cpu":
        copied = WIDE_BYTES * VOCAB * WIDTH
    losses: list[Tensor] = []
    forward = peak_bytes(lambda: losses.append(made(x, targets)), device)
    priced = expected.ahead_bytes + expected.logits_bytes + expected.product_bytes
    assert forward == pytest.approx(priced + copied, abs=64 * tokens)
    assert peak_bytes(losses[0].backward, device) == pytest.approx(expected.scaled_bytes + copied, abs=64 * tokens)
