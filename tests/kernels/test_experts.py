"""Permutation and grouped products against loops over tokens and experts, and against finite differences."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from meshwright.kernels.grouped import can_group, grouped_linear, grouped_linear_loop
from meshwright.kernels.permute import permute, slots_by_expert, sort_by_expert, unpermute


def random(*size: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(size, generator=torch.Generator().manual_seed(seed))


@settings(max_examples=50, deadline=None)
@given(st.integers(0, 9), st.integers(1, 4), st.integers(1, 6), st.integers(0, 1000))
def test_rows_stand_by_expert_and_then_by_token(tokens: int, choices: int, count: int, seed: int) -> None:
    experts = torch.randint(0, count, (tokens, choices), generator=torch.Generator().manual_seed(seed))
    to = sort_by_expert(experts, count)
    pairs = [(expert, pair) for pair, expert in enumerate(experts.flatten().tolist())]
    assert to.order.tolist() == [pair for _, pair in sorted(pairs)]
    assert to.counts.tolist() == [experts.eq(expert).sum().item() for expert in range(count)]
    x = random(tokens, 3, seed=seed)
    assert torch.equal(permute(x, to), x.repeat_interleave(choices, 0)[to.order])


def test_unpermute_is_the_weighted_sum_of_the_choices() -> None:
    experts, weights = torch.randint(0, 5, (6, 3), generator=torch.Generator().manual_seed(0)), random(6, 3).softmax(-1)
    to, matrices, x = sort_by_expert(experts, 5), random(5, 4, 4, seed=1), random(6, 4, seed=2)
    expected = torch.stack(
        [
            sum(w * matrices[e] @ token for w, e in zip(ws, es, strict=True))
            for ws, es, token in zip(weights, experts, x, strict=True)
        ]  # type: ignore[misc]
    )
    found = unpermute(grouped_linear(permute(x, to), matrices, to.counts), weights, to)
    torch.testing.assert_close(found, expected)


def test_gradients_of_permutation() -> None:
    experts = torch.randint(0, 4, (5, 2), generator=torch.Generator().manual_seed(0))
    to, x, weights = sort_by_expert(experts, 4), random(5, 3).double().requires_grad_(), random(5, 2).double()
    weights.requires_grad_()

    def there_and_back(x: torch.Tensor, weights: torch.Tensor) -> torch.Tensor:
        return unpermute(permute(x, to).sin(), weights, to)

    assert torch.autograd.gradcheck(there_and_back, (x, weights))


@settings(max_examples=50, deadline=None)
@given(st.integers(0, 9), st.integers(1, 3), st.integers(3, 6), st.integers(1, 4), st.integers(0, 1000), st.booleans())
def test_slots_go_to_the_highest_priority(
    tokens: int, choices: int, count: int, capacity: int, seed: int, equal: bool
) -> None:
    generator = torch.Generator().manual_seed(seed)
    experts = torch.rand(tokens, count, generator=generator).argsort(-1)[:, :choices]
    priority = torch.rand(tokens, choices, generator=generator) * (not equal)
    to = slots_by_expert(experts, priority, count, capacity)
    flat, wanted = priority.flatten().tolist(), []
    for expert in range(count):
        pairs = [pair for pair, chosen in enumerate(experts.flatten().tolist()) if chosen == expert]
        kept = sorted(pairs, key=lambda pair: (-flat[pair], pair))[:capacity]
        wanted += kept + [-1] * (capacity - len(kept))
    assert to.order.tolist() == wanted
    assert to.inverse.tolist() == [wanted.index(pair) if pair in wanted else -1 for pair in range(tokens * choices)]
    assert to.counts.tolist() == [capacity] * count


@pytest.mark.parametrize("capacity", [1, 2, 9])
def test_gradients_of_slots(capacity: int) -> None:
    experts = torch.tensor([[0, 1], [0, 2], [0, 1], [2, 0], [1, 0]])
    x, weights = random(5, 3).double().requires_grad_(), random(5, 2).double().requires_grad_()
    to = slots_by_expert(experts, weights.detach(), 4, capacity)

    def there_and_back(x: torch.Tensor, weights: torch.Tensor) -> torch.Tensor:
        return unpermute(permute(x, to).sin(), weights, to)

    assert torch.autograd.gradcheck(there_and_back, (x, weights))
    assert permute(x, to)[to.order < 0].count_nonzero() == 0


NATIVE = [("cpu", torch.float32), ("cpu", torch.bfloat16)]
NATIVE += [("cuda", torch.bfloat16)] if torch.cuda.is_available() else []


@pytest.mark.parametrize(("device", "dtype"), NATIVE, ids=str)
def test_grouped_product_equals_the_loop(device: str, dtype: torch.dtype) -> None:
    counts = torch.tensor([3, 0, 5, 2], device=device)
    x, weight = random(10, 16).to(device, dtype), random(4, 8, 16, seed=1).to(device, dtype)
    assert can_group(x, weight)
    found, expected = ([t.clone().requires_grad_() for t in (x, weight)] for _ in range(2))
    one, other = grouped_linear(*found, counts), grouped_linear_loop(*expected, counts)
    torch.testing.assert_close(one, other)
    one.sum().backward()
    other.sum().backward()
    for ours, theirs in zip(found, expected, strict=True):
        torch.testing.assert_close(ours.grad, theirs.grad)


@pytest.mark.parametrize("sizes", [(7, 6), (8, 16)], ids=str)
def test_experts_without_rows_get_gradients_of_zero(sizes: tuple[int, int]) -> None:
    weight = random(2, *sizes).requires_grad_()
    grouped_linear(random(0, sizes[1]), weight, torch.tensor([0, 0])).sum().backward()
    assert weight.grad is not None
    assert weight.grad.count_nonzero() == 0


def test_unaligned_sizes_take_the_loop() -> None:
    x, weight, counts = random(5, 6), random(2, 7, 6, seed=1), torch.tensor([2, 3])
    assert not can_group(x, weight)
    torch.testing.assert_close(grouped_linear(x, weight, counts), torch.cat([x[:2] @ weight[0].T, x[2:] @ weight[1].T]))
