"""Shapes: measured seconds of kernels by operation and sizes, as a cluster file holds them.

`matmul` is a linear layer's: [m, k] times [k, n] forward, its input gradient and its weight gradient at the same sizes.
`grouped` is so many of them at once, `m` rows each. `attention` is causal and fused, `heads` those of a whole
microbatch. The rest is element-wise, a gather, or a copy.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Annotated, Literal, NamedTuple

from pydantic import BeforeValidator, Field, field_validator, model_validator

from ..schema import Frozen
from ..units import parse_flops, parse_rate

Dtype = Literal["fp32", "tf32", "bf16", "fp16", "fp8", "fp4"]
Name = Literal[
    "matmul", "grouped", "attention", "norm", "activation", "residual", "loss", "embedding", "optimizer", "copy"
]
Choice = Literal["table", "regression", "curve"]
Positive = Annotated[float, Field(gt=0)]

PARTS_OF_A_PRODUCT = ("forward", "input", "weight")
BOTH = ("forward", "backward")


class Kind(NamedTuple):
    """What sizes an operation has, and what of it is timed apart."""

    sizes: tuple[str, ...]
    parts: tuple[str, ...]


KINDS: Mapping[str, Kind] = {
    "matmul": Kind(("m", "n", "k"), PARTS_OF_A_PRODUCT),
    "grouped": Kind(("groups", "m", "n", "k"), PARTS_OF_A_PRODUCT),
    "attention": Kind(("heads", "tokens", "width"), BOTH),
    "norm": Kind(("tokens", "width"), BOTH),
    "activation": Kind(("tokens", "width"), BOTH),
    "residual": Kind(("elements",), ("forward",)),
    "loss": Kind(("tokens", "vocabulary"), BOTH),
    "embedding": Kind(("tokens", "width", "vocabulary"), BOTH),
    "optimizer": Kind(("parameters",), ("step",)),
    "copy": Kind(("bytes",), ("to_device", "to_host")),
}

COMPUTE_BOUND = frozenset({"matmul", "grouped", "attention"})
"""Operations whose time follows the peak of the device; that of the others follows its memory."""


def work(name: str, sizes: Sequence[float]) -> tuple[float, float]:
    """What the time of an operation grows with: operations and elements moved, up to constant factors."""
    if name in ("matmul", "grouped"):
        m, n, k = sizes[-3:]
        groups = sizes[0] if name == "grouped" else 1.0
        return groups * m * n * k, groups * (m * k + k * n + m * n)
    if name == "attention":
        heads, tokens, width = sizes
        return heads * tokens * tokens * width, heads * tokens * width
    if name == "embedding":
        tokens, width, vocabulary = sizes
        return tokens * width, vocabulary * width
    return 0.0, math.prod(sizes)


class Errors(Frozen):
    """Errors at points that were left out, over all parts: the mean of the absolute logarithms of predicted over
    measured, so that twice and half count alike."""

    table: float | None = Field(default=None, ge=0, description="the points, interpolated")
    regression: float | None = Field(default=None, ge=0, description="the regression over shape features")
    curve: float | None = Field(default=None, ge=0, description="the device's curve and rates, without shapes")


class Regression(Frozen):
    """Logarithm of one part's seconds: a sum of features of the sizes (clusters/features.py), each times a
    coefficient."""

    part: str
    coefficients: tuple[float, ...] = Field(min_length=1)


class Operation(Frozen):
    """One operation. `points` are rows: its sizes, the seconds of each part, and the widest relative half-width of the
    confidence intervals of these."""

    name: Name
    sizes: tuple[str, ...]
    parts: tuple[str, ...]
    chosen: Choice = Field(description="what prices it: the least error of the three")
    errors: Errors = Errors()
    reach: tuple[Positive, ...] = Field(description="of each size, the octaves over which the table's points speak")
    thresholds: tuple[Positive, ...] = Field((), description="elements moved, where the regression may bend")
    regression: tuple[Regression, ...] = ()
    points: tuple[tuple[float, ...], ...] = Field(min_length=3)

    @field_validator("points")
    @classmethod
    def _above_zero(cls, points: tuple[tuple[float, ...], ...]) -> tuple[tuple[float, ...], ...]:
        for number, row in enumerate(points):
            if any(value <= 0 for value in row[:-1]) or row[-1:] < (0.0,):
                raise ValueError(f"row {number}: sizes and seconds must be above 0, the spread not below")
        return points

    @model_validator(mode="after")
    def _fits_its_kind(self) -> Operation:
        kind = KINDS[self.name]
        for field, given, legal in (("sizes", self.sizes, kind.sizes), ("parts", self.parts, kind.parts)):
            if given != legal:
                raise ValueError(f"{field} of {self.name} must be [{', '.join(legal)}]")
        if len(self.reach) != len(kind.sizes):
            raise ValueError(f"reach must have one number for each of [{', '.join(kind.sizes)}]")
        columns = len(kind.sizes) + len(kind.parts) + 1
        wrong = [number for number, row in enumerate(self.points) if len(row) != columns]
        if wrong:
            expected = ", ".join((*kind.sizes, *(f"{part} s" for part in kind.parts), "spread"))
            raise ValueError(f"points[{wrong[0]}] must be [{expected}]")
        self._check_regression(kind)
        return self

    def _check_regression(self, kind: Kind) -> None:
        if self.chosen == "regression" and not self.regression:
            raise ValueError("chosen is regression, but there is none")
        if self.regression and tuple(each.part for each in self.regression) != kind.parts:
            raise ValueError(f"regression must have one entry for each of [{', '.join(kind.parts)}]")
        count = feature_count(len(kind.sizes), len(self.thresholds))
        if any(len(each.coefficients) != count for each in self.regression):
            raise ValueError(f"regression needs {count} coefficients for these sizes and thresholds")

    def rows(self) -> list[tuple[tuple[float, ...], tuple[float, ...], float]]:
        """Of every point the sizes, the seconds by part, and the spread."""
        first = len(self.sizes)
        return [(row[:first], row[first:-1], row[-1]) for row in self.points]


def feature_count(sizes: int, thresholds: int) -> int:
    """A constant, the fitted base, each size's logarithm, all products of two of these, and a bend for each
    threshold."""
    return 2 + sizes + sizes * (sizes + 1) // 2 + thresholds


class Shapes(Frozen):
    """All operations of one device in one number format. Times scale with the device's peak and bandwidth, should these
    be changed after they were measured: `--set ...peak_flops=2x` means what it says."""

    dtype: Dtype
    peak_flops: Annotated[float, BeforeValidator(parse_flops), Field(gt=0)]  # the device's when these were measured
    memory_bandwidth_bytes_per_s: Annotated[float, BeforeValidator(parse_rate), Field(gt=0, alias="memory_bandwidth")]
    operations: tuple[Operation, ...] = Field(min_length=1)

    @field_validator("operations")
    @classmethod
    def _each_once(cls, operations: tuple[Operation, ...]) -> tuple[Operation, ...]:
        names = [each.name for each in operations]
        twice = sorted({name for name in names if names.count(name) > 1})
        if twice:
            raise ValueError(f"{twice[0]} stands twice")
        return operations


class Overlap(Frozen):
    """What a large product and a collective take beside each other, over what each takes alone."""

    compute: float = Field(ge=1)
    collective: float = Field(ge=1)

    @property
    def steal(self) -> float:
        """Share of compute that is lost while a collective is in flight."""
        return 1 - 1 / self.compute
