"""What bringing tokens to the order of their experts and back asks of a device."""

from __future__ import annotations

from ..kernel import ITEM_BYTES, WIDE_BYTES, Kernel, Size, Sizes, Tolerance, Work

_INDEX_BYTES = 8
_TYPICAL = (
    {"tokens": 16384, "choices": 2, "experts": 8, "width": 4096},  # Mixtral 8x7B
    {"tokens": 16384, "choices": 8, "experts": 128, "width": 2048},  # Qwen3-30B-A3B
    {"tokens": 8192, "choices": 8, "experts": 256, "width": 7168},  # DeepSeek-V3
)
_SIZES = {
    "tokens": Size(drawn=40),
    "choices": Size(1, 32, drawn=5),
    "experts": Size(1, drawn=6),
    "width": Size(1, 65536, drawn=70),
}
_EXACT = Tolerance(0.0, 0.0)
_TOLERANCE = {
    "fp64": Tolerance(1e-12, 1e-12),
    "fp32": Tolerance(2e-6, 2e-6),
    "bf16": Tolerance(2e-2, 2e-2),
    "fp16": Tolerance(3e-3, 3e-3),
}


def _pairs(sizes: Sizes) -> int:
    return sizes["tokens"] * sizes["choices"]


def _sorted(sizes: Sizes, dtype: str) -> Work:
    """Experts read; rows of pairs, pairs of rows and counts written."""
    pairs = _pairs(sizes)
    return Work(pairs * _INDEX_BYTES, (2 * pairs + sizes["experts"]) * _INDEX_BYTES, 0)


def _plain_sorted(sizes: Sizes, dtype: str) -> Work:
    """A sort, counted as one pass over keys and values, the inverse by a scatter, a histogram; in numbers a pair."""
    read, written = _pairs(sizes) * (1 + 2 + 1 + 1 + 1), _pairs(sizes) * (2 + 1 + 2 + 1 + 1 + 1)
    return Work(read * _INDEX_BYTES, (written + 3 * sizes["experts"]) * _INDEX_BYTES, 0)


def _spread(sizes: Sizes, dtype: str) -> Work:
    """A token is read once, and written to each of its rows."""
    row = sizes["width"] * ITEM_BYTES[dtype]
    return Work(sizes["tokens"] * row + _pairs(sizes) * _INDEX_BYTES, _pairs(sizes) * row, 0)


def _spread_backward(sizes: Sizes, dtype: str) -> Work:
    forward = _spread(sizes, dtype)
    indices = _pairs(sizes) * _INDEX_BYTES
    return Work(forward.written_bytes + indices, forward.read_bytes - indices, _pairs(sizes) * sizes["width"])


def _sources(sizes: Sizes) -> int:
    """Bytes that the reference moves to know from where each row comes: in numbers a pair a comparison, a choice, two
    ranges, a scatter, a quotient, and an index both ways; and the bits of the comparison, twice."""
    return _pairs(sizes) * ((1 + 2 + 2 + 4 + 2 + 2) * _INDEX_BYTES + 2)


def _plain_spread(sizes: Sizes, dtype: str) -> Work:
    """Rows gathered; backward gathered back, then added up."""
    row = sizes["width"] * ITEM_BYTES[dtype]
    tokens, rows, half = sizes["tokens"] * row, _pairs(sizes) * row, _sources(sizes) // 2
    return Work(tokens + 2 * rows + half, 2 * rows + tokens + half, _pairs(sizes) * sizes["width"])


def _collect(sizes: Sizes, dtype: str) -> Work:
    """Rows, weights in float32 and places read, tokens written."""
    row, pairs = sizes["width"] * ITEM_BYTES[dtype], _pairs(sizes)
    return Work(pairs * (row + _INDEX_BYTES + 4), sizes["tokens"] * row, 2 * pairs * sizes["width"])


def _collect_backward(sizes: Sizes, dtype: str) -> Work:
    row, pairs = sizes["width"] * ITEM_BYTES[dtype], _pairs(sizes)
    read = (sizes["tokens"] + pairs) * row + pairs * (_INDEX_BYTES + 4)
    return Work(read, pairs * (row + 4), 3 * pairs * sizes["width"])


def _plain_collect(sizes: Sizes, dtype: str) -> Work:
    """Rows gathered, times weights in float32, added up, cast; backward two products, of which one is cast and one is
    added up, and a gather."""
    pairs, entries, width = _pairs(sizes), sizes["tokens"] * sizes["width"], sizes["width"]
    item, half = ITEM_BYTES[dtype], _sources(sizes) // 2
    rows, wide, tokens = pairs * width * item, pairs * width * WIDE_BYTES, entries * WIDE_BYTES
    casts = 0 if dtype == "fp32" else 2 * entries * (item + WIDE_BYTES) + wide + rows
    read = 2 * rows + rows + wide + rows + wide + 2 * pairs * WIDE_BYTES + casts // 2
    written = 2 * rows + wide + tokens + 2 * wide + pairs * WIDE_BYTES + casts - casts // 2
    return Work(read + half, written + half, 5 * pairs * width)


def _indices(sizes: Sizes, dtype: str) -> int:
    return _pairs(sizes) * _INDEX_BYTES


def _rows_kept(sizes: Sizes, dtype: str) -> int:
    """The rows themselves, weights and places."""
    return _pairs(sizes) * (sizes["width"] * ITEM_BYTES[dtype] + _INDEX_BYTES + 4)


def _nothing(sizes: Sizes, dtype: str) -> int:
    return 0


KERNELS = (
    Kernel(
        name="sort_by_expert",
        summary="a stable counting sort of the choices of tokens by expert: counts in blocks, one scan, places",
        reference="permute:sort_reference",
        fast="fast.permute:sort",
        example="examples.permute:sort",
        programs="fast.permute:sort_programs",
        sizes={name: size for name, size in _SIZES.items() if name != "width"},
        typical=tuple({name: size for name, size in each.items() if name != "width"} for each in _TYPICAL),
        forward=_sorted,
        backward=None,
        plain=_plain_sorted,
        kept_bytes=_nothing,
        plain_kept_bytes=_nothing,
        tolerance=dict.fromkeys(_TOLERANCE, _EXACT),
        dtypes=("int64",),
    ),
    Kernel(
        name="permute",
        summary="tokens copied to the rows of their experts; the backward pass adds up what it gathers",
        reference="permute:spread_reference",
        fast="fast.permute:spread_rows",
        example="examples.permute:spread",
        programs="fast.permute:spread_programs",
        sizes=_SIZES,
        typical=_TYPICAL,
        forward=_spread,
        backward=_spread_backward,
        plain=_plain_spread,
        kept_bytes=_indices,
        plain_kept_bytes=_indices,
        tolerance=_TOLERANCE,
    ),
    Kernel(
        name="unpermute",
        summary="rows of experts added up for each token, times the router's weights",
        reference="permute:collect_reference",
        fast="fast.permute:collect_rows",
        example="examples.permute:collect",
        programs="fast.permute:collect_programs",
        sizes=_SIZES,
        typical=_TYPICAL,
        forward=_collect,
        backward=_collect_backward,
        plain=_plain_collect,
        kept_bytes=_rows_kept,
        plain_kept_bytes=_rows_kept,
        tolerance=_TOLERANCE,
    ),
)
