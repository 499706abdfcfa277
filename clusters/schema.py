"""Cluster: node groups, devices and the links between them, as a YAML file describes them.

Quantities are written with their unit (`80 GiB`, `3.35 TB/s`, `400 Gbit/s`, `989 TFLOP/s`, `2 us`)
and held in base units: bytes, bytes per second, FLOP per second, seconds. Rates are per direction.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import accumulate, pairwise
from typing import Annotated, Any, ClassVar, Literal

from pydantic import BeforeValidator, Field, SerializerFunctionWrapHandler, field_validator, model_serializer

from ..schema import Frozen
from ..units import parse_bytes, parse_flops, parse_rate, parse_seconds
from .adjustment import Adjustment
from .devices import device_mapping
from .layer_times import LayerTimes
from .link_costs import LinkCost
from .provenance import Provenance
from .shapes import Dtype as Dtype
from .shapes import Overlap, Shapes

Bytes = Annotated[float, BeforeValidator(parse_bytes), Field(gt=0)]
Rate = Annotated[float, BeforeValidator(parse_rate), Field(gt=0)]  # bytes per second
Flops = Annotated[float, BeforeValidator(parse_flops), Field(gt=0)]  # FLOP per second
Seconds = Annotated[float, BeforeValidator(parse_seconds), Field(ge=0)]
Origin = Literal["measured", "calibrated", "analytical"]


class Grown(Frozen):
    """A part of the format that has grown: optional fields of `later` stay out of what is written where they are None,
    so that plans of clusters without them are the same files as before."""

    later: ClassVar[tuple[str, ...]] = ()

    @model_serializer(mode="wrap")
    def _without_what_is_not_there(self, write: SerializerFunctionWrapHandler) -> dict[str, Any]:
        written: dict[str, Any] = write(self)
        return {name: value for name, value in written.items() if value is not None or name not in self.later}


class EfficiencyPoint(Frozen):
    """Fraction of the peak that a matmul of this many FLOPs reaches."""

    flops: float = Field(gt=0)
    fraction: float = Field(gt=0, le=1)


_OVER_SIXTEEN_BIT: dict[Dtype, int] = {"fp8": 2, "fp4": 4}
"""Rate of narrow formats over that of 16-bit ones on every device that has them."""


class Calibration(Grown):
    """What a device sustains, beside what its datasheet promises."""

    later: ClassVar[tuple[str, ...]] = ("shapes", "overlap")

    origin: Origin
    source: str
    matmul: tuple[EfficiencyPoint, ...] = Field(min_length=1)  # ascending in flops; interpolated on log(flops)
    matmul_fp8: tuple[EfficiencyPoint, ...] = ()  # of the fp8 peak, where fp8 products are known apart
    attention: float = Field(gt=0, le=1, description="fraction of peak that fused attention reaches")
    memory: float = Field(gt=0, le=1, description="fraction of memory bandwidth of element-wise kernels")
    launch_s: Seconds = Field(alias="launch", description="fixed cost of one kernel")
    shapes: Shapes | None = Field(None, description="measured kernels by operation and sizes")
    overlap: Overlap | None = Field(None, description="what compute and a collective take beside each other")
    layers: LayerTimes | None = Field(None, description="whole layers of some model, as `profile --model` timed them")

    def points(self, dtype: Dtype) -> tuple[EfficiencyPoint, ...]:
        """The curve of a number format: fp8's own where it is known, else that of `matmul` by how long a kernel runs:
        at twice the rate twice the FLOPs fill the device as well (at four times, in fp4, four times as many)."""
        if dtype == "fp8" and self.matmul_fp8:
            return self.matmul_fp8
        times = _OVER_SIXTEEN_BIT.get(dtype, 1)
        if times == 1:
            return self.matmul
        return tuple(EfficiencyPoint(flops=times * point.flops, fraction=point.fraction) for point in self.matmul)

    @field_validator("matmul", "matmul_fp8")
    @classmethod
    def _ascending(cls, points: tuple[EfficiencyPoint, ...]) -> tuple[EfficiencyPoint, ...]:
        if any(a.flops >= b.flops for a, b in pairwise(points)):
            raise ValueError("must be in ascending order of flops")
        return points


class Device(Frozen):
    """One accelerator, or one share of a CPU."""

    name: str
    kind: Literal["cuda", "rocm", "cpu"]
    memory_bytes: Bytes = Field(alias="memory")
    memory_bandwidth_bytes_per_s: Rate = Field(alias="memory_bandwidth")
    peak_flops: dict[Dtype, Flops] = Field(description="dense FLOP/s by dtype")
    context_bytes: Bytes = Field(alias="context", description="held by driver, runtime and collectives library")
    power_w: float | None = Field(None, gt=0)
    idle_power_w: float | None = Field(None, gt=0)
    calibration: Calibration
    source: str = ""


def _by_name(value: object) -> object:
    """A device may be given by the name of a bundled one."""
    if not isinstance(value, (str, dict, Device)):
        raise ValueError("must be the name of a bundled device, or a mapping that describes one")
    return device_mapping(value) if isinstance(value, str) else value


class Matrix(Frozen):
    """Measured rates: `rows[a][b]` from a to b; 0 where nothing was measured, and from a part to itself."""

    unit: str = "GB/s"
    rows: tuple[tuple[float, ...], ...] = Field(min_length=2)

    @field_validator("unit")
    @classmethod
    def _is_a_rate(cls, unit: str) -> str:
        parse_rate(f"1 {unit}")
        return unit

    @property
    def scale_bytes_per_s(self) -> float:
        """The unit."""
        return parse_rate(f"1 {self.unit}")

    def slower(self, a: int, b: int) -> float:
        """Between two parts, in the slower of the directions that were measured; 0 where none was."""
        return min((rate for rate in (self.rows[a][b], self.rows[b][a]) if rate), default=0.0)


class Fabric(Frozen):
    """What joins the devices of a node, or of a larger domain (NVL72: 72 devices over 18 nodes)."""

    kind: Literal["nvswitch", "nvlink", "pcie", "xgmi", "shared-memory"]
    bandwidth_bytes_per_s: Rate = Field(alias="bandwidth", description="per device and direction")
    latency_s: Seconds = Field(alias="latency")
    efficiency: float = Field(0.8, gt=0, le=1, description="fraction of bandwidth that large collectives reach")
    reduce_scatter: float = Field(1.0, gt=0, description="its time over that of an all-gather; above 1 on gloo")
    group_bandwidth_bytes_per_s: dict[int, Rate] = Field(
        {},
        alias="group_bandwidth",
        description="without a switch: of a device in a group of at most so many, which share few links",
    )
    domain_devices: int | None = Field(None, ge=1, description="devices in one domain; default: one node")
    matrix: Matrix | None = Field(None, description="between the devices of a node: of one device, sustained")
    costs: tuple[LinkCost, ...] = ()  # measured, instead of latency + bytes / bandwidth


class Nics(Frozen):
    """Network cards of one node."""

    kind: Literal["infiniband", "roce", "efa", "slingshot", "ethernet"]
    count: int = Field(ge=1)
    rate_bytes_per_s: Rate = Field(alias="rate", description="per card and direction")
    latency_s: Seconds = Field(alias="latency")
    efficiency: float = Field(0.8, gt=0, le=1, description="fraction of the rate that large collectives reach")
    costs: tuple[LinkCost, ...] = ()  # measured, instead of latency + bytes / bandwidth


class Host(Frozen):
    """CPU side of one node."""

    memory_bytes: Bytes = Field(alias="memory")
    cores: int = Field(ge=1)
    device_link_bytes_per_s: Rate = Field(alias="device_link", description="host to one device, one direction")
    power_w: float | None = Field(None, gt=0, description="of a node at work, without its devices: CPUs, fans, NICs")
    idle_power_w: float | None = Field(None, gt=0)


class Nvme(Frozen):
    """Local storage of one node."""

    capacity_bytes: Bytes = Field(alias="capacity")
    read_bytes_per_s: Rate = Field(alias="read")
    write_bytes_per_s: Rate = Field(alias="write")


class NodeGroup(Frozen):
    """Equal nodes."""

    name: str = Field(min_length=1)
    nodes: int = Field(ge=1)
    devices_per_node: int = Field(ge=1)
    device: Annotated[Device, BeforeValidator(_by_name)]
    fabric: Fabric
    nics: Nics | None = None  # None: a single node without network
    host: Host
    nvme: Nvme | None = None
    oversubscription: float = Field(1.0, ge=1, description="of the network inside this group")
    price_per_device_hour: float | None = Field(None, ge=0, description="US dollars")
    failures_per_device_hour: float = Field(2.0e-5, ge=0)

    @property
    def num_devices(self) -> int:
        return self.nodes * self.devices_per_node


class GroupLink(Frozen):
    """What joins two node groups: a switch, or a line between sites."""

    between: tuple[str, str]
    kind: Literal["infiniband", "roce", "efa", "slingshot", "ethernet"]
    bandwidth_bytes_per_s: Rate = Field(alias="bandwidth", description="of the whole link, one direction")
    latency_s: Seconds = Field(alias="latency")


class NodeException(Frozen):
    """A node that is not as its group says. Rates are those of the whole node, sustained, in one direction."""

    node: str = Field(description="group/number: new/3 is the fourth node of the group new")
    network_bytes_per_s: Rate | None = Field(None, alias="network", description="of all its cards together")
    network_factor: float | None = Field(None, gt=0, description="of what its cards would sustain")
    fabric_factor: float | None = Field(None, gt=0, description="of what its devices would sustain among each other")
    missing: tuple[int, ...] | Literal["all"] = Field((), description="numbers of its devices that cannot be used")


class PathException(Frozen):
    """Two nodes whose path is not what the cards at its ends give. The rate is that of the whole nodes, sustained, in
    one direction."""

    between: tuple[str, str]
    bandwidth_bytes_per_s: Rate | None = Field(None, alias="bandwidth")
    factor: float | None = Field(None, gt=0, description="of what the cards at both ends would sustain")


class Exceptions(Frozen):
    """Where a cluster is not as uniform as its node groups say: what measurement finds."""

    nodes: tuple[NodeException, ...] = ()
    paths: tuple[PathException, ...] = ()
    matrix: Matrix | None = None  # between all nodes, group by group: of whole nodes, sustained


class Cluster(Grown):
    """All machines of one job. Devices are numbered group by group, node by node, device by device; a missing one keeps
    its number."""

    later: ClassVar[tuple[str, ...]] = ("adjustment", "measured")

    schema_version: Literal[1] = 1
    name: str
    node_groups: tuple[NodeGroup, ...] = Field(min_length=1)
    links: tuple[GroupLink, ...] = ()
    exceptions: Exceptions = Exceptions()
    adjustment: Adjustment | None = Field(None, description="what runs on it taught; absent: nothing")
    source: str = ""
    measured: Provenance | None = None

    @property
    def num_devices(self) -> int:
        """Devices that can be used."""
        return sum(group.num_devices for group in self.node_groups) - len(self.missing_devices)

    @property
    def missing_devices(self) -> frozenset[int]:
        """Numbers of the devices that cannot be used."""
        return frozenset(self._missing())

    def _missing(self) -> Iterator[int]:
        firsts = accumulate((group.num_devices for group in self.node_groups), initial=0)
        first_of = {group.name: (first, group) for group, first in zip(self.node_groups, firsts, strict=False)}
        for each in self.exceptions.nodes:
            name, _, number = each.node.rpartition("/")
            if each.missing and name in first_of and number.isdecimal():
                first, group = first_of[name]
                gone = range(group.devices_per_node) if each.missing == "all" else each.missing
                yield from (first + int(number) * group.devices_per_node + local for local in gone)
