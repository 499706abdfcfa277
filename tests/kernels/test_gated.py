"""Gated activations beyond what the suite asks of every kernel."""

from __future__ import annotations

import pytest
import torch
from guarded import Guard
from torch import Tensor

from meshwright.kernels.facts.gated import ACTIVATIONS
from meshwright.kernels.swiglu import gated, gated_reference


@pytest.mark.parametrize("activation", ACTIVATIONS.values())
def test_both_ends_of_the_activation(activation: str, device: str) -> None:
    """Where exponentials over- or underflow, values and slopes are those of the reference."""
    from meshwright.kernels.fast import gated as fast

    gate = torch.tensor([-200.0, -90.0, -20.0, -1e-3, 0.0, 1e-3, 20.0, 90.0, 200.0], device=device)
    plain, own = (gate.clone().requires_grad_() for _ in range(2))
    up = torch.full_like(gate, 2.0)
    expected, found = gated_reference(plain, up, activation), fast.gated(own, up, activation)
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)
    slopes = [torch.autograd.grad(x.sum(), given)[0] for x, given in ((expected, plain), (found, own))]
    torch.testing.assert_close(slopes[1], slopes[0], rtol=1e-5, atol=1e-5)


def test_halves_of_a_packed_projection_are_read_where_they_are(device: str, monkeypatch: pytest.MonkeyPatch) -> None:
    from meshwright.kernels.fast import gated as fast
    from meshwright.kernels.fast import memory

    guard = Guard()
    monkeypatch.setattr(memory, "empty", guard.empty)
    packed = guard.within(torch.randn(3, 5, 2 * 37).to(device))
    gate, up = packed.chunk(2, dim=-1)
    assert memory.Rows.of(gate).matrix(gate).data_ptr() == gate.data_ptr()
    found = fast.gated(gate, up, "silu")
    guard.check()
    torch.testing.assert_close(found, gated_reference(gate, up, "silu"), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    ("up", "kind", "message"),
    [
        (torch.zeros(3, 4), ValueError, r"gated: up has shape \[3, 4\], expected \[3, 5\]"),
        (torch.zeros(3, 5).half(), TypeError, r"gated: up is torch\.float16, expected torch\.float32"),
        (torch.zeros(3, 5, device="meta"), ValueError, "gated: up is on meta, expected cpu, where gate is"),
    ],
)
def test_what_does_not_fit_is_refused(up: Tensor, kind: type[Exception], message: str) -> None:
    with pytest.raises(kind, match=message):
        gated(torch.zeros(3, 5), up, "silu")
