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
_PLAIN_BYTES = {"rms_norm": (120, 128), "offset_rms_norm": (120, 144)}
"""An entry, of the references' operators forward and backward, in float32 and in 16 bits: 16 passes and more over
tensors, most of them in float32 (casts, squares, means, products and what is added up in the backward pass)."""

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
        """PyTorch's LayerNorm is fused: one read forward, and backward two kernels that both read gradient and input
        (aten/src/ATen/native/cuda/layer_norm_kernel.cu). About two fifths of what the others move is written."""
        item = ITEM_BYTES[dtype]
        moved = 7 * item if self.name == "layer_norm" else _PLAIN_BYTES[self.name][dtype in ("bf16", "fp16")]
        moved = sizes["rows"] * sizes["width"] * (moved + self.added * 6 * item)
        return Work(moved - moved * 2 // 5, moved * 2 // 5, sizes["rows"] * sizes["width"] * 18)

    def kept_bytes(self, sizes: Sizes, dtype: str) -> int:
        return sizes["rows"] * (sizes["width"] * ITEM_BYTES[dtype] + self.statistics * WIDE_BYTES)

    def plain_kept_bytes(self, sizes: Sizes, dtype: str) -> int:
        if self.name == "layer_norm":
            return self.kept_bytes(sizes, dtype)
        narrow = self.name == "rms_norm" and dtype in ("bf16", "fp16")
        scaled = ITEM_BYTES[dtype] if narrow else WIDE_BYTES  # what the weight multiplies
        entry = WIDE_BYTES + scaled  # the input in float32 before it
        return sizes["rows"] * (sizes["width"] * entry + self.statistics * WIDE_BYTES)

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


KERNELS = tuple(_Norm(name, added).declare() for name in _SUMMARIES for added in (False, True))
