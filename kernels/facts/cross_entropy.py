"""What cross-entropy asks of a device: of logits, and with the projection that makes them, chunk by chunk."""

from __future__ import annotations

from ..kernel import ITEM_BYTES, WIDE_BYTES, Kernel, Size, Sizes, Tolerance, Work

_INDEX_BYTES = 8
_TYPICAL = (
    {"tokens": 8192, "vocab": 128256},  # Llama 3
    {"tokens": 8192, "vocab": 151936},  # Qwen 2 and 3
    {"tokens": 4096, "vocab": 256000},  # Gemma 2
    {"tokens": 8192, "vocab": 32000},  # Llama 2
    {"tokens": 8192, "vocab": 50257},  # GPT-2: no multiple of anything
)
_WIDTHS = (4096, 3584, 3584, 4096, 1600)
_PROJECTED = tuple({**sizes, "width": width} for sizes, width in zip(_TYPICAL, _WIDTHS, strict=True))
_SIZES = {"tokens": Size(drawn=9), "vocab": Size(1, drawn=300)}
_TOLERANCE = {
    "fp64": Tolerance(1e-12, 1e-12),
    "fp32": Tolerance(2e-5, 1e-5),
    "bf16": Tolerance(2e-2, 2e-2),
    "fp16": Tolerance(4e-3, 4e-3),
}


def _logits(sizes: Sizes) -> int:
    return sizes["tokens"] * sizes["vocab"]


def _forward(sizes: Sizes, dtype: str) -> Work:
    """One read and one write: a row is read a second time while the caches have it."""
    logits = _logits(sizes) * ITEM_BYTES[dtype]
    return Work(logits + sizes["tokens"] * _INDEX_BYTES, logits + sizes["tokens"] * WIDE_BYTES, 9 * _logits(sizes))


def _plain(sizes: Sizes, dtype: str) -> Work:
    """A copy in float32, and over it the largest, a difference, exponentials, their sum, a product, the target and rows
    that do not count; and a cast."""
    item = ITEM_BYTES[dtype]
    cast = (WIDE_BYTES, item) if dtype in ("bf16", "fp16") else (0, 0)
    read, written = item + 8 * WIDE_BYTES + cast[0], 6 * WIDE_BYTES + cast[1]
    return Work(read * _logits(sizes), written * _logits(sizes), 9 * _logits(sizes))


NUMBERS = 3
"""Of a token, in float32, that ranks with shares of the vocabulary exchange."""


def summarised(sizes: Sizes, dtype: str) -> Work:
    """Of a share of the vocabulary: logits read for what ranks exchange."""
    numbers, logits = NUMBERS * sizes["tokens"] * WIDE_BYTES, _logits(sizes) * ITEM_BYTES[dtype]
    return Work(logits + sizes["tokens"] * _INDEX_BYTES, numbers, 4 * _logits(sizes))


def sloped(sizes: Sizes, dtype: str) -> Work:
    """Then read once more, as others' numbers have come by then, and their gradient written."""
    logits, tokens = _logits(sizes) * ITEM_BYTES[dtype], sizes["tokens"]
    return Work(logits + tokens * _INDEX_BYTES, logits + tokens * WIDE_BYTES, 5 * _logits(sizes))


def summarised_plain(sizes: Sizes, dtype: str) -> Work:
    """A copy in float32, and over it the largest, a difference, exponentials and their sum."""
    return Work(
        (ITEM_BYTES[dtype] + 4 * WIDE_BYTES) * _logits(sizes), 3 * WIDE_BYTES * _logits(sizes), 4 * _logits(sizes)
    )


def remade_plain(sizes: Sizes, dtype: str) -> Work:
    """The copy, the difference and exponentials once more, where the gradient has a pass of its own."""
    return Work(
        (ITEM_BYTES[dtype] + 2 * WIDE_BYTES) * _logits(sizes), 3 * WIDE_BYTES * _logits(sizes), 2 * _logits(sizes)
    )


def sloped_plain(sizes: Sizes, dtype: str) -> Work:
    """Of these exponentials: a product, rows that do not count, that times the gradient of the loss, and a cast."""
    cast = (WIDE_BYTES, ITEM_BYTES[dtype]) if dtype in ("bf16", "fp16") else (0, 0)
    read, written = 3 * WIDE_BYTES + cast[0], 3 * WIDE_BYTES + cast[1]
    return Work(read * _logits(sizes), written * _logits(sizes), 3 * _logits(sizes))


def scaled(sizes: Sizes, dtype: str) -> Work:
    """Gradients of hidden states and of the weight, made in the forward pass by one chunk, times that of the loss."""
    both = sum(_operands(sizes, dtype))
    return Work(both, both, both // ITEM_BYTES[dtype])


def _operands(sizes: Sizes, dtype: str) -> tuple[int, int]:
    """Bytes of hidden states and of the weight."""
    return tuple(sizes[each] * sizes["width"] * ITEM_BYTES[dtype] for each in ("tokens", "vocab"))  # type: ignore[return-value]


def _projected(sizes: Sizes, dtype: str) -> Work:
    """What goes in, and a number that comes out."""
    flops = (2 * sizes["width"] + 9) * _logits(sizes)
    return Work(sum(_operands(sizes, dtype)) + sizes["tokens"] * _INDEX_BYTES, WIDE_BYTES, flops)


def _between(sizes: Sizes, dtype: str) -> Work:
    """Logits written by a product, read, overwritten by their gradient, and read by two products; what these make."""
    hidden, weight = _operands(sizes, dtype)
    logits = _logits(sizes) * ITEM_BYTES[dtype]
    made = hidden + sizes["vocab"] * sizes["width"] * WIDE_BYTES
    return Work(3 * logits + hidden + weight, 2 * logits + made, 4 * sizes["width"] * _logits(sizes))


def _projected_backward(sizes: Sizes, dtype: str) -> Work:
    """Gradients are there: they are scaled."""
    hidden, weight = _operands(sizes, dtype)
    kept = _kept_bytes(sizes, dtype)
    return Work(kept, hidden + weight, sizes["width"] * (sizes["tokens"] + sizes["vocab"]))


def _plain_projected(sizes: Sizes, dtype: str) -> Work:
    """A product, a cast to float32, log-softmax, the target's; the gradients of these two, a cast, two products."""
    hidden, weight = _operands(sizes, dtype)
    item = ITEM_BYTES[dtype]
    cast = (item + WIDE_BYTES) if dtype in ("bf16", "fp16") else 0
    read, written = 5 * WIDE_BYTES + 2 * item + cast, 3 * WIDE_BYTES + item + cast
    flops = (6 * sizes["width"] + 12) * _logits(sizes)
    return Work(read * _logits(sizes) + 2 * (hidden + weight), written * _logits(sizes) + hidden + weight, flops)


def _kept_bytes(sizes: Sizes, dtype: str) -> int:
    """Gradients of hidden states and, added up in float32, of the weight."""
    return _operands(sizes, dtype)[0] + sizes["vocab"] * sizes["width"] * WIDE_BYTES


def _plain_kept_bytes(sizes: Sizes, dtype: str) -> int:
    """Hidden states, log-softmax in float32, targets."""
    return _operands(sizes, dtype)[0] + _logits(sizes) * WIDE_BYTES + sizes["tokens"] * _INDEX_BYTES


def _nothing(sizes: Sizes, dtype: str) -> int:
    return 0


KERNELS = (
    Kernel(
        name="cross_entropy",
        summary="losses of logits and their gradient: one read, one write",
        reference="cross_entropy:cross_entropy_slopes_reference",
        fast="fast.cross_entropy:cross_entropy_slopes",
        example="examples.cross_entropy:logits",
        programs="fast.cross_entropy:programs",
        sizes=_SIZES,
        typical=_TYPICAL,
        forward=_forward,
        backward=None,
        plain=_plain,
        kept_bytes=_nothing,
        plain_kept_bytes=_nothing,
        tolerance=_TOLERANCE,
        differentiated=False,
    ),
    Kernel(
        name="linear_cross_entropy",
        summary="output projection and cross-entropy in chunks of tokens, of which logits are never kept",
        reference="linear_cross_entropy:linear_cross_entropy_reference",
        fast="fast.linear_cross_entropy:linear_cross_entropy",
        example="examples.cross_entropy:projection",
        programs="fast.linear_cross_entropy:programs",
        sizes={**_SIZES, "width": Size(1, drawn=40)},
        typical=_PROJECTED,
        forward=_projected,
        between=_between,
        backward=_projected_backward,
        plain=_plain_projected,
        kept_bytes=_kept_bytes,
        plain_kept_bytes=_plain_kept_bytes,
        tolerance=_TOLERANCE,
    ),
)
