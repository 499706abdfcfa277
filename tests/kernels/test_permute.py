"""Sorting by expert and bringing rows there and back, beyond what the suite asks of every kernel."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from meshwright.kernels import permute as plain
from meshwright.kernels import switch
from meshwright.kernels.grouped import grouped_linear


def random(*size: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(size, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize(("tokens", "choices", "count"), [(0, 1, 1), (1, 1, 1), (300, 2, 3), (129, 3, 200)])
def test_triton_sorts_as_a_stable_sort_does(tokens: int, choices: int, count: int, device: str) -> None:
    """Over several blocks of pairs, and with experts that nobody chose."""
    from meshwright.kernels.fast.permute import sort

    experts = torch.randint(0, count, (tokens, choices), generator=torch.Generator().manual_seed(0)).to(device)
    for found, expected in zip(sort(experts, count), plain.sort_reference(experts, count), strict=True):
        assert torch.equal(found, expected)


def test_an_expert_that_is_not_there_gets_no_row(device: str) -> None:
    from meshwright.kernels.fast.permute import sort, spread_rows

    order, inverse, counts = sort(torch.tensor([[1], [7], [0], [-3]], device=device), 2)
    assert order.tolist() == [2, 0, -1, -1]
    assert inverse.tolist() == [1, -1, 0, -1]
    assert counts.tolist() == [1, 1]
    rows = spread_rows(torch.ones(4, 3, device=device), inverse.view(4, 1), 4, True)
    assert rows[:, 0].tolist() == [1.0, 1.0, 0.0, 0.0]


@settings(max_examples=25, deadline=None, derandomize=True)
@given(st.integers(0, 9), st.integers(1, 4), st.integers(1, 6), st.integers(0, 1000))
def test_there_and_back_is_the_identity(tokens: int, choices: int, count: int, seed: int) -> None:
    """With weights that add up to one; these are powers of two, so nothing is rounded."""
    experts = torch.randint(0, count, (tokens, choices), generator=torch.Generator().manual_seed(seed))
    to, x = plain.sort_by_expert(experts, count), random(tokens, 3, seed=seed)
    weights = torch.zeros(tokens, choices)
    weights[:, 0] = 1.0
    assert torch.equal(plain.unpermute(plain.permute(x, to), weights, to), x)


@pytest.mark.parametrize("capacity", [1, 2, 9])
def test_triton_leaves_out_what_has_no_row(capacity: int, device: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Both ways through the functions that the runtime calls, with gradients, and tokens dropped."""
    monkeypatch.setattr(switch, "INTERPRETED", True)
    experts = torch.tensor([[0, 1], [0, 2], [0, 1], [2, 0], [1, 0]], device=device)
    weights = random(5, 2).to(device)
    to = plain.slots_by_expert(experts, weights, 4, capacity)
    results = []
    for choice in ("auto", "reference"):
        x, w = random(5, 7, seed=1).to(device).requires_grad_(), weights.clone().requires_grad_()
        with switch.kernels(choice):  # type: ignore[arg-type]
            rows = plain.permute(x, to)
            found = plain.unpermute(rows.sin(), w, to)
            found.square().sum().backward()
        results.append((rows.detach(), found.detach(), x.grad, w.grad))
    for fast, reference in zip(*results, strict=True):
        torch.testing.assert_close(fast, reference)


def test_unaligned_grouped_products_run_in_triton(device: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(switch, "INTERPRETED", True)
    x, weight, counts = random(5, 6).to(device), random(3, 7, 6, seed=1).to(device), torch.tensor([2, 0, 3])
    found = grouped_linear(x, weight, counts.to(device))
    torch.testing.assert_close(found, torch.cat([x[:2] @ weight[0].T, x[2:] @ weight[2].T]))


def test_wrong_arguments_are_refused() -> None:
    x, weight, counts = random(5, 6), random(2, 7, 6), torch.tensor([2, 3])
    with pytest.raises(TypeError, match=r"experts is torch.int32, expected torch.int64"):
        plain.sort_by_expert(torch.zeros(2, 1, dtype=torch.int32), 1)
    with pytest.raises(ValueError, match=r"x has shape \[5, 4\], expected \[5, 6\]"):
        grouped_linear(x[:, :4], weight, counts)
    with pytest.raises(ValueError, match=r"counts has shape \[1\], expected \[2\]"):
        grouped_linear(x, weight, counts[:1])
    with pytest.raises(TypeError, match=r"weight is torch.float64, expected torch.float32"):
        grouped_linear(x, weight.double(), counts)
