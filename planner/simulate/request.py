"""What is asked of a plan, as options have it, and everything that answers it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any, TypeVar

from ...errors import InputError, gather
from ...units import parse_count
from ..plan import Plan
from .energy import Bill
from .failures import Reliability, parse_failures, reliability
from .redundancy import Redundancy, redundancy
from .scaling import Scaling, parse_scaling, scaling
from .simulation import Simulation, simulate
from .straggler import StragglerModel, parse_straggler
from .stragglers import Stragglers, stragglers
from .sweep import Sweep, parse_sweep, sweep
from .whatif import apply_settings

Given = TypeVar("Given")
Parsed = TypeVar("Parsed")


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """Options of `simulate`, each as the user wrote it; None: not asked."""

    settings: tuple[str, ...] = ()
    tokens: str | None = None
    sweep: str | None = None
    scaling: str | None = None
    failures: str | None = None
    straggler: str | None = None
    energy: bool = False
    electricity: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """The plan simulated once, and what else was asked; None: not asked."""

    simulation: Simulation
    sweep: Sweep | None = None
    scaling: Scaling | None = None
    failures: Reliability | None = None
    straggler: Stragglers | Redundancy | None = None
    energy: Bill | None = None

    @property
    def subjects(self) -> tuple[Simulation | Sweep | Scaling | Reliability | Stragglers | Redundancy | Bill, ...]:
        """What a picture shows: whatever was asked for, else the step itself."""
        asked = (self.sweep, self.scaling, self.failures, self.straggler, self.energy)
        return tuple(subject for subject in asked if subject is not None) or (self.simulation,)

    def to_json(self) -> dict[str, Any]:
        """The contract of `simulate --json`; what was not asked is left out."""
        found = self.simulation.to_json()
        if self.sweep:
            found["sweep"] = self.sweep.to_json()
        if self.scaling:
            found["scaling"] = self.scaling.to_json()
        if self.failures:
            found["failures"] = asdict(self.failures)
        if self.straggler:
            found["straggler"] = self.straggler.to_json()
        if self.energy:
            found["energy"] = self.energy.to_json()
        return found


def answer(plan: Plan, request: Request) -> Answer:
    """Simulate a plan and everything asked about it. Raises InputError with all problems of the options."""
    tokens, dollars_per_kwh, failures, straggler, *_ = gather(
        lambda: _optional(_tokens, request.tokens),
        lambda: _optional(_electricity, request.electricity),
        lambda: _optional(parse_failures, request.failures),
        lambda: _optional(parse_straggler, request.straggler),
        lambda: _optional(parse_sweep, request.sweep),
        lambda: _optional(parse_scaling, request.scaling),
        lambda: apply_settings(plan, request.settings),
    )
    simulation = simulate(plan, request.settings, tokens)
    asks_energy = request.energy or dollars_per_kwh is not None
    return Answer(
        simulation=simulation,
        sweep=_optional(lambda text: sweep(plan, text, request.settings, tokens), request.sweep),
        scaling=_optional(lambda text: scaling(plan, text, request.settings, tokens), request.scaling),
        failures=_optional(lambda model: reliability(simulation, model), failures),
        straggler=_optional(lambda model: _stragglers(simulation, model), straggler),
        energy=_bill(simulation, dollars_per_kwh) if asks_energy else None,
    )


def _optional(read: Callable[[Given], Parsed], given: Given | None) -> Parsed | None:
    return None if given is None else read(given)


def _tokens(text: str) -> int:
    try:
        return parse_count(text)
    except ValueError as error:
        raise InputError.single("command line", "--tokens", text, str(error)) from None


def _electricity(text: str) -> float:
    try:
        price = float(text)
    except ValueError:
        price = -1.0
    if not 0 <= price < 1e6:
        raise InputError.single(
            "command line", "--electricity", text, "must be US dollars per kWh", "--electricity 0.12"
        )
    return price


def _stragglers(simulation: Simulation, model: StragglerModel) -> Stragglers | Redundancy:
    if simulation.lengths is not None:
        rule = "is not played where groups change in every round"
        raise InputError.single("command line", "--straggler", None, rule, "without --straggler")
    return stragglers(simulation, model) if model.probability is None else redundancy(simulation, model)


def _bill(simulation: Simulation, dollars_per_kwh: float | None) -> Bill:
    bill = simulation.bill(dollars_per_kwh)
    if bill is None:
        unknown = {group.device.name for group, _ in simulation.scenario.devices_used if group.device.power_w is None}
        rule = f"the cluster file has no power of {', '.join(sorted(unknown))}"
        raise InputError.single("energy", "cluster.device.power_w", None, rule, "--set cluster.device.power_w=700")
    return bill
