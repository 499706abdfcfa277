"""Compression: how gradients of replicas travel, and what it asks of memory; without torch, for the launcher."""

from __future__ import annotations

from typing import Literal

from ..kernels.facts.quantise import MESSAGE_BYTES
from ..kernels.kernel import WIDE_BYTES

Compress = Literal["none", "int8", "fp8"]
FORMATS: dict[Compress, str] = {"int8": "int8", "fp8": "e4m3"}
"""By the names of `kernels.facts.quantise.GRIDS`: E5M2 has a bit less for what blocks with scales do not need."""


def extra_bytes(gradient_bytes: int, ranks: int) -> int:
    """Of device memory beside gradients of so many bytes in float32: a residual for each of them, one for each that a
    rank adds up, and what is sent and received, of all units at once where their sums are put off to the end."""
    numbers = gradient_bytes // WIDE_BYTES
    return gradient_bytes + gradient_bytes // ranks + int(2 * numbers * MESSAGE_BYTES)
