"""Setting: everything about a request that does not depend on the configuration, and the prices made so far.

Ranks lie on the devices in their order, or as `rank_map` says; in `any_order`, the bound for a search, every question
about links is answered as in the order of nodes that is best for it.

On a cluster of several node groups, or where nodes or links differ, `at` and `stage_at` give the same as the devices of
one pipeline rank see it: a view whose devices, memories, hosts and networks are theirs alone. On a cluster of one group
without exceptions the view is the setting itself.
"""

from __future__ import annotations

import math
from bisect import bisect_right
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import cached_property
from itertools import pairwise
from typing import TYPE_CHECKING

from ...clusters.adjustment import Adjustment
from ...clusters.any_order import AnyOrder
from ...clusters.schema import Cluster, Device, Dtype, NodeGroup, Nvme, Origin
from ...clusters.topology import GroupPaths, Path, Topology, domain_devices
from ...clusters.wiring import Wiring
from ..attention import attended
from ..configuration import Configuration, Mesh, Module
from ..frameworks.framework import Costs, Framework, Spread, framework
from ..job import Job
from ..model import Architecture, Layer
from . import adjusted
from .activations import Shape
from .blocks import ModelCosts, model_costs
from .communication import ALONE, flat, slowed
from .context import Links
from .dispatch import Visits
from .exchange import Groups
from .measured import Measured
from .rates import ORIGIN_RANK, Rates, cluster_device, costs_of, device_rates
from .sharding import Sharding, sharding_of

if TYPE_CHECKING:
    from .replica import ReplicaClass

Alike = tuple[Sharding, tuple[Module, ...], Groups, Rates, bool, str]
"""What the costs of a model depend on beside the model."""

VisitsOf = Callable[["Setting", Sharding, GroupPaths], Visits | None]
"""What a trace of routing says of an ep group under a sharding; None: routing is taken as balanced."""


def replica_devices(mesh: Mesh) -> int:
    """Devices that compute a microbatch of one stage together: a tensor- and context-parallel group, or as many such
    groups as experts are spread over."""
    return math.lcm(mesh.cp * mesh.tp, mesh.ep * mesh.etp)


@dataclass(frozen=True, eq=False)
class Setting:
    """A model, a cluster and a job. Pipeline stages lie on the ranks in order. Where devices of several node groups
    are looked at together (`ranks`; by default all), what is said of them is that of the slowest, with the smallest
    memory."""

    architecture: Architecture
    cluster: Cluster
    job: Job
    every_device: bool = True  # a legal configuration uses all of them, rather than any number of whole nodes
    framework: Framework = field(default_factory=framework)  # what executes the layers
    narrow: Dtype | None = None  # what the layers' matmuls run in where that is narrower than the job's precision
    rank_map: tuple[int, ...] = ()  # the device of each rank; (): all that can be used, in their order
    any_order: bool = False  # links as in the best order of the nodes
    routing: VisitsOf | None = None  # None: balanced
    ranks: range | None = None  # of a view: the devices that it is of
    replica: int | None = None  # the block of a stage's devices that `at` looks at, where its devices differ
    _whole: Setting | None = field(default=None, repr=False)  # that a view is of
    _views: dict[tuple[int, int], Setting] = field(default_factory=dict, repr=False)
    classes: dict[tuple[int, int, int], tuple[ReplicaClass, ...]] = field(default_factory=dict, repr=False)
    _wiring: list[Wiring] = field(default_factory=list, repr=False)  # of the cluster, where others made it
    _alike: dict[Alike, ModelCosts] = field(default_factory=dict, repr=False)
    _paths: dict[tuple[int, int], GroupPaths] = field(default_factory=dict, repr=False)
    _hops: dict[tuple[int, int], tuple[Path, ...]] = field(default_factory=dict, repr=False)
    _costs: dict[tuple[Sharding, tuple[Module, ...]], ModelCosts] = field(default_factory=dict, repr=False)

    def __post_init__(self) -> None:
        if self.job.sharded is not None:
            object.__setattr__(self, "architecture", attended(self.architecture, self.job.sharded))

    @property
    def whole(self) -> Setting:
        """All devices, of whichever this is a view."""
        return self if self._whole is None else self._whole

    @cached_property
    def topology(self) -> Topology:
        if self._whole is not None:
            return self._whole.topology
        return (AnyOrder if self.any_order else Topology)(self.cluster, self.rank_map, *self._wiring)

    @property
    def num_devices(self) -> int:
        """Devices that ranks lie on."""
        return len(self.rank_map) or self.cluster.num_devices

    def mapped(self, rank_map: tuple[int, ...], any_order: bool = False, wiring: Wiring | None = None) -> Setting:
        """The same with ranks on other devices, and no prices yet; `wiring` is the cluster's, where somebody has it."""
        kept = self.architecture, self.cluster, self.job, self.every_device, self.framework, self.narrow
        known = [] if wiring is None else [wiring]
        return Setting(*kept, rank_map, any_order, self.routing, _wiring=known, _alike=self.whole._alike)

    @cached_property
    def node_groups(self) -> tuple[NodeGroup, ...]:
        """Those that devices of this view are in."""
        ranks, groups = self._ranks, self.cluster.node_groups
        runs = zip(self.topology.sites, pairwise(self.edges), strict=True)
        sites = {site for site, (first, stop) in runs if first < ranks.stop and stop > ranks.start}
        return tuple(groups[site] for site in sorted(sites))

    @cached_property
    def is_mixed(self) -> bool:
        """Whether devices or links may differ: then pipeline ranks have views of their own."""
        return self.ranks is None and (len(self.cluster.node_groups) > 1 or not self.topology.is_regular)

    def at(self, configuration: Configuration, pp_rank: int) -> Setting:
        """As the devices that compute a pipeline rank see it: all of the stage's, or those of the chosen replica."""
        if not self.is_mixed:
            return self
        if self.replica is None:
            return self.stage_at(configuration, pp_rank)
        size = replica_devices(configuration.mesh)
        first = configuration.mesh.rank(pp_rank, 0, 0, 0) + self.replica * size
        return self._view(first, first + size)

    def stage_at(self, configuration: Configuration, pp_rank: int) -> Setting:
        """As all devices of a pipeline rank see it, its data-parallel replicas together."""
        if not self.is_mixed:
            return self
        first = configuration.mesh.rank(pp_rank, 0, 0, 0)
        return self._view(first, first + configuration.mesh.rank(1, 0, 0, 0))

    def used(self, configuration: Configuration) -> Setting:
        """As all devices in use see it."""
        return self._view(0, configuration.mesh.world) if self.is_mixed else self

    def of_replica(self, block: int) -> Setting:
        """The same, where `at` looks at one block of `replica_devices` of every stage."""
        return self.whole._with(replica=block)

    def _with(self, ranks: range | None = None, replica: int | None = None) -> Setting:
        """A view, which keeps its own prices and paths."""
        return replace(self, ranks=ranks, replica=replica, _whole=self, _paths={}, _hops={}, _costs={})

    def _view(self, first: int, stop: int) -> Setting:
        """Of some devices: of their whole node group where they are in one and all its nodes are alike, so that there
        are few views."""
        whole = self.whole
        key = whole._group_around(first, stop)
        if key not in whole._views:
            whole._views[key] = whole._with(ranks=range(*key))
        return whole._views[key]

    def _group_around(self, first: int, stop: int) -> tuple[int, int]:
        """Ends of the node group that holds these devices, or the devices' own where several do."""
        if not self.topology.is_regular:
            return first, stop
        place = bisect_right(self.edges, first) - 1
        low, high = self.edges[place : place + 2] if place + 1 < len(self.edges) else (first, stop)
        return (low, high) if stop <= high else (first, stop)

    @cached_property
    def edges(self) -> tuple[int, ...]:
        """First rank of every node group, and one past the last."""
        return self.topology.edges

    @property
    def _ranks(self) -> range:
        return range(self.num_devices) if self.ranks is None else self.ranks

    @cached_property
    def kinds(self) -> tuple[Layer, ...]:
        """The distinct layers of the model."""
        return tuple(dict.fromkeys(self.architecture.layers))

    @cached_property
    def of_kinds(self) -> tuple[Setting, ...]:
        """For each kind of layer the same with a model of as many layers, all of that kind."""
        model = self.architecture
        alone = (replace(model, layers=(kind,) * len(model.layers)) for kind in self.kinds)
        return tuple(replace(self, architecture=each, _costs={}) for each in alone)

    @cached_property
    def has_experts(self) -> bool:
        return self.architecture.is_moe

    @cached_property
    def device(self) -> Device:
        """The slowest of them, since all wait for it. Raises InputError where a device of the cluster has no rate for
        the precision."""
        return cluster_device(self.cluster, self.job.precision, self.node_groups)

    @cached_property
    def execution(self) -> Costs:
        """What the framework's execution costs on the device."""
        return adjusted.execution(costs_of(self.framework, self.device), self.adjustment)

    @cached_property
    def adjustment(self) -> Adjustment | None:
        """What runs of this framework on this cluster taught."""
        return adjusted.adjustment_of(self.cluster, self.framework.name)

    @cached_property
    def rates(self) -> Rates:
        found = device_rates(self.device, self.job.precision, self.framework, self.narrow, self.job.kernels)
        return found if self.adjustment is None else replace(found, steal=self.execution.steal)

    @cached_property
    def hides_communication(self) -> bool:
        """Whether collectives can run beside compute. On a CPU they take the very cores that compute."""
        return self.device.kind != "cpu"

    @cached_property
    def memory_limit_bytes(self) -> int:
        return int(min(group.device.memory_bytes for group in self.node_groups))

    @cached_property
    def context_bytes(self) -> int:
        return int(max(group.device.context_bytes for group in self.node_groups))

    @cached_property
    def host_link_bytes_per_s(self) -> float:
        return min(group.host.device_link_bytes_per_s for group in self.node_groups)

    @cached_property
    def origin(self) -> Origin:
        """The weakest origin among the devices in use."""
        origins = [group.device.calibration.origin for group in self.node_groups]
        origins += [] if self.adjustment is None else [self.adjustment.origin]
        return max(origins, key=ORIGIN_RANK.index)

    @property
    def is_measured(self) -> bool:
        """Whether all devices in use were profiled, whatever runs have taught since."""
        return all(group.device.calibration.origin == "measured" for group in self.node_groups)

    @cached_property
    def domain_devices(self) -> int:
        """Devices that the fast fabric joins, in the smallest domain of the cluster."""
        return min(domain_devices(group) for group in self.node_groups)

    @cached_property
    def devices_per_node(self) -> int:
        return min(group.devices_per_node for group in self.node_groups)

    @cached_property
    def host_bytes_per_device(self) -> float:
        """Host memory that offloaded states may fill."""
        return min(group.host.memory_bytes / group.devices_per_node for group in self.node_groups)

    @cached_property
    def host_cores_per_device(self) -> float:
        return min(group.host.cores / group.devices_per_node for group in self.node_groups)

    @property
    def has_nvme(self) -> bool:
        return all(group.nvme is not None for group in self.node_groups)

    @cached_property
    def nvme(self) -> Nvme:
        """One device's share of the smallest and slowest drives; only where every node has one."""
        shares = [(group.nvme, group.devices_per_node) for group in self.node_groups if group.nvme]
        return Nvme(
            capacity=min(int(drive.capacity_bytes / devices) for drive, devices in shares),
            read=min(drive.read_bytes_per_s / devices for drive, devices in shares),
            write=min(drive.write_bytes_per_s / devices for drive, devices in shares),
        )

    def dollars_per_s(self, devices: int) -> float:
        """Price of the first `devices` devices; raises KeyError where a node group has none."""
        total = 0.0
        for group, used in self.devices_used(devices):
            if group.price_per_device_hour is None:
                raise KeyError(group.name)
            total += used * group.price_per_device_hour / 3600
        return total

    def devices_used(self, devices: int) -> list[tuple[NodeGroup, int]]:
        """How many of the first `devices` ranks lie on each run of devices of one node group."""
        return self.topology.used(devices)

    def peak_flops(self, devices: int) -> float:
        """FLOP/s that the datasheets of the first `devices` devices promise, in what the layers' matmuls run in."""
        if not self.is_mixed:
            return devices * self.rates.peak_flops
        operand: Dtype = self.narrow or self.job.precision
        return sum(used * group.device.peak_flops[operand] for group, used in self.devices_used(devices))

    @cached_property
    def spread(self) -> Spread:
        """Of predictions: the widest of the devices in use."""
        spreads = [self.framework.spread_on(group.device) for group in self.node_groups]
        return Spread(low=min(each.low for each in spreads), high=max(each.high for each in spreads))

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
        slowest = adjusted.group(self.topology.slowest_group(stride, count, self._ranks), self.adjustment)
        return flat(slowest) if self.framework.flat_rings else slowest

    def hop(self, stage_ranks: int, stages: int) -> Path:
        """The slowest path between neighbouring pipeline stages of `stage_ranks` devices each."""
        paths = self.borders(stage_ranks, stages)[: stages - 1]
        return min(paths, key=lambda path: (path.bandwidth_bytes_per_s, -path.latency_s))

    def borders(self, stage_ranks: int, stages: int) -> tuple[Path, ...]:
        """The path from every pipeline stage to the next, the last that back to the first. On a cluster of one node
        group without exceptions the slowest stands for all."""
        key = stage_ranks, stages
        if key not in self._hops:
            self._hops[key] = self.whole._borders(stage_ranks, stages)
        return self._hops[key]

    def _borders(self, stage_ranks: int, stages: int) -> tuple[Path, ...]:
        nexts = [*range(1, stages), 0 if self.is_mixed else stages - 1]
        ends = [(stage, there) for stage, there in enumerate(nexts) if stage != there]
        paths = [adjusted.path(self.topology.border(stage_ranks, *each), self.adjustment) for each in ends]
        if self.is_mixed:
            return tuple(paths)
        return (min(paths, key=lambda path: (path.bandwidth_bytes_per_s, -path.latency_s)),) * stages

    def groups(self, sharding: Sharding) -> Groups:
        """Groups that a layer communicates in: tp fastest, then cp; experts fold the same ranks, etp fastest."""
        execution, ep = self.execution, self.group(sharding.etp, sharding.ep)
        return Groups(
            tp=slowed(self.group(1, sharding.tp), execution.tensor, execution.network),
            cp=Links(
                whole=self.group(sharding.tp, sharding.cp),
                heads=self.group(sharding.tp, sharding.cp_ulysses),
                ring=self.group(sharding.tp * sharding.cp_ulysses, sharding.cp // sharding.cp_ulysses),
            ),
            ep=ep,
            etp=self.group(1, sharding.etp),
            visits=self._visits(sharding, ep),
        )

    def _visits(self, sharding: Sharding, ep: GroupPaths) -> Visits | None:
        if self.routing is None or ep.size == 1 or not self.has_experts or not self.framework.experts.planned:
            return None
        return self.routing(self, sharding, ep)

    def shape(self, sharding: Sharding) -> Shape:
        """One microbatch under a sharding, as the framework keeps it."""
        visits = self._visits(sharding, self.group(sharding.etp, sharding.ep))
        return Shape(
            sharding=sharding,
            seq_len=self.job.seq_len,
            element=self.element_bytes,
            keeps=self.framework.keeps,
            fp8=self.job.precision == "fp8",
            on_cpu=self.device.kind == "cpu",
            load=visits.load if visits else 1.0,
            declared=self.rates.declared,
            galore=self.job.galore,
        )

    def costs(self, configuration: Configuration) -> ModelCosts:
        """Costs of every layer and end block under the configuration's sharding and what it recomputes selectively."""
        key = sharding, modules = sharding_of(configuration), configuration.recompute_operations
        if key not in self._costs:
            self._costs[key] = self._priced(sharding, modules)
        return self._costs[key]

    def _priced(self, sharding: Sharding, modules: tuple[Module, ...]) -> ModelCosts:
        """Costs are made once for all views that are alike."""
        groups, shape = self.groups(sharding), self.shape(sharding)
        if self._whole is None:
            made = model_costs(self.architecture, shape, self.rates, groups, modules, self.measured)
            return adjusted.blocks(made, self.adjustment)
        known, key = self._whole._alike, (sharding, modules, groups, self.rates, shape.on_cpu, self.device.name)
        if key not in known:
            made = model_costs(self.architecture, shape, self.rates, groups, modules, self.measured)
            known[key] = adjusted.blocks(made, self.adjustment)
        return known[key]

    @cached_property
    def measured(self) -> Measured | None:
        """Layers and the rest of a step as they were timed on the device, where they were."""
        layers = self.device.calibration.layers
        return None if layers is None else Measured(layers, self.job.precision)
