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
from typing import Any

from ...clusters.schema import NodeGroup
from ...units import format_seconds
from .scenario import Scenario

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


def step_energy(scenario: Scenario, step_time_s: float, busy_s: Sequence[float]) -> Energy | None:
    """Of the devices in use and their nodes; `busy_s[r]`: what a device of pipeline rank r computes in a step.

    None where the cluster file has no power of some device in use.
    """
    placed = list(_placed(scenario))
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
        nodes_j=_nodes_j(scenario, step_time_s, busy_s),
        waiting_s=waited / scenario.configuration.mesh.world,
        idle_known=all(group.device.idle_power_w is not None for group, _, _ in placed),
    )


def _placed(scenario: Scenario) -> list[tuple[NodeGroup, int, int]]:
    """Devices of each node group by pipeline rank: (group, rank, devices); ranks fill group by group."""
    mesh = scenario.configuration.mesh
    of_rank, first, found = mesh.world // mesh.pp, 0, []
    for group, used in scenario.devices_used:
        for rank in range(first // of_rank, -(-(first + used) // of_rank)):
            inside = min(first + used, (rank + 1) * of_rank) - max(first, rank * of_rank)
            found.append((group, rank, inside))
        first += used
    return found


def _nodes_j(scenario: Scenario, step_time_s: float, busy_s: Sequence[float]) -> float | None:
    total = 0.0
    for group, used in scenario.devices_used:
        power, idle = group.host.power_w, group.host.idle_power_w
        if power is None:
            return None
        busy = sum(devices * busy_s[rank] for each, rank, devices in _placed(scenario) if each is group) / used
        nodes = -(-used // group.devices_per_node)
        total += nodes * (power * step_time_s if idle is None else idle * step_time_s + (power - idle) * busy)
    return total


@dataclass(frozen=True, slots=True)
class Bill:
    """The energy of a step, of a million tokens and of a whole run, and what it costs."""

    energy: Energy
    step_time_s: float
    tokens_per_step: int
    tokens: float | None = None
    dollars_per_kwh: float | None = None

    @property
    def power_w(self) -> float:
        """Mean over a step."""
        return self.energy.step_j / self.step_time_s

    @property
    def kwh_per_million_tokens(self) -> float:
        return self.energy.kwh(1e6 / self.tokens_per_step)

    @property
    def run_kwh(self) -> float | None:
        """Of the tokens asked for, without failures."""
        return None if self.tokens is None else self.energy.kwh(self.tokens / self.tokens_per_step)

    @property
    def run_dollars(self) -> float | None:
        """Electricity of the whole run."""
        return None if self.run_kwh is None or self.dollars_per_kwh is None else self.run_kwh * self.dollars_per_kwh

    def rows(self) -> list[tuple[str, str]]:
        """Name and value of each result, as people read them."""
        energy = self.energy
        rows = [("energy of a step", format_energy(energy.step_j))]
        rows += [(f"  {name}", f"{part / energy.step_j:.1%}") for name, part in energy.parts().items()]
        rows.append(("mean power", f"{self.power_w / 1e3:,.1f} kW"))
        rows.append(("a device waits", f"{format_seconds(energy.waiting_s)} of {format_seconds(self.step_time_s)}"))
        rows.append(("energy per million tokens", f"{self.kwh_per_million_tokens:.4g} kWh"))
        if self.dollars_per_kwh is not None:
            rows.append(
                ("electricity per million tokens", f"${self.kwh_per_million_tokens * self.dollars_per_kwh:.4f}")
            )
        if self.run_kwh is not None:
            cost = "" if self.run_dollars is None else f", ${self.run_dollars:,.0f}"
            rows.append(("whole run, no failures", f"{self.run_kwh:,.0f} kWh{cost}"))
        return [*rows, ("assumes", self.assumption)]

    @property
    def assumption(self) -> str:
        """What the figures leave out or overstate."""
        idle = "" if self.energy.idle_known else "; no idle power in the cluster file: waiting counts at full power"
        nodes = "" if self.energy.nodes_j is not None else "; no node power in the cluster file: devices only"
        return f"rated power while computing, no cooling{idle}{nodes}"

    def to_json(self) -> dict[str, Any]:
        """Joules of a step by part, and what follows."""
        energy = self.energy
        return {
            "step_j": energy.step_j,
            "computing_j": energy.computing_j,
            "waiting_j": energy.waiting_j,
            "nodes_j": energy.nodes_j,
            "power_w": self.power_w,
            "kwh_per_million_tokens": self.kwh_per_million_tokens,
            "run_kwh": self.run_kwh,
            "dollars_per_kwh": self.dollars_per_kwh,
            "run_dollars": self.run_dollars,
            "assumes": self.assumption,
        }


def format_energy(joules: float) -> str:
    """`1.23 MJ (0.342 kWh)`."""
    for scale, unit in ((1e9, "GJ"), (1e6, "MJ"), (1e3, "kJ")):
        if joules >= scale:
            return f"{joules / scale:.3g} {unit} ({joules / JOULES_PER_KWH:,.3g} kWh)"
    return f"{joules:.3g} J"
