"""Checksums against Python's integers, and those of shards against that of the whole."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from meshwright.kernels import switch
from meshwright.kernels.checksum import checksum, checksum_reference, combined

TYPES = [torch.float64, torch.float32, torch.bfloat16, torch.float16, torch.int64, torch.uint8, torch.bool]


def splitmix(number: int) -> int:
    """Figure 16 of the paper, in Python's integers: a generator that began at 0 gives its numbers in turn."""
    mixed = (number ^ (number >> 30)) * 0xBF58476D1CE4E5B9 % 2**64
    mixed = (mixed ^ (mixed >> 27)) * 0x94D049BB133111EB % 2**64
    return mixed ^ (mixed >> 31)


def random(*size: int, seed: int = 0) -> Tensor:
    return torch.randn(size, generator=torch.Generator().manual_seed(seed))


def test_zeros_have_the_numbers_of_splitmix64() -> None:
    """Its first numbers from the seed 0, as published beside the algorithm (e220a8397b1dcdaf, 6e789e6aa1b965f4)."""
    first, second = 0xE220A8397B1DCDAF, 0x6E789E6AA1B965F4
    assert checksum(torch.zeros(1)).item() % 2**64 == first
    assert checksum(torch.zeros(2)).item() % 2**64 == (first + second) % 2**64


@pytest.mark.parametrize("dtype", TYPES, ids=str)
def test_against_pythons_integers(dtype: torch.dtype) -> None:
    x = (random(3, 5) * 3).to(dtype)
    size = x.element_size()
    raw = x.flatten().view(torch.uint8).numpy().tobytes()
    words = [int.from_bytes(raw[start : start + size], "little") for start in range(0, len(raw), size)]
    expected = sum(splitmix((word + (place + 1) * 0x9E3779B97F4A7C15) % 2**64) for place, word in enumerate(words))
    assert checksum(x).item() % 2**64 == expected % 2**64


@settings(max_examples=60, deadline=None, derandomize=True)
@given(st.lists(st.tuples(st.integers(1, 5), st.integers(0, 5)), max_size=4), st.integers(0, 99))
def test_parts_add_up_to_the_whole(sizes: list[tuple[int, int]], seed: int) -> None:
    """Cut in two in every dimension, some parts empty."""
    x = random(*(size for size, _ in sizes), seed=seed)
    parts: list[tuple[Tensor, list[int]]] = [(x, [])]
    for dim, (size, cut) in enumerate(sizes):
        at = min(cut, size)
        parts = [
            (piece, [*begin, start])
            for part, begin in parts
            for piece, start in ((part.narrow(dim, 0, at), 0), (part.narrow(dim, at, size - at), at))
        ]
    sums = [int(checksum(part, begin, x.shape)) for part, begin in parts]
    assert combined(sums) == checksum(x).item()


@settings(max_examples=40, deadline=None, derandomize=True)
@given(st.integers(0, 29), st.integers(0, 31))
def test_any_flipped_bit_is_seen(place: int, bit: int) -> None:
    x = random(30)
    changed = x.clone()
    changed.view(torch.int32)[place] ^= (1 << bit) - (1 << 32 if bit == 31 else 0)
    assert checksum(changed).item() != checksum(x).item()


def test_order_and_sign_matter_and_strides_do_not() -> None:
    x = random(4, 6)
    assert checksum(x.flip(0)).item() != checksum(x).item()
    assert checksum(torch.zeros(2)).item() != checksum(-torch.zeros(2)).item()
    assert checksum(x.t().contiguous().t()).item() == checksum(x).item()


@pytest.mark.parametrize("dtype", TYPES, ids=str)
def test_triton_gives_the_same_bits(dtype: torch.dtype, device: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Beyond one block, and numbers beyond 2^32."""
    from meshwright.kernels.fast import checksum as fast

    monkeypatch.setattr(switch, "INTERPRETED", True)
    monkeypatch.setattr(fast, "_BLOCK", 64)
    x = (random(3, 7, 11) * 3).to(dtype).to(device)
    begin, whole = [2, 1, 4], [2**20, 2**13, 15]
    found = checksum(x, begin, whole)
    with switch.kernels("reference"):
        assert found.item() == checksum(x, begin, whole).item()
    if x.element_size() == 4:
        words = x.view(torch.int32)
        assert fast.checksum(words, 0, 0, 0).item() == checksum_reference(words, 0, 0, 0).item()


def test_parts_that_are_none_are_refused() -> None:
    with pytest.raises(ValueError, match=r"\[2, 3\] at \[0, 1\] is not within \[2, 3\]"):
        checksum(random(2, 3), [0, 1], [2, 3])
    with pytest.raises(ValueError, match="expected 2 numbers of each"):
        checksum(random(2, 3), [0], [2, 3])
    with pytest.raises(TypeError, match=r"torch.complex128, expected a type of 1, 2, 4 or 8 bytes"):
        checksum(torch.zeros(1, dtype=torch.complex128))
