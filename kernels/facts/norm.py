"""What norms ask of a device, with and without the residual that is added first.

The backward reads the gradient and the input, writes the gradient of the input, and adds the gradient of the weight up
in one partial row for each program: at most two programs a multiprocessor, so these rows are few and left out here.
"""

from __future__ import annotations

from dataclasses import dataclass

from ..kernel import ITEM_BYTES, WIDE_BYTES, Kernel, Size, Sizes, Tolerance, Work

MOST_WIDTH = 16384
"""A row is held in registers; wider ones would spill."""

WIDE_ROW = 8192
"""Beside wider rows the sums of the weight's gradient do not fit: a second program reads input and gradient again."""

_TYPICAL = (
    {"rows": 8192, "width": 4096},
    {"rows": 16384, "width": 2048},
    {"rows": 8192, "width": 8192},
    {"rows": 4096, "width": 12288},
    {"rows": 4096, "width": 16384},
    {"rows": 524288, "width": 128},  # heads of queries
)
_SUMMARIES = {
    "rms_norm": "root-mean-square norm; the result is cast before it is scaled, as in Llama",
    "offset_rms_norm": "root-mean-square norm scaled by 1 + weight in float32, as in Gemma",
    "layer_norm": "LayerNorm with weight and bias",
}
_TOLERANCE = {
    "fp64": Tolerance(1e-12, 1e-12),
    "fp32": Tolerance(1e-5, 1e-5),
    "bf16": Tolerance(3e-2, 3e-2),
    "fp16": Tolerance(4e-3, 4e-3),
}


@dataclass(frozen=True, slots=True)
class _Norm:
    """One of `_SUMMARIES`; `added`: a residual is added first, and the sum comes out too."""

    name: str
    added: bool

    @property
    def vectors(self) -> int:
        """Weight, and perhaps bias, in float32."""
        return 2 if self.name == "layer_norm" else 1

    @property
    def statistics(self) -> int:
        """Kept for each row."""
        return 2 if self.name == "layer_norm" else 1

    def forward(self, sizes: Sizes, dtype: str) -> Work:
        entries, item = sizes["rows"] * sizes["width"], ITEM_BYTES[dtype]
        passes = 2 if self.added else 1  # in: input and residual; out: norm and sum
        kept = sizes["rows"] * self.statistics * WIDE_BYTES
        read = passes * entries * item + self.vectors * sizes["width"] * WIDE_BYTES
        return Work(read, passes * entries * item + kept, entries * (4 + self.vectors + self.added))

    def backward(self, sizes: Sizes, dtype: str) -> Work:
        entries, item = sizes["rows"] * sizes["width"], ITEM_BYTES[dtype]
        passes = (3 if self.added else 2) + (2 if sizes["width"] > WIDE_ROW else 0)
        read = passes * entries * item + sizes["width"] * WIDE_BYTES
        read += sizes["rows"] * self.statistics * WIDE_BYTES
        written = entries * item + self.vectors * sizes["width"] * WIDE_BYTES
        return Work(read, written, entries * (8 + 2 * self.vectors + self.added))

    def plain(self, sizes: Sizes, dtype: str) -> Work:
        plain = _plain_layer if self.name == "layer_norm" else _plain_rms
        return plain(sizes, dtype, self.added)

    def kept_bytes(self, sizes: Sizes, dtype: str) -> int:
        return sizes["rows"] * (sizes["width"] * ITEM_BYTES[dtype] + self.statistics * WIDE_BYTES)

    def plain_kept_bytes(self, sizes: Sizes, dtype: str) -> int:
        if self.name == "layer_norm":
            return self.kept_bytes(sizes, dtype)
        copies = 2 * WIDE_BYTES  # input and normalised input in float32
        cast = ITEM_BYTES[dtype] if self.name == "rms_norm" and dtype != "fp32" else 0  # what the weight multiplies
        return sizes["rows"] * sizes["width"] * (copies + cast)

    def declare(self) -> Kernel:
        full = f"add_{self.name}" if self.added else self.name
        summary = _SUMMARIES[self.name]
        return Kernel(
            name=full,
            summary=f"residual added, then {summary}" if self.added else summary,
            reference=f"norm:{full}_reference",
            fast=f"fast.norm:{full}",
            example=f"examples.norm:{full.replace('offset_', '')}",
            programs=f"fast.norm:{full}_programs",
            sizes={"rows": Size(drawn=85), "width": Size(1, MOST_WIDTH, drawn=200)},
            typical=_TYPICAL,
            forward=self.forward,
            backward=self.backward,
            plain=self.plain,
            kept_bytes=self.kept_bytes,
            plain_kept_bytes=self.plain_kept_bytes,
            tolerance=_TOLERANCE,
        )


def _plain_rms(sizes: Sizes, dtype: str, added: bool) -> Work:
    """Forward of `norm.rms_norm_reference`, in passes over the entries: cast, square, mean, product, cast, product; and
    their backward passes: two products by the weight (one of them summed up), cast, product with the inverse and with
    the input (summed up), product of the square's gradient, sum of both, cast."""
    entries, item = sizes["rows"] * sizes["width"], ITEM_BYTES[dtype]
    narrow = 0 if dtype == "fp32" else item
    forward = (narrow + (WIDE_BYTES if narrow else 0)) + 2 * WIDE_BYTES + WIDE_BYTES + 2 * WIDE_BYTES
    forward += (WIDE_BYTES + item if narrow else 0) + 2 * item
    backward = 2 * item + 3 * item + item + (item + WIDE_BYTES if narrow else 0) + 2 * WIDE_BYTES
    backward += 3 * WIDE_BYTES + WIDE_BYTES + 2 * WIDE_BYTES + 3 * WIDE_BYTES + (WIDE_BYTES + item if narrow else 0)
    moved = entries * (forward + backward + added * 6 * item)
    return Work(moved // 2, moved - moved // 2, entries * 18)


def _plain_layer(sizes: Sizes, dtype: str, added: bool) -> Work:
    """PyTorch's LayerNorm is fused: one pass forward; backward two kernels, each of which reads gradient and input."""
    entries, item = sizes["rows"] * sizes["width"], ITEM_BYTES[dtype]
    return Work(entries * item * (1 + 4 + added * 4), entries * item * (1 + 1 + added * 2), entries * 18)


KERNELS = tuple(_Norm(name, added).declare() for name in _SUMMARIES for added in (False, True))
