"""Compression: how gradients of replicas travel, and what that asks of a device (`runtime/parallel/compressed.py`)."""

from __future__ import annotations

from typing import Literal

from ..kernels.facts.quantise import MESSAGE_BYTES
from ..kernels.kernel import WIDE_BYTES

Compress = Literal["none", "int8", "fp8"]
FORMATS: dict[Compress, str] = {"int8": "int8", "fp8": "e4m3"}
"""By the names of `kernels.facts.quantise.GRIDS`: E5M2 has a bit less for what blocks with scales do not need."""


def passes_bytes(ranks: int) -> tuple[float, float, float]:
    """Between a device and its memory, a parameter: quantised with its residual, added up and quantised again by the
    rank whose part it is, and read."""
    wide, byte = WIDE_BYTES, MESSAGE_BYTES
    return 3 * wide + byte, byte + (2 * wide + byte) / ranks, byte + wide


def extra_bytes(gradient_bytes: int, ranks: int) -> int:
    """Of device memory beside gradients of so many bytes in float32: a residual for each of them, one for each that a
    rank adds up, and what is sent and received, of all units at once where their sums are put off to the end."""
    numbers = gradient_bytes // WIDE_BYTES
    return gradient_bytes + gradient_bytes // ranks + int(2 * numbers * MESSAGE_BYTES)
