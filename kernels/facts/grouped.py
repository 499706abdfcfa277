"""What grouped products ask of a device."""

from __future__ import annotations

from ..kernel import ITEM_BYTES, Kernel, Size, Sizes, Tolerance, Work

_COUNT_BYTES = 8


def _entries(sizes: Sizes) -> tuple[int, int, int]:
    """Of rows that go in, of matrices, of rows that come out."""
    rows, inner, outer = sizes["rows"], sizes["inner"], sizes["outer"]
    return rows * inner, sizes["experts"] * inner * outer, rows * outer


def _forward(sizes: Sizes, dtype: str) -> Work:
    x, weight, y = (ITEM_BYTES[dtype] * entries for entries in _entries(sizes))
    flops = 2 * sizes["rows"] * sizes["inner"] * sizes["outer"]
    return Work(x + weight + sizes["experts"] * _COUNT_BYTES, y, flops)


def _backward(sizes: Sizes, dtype: str) -> Work:
    """Two products."""
    x, weight, y = (ITEM_BYTES[dtype] * entries for entries in _entries(sizes))
    return Work(2 * y + weight + x, x + weight, 4 * sizes["rows"] * sizes["inner"] * sizes["outer"])


def _plain(sizes: Sizes, dtype: str) -> Work:
    """A product an expert, results put together; backward two products, and gradients put together."""
    x, weight, y = (ITEM_BYTES[dtype] * entries for entries in _entries(sizes))
    moved = _forward(sizes, dtype) + _backward(sizes, dtype)
    return moved + Work(y + x + weight, y + x + weight, 0)


def _kept_bytes(sizes: Sizes, dtype: str) -> int:
    """Rows, and how many each expert has; matrices are parameters."""
    x, _, _ = _entries(sizes)
    return x * ITEM_BYTES[dtype] + sizes["experts"] * _COUNT_BYTES


KERNELS = (
    Kernel(
        name="grouped_linear",
        summary="products of runs of rows, each with its own matrix, where PyTorch has no grouped product",
        reference="grouped:grouped_linear_loop",
        fast="fast.grouped:grouped_linear",
        example="examples.grouped:grouped",
        programs="fast.grouped:programs",
        sizes={
            "rows": Size(drawn=90),
            "experts": Size(1, drawn=4),
            "inner": Size(1, drawn=40),
            "outer": Size(1, drawn=70),
        },
        typical=(
            {"rows": 32768, "experts": 8, "inner": 4096, "outer": 14336},
            {"rows": 65536, "experts": 128, "inner": 2048, "outer": 768},
        ),
        forward=_forward,
        backward=_backward,
        plain=_plain,
        kept_bytes=_kept_bytes,
        plain_kept_bytes=_kept_bytes,
        tolerance={
            "fp64": Tolerance(1e-12, 1e-12),
            "fp32": Tolerance(1e-5, 1e-5),
            "bf16": Tolerance(2e-2, 5e-2),
            "fp16": Tolerance(3e-3, 1e-2),
        },
    ),
)
