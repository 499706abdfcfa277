"""Setting: everything about a request that does not depend on the configuration, and the prices made so far."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from functools import cached_property

from ...clusters.schema import Cluster, Device, Dtype, Nvme, Origin
from ...clusters.topology import GroupPaths, Path, Topology, domain_devices
from ..configuration import Configuration, Module
from ..frameworks.framework import Costs, Framework, framework
from ..job import Job
from ..model import Architecture, Layer
from .activations import Shape
from .blocks import ModelCosts, model_costs
from .communication import ALONE, slowed
from .context import Links
from .exchange import Groups
from .rates import ORIGIN_RANK, Rates, cluster_device, device_rates
from .sharding import Sharding, sharding_of


@dataclass(frozen=True, eq=False)
class Setting:
    """A model, a cluster and a job. On a mixed cluster every rank is priced as the slowest device with the smallest
    memory, and pipeline stages lie on the ranks in order."""

    architecture: Architecture
    cluster: Cluster
    job: Job
    every_device: bool = True  # a legal configuration uses all of them, rather than any number of whole nodes
    framework: Framework = field(default_factory=framework)  # what executes the layers
    narrow: Dtype | None = None  # what the layers' matmuls run in where that is narrower than the job's precision
    _paths: dict[tuple[int, int], GroupPaths] = field(default_factory=dict, repr=False)
    _hops: dict[tuple[int, int], Path] = field(default_factory=dict, repr=False)
    _costs: dict[tuple[Sharding, tuple[Module, ...]], ModelCosts] = field(default_factory=dict, repr=False)

    @cached_property
    def topology(self) -> Topology:
        return Topology(self.cluster)

    @cached_property
    def kinds(self) -> tuple[Layer, ...]:
        """The distinct layers of the model."""
        return tuple(dict.fromkeys(self.architecture.layers))

    @cached_property
    def has_experts(self) -> bool:
        return self.architecture.is_moe

    @cached_property
    def device(self) -> Device:
        return cluster_device(self.cluster, self.job.precision)

    @cached_property
    def execution(self) -> Costs:
        """What the framework's execution costs on the device."""
        return self.framework.costs_on(self.device)

    @cached_property
    def rates(self) -> Rates:
        return device_rates(self.device, self.job.precision, self.framework, self.narrow)

    @cached_property
    def hides_communication(self) -> bool:
        """Whether collectives can run beside compute. On a CPU they take the very cores that compute."""
        return self.device.kind != "cpu"

    @cached_property
    def memory_limit_bytes(self) -> int:
        return int(min(group.device.memory_bytes for group in self.cluster.node_groups))

    @cached_property
    def context_bytes(self) -> int:
        return int(max(group.device.context_bytes for group in self.cluster.node_groups))

    @cached_property
    def host_link_bytes_per_s(self) -> float:
        return min(group.host.device_link_bytes_per_s for group in self.cluster.node_groups)

    @cached_property
    def origin(self) -> Origin:
        """The weakest origin among the devices in use."""
        origins = [group.device.calibration.origin for group in self.cluster.node_groups]
        return max(origins, key=ORIGIN_RANK.index)

    @cached_property
    def domain_devices(self) -> int:
        """Devices that the fast fabric joins, in the smallest domain of the cluster."""
        return min(domain_devices(group) for group in self.cluster.node_groups)

    @cached_property
    def devices_per_node(self) -> int:
        return min(group.devices_per_node for group in self.cluster.node_groups)

    @cached_property
    def host_bytes_per_device(self) -> float:
        """Host memory that offloaded states may fill."""
        return min(group.host.memory_bytes / group.devices_per_node for group in self.cluster.node_groups)

    @cached_property
    def host_cores_per_device(self) -> float:
        return min(group.host.cores / group.devices_per_node for group in self.cluster.node_groups)

    @property
    def has_nvme(self) -> bool:
        return all(group.nvme is not None for group in self.cluster.node_groups)

    @cached_property
    def nvme(self) -> Nvme:
        """One device's share of the smallest and slowest drives; only where every node has one."""
        shares = [(group.nvme, group.devices_per_node) for group in self.cluster.node_groups if group.nvme]
        return Nvme(
            capacity=min(int(drive.capacity_bytes / devices) for drive, devices in shares),
            read=min(drive.read_bytes_per_s / devices for drive, devices in shares),
            write=min(drive.write_bytes_per_s / devices for drive, devices in shares),
        )

    def dollars_per_s(self, devices: int) -> float:
        """Price of the first `devices` devices; raises KeyError where a node group has none."""
        total, left = 0.0, devices
        for group in self.cluster.node_groups:
            used = min(left, group.num_devices)
            if used and group.price_per_device_hour is None:
                raise KeyError(group.name)
            total += used * (group.price_per_device_hour or 0.0) / 3600
            left -= used
        return total

    @property
    def element_bytes(self) -> int:
        return self.rates.element_bytes

    def group(self, stride: int, count: int) -> GroupPaths:
        """Paths of the slowest process group of `count` ranks, `stride` apart."""
        if count == 1:
            return ALONE
        key = stride, count
        if key not in self._paths:
            self._paths[key] = self._slowest_group(stride, count)
        return self._paths[key]

    def _slowest_group(self, stride: int, count: int) -> GroupPaths:
        span = stride * count
        starts = self._sample_starts(span)
        groups = [self.topology.group(range(start, start + span, stride)) for start in starts]
        slowest = min(groups, key=_narrowest)
        return _flat(slowest) if self.framework.flat_rings else slowest

    def _sample_starts(self, span: int) -> list[int]:
        """Where to look for the slowest group: the first one does on a regular grid, else up to 64 over the cluster."""
        world = self.cluster.num_devices
        blocks = max(1, world // span)
        if len(self.cluster.node_groups) == 1 and (self.domain_devices % span == 0 or span % self.domain_devices == 0):
            return [0]
        step = max(1, blocks // 64)
        return [block * span for block in range(0, blocks, step)] or [0]

    def hop(self, stage_ranks: int, stages: int) -> Path:
        """The slowest path between neighbouring pipeline stages of `stage_ranks` devices each."""
        key = stage_ranks, stages
        if key not in self._hops:
            firsts = range(0, (stages - 1) * stage_ranks, stage_ranks)
            paths = [self.topology.point_to_point(first, first + stage_ranks) for first in firsts]
            self._hops[key] = min(paths, key=lambda path: (path.bandwidth_bytes_per_s, -path.latency_s))
        return self._hops[key]

    def groups(self, sharding: Sharding) -> Groups:
        """Groups that a layer communicates in: tp fastest, then cp; experts fold the same ranks, etp fastest."""
        execution = self.execution
        return Groups(
            tp=slowed(self.group(1, sharding.tp), execution.tensor, execution.network),
            cp=Links(
                whole=self.group(sharding.tp, sharding.cp),
                heads=self.group(sharding.tp, sharding.cp_ulysses),
                ring=self.group(sharding.tp * sharding.cp_ulysses, sharding.cp // sharding.cp_ulysses),
            ),
            ep=self.group(sharding.etp, sharding.ep),
            etp=self.group(1, sharding.etp),
        )

    def shape(self, sharding: Sharding) -> Shape:
        """One microbatch under a sharding, as the framework keeps it."""
        return Shape(
            sharding=sharding,
            seq_len=self.job.seq_len,
            element=self.element_bytes,
            keeps=self.framework.keeps,
            fp8=self.job.precision == "fp8",
            on_cpu=self.device.kind == "cpu",
        )

    def costs(self, configuration: Configuration) -> ModelCosts:
        """Costs of every layer and end block under the configuration's sharding and what it recomputes selectively."""
        key = sharding, modules = sharding_of(configuration), configuration.recompute_operations
        if key not in self._costs:
            groups = self.groups(sharding)
            self._costs[key] = model_costs(self.architecture, self.shape(sharding), self.rates, groups, modules)
        return self._costs[key]


def _flat(group: GroupPaths) -> GroupPaths:
    """One ring through all n members instead of rings inside and between d domains: its network links carry (n-1)/n of
    the data, not (d-1)/d, and the links inside move as much at the same time (github.com/NVIDIA/nccl, issue 569)."""
    if group.outer is None or group.inner is None:
        return group
    more = (1 - 1 / group.size) / (1 - 1 / group.domains)
    outer = replace(group.outer, bandwidth_bytes_per_s=group.outer.bandwidth_bytes_per_s / more)
    return replace(group, inner=None, outer=outer)


def _narrowest(group: GroupPaths) -> tuple[float, float]:
    paths = [path for path in (group.outer, group.inner) if path is not None]
    return min(path.bandwidth_bytes_per_s for path in paths), -max(path.latency_s for path in paths)
