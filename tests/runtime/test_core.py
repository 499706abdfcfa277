"""The attention core of one device: it finds what double precision finds, and recomputation keeps what it found."""

from __future__ import annotations

import gc
import weakref
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from context_ranks import Case
from test_context import VARIANTS, reference
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from meshwright.runtime.blocks import core as module
from meshwright.runtime.blocks import kept
from meshwright.runtime.blocks.core import Core


def read(case: Case, contexts: Any = None) -> tuple[Tensor, ...]:
    """Output and gradients, recomputed in the backward if `contexts` are given."""
    query, key, value, gradient = (x.to(case.dtype) for x in case.tensors())
    leaves = [x.requires_grad_() for x in (query, key, value)]
    documents = None if case.documents is None else torch.tensor(case.documents)
    core = Core(**dict(case.options))
    if contexts is None:
        output = core(*leaves, documents)
    else:
        output = checkpoint(core, *leaves, documents, use_reentrant=False, context_fn=contexts)
    output.backward(gradient)
    return output.detach(), *(x.grad for x in leaves if x.grad is not None)


@pytest.mark.parametrize("contexts", [None, kept.contexts], ids=["once", "recomputed"])
@pytest.mark.parametrize("variant", VARIANTS)
def test_core_finds_what_double_precision_finds(variant: str, contexts: Any) -> None:
    exact = Case(algorithm="ring", **VARIANTS[variant])
    expected = reference(exact)
    torch.testing.assert_close(read(exact, contexts), expected)
    single = Case(algorithm="ring", **VARIANTS[variant], dtype=torch.float32)
    for found, each in zip(read(single, contexts), expected, strict=True):
        torch.testing.assert_close(found.double(), each, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("contexts", [None, kept.contexts], ids=["once", "recomputed"])
@pytest.mark.parametrize("softcap", [None, 0.9])
@pytest.mark.parametrize("window", [1, 2, 3, 5, 16, 17, 31, 40])
def test_short_windows_read_stripes(window: int, softcap: float | None, contexts: Any) -> None:
    options = (("window", window),) if softcap is None else (("window", window), ("softcap", softcap))
    case = Case(algorithm="ring", options=options, documents=VARIANTS["documents"]["documents"])
    torch.testing.assert_close(read(case, contexts), reference(case))


def test_short_windows_never_see_the_square(monkeypatch: pytest.MonkeyPatch) -> None:
    read = F.scaled_dot_product_attention
    shapes: list[tuple[int, int]] = []

    def watched(query: Tensor, key: Tensor, value: Tensor, **options: Any) -> Tensor:
        shapes.append((query.shape[2], key.shape[2]))
        return read(query, key, value, **options)

    monkeypatch.setattr(F, "scaled_dot_product_attention", watched)
    x = torch.zeros(1, 1, 100, 4)
    Core(window=10)(x, x, x)
    assert shapes == [(10, 10)] + [(10, 19)] * 9


@pytest.mark.parametrize("times", [1, 2])
def test_recomputation_does_not_run_attention_again(times: int, monkeypatch: pytest.MonkeyPatch) -> None:
    ran: list[int] = []
    attend = module.attend
    monkeypatch.setattr(module, "attend", lambda *args, **options: ran.append(1) or attend(*args, **options))
    core, x = Core(), torch.randn(1, 2, 8, 4, requires_grad=True)
    again = nn.Sequential(nn.Linear(4, 4), nn.SiLU())

    def block(x: Tensor) -> Tensor:
        hidden = again(x)
        return hidden + core(core(hidden, hidden, hidden), hidden, hidden)

    expected = torch.autograd.grad(block(x).square().sum(), [x, *again.parameters()])
    output = checkpoint(block, x, use_reentrant=False, context_fn=kept.contexts)
    for last in range(times):  # a split backward recomputes several times
        keep = last < times - 1
        found = torch.autograd.grad(output.square().sum(), [x, *again.parameters()], retain_graph=keep)
        torch.testing.assert_close(found, expected)
    assert len(ran) == 2
    assert not kept.is_kept()


def test_kept_results_are_freed_with_their_graph() -> None:
    core, x = Core(softcap=1.0), torch.randn(1, 2, 8, 4, requires_grad=True)
    output = checkpoint(core, x, x, x, use_reentrant=False, context_fn=kept.contexts)
    graph = weakref.ref(output.grad_fn)
    del output
    gc.collect()
    assert graph() is None


@pytest.mark.parametrize("masked", [False, True])
def test_masks_and_groups_of_heads_are_never_asked_for_together(masked: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """On a device whose fused kernels have one or the other: without one, scores grow with the square."""
    asked: list[tuple[bool, bool]] = []

    def kernel(query: Tensor, key: Tensor, value: Tensor, **options: Any) -> Tensor:
        asked.append((options["attn_mask"] is not None, options["enable_gqa"]))
        assert key.shape[1] == value.shape[1] == (2 if options["enable_gqa"] else 4)
        return query

    monkeypatch.setattr(F, "scaled_dot_product_attention", kernel)
    query, key = torch.empty(1, 4, 16, 8, device="meta"), torch.empty(1, 2, 16, 8, device="meta")
    Core()(query, key, key, torch.zeros(1, 16, dtype=torch.int64, device="meta") if masked else None)
    assert asked == [(masked, not masked)]
