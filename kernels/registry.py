"""Registry: all kernels by name. Imports neither torch nor Triton."""

from __future__ import annotations

import difflib

from .facts import adamw, checksum, cross_entropy, gated, grouped, merge, norm, permute, quantise, rotary
from .kernel import Kernel

_ALL = (
    *merge.KERNELS,
    *norm.KERNELS,
    *gated.KERNELS,
    *rotary.KERNELS,
    *permute.KERNELS,
    *grouped.KERNELS,
    *cross_entropy.KERNELS,
    *adamw.KERNELS,
    *checksum.KERNELS,
    *quantise.KERNELS,
)

KERNELS: dict[str, Kernel] = {kernel.name: kernel for kernel in _ALL}
"""In the order of the documentation."""


def kernel(name: str) -> Kernel:
    """The declaration of this name. Raises KeyError with the nearest names there are."""
    if name not in KERNELS:
        near = difflib.get_close_matches(name, KERNELS) or sorted(KERNELS)
        raise KeyError(f"no kernel {name!r}; there are {', '.join(near)}")
    return KERNELS[name]
