"""Energy of a plan: of its step, of a million tokens, of a whole run (`planner/cost/energy.py`: the power model)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from ...units import format_seconds
from ..cost.energy import JOULES_PER_KWH, Energy


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
