"""The attention references against PyTorch's own operators, in double precision."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from meshwright.kernels.attention import attention, attention_backward
from meshwright.kernels.merge import merge

SCALE = 0.4


def tensors(
    heads: int = 4, kv_heads: int = 2, rows: int = 5, columns: int = 9
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Queries, keys, values (wider than keys) and the gradient of an output."""
    generator = torch.Generator().manual_seed(0)
    sizes = [(2, heads, rows, 6), (2, kv_heads, columns, 6), (2, kv_heads, columns, 7), (2, heads, rows, 7)]
    made = [torch.randn(size, generator=generator, dtype=torch.float64) for size in sizes]
    return made[0], made[1], made[2], made[3]


def some() -> Tensor:
    """A mask that lets every query see something, and not all of it."""
    mask = torch.rand(2, 1, 5, 9, generator=torch.Generator().manual_seed(1)) > 0.5
    mask[..., 0] = True
    return mask


@pytest.mark.parametrize("masked", [False, True])
def test_attention_is_pytorchs(masked: bool) -> None:
    query, key, value, _ = tensors()
    mask = some() if masked else None
    expected = F.scaled_dot_product_attention(query, key, value, attn_mask=mask, scale=SCALE, enable_gqa=True)
    output, lse = attention(query, key, value, mask, scale=SCALE)
    torch.testing.assert_close(output, expected)
    scores = query @ key.repeat_interleave(2, dim=1).mT * SCALE
    expected = torch.logsumexp(scores if mask is None else scores.masked_fill(~mask, -torch.inf), -1)
    torch.testing.assert_close(lse, expected)


@pytest.mark.parametrize("softcap", [None, 0.7])
def test_the_backward_is_autograds(softcap: float | None) -> None:
    query, key, value, gradient = tensors()
    leaves = [x.clone().requires_grad_() for x in (query, key, value)]
    output, lse = attention(*leaves, some(), scale=SCALE, softcap=softcap)
    expected = torch.autograd.grad(output, leaves, gradient)
    given = (gradient, query, key, value, output.detach(), lse.detach(), some())
    torch.testing.assert_close(attention_backward(*given, scale=SCALE, softcap=softcap), expected)


def test_a_cap_bounds_scores() -> None:
    query, key, value, _ = tensors()
    scores = 0.7 * torch.tanh(query @ key.repeat_interleave(2, dim=1).mT * SCALE / 0.7)
    expected = F.softmax(scores, -1) @ value.repeat_interleave(2, dim=1)
    torch.testing.assert_close(attention(query, key, value, None, scale=SCALE, softcap=0.7)[0], expected)


def test_who_sees_nothing_finds_nothing() -> None:
    query, key, value, gradient = tensors()
    mask = some()
    mask[0, :, 2] = False
    output, lse = attention(query, key, value, mask, scale=SCALE)
    assert torch.equal(output[0, :, 2], torch.zeros(4, 7, dtype=torch.float64))
    assert torch.equal(lse[0, :, 2], torch.full((4,), -torch.inf, dtype=torch.float64))
    found = attention_backward(gradient, query, key, value, output, lse, mask, scale=SCALE)
    assert all(each.isfinite().all() for each in found)
    assert torch.equal(found[0][0, :, 2], torch.zeros(4, 6, dtype=torch.float64))


def test_bfloat16_is_computed_in_float32() -> None:
    query, key, value, _ = (x.bfloat16() for x in tensors())
    exact, _ = attention(query.double(), key.double(), value.double(), None, scale=SCALE)
    output, lse = attention(query, key, value, None, scale=SCALE)
    assert (output.dtype, lse.dtype) == (torch.bfloat16, torch.float32)
    torch.testing.assert_close(output.double(), exact, rtol=2**-8, atol=2**-8)


@pytest.mark.parametrize("cuts", [(3, 9), (9, 3), (1, 2, 9), (2, 9, 1)], ids=str)
def test_parts_merge_to_the_whole_in_any_order(cuts: tuple[int, ...]) -> None:
    query, key, value, gradient = tensors()
    mask = some()
    mask[1, :, 4, 1:] = False  # sees nothing in some parts
    whole = attention(query, key, value, mask, scale=SCALE)
    bounds = sorted({0, *cuts})
    parts = [slice(*bounds[index : index + 2]) for index in range(len(bounds) - 1)]
    order = sorted(range(len(parts)), key=lambda index: cuts.index(parts[index].stop))
    output, lse = torch.zeros_like(gradient), torch.full(gradient.shape[:-1], -torch.inf, dtype=torch.float64)
    for part in (parts[index] for index in order):
        found = attention(query, key[:, :, part], value[:, :, part], mask[..., part], scale=SCALE)
        output, lse = merge(output, lse, *found)
    torch.testing.assert_close((output, lse), whole)

    expected = attention_backward(gradient, query, key, value, *whole, mask, scale=SCALE)
    each = [
        attention_backward(gradient, query, key[:, :, p], value[:, :, p], output, lse, mask[..., p], scale=SCALE)
        for p in parts
    ]
    torch.testing.assert_close(sum(found[0] for found in each), expected[0])
    for index in (1, 2):
        torch.testing.assert_close(torch.cat([found[index] for found in each], dim=2), expected[index])


def test_nothing_merged_with_nothing_is_nothing() -> None:
    nothing = torch.full((1, 1, 2), -torch.inf)
    output, lse = merge(torch.zeros(1, 1, 2, 3), nothing, torch.zeros(1, 1, 2, 3), nothing)
    assert torch.equal(lse, nothing)
    assert torch.equal(output, torch.zeros(1, 1, 2, 3))
