"""What a checksum asks of a device."""

from __future__ import annotations

from ..kernel import ITEM_BYTES, Kernel, Size, Sizes, Tolerance, Work

_BYTES = {**ITEM_BYTES, "int64": 8, "torch.int32": 4, "torch.int16": 2, "torch.uint8": 1}
_SUM_BYTES = 8
_FLOPS = 12  # a word, on 64-bit integers: its number, three products, three shifts, five sums
_PASSES = 47  # of 64-bit integers, in and out, through the reference's operators


def _forward(sizes: Sizes, dtype: str) -> Work:
    words = sizes["rows"] * sizes["width"]
    return Work(words * _BYTES[dtype], _SUM_BYTES, words * _FLOPS)


def _plain(sizes: Sizes, dtype: str) -> Work:
    """Read, then operator by operator over parts that stay in a cache."""
    words = sizes["rows"] * sizes["width"]
    moved = words * _SUM_BYTES * _PASSES
    return _forward(sizes, dtype) + Work(moved // 2, moved - moved // 2, 0)


def _nothing(sizes: Sizes, dtype: str) -> int:
    return 0


KERNELS = (
    Kernel(
        name="checksum",
        summary="64 bits of a tensor; those of shards add up to those of the whole",
        reference="checksum:checksum_reference",
        fast="fast.checksum:checksum",
        example="examples.checksum:checksum",
        programs="fast.checksum:programs",
        sizes={"rows": Size(drawn=9), "width": Size(drawn=1100)},
        typical=({"rows": 4096, "width": 14336}, {"rows": 1, "width": 1 << 28}),
        forward=_forward,
        backward=None,
        plain=_plain,
        kept_bytes=_nothing,
        plain_kept_bytes=_nothing,
        tolerance=dict.fromkeys(("fp64", "fp32", "bf16", "fp16"), Tolerance(0.0, 0.0)),
        dtypes=("int64", "torch.int32", "torch.int16", "torch.uint8"),
    ),
)
