"""Kernel: what is known of one fast part without running it, in plain Python, so that a planner without torch reads it.

The tests, the benchmark, the cost model and the profiler all read the same declaration.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

ITEM_BYTES = {"fp64": 8, "fp32": 4, "bf16": 2, "fp16": 2}
"""Bytes of one number of each type that a declaration speaks of."""

WIDE_BYTES = 4
"""Of what is kept in float32 whatever the type of the input is: statistics, log-sum-exps."""


@dataclass(frozen=True, slots=True)
class Work:
    """What a pass asks of a device at least: every input read once, every output written once."""

    read_bytes: int
    written_bytes: int
    flops: int

    @property
    def moved_bytes(self) -> int:
        """Between the device and its memory."""
        return self.read_bytes + self.written_bytes

    def __add__(self, other: Work) -> Work:
        return Work(
            self.read_bytes + other.read_bytes, self.written_bytes + other.written_bytes, self.flops + other.flops
        )


@dataclass(frozen=True, slots=True)
class Tolerance:
    """How far results may be from those in double precision: |found - exact| <= absolute + relative |exact|."""

    relative: float
    absolute: float


@dataclass(frozen=True, slots=True)
class Size:
    """One of the numbers that shapes are made of: what the fast implementation takes, and up to what tests draw it."""

    least: int = 0
    most: int | None = None
    multiple: int = 1
    drawn: int = 8

    def problem(self, value: int) -> str | None:
        """Why a value is not taken."""
        if value < self.least or (self.most is not None and value > self.most):
            return f"from {self.least} on" if self.most is None else f"from {self.least} to {self.most}"
        return None if value % self.multiple == 0 else f"a multiple of {self.multiple}"


Sizes = Mapping[str, int]
Count = Callable[[Sizes, str], Work]
"""Work of sizes and the name of a type (`ITEM_BYTES`)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Kernel:
    """A declaration. Functions are named as "module:function" in this package and imported when they are first asked
    for: declarations need neither torch nor Triton.

    `reference` is plain PyTorch for any device and type, `fast` takes the same arguments and gives the same results.
    `example` makes arguments of given sizes (`examples.example`), `programs` the parts that a compiler must accept
    (`programs.program`). `forward` and `backward` count what the fast implementation does (None: it has no backward),
    `between` what is written and read again within them, as no device holds it meanwhile (None: nothing), and
    `plain` what those passes of the reference move that a training step makes, operator by operator; `kept_bytes` and
    `plain_kept_bytes` what each holds from the forward to the backward pass, without parameters and tables.
    `differentiated`: gradients pass through it in a training step. `typical` sizes are those of a
    training step, for the benchmark and the documentation.
    """

    name: str
    summary: str
    reference: str
    fast: str
    example: str
    programs: str
    sizes: Mapping[str, Size]
    typical: tuple[Sizes, ...]
    forward: Count
    backward: Count | None
    plain: Count
    kept_bytes: Callable[[Sizes, str], int]
    plain_kept_bytes: Callable[[Sizes, str], int]
    tolerance: Mapping[str, Tolerance]
    between: Count | None = None
    dtypes: tuple[str, ...] = ("fp32", "bf16", "fp16")
    differentiated: bool = True

    def trained(self, sizes: Sizes, dtype: str) -> Work:
        """Of all passes that a training step makes."""
        counts = [self.forward, self.between, self.backward if self.differentiated else None]
        return sum((count(sizes, dtype) for count in counts if count is not None), Work(0, 0, 0))

    def takes(self, sizes: Sizes) -> bool:
        """Whether the fast implementation takes these sizes."""
        return all(limit.problem(sizes[name]) is None for name, limit in self.sizes.items())


def find(place: str) -> Any:
    """The function "module:function" of this package. Imports torch, and of fast implementations Triton."""
    module, _, name = place.partition(":")
    return getattr(importlib.import_module(f"{__package__}.{module}"), name)
