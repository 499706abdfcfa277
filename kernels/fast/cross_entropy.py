"""Cross-entropy by Triton, of logits of a whole vocabulary or of a share of it."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from ..kernel import Sizes
from ..programs import cross_entropy as programs_of
from ..programs.program import Program, program
from ..terms import Share, Terms
from . import memory
from .launch import launch, power_of_two

_MOST_LANES, _WARP_LANES = 8192, 256  # 32 threads, 16 bytes each at a time
ALIGNED = 16
"""Rows of logits that are made here begin at multiples of so many, so that loads are wide whatever the vocabulary."""


def cross_entropy_slopes(
    logits: Tensor,
    targets: Tensor,
    softcap: float | None = None,
    label_smoothing: float = 0.0,
    z_loss: float = 0.0,
) -> tuple[Tensor, Tensor]:
    """As `kernels.cross_entropy.cross_entropy_slopes`."""
    losses, found = _cross_entropy(logits, targets, softcap or 0.0, label_smoothing, z_loss)
    return losses, found


@torch.library.custom_op("meshwright::cross_entropy", mutates_args=())
def _cross_entropy(
    logits: Tensor, targets: Tensor, softcap: float, label_smoothing: float, z_loss: float
) -> tuple[Tensor, Tensor]:
    logits, to = _rows(logits), memory.empty(logits.shape, logits)
    terms = Terms(softcap or None, label_smoothing, z_loss)
    return losses_and_slopes(logits, targets, terms, to, logits.shape[-1]), to


@_cross_entropy.register_fake
def _(
    logits: Tensor, targets: Tensor, softcap: float, label_smoothing: float, z_loss: float
) -> tuple[Tensor, Tensor]:
    return logits.new_empty(len(logits), dtype=torch.float32), logits.new_empty(logits.shape)


def losses_and_slopes(logits: Tensor, targets: Tensor, terms: Terms, to: Tensor | None, bound: int) -> Tensor:
    """Losses [rows] of whole rows; their gradient goes to `to`, which may be `logits` (None: nowhere). Columns up to
    `bound` of `logits` may be read, and written if `to` is they."""
    rows, width = logits.shape
    losses, into = memory.empty((rows,), logits, torch.float32), logits if to is None else to
    to_bound = bound if into.data_ptr() == logits.data_ptr() else width
    sizes = (width, bound, logits.stride(0), to_bound, into.stride(0))
    arguments = (logits, targets.contiguous(), losses, into, *sizes, *_numbers(terms))
    constants, warps = _shape(width)
    flags = _flags(terms) | {"WRITTEN": to is not None}
    launch(programs_of.losses_and_slopes, rows, arguments, flags | constants, warps)
    return losses


def summarise(logits: Tensor, targets: Tensor, first: int, terms: Terms, bound: int | None = None) -> Tensor:
    """As `kernels.vocabulary.summarise`."""
    logits = _rows(logits.detach())
    rows, width = logits.shape
    to = memory.empty((terms.numbers, rows), logits, torch.float32)
    sizes = (rows, width, width if bound is None else bound, logits.stride(0), first, _numbers(terms)[0])
    constants, warps = _shape(width)
    launch(
        programs_of.summarise, rows, (logits, targets.contiguous(), to, *sizes), _flags(terms) | constants, warps
    )
    return to


def slopes(
    logits: Tensor, targets: Tensor, every: Tensor, share: Share, terms: Terms, scale: float
) -> tuple[Tensor, Tensor]:
    """As `kernels.vocabulary.slopes`."""
    logits = _rows(logits.detach())
    to = memory.empty(logits.shape, logits)
    return slopes_into(to, logits, targets, every, share, terms, scale, logits.shape[-1]), to


def slopes_into(
    to: Tensor, logits: Tensor, targets: Tensor, every: Tensor, share: Share, terms: Terms, scale: float, bound: int
) -> Tensor:
    """Losses [rows]; `to` may be `logits`, and `bound` is as of `losses_and_slopes`."""
    rows, width = logits.shape
    losses = memory.empty((rows,), logits, torch.float32)
    to_bound = bound if to.data_ptr() == logits.data_ptr() else width
    sizes = (rows, width, bound, logits.stride(0), to_bound, to.stride(0), share.first, share.vocab, len(every))
    tensors = (logits, targets.contiguous(), every.contiguous(), losses, to)
    constants, warps = _shape(width)
    arguments = (*tensors, *sizes, *_numbers(terms), scale)
    launch(programs_of.slopes, rows, arguments, _flags(terms) | constants, warps)
    return losses


def _rows(x: Tensor) -> Tensor:
    return x if x.stride(-1) == 1 or x.shape[-1] <= 1 else x.contiguous()


def _numbers(terms: Terms) -> tuple[float, float, float]:
    """Softcap (1 where there is none), label smoothing and z-loss."""
    return terms.softcap or 1.0, terms.label_smoothing, terms.z_loss


def _flags(terms: Terms) -> dict[str, Any]:
    return {"CAPPED": terms.softcap is not None, "SMOOTHED": terms.label_smoothing > 0}


def _shape(width: int) -> tuple[dict[str, int], int]:
    """Parts and columns of a block, and warps for it."""
    columns = power_of_two(width)
    block = max(_WARP_LANES, min(columns, _MOST_LANES))
    return {"PARTS": 2 if columns >= 2 * block else 1, "BLOCK": block}, max(4, block // _WARP_LANES)


def programs(sizes: Sizes, dtype: str) -> list[Program]:
    """As they are launched for these sizes: plain, and with every term."""
    counts = ("rows", "first", "vocab", "ranks")
    aligned = ("width", "bound", "stride", "to_bound", "to_stride")
    types = dict.fromkeys(("logits", "to"), dtype) | dict.fromkeys(("losses", "every"), "fp32") | {"targets": "int64"}
    types |= dict.fromkeys(counts, "i32") | dict.fromkeys(aligned, "i32:16")
    types |= dict.fromkeys(("cap", "smoothing", "z_loss", "scale"), "fp32 value")
    constants, warps = _shape(sizes["vocab"])
    found = []
    for name, terms in (("", Terms()), (" with every term", Terms(30.0, 0.1, 1e-4))):
        flags = _flags(terms) | constants
        both = flags | {"WRITTEN": True}
        found += [
            program(f"losses_and_slopes{name}", programs_of.losses_and_slopes, both, warps, types),
            program(
                f"summarise{name}", programs_of.summarise, flags, warps, types | {"to": "fp32"}, stores=False
            ),
            program(f"slopes{name}", programs_of.slopes, flags, warps, types),
        ]
    return found
