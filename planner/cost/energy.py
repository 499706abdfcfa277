"""Energy: joules of a step from what devices and nodes draw, busy and waiting.

    device: power_w while it computes (exchanges inside a layer included), idle_power_w while it waits
    node, beside its devices (CPUs, fans, NICs, switches): from idle_power_w to power_w by the busy share of its devices

which is the linear power model of Fan, Weber and Barroso, "Power provisioning for a warehouse-sized computer", ISCA
2007. Where no idle power is stated, waiting counts at full power. Rated powers make an upper bound: eight H100 rated at
10.2 kW with their node were measured to draw at most 8.4 kW in training (arXiv:2412.08602). Cooling is not in it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from ...clusters.part import devices_used
from ...clusters.schema import Cluster, NodeGroup
from ..configuration import Configuration, Mesh
from ..schedule import build
from ..schedule.table import splits
from ..simulate.engine import busy_s
from .setting import Setting
from .step import work_of

JOULES_PER_KWH = 3.6e6


@dataclass(frozen=True, slots=True, kw_only=True)
class Energy:
    """Joules of one step by what draws them. `nodes_j` is None where the cluster file has no power of a node."""

    computing_j: float
    waiting_j: float
    nodes_j: float | None
    waiting_s: float  # of a device, on average
    idle_known: bool  # else waiting counts at full power

    @property
    def step_j(self) -> float:
        return self.computing_j + self.waiting_j + (self.nodes_j or 0.0)

    def kwh(self, steps: float) -> float:
        """Kilowatt hours of so many steps."""
        return steps * self.step_j / JOULES_PER_KWH

    def parts(self) -> dict[str, float]:
        """Joules of a step by name, without what is unknown."""
        parts = {"devices, computing": self.computing_j, "devices, waiting": self.waiting_j}
        return parts | ({} if self.nodes_j is None else {"nodes beside their devices": self.nodes_j})


def step_energy(cluster: Cluster, mesh: Mesh, step_time_s: float, busy_s: Sequence[float]) -> Energy | None:
    """Of the devices in use and their nodes; `busy_s[r]`: what a device of pipeline rank r computes in a step.

    Never falls where the step or what is computed grows. None where the cluster file has no power of some device in
    use.
    """
    placed = list(_placed(cluster, mesh))
    if any(group.device.power_w is None for group, _, _ in placed):
        return None
    computing = waiting = waited = 0.0
    for group, rank, devices in placed:
        power, idle = group.device.power_w or 0.0, group.device.idle_power_w or group.device.power_w or 0.0
        computing += devices * power * busy_s[rank]
        waiting += devices * idle * (step_time_s - busy_s[rank])
        waited += devices * (step_time_s - busy_s[rank])
    return Energy(
        computing_j=computing,
        waiting_j=waiting,
        nodes_j=_nodes_j(cluster, mesh, step_time_s, busy_s),
        waiting_s=waited / mesh.world,
        idle_known=all(group.device.idle_power_w is not None for group, _, _ in placed),
    )


def _placed(cluster: Cluster, mesh: Mesh) -> list[tuple[NodeGroup, int, int]]:
    """Devices of each node group by pipeline rank: (group, rank, devices); ranks fill group by group."""
    of_rank, first, found = mesh.world // mesh.pp, 0, []
    for group, used in devices_used(cluster, mesh.world):
        for rank in range(first // of_rank, -(-(first + used) // of_rank)):
            inside = min(first + used, (rank + 1) * of_rank) - max(first, rank * of_rank)
            found.append((group, rank, inside))
        first += used
    return found


def _nodes_j(cluster: Cluster, mesh: Mesh, step_time_s: float, busy_s: Sequence[float]) -> float | None:
    total = 0.0
    for group, used in devices_used(cluster, mesh.world):
        power, idle = group.host.power_w, group.host.idle_power_w
        if power is None:
            return None
        busy = sum(devices * busy_s[rank] for each, rank, devices in _placed(cluster, mesh) if each is group) / used
        nodes = -(-used // group.devices_per_node)
        total += nodes * (power * step_time_s if idle is None else idle * step_time_s + (power - idle) * busy)
    return total


def busy_of(setting: Setting, configuration: Configuration) -> list[float]:
    """What a device of each pipeline rank computes in a step, its optimizer included."""
    work = work_of(setting, configuration)
    optimizer_s = max(work.optimizer_s, default=0.0)
    return [each + optimizer_s for each in busy_s(build(configuration), work)]


def least_busy_of(setting: Setting, configuration: Configuration) -> list[float]:
    """The same at the least, without the schedule's actions: where a backward can come in two halves, the shorter of
    both ways counts."""
    work = work_of(setting, configuration)
    backward_s: Sequence[float] = work.backward_s
    if splits(configuration):
        halves = zip(work.backward_s, work.input_s, work.weight_s, strict=True)
        backward_s = [min(whole, first + second) for whole, first, second in halves]
    stage_s = [forward + backward for forward, backward in zip(work.forward_s, backward_s, strict=True)]
    passes_s = 0.0 if work.passes is None else sum(work.passes.compute_s)
    optimizer_s = max(work.optimizer_s, default=0.0)
    return [
        configuration.microbatches * (sum(stage_s[stage] for stage in configuration.stages_of(rank)) + passes_s)
        + optimizer_s
        for rank in range(configuration.mesh.pp)
    ]
