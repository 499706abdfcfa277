"""Failures: what share of the hours paid for becomes training.

With failures at a rate r, a checkpoint after every I seconds of training that stalls it for d seconds,
and R seconds from a failure until training goes on, one interval costs on average

    (1/r) e^(r R) (e^(r (I + d)) - 1)

so ETTR, the effective training time ratio, is I over that. Source: the complete cost function of J. T.
Daly, "A higher order estimate of the optimum checkpoint interval for restart dumps", Future Generation
Computer Systems 22, 2006. Its first order is the estimate 1 / (1 + d/I) x (1 - r (I/2 + R)) that
arXiv:2410.21680 fits to Meta's research clusters.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from ...errors import InputError, Problem, did_you_mean
from ...units import format_seconds, parse_duration
from .simulation import Simulation, dollars

# Detection and diagnosis of a fault together take less than ten minutes on average (MegaScale, arXiv:2402.15627).
RESTART_S = 600.0
_MEANINGS = {
    "mtbf": "mean time between failures of the whole job",
    "device_mtbf": "of one device",
    "restart": "from a failure until training goes on",
    "save": "for which one checkpoint stalls training",
}


@dataclass(frozen=True, slots=True)
class FailureModel:
    """What fails how often, and what that costs; None: derived from the cluster."""

    mtbf_s: float | None = None
    device_mtbf_s: float | None = None
    restart_s: float = RESTART_S
    save_s: float | None = None


@dataclass(frozen=True, slots=True)
class Reliability:
    """A long run under failures. `ettr` is effective training time over wall time."""

    mtbf_s: float
    checkpoint_interval_s: float
    checkpoint_interval_steps: int
    save_s: float
    restart_s: float
    ettr: float
    young_interval_s: float  # the first order of Daly's: J. W. Young, Communications of the ACM 17(9), 1974
    young_ettr: float
    goodput_tokens_per_s: float
    days: float | None  # for the tokens asked for, with failures; None also where the run never ends
    price: float | None

    def rows(self) -> list[tuple[str, str]]:
        """Name and value of each result, as people read them."""
        young = f"{format_seconds(self.young_interval_s)}, which would give {self.young_ettr:.2%}"
        steps = self.checkpoint_interval_steps
        interval = f"{format_seconds(self.checkpoint_interval_s)} ({steps:,} step{'s' if steps > 1 else ''})"
        rows = [
            ("mean time between failures", format_seconds(self.mtbf_s)),
            ("checkpoint every (Daly)", interval),
            ("first order (Young)", young),
            ("stall per checkpoint", format_seconds(self.save_s)),
            ("restart", format_seconds(self.restart_s)),
            ("effective training time ratio", f"{self.ettr:.2%}"),
            ("goodput, tokens per second", f"{self.goodput_tokens_per_s:,.0f}"),
        ]
        if self.days is not None:
            rows.append(("whole run, with failures", f"{self.days:,.1f} days, {dollars(self.price)}"))
        return rows


def parse_failures(text: str) -> FailureModel:
    """Read `mtbf=3h,restart=5m,save=30s`; every part may be left out. Raises InputError with all problems."""
    given: dict[str, float] = {}
    problems = []
    for part in filter(None, text.split(",")):
        name, _, value = (piece.strip() for piece in part.partition("="))
        if name not in _MEANINGS:
            problems.append(Problem(f"--failures {name}", value, "unknown field", did_you_mean(name, _MEANINGS)))
            continue
        if f"{name}_s" in given:
            problems.append(Problem(f"--failures {name}", value, "is given twice", "one of them"))
        try:
            given[f"{name}_s"] = _duration(value)
        except ValueError as error:
            problems.append(Problem(f"--failures {name}", value, str(error), f"{name}=10m, {_MEANINGS[name]}"))
    if {"mtbf_s", "device_mtbf_s"} <= set(given):
        problems.append(Problem("--failures", text, "takes mtbf or device_mtbf, not both", "one of them"))
    if problems:
        raise InputError("failures", problems)
    return FailureModel(**given)


def _duration(text: str) -> float:
    duration_s = parse_duration(text)
    if duration_s <= 0:
        raise ValueError("must be longer than nothing")
    if text[-1:].isdigit():
        raise ValueError("needs a unit")
    return duration_s


def reliability(simulation: Simulation, model: FailureModel) -> Reliability:
    """Goodput of a simulated step repeated for long. Raises InputError where nothing ever fails."""
    rate = _failures_per_s(simulation, model)
    save_s = model.save_s if model.save_s is not None else staging_s(simulation)
    interval_s = max(checkpoint_interval_s(rate, save_s), simulation.step_time_s)
    steps = max(1, round(interval_s / simulation.step_time_s))
    ettr = effective_ratio(rate, steps * simulation.step_time_s, save_s, model.restart_s)
    young_s = young_interval_s(rate, save_s)
    return Reliability(
        mtbf_s=1 / rate,
        checkpoint_interval_s=steps * simulation.step_time_s,
        checkpoint_interval_steps=steps,
        save_s=save_s,
        restart_s=model.restart_s,
        ettr=ettr,
        young_interval_s=young_s,
        young_ettr=effective_ratio(rate, young_s, save_s, model.restart_s),
        goodput_tokens_per_s=simulation.tokens_per_s * ettr,
        days=_longer(simulation.days, ettr),
        price=_longer(simulation.price, ettr),
    )


def young_interval_s(failures_per_s: float, save_s: float) -> float:
    """sqrt(2 save / rate): equation 8 of Young 1974, where a save is short beside the time between failures."""
    return math.sqrt(2 * save_s / failures_per_s)


def checkpoint_interval_s(failures_per_s: float, save_s: float) -> float:
    """Daly's higher order estimate; Young's interval leads it."""
    mtbf_s = 1 / failures_per_s
    if save_s >= 2 * mtbf_s:
        return mtbf_s
    small = save_s / (2 * mtbf_s)
    return math.sqrt(2 * save_s * mtbf_s) * (1 + math.sqrt(small) / 3 + small / 9) - save_s


def effective_ratio(failures_per_s: float, interval_s: float, save_s: float, restart_s: float) -> float:
    """ETTR by Daly's complete cost function; 0 where the run cannot get anywhere."""
    exponent = failures_per_s * (interval_s + save_s)
    if exponent + failures_per_s * restart_s > 700:  # e^700 is near the largest float
        return 0.0
    spent = math.exp(failures_per_s * restart_s) * math.expm1(exponent)
    return failures_per_s * interval_s / spent


def staging_s(simulation: Simulation) -> float:
    """Stall of an asynchronous checkpoint: weights and optimizer states cross the host link once.

    The write to storage runs behind the training (PyTorch's asynchronous DCP).
    """
    held = max(memory.weights + memory.optimizer for memory in simulation.prediction.memory)
    groups = simulation.scenario.cluster.node_groups
    return held / min(group.host.device_link_bytes_per_s for group in groups)


def _failures_per_s(simulation: Simulation, model: FailureModel) -> float:
    if model.mtbf_s is not None:
        return 1 / model.mtbf_s
    if model.device_mtbf_s is not None:
        return simulation.scenario.configuration.mesh.world / model.device_mtbf_s
    per_hour = sum(group.failures_per_device_hour * used for group, used in simulation.scenario.devices_used)
    if per_hour <= 0:
        rule = "the cluster states no failures_per_device_hour"
        raise InputError.single("failures", "--failures mtbf", None, rule, "mtbf=10h")
    return per_hour / 3600


def _longer(amount: float | None, ettr: float) -> float | None:
    return None if amount is None or not ettr else amount / ettr
