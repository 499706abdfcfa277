"""The reference kernels against PyTorch's own operators."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from meshwright.kernels.cross_entropy import cross_entropy
from meshwright.kernels.norm import rms_norm
from meshwright.kernels.rotary import rotary_tables, rotate
from meshwright.kernels.swiglu import swiglu


def random(*size: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(size, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("size", [(3, 8), (2, 5, 33), (0, 4)])
def test_rms_norm(size: tuple[int, ...]) -> None:
    x, weight = random(*size), random(size[-1], seed=1)
    torch.testing.assert_close(rms_norm(x, weight, 1e-5), F.rms_norm(x, (size[-1],), weight, 1e-5))


def test_rms_norm_keeps_bfloat16() -> None:
    x, weight = random(4, 64).bfloat16(), random(64, seed=1)
    exact = F.rms_norm(x.float(), (64,), weight, 1e-5)
    assert rms_norm(x, weight, 1e-5).dtype == torch.bfloat16
    torch.testing.assert_close(rms_norm(x, weight, 1e-5).float(), exact, rtol=2e-2, atol=2e-2)


def test_rms_norm_gradient() -> None:
    x, weight = random(2, 6).double().requires_grad_(), random(6, seed=1).double().requires_grad_()
    expected = torch.autograd.grad(F.rms_norm(x, (6,), weight, 1e-5).square().sum(), (x, weight))
    found = torch.autograd.grad(rms_norm(x, weight, 1e-5).square().sum(), (x, weight))
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5, check_dtype=False)


def test_rotation_is_a_complex_product() -> None:
    frequencies = 100.0 ** (-torch.arange(4) / 4)
    x = random(2, 3, 7, 8)
    angles = torch.outer(torch.arange(7).float(), frequencies)
    turned = torch.complex(x[..., :4], x[..., 4:]) * torch.polar(torch.ones_like(angles), angles)
    expected = torch.cat((turned.real, turned.imag), dim=-1)
    torch.testing.assert_close(rotate(x, *rotary_tables(frequencies, torch.arange(7), torch.float32)), expected)


def test_rotated_products_depend_on_distance_alone() -> None:
    cos, sin = rotary_tables(torch.tensor([1.0, 0.1]), torch.arange(10), torch.float32)
    query, key = random(1, 1, 1, 4).expand(1, 1, 10, 4), random(1, 1, 1, 4, seed=1).expand(1, 1, 10, 4)
    products = rotate(query, cos, sin) @ rotate(key, cos, sin).mT
    torch.testing.assert_close(products[..., 3, 1], products[..., 9, 7])


def test_swiglu_halves() -> None:
    gate, up = random(4, 6), random(4, 6, seed=1)
    torch.testing.assert_close(swiglu(gate, up), gate * torch.sigmoid(gate) * up)


def test_cross_entropy_of_bfloat16_logits_is_taken_in_float32() -> None:
    logits, targets = random(2, 5, 11).bfloat16(), torch.arange(10).view(2, 5)
    expected = -torch.log_softmax(logits.double(), -1).gather(-1, targets.unsqueeze(-1)).sum()
    torch.testing.assert_close(cross_entropy(logits, targets), expected.float())
