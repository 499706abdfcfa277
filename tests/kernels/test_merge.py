"""Merging beyond what the suite asks of every kernel."""

from __future__ import annotations

import pytest
import torch
from guarded import Guard
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from meshwright.kernels.merge import merge, merge_into, merge_reference

Part = tuple[Tensor, Tensor]
LARGE = 1e3  # exponents that no float32 holds the exponential of


def part(seed: int, scale: float = 3.0, masked: float = 0.3) -> Part:
    """Outputs [2, 3, 5, 7]; some queries saw nothing."""
    generator = torch.Generator().manual_seed(seed)
    output = torch.randn(2, 3, 5, 7, generator=generator)
    lse = torch.randn(2, 3, 5, generator=generator) * scale
    nothing = torch.rand(2, 3, 5, generator=generator) < masked
    return output.masked_fill(nothing.unsqueeze(-1), 0.0), lse.masked_fill(nothing, -torch.inf)


def close(found: Part, expected: Part) -> None:
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)


@settings(max_examples=20, deadline=None, derandomize=True)
@given(st.integers(0, 1000), st.sampled_from([3.0, LARGE]))
def test_any_order_gives_the_same(seed: int, scale: float) -> None:
    a, b, c = (part(3 * seed + i, scale) for i in range(3))
    close(merge(*merge(*a, *b), *c), merge(*a, *merge(*b, *c)))
    close(merge(*a, *b), merge(*b, *a))


@pytest.mark.parametrize("scale", [3.0, LARGE])
def test_triton_gives_the_same_in_any_order(scale: float, device: str) -> None:
    from meshwright.kernels.fast import merge as fast

    a, b, c = ((x.to(device), y.to(device)) for x, y in (part(i, scale) for i in range(3)))
    close(fast.merge(*fast.merge(*a, *b), *c), fast.merge(*a, *fast.merge(*b, *c)))
    close(fast.merge(*a, *b), fast.merge(*b, *a))
    close(fast.merge(*a, *b), merge_reference(*a, *b))


def test_rows_that_saw_nothing_stay_nothing(device: str) -> None:
    from meshwright.kernels.fast import merge as fast

    empty = (torch.zeros(1, 2, 3, 4, device=device), torch.full((1, 2, 3), -torch.inf, device=device))
    for function in (fast.merge, merge_reference):
        output, lse = function(*empty, *empty)
        assert torch.equal(output, empty[0])
        assert torch.equal(lse, empty[1])


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
def test_in_place_in_a_part_of_a_sequence(dtype: torch.dtype, device: str) -> None:
    """As ring attention does: rows 1 to 4 of a running output, another part in 16 bits with strides of its own."""
    from meshwright.kernels.fast import merge as fast

    output, lse = (x.to(device) for x in part(0))
    guard = Guard()
    other, other_lse = (guard.transposed(x[:, :, 1:4].to(device)) for x in part(1))
    other = other.to(dtype)
    expected = output.clone(), lse.clone()
    rows = slice(1, 4)
    both = merge_reference(expected[0][:, :, rows], expected[1][:, :, rows], other, other_lse)
    expected[0][:, :, rows], expected[1][:, :, rows] = both
    plain = output.clone(), lse.clone()
    merge_into(plain[0][:, :, rows], plain[1][:, :, rows], other, other_lse)
    close(plain, expected)
    fast.merge_into(output[:, :, rows], lse[:, :, rows], other, other_lse)
    close((output, lse), expected)
    guard.check()


def test_large_strides_do_not_overflow(device: str) -> None:
    """Entries 2^31 numbers from the first: offsets are 64 bits wide. The memory between is never touched."""
    from meshwright.kernels.fast import merge as fast

    step = 2**30 + 16
    far = torch.empty(2 * step + 4, dtype=torch.float16, device=device).as_strided((3, 4), (step, 1))
    far.copy_(torch.randn(3, 4))
    output, lse, other_lse = (x.to(device) for x in (torch.randn(3, 4), torch.randn(3), torch.randn(3)))
    close(fast.merge(output, lse, far, other_lse), merge_reference(output, lse, far, other_lse))


@pytest.mark.parametrize(
    ("change", "kind", "message"),
    [
        ({"lse": torch.zeros(2, 4)}, ValueError, r"merge: lse has shape \[2, 4\], expected \[2, 3\]"),
        ({"other": torch.zeros(2, 3, 5)}, ValueError, r"merge: other has shape \[2, 3, 5\], expected \[2, 3, 4\]"),
        ({"other_lse": torch.zeros(2, 3).long()}, TypeError, "merge: other_lse is torch.int64, expected a floating"),
        ({"other": torch.zeros(2, 3, 4, device="meta")}, ValueError, "other is on meta, expected cpu"),
    ],
)
def test_what_does_not_fit_is_refused(change: dict[str, Tensor], kind: type[Exception], message: str) -> None:
    fitting = {
        "output": torch.zeros(2, 3, 4),
        "lse": torch.zeros(2, 3),
        "other": torch.zeros(2, 3, 4),
        "other_lse": torch.zeros(2, 3),
    }
    with pytest.raises(kind, match=message):
        merge(**{**fitting, **change})


def test_scattered_rows_are_not_written_in_place() -> None:
    output = torch.zeros(2, 4, 3).transpose(1, 2)
    lse = torch.zeros(2, 3)
    with pytest.raises(ValueError, match="merge_into: output has stride 3 in its last dimension, expected 1"):
        merge_into(output, lse, torch.zeros(2, 3, 4), lse)
