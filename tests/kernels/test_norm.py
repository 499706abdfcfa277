"""Norms beyond what the suite asks of every kernel."""

from __future__ import annotations

import pytest
import torch
from guarded import Guard
from suite import exact, near, run, summands

from meshwright.kernels import norm
from meshwright.kernels.registry import KERNELS

NORMS = [name for name in KERNELS if name.endswith("norm")]


@pytest.mark.parametrize("name", NORMS)
@pytest.mark.parametrize("layout", ["within", "strided"])
def test_rows_too_wide_for_their_sums(name: str, layout: str, device: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The second program sums what the first leaves out; here rows of more than 64 entries are called wide."""
    from meshwright.kernels.fast import memory
    from meshwright.kernels.fast import norm as fast

    guard, sizes = Guard(), {"rows": 37, "width": 301}
    monkeypatch.setattr(fast, "WIDE_ROW", 64)
    monkeypatch.setattr(memory, "empty", guard.empty)
    found, slopes = run(KERNELS[name], sizes, "fp32", device, getattr(guard, layout))
    guard.check()
    expected, expected_slopes = exact(KERNELS[name], sizes, "fp32")
    near(found, expected, KERNELS[name].tolerance["fp32"])
    near(slopes, expected_slopes, KERNELS[name].tolerance["fp32"], summands(sizes))


def test_heads_behind_a_transpose_are_not_copied(device: str) -> None:
    from meshwright.kernels.fast import norm as fast

    heads = torch.randn(2, 5, 3, 16, device=device).transpose(1, 2)
    weight = torch.randn(16, device=device)
    found = fast.rms_norm(heads, weight, 1e-5)
    assert found.stride() == heads.stride()
    torch.testing.assert_close(found, norm.rms_norm_reference(heads, weight, 1e-5))


def test_the_sum_alone_has_a_gradient(device: str) -> None:
    from meshwright.kernels.fast import norm as fast

    x, residual = (torch.randn(3, 8, device=device, requires_grad=True) for _ in range(2))
    _, total = fast.add_rms_norm(x, residual, torch.ones(8, device=device), 1e-5)
    total.sum().backward()
    assert x.grad is not None
    assert torch.equal(x.grad, torch.ones_like(x))


@pytest.mark.parametrize(
    ("change", "kind", "message"),
    [
        ({"weight": torch.ones(7)}, ValueError, r"rms_norm: weight has shape \[7\], expected \[8\]"),
        ({"x": torch.ones(3, 8, dtype=torch.int64)}, TypeError, "rms_norm: x is torch.int64, expected a floating"),
        ({"weight": torch.ones(8, device="meta")}, ValueError, "rms_norm: weight is on meta, expected cpu, where x is"),
        ({"x": torch.ones(())}, ValueError, "rms_norm: x has 0 dimensions, expected at least 1"),
    ],
)
def test_what_does_not_fit_is_refused(change: dict[str, torch.Tensor], kind: type[Exception], message: str) -> None:
    with pytest.raises(kind, match=message):
        norm.rms_norm(**{"x": torch.ones(3, 8), "weight": torch.ones(8), **change}, eps=1e-5)


def test_a_residual_of_another_type_is_refused() -> None:
    x = torch.ones(3, 8)
    with pytest.raises(TypeError, match=r"add_rms_norm: residual is torch\.bfloat16, expected torch\.float32"):
        norm.add_rms_norm(x, x.bfloat16(), torch.ones(8), 1e-5)
