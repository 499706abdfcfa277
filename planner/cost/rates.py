"""Rates: what a device sustains, in the job's precision."""

from __future__ import annotations

import math
from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ...clusters.schema import Cluster, Device, Dtype, NodeGroup, Origin
from ...errors import InputError
from ..frameworks.framework import Costs, Experts, Framework
from ..job import Precision
from ..optimizer import Kernels
from .declared import Declared

if TYPE_CHECKING:
    from ...clusters.shape_times import ShapeTimes

ELEMENT_BYTES: dict[Precision, int] = {"fp32": 4, "bf16": 2, "fp16": 2, "fp8": 2}
"""Bytes of an activation. In fp8 recipes only the operands of matmuls are 8 bits wide (Transformer Engine)."""

PLAIN = Framework(name="plain", title="what the kernel tables promise", source="")

BALANCED = Experts()

CEILING = 0.9
"""Of a matmul's share of the peak. A framework whose small products run better in a step than alone (shares above 1 of
the kernel tables) does not lift large ones beyond what they reach anywhere: 0.81 is the most in the tables, on A100."""

ORIGIN_RANK: tuple[Origin, ...] = ("measured", "calibrated", "analytical")


@dataclass(frozen=True, slots=True)
class Rates:
    """Sustained rates of one device."""

    peak_flops: float
    attention_flops: float  # sustained by fused attention
    matmul: tuple[tuple[float, float], ...]  # (log FLOPs, fraction of peak), ascending
    bandwidth_bytes_per_s: float  # of memory, datasheet: the floor under a matmul
    elementwise_bytes_per_s: float  # of memory, as element-wise kernels reach it
    launch_s: float
    element_bytes: int
    narrow_heads: float = 1.0  # rate of attention with heads of 64 over that with heads of 128
    scores: bool = False  # attention is not fused: its score matrices are written and read
    dropout: bool = False
    accumulate_bytes: float = 0.0  # per parameter and microbatch, to add its gradient to those before
    experts: float = 1.0  # share of the matmul rate that grouped matmuls of experts reach
    dispatch: float = 1.0  # time of expert dispatch over the links' own
    routing: Experts = BALANCED
    steal: float = 0.0  # share of compute lost while a collective is in flight
    cast_bytes: float = 4.0  # per element of an operand that is narrower than 16 bits
    sixteen_bit: Rates | None = None  # of what stays in 16 bits where the layers' matmuls are in 8
    times: ShapeTimes | None = None  # measured kernels, where the device has them in this number format
    matmul_share: float = 1.0  # of their rate that a step sustains under the framework
    attention_share: float = 1.0
    elementwise_bytes: float = 1.0  # moved under the framework, over those of what was measured
    declared: Declared | None = None  # kernels that run, where their declarations say what they move

    @property
    def declared_bytes_per_s(self) -> float:
        """Of memory, as kernels reach it whose bytes are known and not estimated from those of fused ones."""
        return self.elementwise_bytes_per_s * self.elementwise_bytes

    def matmul_fraction(self, flops: float) -> float:
        """Fraction of the peak that a matmul reaches: linear in log(FLOPs), constant beyond the table."""
        at = math.log(max(flops, 1.0))
        place = bisect_left(self.matmul, (at, 0.0))
        if place in (0, len(self.matmul)):
            return self.matmul[min(place, len(self.matmul) - 1)][1]
        (low, left), (high, right) = self.matmul[place - 1 : place + 1]
        return left + (right - left) * (at - low) / (high - low)


CAST_BYTES = {"fp8": 4.0, "fp4": 5.0}
"""Of an operand: read in 16 bits, written in 8, and once more transposed for the weight gradient (Transformer Engine).
In NVFP4 half as much is written, and read once more before for the scale of the whole tensor (arXiv:2509.25149)."""


def device_rates(
    device: Device, precision: Precision, framework: Framework = PLAIN, narrow: Dtype | None = None,
    kernels: Kernels = "auto",
) -> Rates:  # fmt: skip
    """Rates of one kind of device under a framework. In fp8 attention and the output head run in bf16; `narrow` is
    what the layers' matmuls run in where that is yet narrower."""
    operand: Dtype = narrow or precision
    calibration, costs = device.calibration, costs_of(framework, device)
    core: Dtype = "bf16" if precision == "fp8" else precision
    return Rates(
        peak_flops=device.peak_flops[operand],
        attention_flops=device.peak_flops[core] * calibration.attention * costs.attention,
        matmul=tuple(
            (math.log(point.flops), min(CEILING, point.fraction * costs.matmul))
            for point in calibration.points(operand)
        ),
        bandwidth_bytes_per_s=device.memory_bandwidth_bytes_per_s,
        elementwise_bytes_per_s=device.memory_bandwidth_bytes_per_s * calibration.memory / costs.elementwise,
        launch_s=calibration.launch_s,
        element_bytes=ELEMENT_BYTES[precision],
        narrow_heads=framework.narrow_heads,
        scores=framework.keeps.scores,
        dropout=framework.keeps.dropout,
        accumulate_bytes=framework.accumulate_bytes,
        experts=costs.experts,
        dispatch=costs.dispatch,
        routing=framework.experts,
        steal=costs.steal,
        cast_bytes=CAST_BYTES.get(operand, 0.0),
        sixteen_bit=device_rates(device, "bf16", framework) if precision == "fp8" else None,
        times=_times(device, operand),
        matmul_share=costs.matmul,
        attention_share=costs.attention,
        elementwise_bytes=costs.elementwise,
        declared=declared_by(device, precision, framework, kernels),
    )


def declared_by(device: Device, precision: Precision, framework: Framework, kernels: Kernels) -> Declared | None:
    """Kernels of a framework that declares what they move and keep. Not on a CPU: what is calibrated there is plain
    PyTorch over the bytes of fused kernels."""
    if not framework.bundled_kernels or device.kind == "cpu":
        return None
    return Declared(kernels, "bf16" if precision == "fp8" else precision)


def costs_of(framework: Framework, device: Device) -> Costs:
    """A framework's costs on a device; what a collective takes from compute as it was measured there, where it was. On
    a CPU nothing hides a collective, so that it takes nothing."""
    costs, overlap = framework.costs_on(device), device.calibration.overlap
    return costs if overlap is None or device.kind == "cpu" else costs.model_copy(update={"steal": overlap.steal})


def _times(device: Device, dtype: Dtype) -> ShapeTimes | None:
    """Measured kernels of a device, if they are in this number format."""
    shapes = device.calibration.shapes
    if shapes is None or shapes.dtype != dtype:
        return None
    from ...clusters.shape_times import shape_times  # which imports numpy: a while, for few clusters

    return shape_times(shapes, device.peak_flops[dtype], device.memory_bandwidth_bytes_per_s)


def cluster_device(cluster: Cluster, precision: Precision, among: Sequence[NodeGroup] = ()) -> Device:
    """The slowest device of some node groups, of all where none are named: ranks wait for each other.

    Raises InputError where any device of the cluster has no rate for the precision.
    """
    for number, device in enumerate(group.device for group in cluster.node_groups):
        if precision not in device.peak_flops or (precision == "fp8" and "bf16" not in device.peak_flops):
            known = ", ".join(each for each in ELEMENT_BYTES if each in device.peak_flops)
            rule = f"{device.name} has no {precision} rate (node_groups[{number}].device.peak_flops)"
            raise InputError.single(f"cluster {cluster.name}", "--precision", precision, rule, f"one of {known}")
    return min(
        (group.device for group in among or cluster.node_groups), key=lambda device: _sustained(device, precision)
    )


def _sustained(device: Device, precision: Precision) -> float:
    return device.peak_flops[precision] * max(point.fraction for point in device.calibration.matmul)
