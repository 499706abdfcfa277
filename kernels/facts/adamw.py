"""What a step of AdamW asks of a device."""

from __future__ import annotations

from ..kernel import ITEM_BYTES, WIDE_BYTES, Kernel, Size, Sizes, Tolerance, Work

_FLOPS = 14  # an element: unscaling, two moments, root, two quotients, decay and step


def _forward(sizes: Sizes, dtype: str) -> Work:
    """Parameter and moments in float32 read and written, the gradient in `dtype` read."""
    elements = sizes["elements"]
    read = elements * (3 * WIDE_BYTES + ITEM_BYTES[dtype])
    return Work(read, 3 * elements * WIDE_BYTES, elements * _FLOPS)


def _plain(sizes: Sizes, dtype: str) -> Work:
    """In numbers an element: copies of three, unscaling, decay, a moment, two operators of the other, root, quotient,
    sum, step, and three choices of the old or the new."""
    elements = sizes["elements"]
    cast = 0 if dtype == "fp32" else elements * (ITEM_BYTES[dtype] + WIDE_BYTES)
    moved = cast + elements * WIDE_BYTES * (6 + 2 + 2 + 3 + 2 + 4 + 2 + 2 + 2 + 4 + 9)
    return Work(moved // 2, moved - moved // 2, elements * _FLOPS)


def _nothing(sizes: Sizes, dtype: str) -> int:
    return 0


KERNELS = (
    Kernel(
        name="adamw",
        summary="a step of AdamW with unscaling, clipping and the check for what is not finite in the same pass",
        reference="adamw:stepped_reference",
        fast="fast.adamw:stepped",
        example="examples.adamw:adamw",
        programs="fast.adamw:programs",
        sizes={"elements": Size(drawn=5000)},
        typical=({"elements": 1 << 26}, {"elements": 1 << 28}),
        forward=_forward,
        backward=None,
        plain=_plain,
        kept_bytes=_nothing,
        plain_kept_bytes=_nothing,
        tolerance={
            "fp64": Tolerance(1e-12, 1e-12),
            "fp32": Tolerance(2e-6, 2e-6),
            "bf16": Tolerance(2e-6, 2e-6),  # the gradient alone is in bf16
            "fp16": Tolerance(2e-6, 2e-6),
        },
        dtypes=("fp32", "bf16"),
    ),
)
