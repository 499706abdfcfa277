"""What merging partial attention asks of a device."""

from __future__ import annotations

from ..kernel import ITEM_BYTES, WIDE_BYTES, Kernel, Size, Sizes, Tolerance, Work

_FLOPS = 3  # an entry: two products and a sum
_BACKWARD_FLOPS = 5  # two products, and the difference and product that go into the gradient of the weights
_ROW_FLOPS = 8  # largest, two exponentials, sum, logarithm, two quotients, sum


def _rows(sizes: Sizes) -> int:
    return sizes["batch"] * sizes["heads"] * sizes["rows"]


def _forward(sizes: Sizes, dtype: str) -> Work:
    """Both outputs and log-sum-exps read, one of each written; the running one is in float32, the other in `dtype`."""
    rows, entries = _rows(sizes), _rows(sizes) * sizes["width"]
    read = entries * (WIDE_BYTES + ITEM_BYTES[dtype]) + 2 * rows * WIDE_BYTES
    return Work(read, (entries + rows) * WIDE_BYTES, entries * _FLOPS + rows * _ROW_FLOPS)


def _backward(sizes: Sizes, dtype: str) -> Work:
    rows, entries = _rows(sizes), _rows(sizes) * sizes["width"]
    read = entries * (2 * WIDE_BYTES + ITEM_BYTES[dtype]) + 3 * rows * WIDE_BYTES
    written = entries * (WIDE_BYTES + ITEM_BYTES[dtype]) + 2 * rows * WIDE_BYTES
    return Work(read, written, entries * _BACKWARD_FLOPS + rows * _ROW_FLOPS)


def _plain(sizes: Sizes, dtype: str) -> Work:
    """A cast to float32, two products with a weight a row, and a sum. What happens once a row is left out, and so is
    the copy into the running output, which is a part of the program."""
    entries, item = _rows(sizes) * sizes["width"], ITEM_BYTES[dtype]
    cast = (0, 0) if dtype == "fp32" else (item, WIDE_BYTES)
    read, written = (1 + 1 + 2) * WIDE_BYTES + cast[0], (1 + 1 + 1) * WIDE_BYTES + cast[1]
    return Work(entries * read, entries * written, entries * _FLOPS)


def _kept_bytes(sizes: Sizes, dtype: str) -> int:
    rows = _rows(sizes)
    return rows * sizes["width"] * (WIDE_BYTES + ITEM_BYTES[dtype]) + 2 * rows * WIDE_BYTES


def _plain_kept_bytes(sizes: Sizes, dtype: str) -> int:
    """The other output is kept in float32."""
    return _kept_bytes(sizes, "fp32")


KERNELS = (
    Kernel(
        name="merge",
        summary="outputs and log-sum-exps of attention over two blocks of keys, made one",
        reference="merge:merge_reference",
        fast="fast.merge:merge",
        example="examples.merge:merge",
        programs="fast.merge:programs",
        sizes={
            "batch": Size(drawn=3),
            "heads": Size(drawn=4),
            "rows": Size(drawn=19),
            "width": Size(1, 1024, drawn=70),
        },
        typical=(
            {"batch": 1, "heads": 32, "rows": 16384, "width": 128},
            {"batch": 1, "heads": 16, "rows": 32768, "width": 256},
        ),
        forward=_forward,
        backward=_backward,
        plain=_plain,
        kept_bytes=_kept_bytes,
        plain_kept_bytes=_plain_kept_bytes,
        differentiated=False,
        tolerance={
            "fp64": Tolerance(1e-12, 1e-12),
            "fp32": Tolerance(2e-6, 2e-6),
            "bf16": Tolerance(2e-2, 2e-2),  # of gradients by the block in bf16
            "fp16": Tolerance(2e-3, 2e-3),
        },
    ),
)  # fmt: skip
