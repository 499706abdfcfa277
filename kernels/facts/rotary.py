"""What rotating queries and keys asks of a device."""

from __future__ import annotations

from ..kernel import ITEM_BYTES, Kernel, Size, Sizes, Tolerance, Work

_FLOPS = 3  # an entry: two products and a sum
_TOLERANCE = {
    "fp64": Tolerance(1e-12, 1e-12),
    "fp32": Tolerance(2e-6, 2e-6),
    "bf16": Tolerance(3e-2, 3e-2),
    "fp16": Tolerance(4e-3, 4e-3),
}


def _entries(sizes: Sizes) -> int:
    return sizes["batch"] * sizes["seq_len"] * (sizes["heads"] + sizes["kv_heads"]) * sizes["width"]


def _tables(sizes: Sizes, dtype: str) -> int:
    """Bytes of half of the cosines and sines: the other half repeats them."""
    return sizes["seq_len"] * sizes["turned"] * ITEM_BYTES[dtype]


def _forward(sizes: Sizes, dtype: str) -> Work:
    one = _entries(sizes) * ITEM_BYTES[dtype]
    return Work(one + _tables(sizes, dtype), one, _entries(sizes) * _FLOPS)


def _plain(sizes: Sizes, dtype: str) -> Work:
    """Forward and backward each have two products, a sum, and halves that are negated and joined: ten passes."""
    moved = _entries(sizes) * ITEM_BYTES[dtype] * 20
    return Work(moved * 3 // 5, moved - moved * 3 // 5, _entries(sizes) * 2 * (_FLOPS + 1))


def _plain_pairs(sizes: Sizes, dtype: str) -> Work:
    """Two more passes to join the pairs' entries, and six in which their gradients are spread out and added."""
    return _plain(sizes, dtype) + Work(*(_entries(sizes) * ITEM_BYTES[dtype] * 4,) * 2, 0)


def _kept_bytes(sizes: Sizes, dtype: str) -> int:
    return 0  # the tables belong to the model


def _declare(name: str, summary: str) -> Kernel:
    return Kernel(
        name=name,
        summary=summary,
        reference=f"rotary:{name}_reference",
        fast=f"fast.rotary:{name}",
        example="examples.rotary:rotary",
        programs=f"fast.rotary:{name}_programs",
        sizes={
            "batch": Size(drawn=2),
            "seq_len": Size(drawn=5),
            "heads": Size(1, 256, drawn=5),
            "kv_heads": Size(0, 256, drawn=3),
            "width": Size(2, 1024, 2, drawn=40),
            "turned": Size(2, 1024, 2, drawn=40),
        },
        typical=(
            {"batch": 1, "seq_len": 16384, "heads": 32, "kv_heads": 8, "width": 128, "turned": 128},
            {"batch": 2, "seq_len": 8192, "heads": 64, "kv_heads": 8, "width": 128, "turned": 128},
        ),
        forward=_forward,
        backward=_forward,
        plain=_plain_pairs if name == "rotary_pairs" else _plain,
        kept_bytes=_kept_bytes,
        plain_kept_bytes=_kept_bytes,
        tolerance=_TOLERANCE,
    )


KERNELS = (
    _declare("rotary", "queries and keys turned by their positions, entry i with i + width / 2, in one launch"),
    _declare("rotary_pairs", "as rotary, of entries 2i with 2i + 1; comes out in halves"),
)
