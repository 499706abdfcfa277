"""What quantising blocks of numbers to 8 bits, and adding up such blocks of several ranks, asks of a device."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

from ..kernel import ITEM_BYTES, WIDE_BYTES, Kernel, Size, Sizes, Tolerance, Work


@dataclass(frozen=True, slots=True)
class Grid:
    """The numbers that a byte stands for: `mantissa` bits and the bias of the exponent (0 bits: integers)."""

    largest: float
    mantissa: int = 0
    bias: int = 0


GRIDS = {"int8": Grid(127.0), "e4m3": Grid(448.0, 3, 7), "e5m2": Grid(57344.0, 2, 15)}
"""int8, and the 8-bit floating point of arXiv:2209.05433 (E4M3 without infinities, E5M2)."""

BLOCK = 256
"""Numbers that share a scale."""

MESSAGE_BYTES = 1 + WIDE_BYTES / BLOCK
"""Of a number on its way: its byte and its share of a scale."""

_FLOPS = {"int8": 6, "e4m3": 14, "e5m2": 14}  # a number: product, rounding, the largest of its block
_DECODED = {"int8": 2, "e4m3": 5, "e5m2": 5}


def _blocks(sizes: Sizes) -> int:
    return -(-sizes["elements"] // BLOCK)


def _coded(sizes: Sizes, parts: int = 1) -> int:
    """Bytes of codes and scales."""
    return parts * (sizes["elements"] + WIDE_BYTES * _blocks(sizes))


def _quantise(sizes: Sizes, dtype: str, *, format: str, feedback: bool) -> Work:
    count, parts = sizes["parts"] * sizes["elements"], sizes["parts"]
    kept = count * WIDE_BYTES * feedback
    flops = count * (_FLOPS[format] + feedback * (_DECODED[format] + 2))
    return Work(count * ITEM_BYTES[dtype] + kept, _coded(sizes, parts) + kept, flops)


def _dequantise(sizes: Sizes, dtype: str, *, format: str) -> Work:
    count, parts = sizes["parts"] * sizes["elements"], sizes["parts"]
    return Work(_coded(sizes, parts), count * ITEM_BYTES[dtype], count * _DECODED[format])


def _reduce(sizes: Sizes, dtype: str, *, format: str) -> Work:
    elements, parts = sizes["elements"], sizes["parts"]
    return Work(_coded(sizes, parts), elements * WIDE_BYTES, parts * elements * (_DECODED[format] + 1))


def _requantise(sizes: Sizes, dtype: str, *, format: str) -> Work:
    read, kept = _reduce(sizes, dtype, format=format), sizes["elements"] * WIDE_BYTES
    flops = read.flops + sizes["elements"] * (_FLOPS[format] + _DECODED[format] + 2)
    return Work(read.read_bytes + kept, _coded(sizes) + kept, flops)


def _plain_quantise(sizes: Sizes, dtype: str, *, format: str, feedback: bool) -> Work:
    """In bytes a number, of whole blocks: padded, its magnitude, the largest, quotient, code, choice; for what is kept
    the sum, the number again, product, difference, whether it is finite, choice."""
    count, padded = sizes["parts"] * sizes["elements"], sizes["parts"] * _blocks(sizes) * BLOCK
    cast = 0 if dtype == "fp32" else count * (ITEM_BYTES[dtype] + WIDE_BYTES)
    short = (count + padded) * WIDE_BYTES if count != padded else 0
    rounded = 8 if format == "int8" else 0
    moved = cast + short + padded * (8 + 4 + 8 + rounded + 5 + 2) + (2 * count if short and sizes["parts"] > 1 else 0)
    if feedback:
        moved += 12 * count + padded * (5 + 8) + 12 * count + padded + 13 * count
    return Work(moved // 2, moved - moved // 2, count * _FLOPS[format])


def _plain_dequantise(sizes: Sizes, dtype: str, *, format: str) -> Work:
    """In bytes a number: padded, widened, the product, cast."""
    count = sizes["parts"] * sizes["elements"]
    moved = _widened(sizes, sizes["parts"]) + (0 if dtype == "fp32" else count * (ITEM_BYTES[dtype] + WIDE_BYTES))
    return Work(moved // 2, moved - moved // 2, count * _DECODED[format])


def _widened(sizes: Sizes, parts: int) -> int:
    count, padded = parts * sizes["elements"], parts * _blocks(sizes) * BLOCK
    return (count + padded if count != padded else 0) + padded * (5 + 8)


def _plain_reduce(sizes: Sizes, dtype: str, *, format: str) -> Work:
    """Every part widened, and added to those before it."""
    parts, elements = sizes["parts"], sizes["elements"]
    moved = 4 * elements + parts * (_widened(sizes, 1) + 12 * elements)
    return Work(moved // 2, moved - moved // 2, parts * elements * (_DECODED[format] + 1))


def _plain_requantise(sizes: Sizes, dtype: str, *, format: str) -> Work:
    one = {**sizes, "parts": 1}
    return _plain_reduce(sizes, dtype, format=format) + _plain_quantise(one, "fp32", format=format, feedback=True)


def _nothing(sizes: Sizes, dtype: str) -> int:
    return 0


_SAME = {name: Tolerance(0.0, 0.0) for name in ("fp64", "fp32", "bf16", "fp16")}
_ROUNDED = {
    "fp64": Tolerance(1e-6, 1e-6),
    "fp32": Tolerance(1e-6, 1e-6),
    "bf16": Tolerance(2**-8, 1e-6),
    "fp16": Tolerance(2**-10, 1e-6),
}
_ONE = ({"parts": 8, "elements": 1 << 23}, {"parts": 1, "elements": 1 << 28})
_MANY = ({"parts": 8, "elements": 1 << 23}, {"parts": 64, "elements": 1 << 22})


def _kernel(
    job: str, format: str, summary: str, forward: Callable[..., Work], plain: Callable[..., Work],
    typical: tuple[Sizes, ...], tolerance: dict[str, Tolerance], dtypes: tuple[str, ...] = ("fp32", "bf16", "fp16"),
) -> Kernel:  # fmt: skip
    name = f"{job}_{format}"
    return Kernel(
        name=name,
        summary=summary.format(format),
        reference=f"quantise:{name}_reference",
        fast=f"fast.quantise:{name}",
        example=f"examples.quantise:{name}",
        programs=f"fast.quantise:{name}_programs",
        sizes={"parts": Size(least=1 if job in ("reduce", "requantise") else 0, drawn=5), "elements": Size(drawn=700)},
        typical=typical,
        forward=forward,
        backward=None,
        plain=plain,
        kept_bytes=_nothing,
        plain_kept_bytes=_nothing,
        tolerance=tolerance,
        dtypes=dtypes,
        differentiated=False,
    )


def _of(format: str) -> tuple[Kernel, ...]:
    """The five kernels of a grid."""
    at, plainly, fed = partial(partial, format=format), "feedback", "what the last rounding left is added first, "
    once, again = at(_quantise, feedback=False), at(_quantise, feedback=True)
    plain_once, plain_again = at(_plain_quantise, feedback=False), at(_plain_quantise, feedback=True)
    sums, wide = "blocks of all ranks added up in their order in float32", ("fp32",)
    return (
        _kernel("quantise", format, "blocks of 256 numbers as {} and a scale", once, plain_once, _ONE, _SAME),
        _kernel(f"quantise_{plainly}", format, f"the same; {fed}and what this one leaves is kept", again, plain_again,
                _ONE, _ROUNDED),
        _kernel("dequantise", format, "numbers of such blocks", at(_dequantise), at(_plain_dequantise), _ONE, _ROUNDED),
        _kernel("reduce", format, sums, at(_reduce), at(_plain_reduce), _MANY, _ROUNDED, wide),
        _kernel("requantise", format, f"{sums}, and quantised again with feedback", at(_requantise),
                at(_plain_requantise), _MANY, _ROUNDED, wide),
    )  # fmt: skip


KERNELS = tuple(kernel for format in GRIDS for kernel in _of(format))
