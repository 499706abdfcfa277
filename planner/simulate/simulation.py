"""Simulation: one scenario priced, with everything that follows from its step time."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from ...errors import InputError
from ...units import format_bytes
from ..configuration import Configuration
from ..contract import configuration_json, expected_json, predicted_json, proof_json, runner_up_json
from ..cost.energy import Energy, step_energy
from ..cost.step import price, slowest_replica, work_of
from ..goal import SECONDS_PER_DAY
from ..lengths.predict import Outcome, predict
from ..plan import Plan, Prediction, Proof, RunnerUp
from ..schedule import build
from .energy import Bill
from .engine import run
from .scenario import Scenario
from .timeline import Timeline
from .whatif import apply_settings
from .work import Work


@dataclass(frozen=True, slots=True, kw_only=True)
class Simulation:
    """One step of a scenario, and what many of them take.

    `timeline` is what the event interpreter made of `work`, on all streams of every pipeline rank: those of the replica
    that the others wait for, whose microbatches `played` has. `proof` and `runners_up` are the plan's, where no setting
    changed it.
    """

    scenario: Scenario
    played: Configuration
    prediction: Prediction
    work: Work
    timeline: Timeline
    settings: tuple[str, ...] = ()
    tokens: float | None = None
    lengths: Outcome | None = None  # drawn steps, where the job has lengths; the timeline is that of their mean
    proof: Proof | None = None
    runners_up: tuple[RunnerUp, ...] = ()

    @property
    def step_time_s(self) -> float:
        return self.prediction.step_time_s

    @property
    def tokens_per_s(self) -> float:
        """Of the whole job."""
        return self.scenario.job.tokens_per_step / self.step_time_s

    @property
    def price_per_million_tokens(self) -> float | None:
        """US dollars; None where the cluster has no price."""
        per_hour = self.scenario.price_per_hour
        return None if per_hour is None else per_hour / 3600 / self.tokens_per_s * 1e6

    @property
    def days(self) -> float | None:
        """To train the tokens asked for, without failures."""
        return None if self.tokens is None else self.tokens / self.tokens_per_s / SECONDS_PER_DAY

    @property
    def price(self) -> float | None:
        """US dollars of the tokens asked for, without failures."""
        per_hour = self.scenario.price_per_hour
        return None if self.days is None or per_hour is None else self.days * 24 * per_hour

    @property
    def energy(self) -> Energy | None:
        """Joules of a step; None where the cluster file has no power of a device. The optimizer computes, too."""
        after_s = self.prediction.breakdown_s.optimizer
        busy = [busy_s + after_s for busy_s in self.timeline.busy_s]
        return step_energy(self.scenario.devices_used, self.scenario.configuration.mesh, self.step_time_s, busy)

    def bill(self, dollars_per_kwh: float | None = None) -> Bill | None:
        """The energy of steps, tokens and the run; None where the cluster file has no power of a device."""
        energy = self.energy
        if energy is None:
            return None
        return Bill(energy, self.step_time_s, self.scenario.job.tokens_per_step, self.tokens, dollars_per_kwh)

    @property
    def shortage(self) -> str:
        """What does not fit, empty where all does: `stage 3 needs 91.2 GiB of 80.0 GiB`."""
        prediction = self.prediction
        if prediction.fits:
            return ""
        peak, limit = prediction.fullest_bytes
        if peak <= limit:
            return "the host does not hold the offloaded optimizer states"
        return f"stage {prediction.fullest} needs {format_bytes(peak)} of {format_bytes(limit)}"

    def to_json(self) -> dict[str, Any]:
        """The contract of `plan --json`, and beside it what a whole run takes."""
        scenario, bill = self.scenario, self.bill()
        return {
            **configuration_json(scenario.configuration),
            "rank_map": list(scenario.rank_map),
            "mix": scenario.mix.model_dump(mode="json") if scenario.mix else None,
            "predicted": predicted_json(self.prediction),
            "expected": expected_json(self.lengths.expected) if self.lengths else None,
            "proof": proof_json(self.proof) if self.proof else None,
            "runners_up": [runner_up_json(runner) for runner in self.runners_up],
            "model": scenario.model.name,
            "cluster": scenario.cluster.name,
            "devices": scenario.configuration.mesh.world,
            "job": scenario.job.model_dump(mode="json"),
            "framework": scenario.framework,
            "settings": list(self.settings),
            "tokens_per_s": self.tokens_per_s,
            "price_per_hour": scenario.price_per_hour,
            "price_per_million_tokens": self.price_per_million_tokens,
            "energy": bill.to_json() if bill else None,
            "training": {"tokens": self.tokens, "days": self.days, "price": self.price},
        }


def simulate(plan: Plan, settings: Sequence[str] = (), tokens: float | None = None) -> Simulation:
    """Price a plan, with `field=value` settings applied first.

    `tokens` is the length of the whole run, for `days` and `price`. Raises InputError naming every wrong
    setting. What does not fit in memory is simulated all the same: `prediction.fits` says so.
    """
    scenario = apply_settings(plan, settings)
    setting = scenario.setting
    drawn = _drawn(plan, scenario, bool(settings))
    if drawn is None:
        seen, played = slowest_replica(setting, scenario.configuration)
        work, prediction = work_of(seen, played), price(setting, scenario.configuration)
    else:
        (played, work), prediction = drawn.played, drawn.prediction
    return Simulation(
        scenario=scenario,
        played=played,
        prediction=prediction,
        lengths=drawn,
        work=work,
        timeline=run(build(played), work),
        settings=tuple(settings),
        tokens=tokens,
        proof=None if settings else plan.proof,
        runners_up=() if settings else plan.runners_up,
    )


def _drawn(plan: Plan, scenario: Scenario, changed: bool) -> Outcome | None:
    """Steps of drawn lengths, where the job has lengths. Raises InputError where there are no groups for them."""
    if scenario.job.lengths is None:
        return None
    if scenario.mix is None:
        rule = "a job with lengths needs the groups that a plan has for them"
        raise InputError.single("plan", "mix", None, rule, "meshwright plan ... --lengths")
    found = predict(scenario.setting, scenario.configuration, scenario.mix)
    return found if changed or plan.expected is None else replace(found, expected=plan.expected)


def dollars(amount: float | None, digits: int = 0) -> str:
    """`$1,234`, or what is missing."""
    return "no price in the cluster file" if amount is None else f"${amount:,.{digits}f}"
