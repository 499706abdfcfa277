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

from ...clusters.schema import NodeGroup
from ..configuration import Configuration, Mesh
from ..schedule import build
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


Used = Sequence[tuple[NodeGroup, int]]
"""Devices in use by node group, in the order of the ranks (`Setting.devices_used`)."""


def step_energy(used: Used, mesh: Mesh, step_time_s: float, busy_s: Sequence[float]) -> Energy | None:
    """Of the devices in use and their nodes; `busy_s[r]`: what a device of pipeline rank r computes in a step.

    Never falls where the step or what is computed grows. None where the cluster file has no power of some device in
    use.
    """
    placed = list(_placed(used, mesh))
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
        nodes_j=_nodes_j(placed, step_time_s, busy_s),
        waiting_s=waited / mesh.world,
        idle_known=all(group.device.idle_power_w is not None for group, _, _ in placed),
    )


def _placed(used: Used, mesh: Mesh) -> list[tuple[NodeGroup, int, int]]:
    """Devices of each node group by pipeline rank: (group, rank, devices)."""
    of_rank, first, found = mesh.world // mesh.pp, 0, []
    for group, count in used:
        for rank in range(first // of_rank, -(-(first + count) // of_rank)):
            inside = min(first + count, (rank + 1) * of_rank) - max(first, rank * of_rank)
            found.append((group, rank, inside))
        first += count
    return found


def _nodes_j(placed: Sequence[tuple[NodeGroup, int, int]], step_time_s: float, busy_s: Sequence[float]) -> float | None:
    total = 0.0
    for name in dict.fromkeys(group.name for group, _, _ in placed):
        own = [(group, rank, devices) for group, rank, devices in placed if group.name == name]
        group, used = own[0][0], sum(devices for _, _, devices in own)
        power, idle = group.host.power_w, group.host.idle_power_w
        if power is None:
            return None
        busy = sum(devices * busy_s[rank] for _, rank, devices in own) / used
        nodes = -(-used // group.devices_per_node)
        total += nodes * (power * step_time_s if idle is None else idle * step_time_s + (power - idle) * busy)
    return total


def busy_of(setting: Setting, configuration: Configuration) -> list[float]:
    """What a device of each pipeline rank computes in a step, its optimizer included."""
    work = work_of(setting, configuration)
    optimizer_s = max(work.optimizer_s, default=0.0)
    return [each + optimizer_s for each in busy_s(build(configuration), work)]


def least_busy_of(setting: Setting, configuration: Configuration) -> list[float]:
    """The same at the least, on the mean rank, for every split of layers, schedule, ZeRO stage and recomputation with
    the sharding and microbatches of this configuration: kernels of layers and ends once forward and once back. On a
    mixed cluster nothing is said of them."""
    ranks = configuration.mesh.pp
    if setting.is_mixed:
        return [0.0] * ranks
    costs = setting.costs(configuration)
    each_s = costs.forward[-1] + costs.backward["none"][-1]
    if costs.shares is None:
        each_s += sum(block.forward_s + block.backward_s("none") for block in (costs.embedding, costs.head))
    return [configuration.microbatches * each_s / ranks] * ranks
