"""Norms, activations and rotations beside those of the Llama family, against transformers' and PyTorch's own."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from transformers.activations import ACT2FN
from transformers.models.gemma2.modeling_gemma2 import Gemma2RMSNorm

from meshwright.kernels.norm import layer_norm, offset_rms_norm
from meshwright.kernels.rotary import rotary_tables, rotate, rotate_pairs
from meshwright.kernels.swiglu import activate, gated


def random(*size: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(size, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize(
    ("name", "theirs"),
    [("silu", "silu"), ("gelu", "gelu"), ("gelu_tanh", "gelu_new"), ("gelu_tanh", "gelu_fast"), ("relu", "relu")],
)
def test_activations(name: str, theirs: str) -> None:
    x, up = 3 * random(4, 33), random(4, 33, seed=1)
    torch.testing.assert_close(activate(x, name), ACT2FN[theirs](x))
    torch.testing.assert_close(gated(x, up, name), ACT2FN[theirs](x) * up)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_offset_norm_is_gemmas(dtype: torch.dtype) -> None:
    theirs, x = Gemma2RMSNorm(33, eps=1e-5), random(3, 33).to(dtype)
    theirs.weight.data = random(33, seed=1)
    assert torch.equal(offset_rms_norm(x, theirs.weight, 1e-5), theirs(x))


def test_layer_norm_has_its_statistics_in_float32() -> None:
    x, weight, bias = 100 + random(3, 33), random(33, seed=1), random(33, seed=2)
    torch.testing.assert_close(layer_norm(x, weight, bias, 1e-5), F.layer_norm(x, (33,), weight, bias, 1e-5))
    found = layer_norm(x.bfloat16(), weight, bias, 1e-5)
    exact = F.layer_norm(x.bfloat16().float(), (33,), weight, bias, 1e-5)
    assert found.dtype == torch.bfloat16
    torch.testing.assert_close(found.float(), exact, rtol=2e-2, atol=2e-2)


def test_narrow_tables_turn_the_first_entries_alone() -> None:
    cos, sin = rotary_tables(torch.tensor([1.0, 0.1]), torch.arange(7), torch.float32)
    x = random(2, 3, 7, 10)
    turned = rotate(x, cos, sin)
    assert torch.equal(turned[..., 4:], x[..., 4:])
    assert torch.equal(turned[..., :4], rotate(x[..., :4], cos, sin))


def test_pairs_turn_as_complex_numbers() -> None:
    frequencies = torch.tensor([1.0, 0.3, 0.1])
    x = random(2, 3, 7, 6)
    angles = torch.outer(torch.arange(7).float(), frequencies)
    turned = torch.view_as_complex(x.unflatten(-1, (3, 2))) * torch.polar(torch.ones_like(angles), angles)
    expected = torch.cat((turned.real, turned.imag), dim=-1)
    found = rotate_pairs(x, *rotary_tables(frequencies, torch.arange(7), torch.float32))
    torch.testing.assert_close(found, expected)


def test_a_magnitude_scales_what_is_turned() -> None:
    plain = rotary_tables(torch.tensor([1.0]), torch.arange(3), torch.float32)
    scaled = rotary_tables(torch.tensor([1.0]), torch.arange(3), torch.float32, magnitude=1.5)
    torch.testing.assert_close([1.5 * table for table in plain], list(scaled))
