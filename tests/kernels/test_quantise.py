"""Blocks of 8-bit numbers: half a step at most, nothing lost over time, nothing hidden that is not finite."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from meshwright.kernels import switch
from meshwright.kernels.facts.quantise import GRIDS
from meshwright.kernels.quantise import (
    blocks_of,
    dequantise_into,
    dequantise_reference,
    feedback_reference,
    quantise_into,
    quantise_reference,
    reduce_reference,
    requantise_into,
    requantise_reference,
)

FORMATS = pytest.mark.parametrize("format", GRIDS)
FEW = settings(max_examples=25, deadline=None, derandomize=True)
FINEST = 2.0**-126  # of scales


def drawn(seed: int, parts: int, elements: int, exponent: int = 0) -> Tensor:
    """Normal numbers over many magnitudes."""
    generator = torch.Generator().manual_seed(seed)
    spread = torch.randn(parts, elements, generator=generator).mul(4).exp2()
    return torch.randn(parts, elements, generator=generator) * spread * 2.0**exponent


def half_step(codes: Tensor, scales: Tensor, format: str, block: int) -> Tensor:
    """Half the distance of neighbours on the grid around each number, from the definition of the grid: integers, or
    `mantissa` bits after the leading one and a least exponent of 1 - bias."""
    grid = GRIDS[format]
    each = scales.double().repeat_interleave(block, dim=1)[:, : codes.shape[1]]
    if format == "int8":
        return each / 2
    numbers = dequantise_reference(codes, scales, torch.float64, format, block) / each
    exponent = numbers.abs().clamp(min=2.0 ** (1 - grid.bias)).log2().floor()
    return each * 2 ** (exponent - grid.mantissa) / 2


@FORMATS
@FEW
@given(
    seed=st.integers(0, 999),
    parts=st.integers(1, 3),
    elements=st.integers(1, 70),
    block=st.sampled_from([16, 32]),
    exponent=st.integers(-130, 100),
)
def test_errors_are_at_most_half_a_step(
    format: str, seed: int, parts: int, elements: int, block: int, exponent: int
) -> None:
    x = drawn(seed, parts, elements, exponent)
    codes, scales = quantise_reference(x, format, block)
    found = dequantise_reference(codes, scales.double(), torch.float64, format, block)
    slack = x.abs() * 2.0**-22  # the quotient and its scale are rounded to float32
    assert ((found - x.double()).abs() <= half_step(codes, scales.double(), format, block) + slack).all()


@FORMATS
def test_the_largest_of_a_block_is_the_largest_of_the_grid(format: str) -> None:
    codes, scales = quantise_reference(drawn(1, 1, 64), format, 32)
    numbers = dequantise_reference(codes, torch.ones_like(scales), torch.float32, format, 32)
    assert numbers.view(2, 32).abs().amax(1).tolist() == [GRIDS[format].largest] * 2


@FORMATS
def test_zeros_are_zeros_and_what_is_not_finite_is_seen(format: str, device: str) -> None:
    x = torch.ones(2, 64, device=device)
    x[0, 16:32] = 0.0
    x[0, 40], x[1, 3], x[1, 50] = torch.nan, torch.inf, -torch.inf
    for run in (quantise_reference, _fast("quantise")):
        codes, scales = run(x, format, 16)
        found = dequantise_reference(codes, scales, torch.float32, format, 16).view(2, 4, 16)
        assert found[0, 1].tolist() == [0.0] * 16
        seen = [not bool(block.isfinite().any()) for part in found for block in part]
        assert seen == [False, False, True, False, True, False, False, True]
        assert not codes.view(2, 4, 16)[0, 2].any()


@FORMATS
def test_a_residual_outlives_what_is_not_finite(format: str, device: str) -> None:
    x, residual = torch.ones(1, 48, device=device), torch.full((1, 48), 0.25, device=device)
    x[0, 20] = torch.inf
    for run in (feedback_reference, _fast("feedback")):
        _, scales, kept = run(x, residual, format, 16)
        assert not scales[0, 1].isfinite()
        assert kept[0, 16:32].tolist() == [0.25] * 16
        assert kept.isfinite().all()


@FORMATS
@FEW
@given(seed=st.integers(0, 999), steps=st.integers(1, 12), elements=st.integers(1, 50))
def test_what_was_sent_is_what_was_to_be_sent_but_for_one_residual(
    format: str, seed: int, steps: int, elements: int
) -> None:
    """The errors of steps telescope; without feedback they would add up."""
    residual, wanted, sent = torch.zeros(1, elements), torch.zeros(1, elements).double(), torch.zeros(1, elements)
    sent = sent.double()
    largest = 0.0
    for step in range(steps):
        x = drawn(seed + step, 1, elements)
        codes, scales, residual = feedback_reference(x, residual, format, 16)
        wanted += x.double()
        sent += dequantise_reference(codes, scales, torch.float64, format, 16)
        largest = max(largest, float(x.abs().max()))
    torch.testing.assert_close(wanted - sent, residual.double(), rtol=0.0, atol=steps * largest * 2.0**-21)
    step_size = half_step(codes, scales.double(), format, 16)
    assert (residual.abs().double() <= step_size * (1 + 2**-15) + largest * 2.0**-21).all()


@FORMATS
def test_sums_go_through_the_parts_in_their_order(format: str, device: str) -> None:
    """Of numbers so different that the order decides the result."""
    x = torch.tensor([[1.0] * 20, [2.0**26] * 20, [-(2.0**26)] * 20], device=device)
    codes, scales = quantise_reference(x, format, 16)
    parts = [dequantise_reference(codes[i : i + 1], scales[i : i + 1], torch.float32, format, 16) for i in range(3)]
    expected = (parts[0] + parts[1]) + parts[2]
    other = parts[0] + (parts[1] + parts[2])
    assert not torch.equal(expected, other)
    for run in (reduce_reference, _fast("reduce")):
        assert torch.equal(run(codes, scales, format, 16), expected[0])


@FORMATS
def test_messages_hold_codes_and_scales_side_by_side(format: str, device: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """In place, in parts of one buffer of bytes, by Triton and by its reference: the same bits."""
    monkeypatch.setattr(switch, "INTERPRETED", True)
    parts, elements, block = 3, 128, 32
    x, found = drawn(5, parts, elements).to(device), []
    for choice in ("auto", "reference"):
        with switch.kernels(choice):  # type: ignore[arg-type]
            sent, codes, scales = _message(parts, elements, block, device)
            residual, other = x * 0.01, x[:1] * 0.02
            quantise_into(x, codes, scales, residual, format, block)
            reduced, to_codes, to_scales = _message(1, elements, block, device)
            requantise_into(codes, scales, to_codes, to_scales, other, format, block)
            numbers = torch.empty(1, elements, device=device)
            dequantise_into(to_codes, to_scales, numbers, format, block)
        found.append((sent, residual, reduced, other, numbers))
    assert all(torch.equal(one, two) for one, two in zip(*found, strict=True))
    plain = requantise_reference(*feedback_reference(x, x * 0.01, format, block)[:2], x[:1] * 0.02, format, block)
    torch.testing.assert_close(found[0][3], plain[2])


def _message(parts: int, elements: int, block: int, device: str) -> tuple[Tensor, Tensor, Tensor]:
    whole = torch.zeros(parts, elements + 4 * blocks_of(elements, block), dtype=torch.uint8, device=device)
    return whole, whole[:, :elements], whole[:, elements:].view(torch.float32)


def _fast(name: str) -> Any:
    from meshwright.kernels.fast import quantise

    return getattr(quantise, name)


def test_wrong_arguments_are_refused_with_what_was_expected() -> None:
    x, codes, scales = torch.zeros(2, 40), torch.zeros(2, 40, dtype=torch.uint8), torch.zeros(2, 3)
    wrong: list[tuple[dict[str, Any], str]] = [
        ({"block": 24}, "block is 24, expected a power of two from 16 on"),
        ({"block": 8}, "block is 8, expected a power of two from 16 on"),
        ({"x": x.int()}, "x is torch.int32, expected a floating point type"),
        ({"codes": codes[:, :39]}, r"codes has shape \[2, 39\], expected \[2, 40\]"),
        ({"codes": codes.int()}, "codes is torch.int32, expected torch.uint8"),
        ({"scales": scales[:, :2]}, r"scales has shape \[2, 2\], expected \[2, 3\]"),
        ({"scales": scales.double()}, "scales is torch.float64, expected torch.float32"),
        ({"residual": x[:1]}, r"residual has shape \[1, 40\], expected \[2, 40\]"),
        ({"residual": x.half()}, "residual is torch.float16, expected torch.float32"),
        ({"codes": codes.t().contiguous().t()}, "codes has stride 2 in its last dimension, expected 1"),
        ({"residual": x.to("meta")}, "residual is on meta, expected cpu, where codes is"),
    ]
    given_: dict[str, Any] = {"x": x, "codes": codes, "scales": scales, "residual": None, "block": 16}
    for change, message in wrong:
        with pytest.raises((ValueError, TypeError), match=message):
            quantise_into(**{**given_, **change}, format="int8")
