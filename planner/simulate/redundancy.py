"""Redundancy against stragglers: what replicas that may be slow cost on average, and what more work than needed saves.

A device is slow in a step with a probability, independently; a replica (all devices of one pipeline) is slow when any
of its devices is, and then takes the step time of a straggler in its worst pipeline rank. Of n replicas:

    none                    the step waits for all of them
    gradient coding         each computes s + 1 shares, any n - s give the whole gradient (Tandon et al.,
                            arXiv:1612.03301)
    sequential gradient     in a window of W steps at most s distinct replicas are slow, each once; each computes
    coding                  (s + 1) W / (1 + (W - 1)(s + 1)) shares, and the gradient is whole W - 1 steps later, so
                            that W models train in turn (M-SGC with B = 1: Krishnan et al., arXiv:2211.13802). Any
                            other pattern is waited for.
    redundant microbatches  the batch is spread over n - s replicas, all n compute, the step ends with the first n - s
                            (backup workers: Chen et al., arXiv:1604.00981); the samples of the others are lost

All with whole microbatches. Expected times are exact: binomial tails, and for the sequential code the stationary state
of the last W - 1 steps. The built-in runtime executes none of them: its collectives wait for every replica.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction
from itertools import product
from typing import Any

from ..configuration import Mesh
from ..cost.replica import replicas
from .simulation import Simulation
from .straggler import StragglerModel
from .stragglers import slow_rank, slowed_s
from .work import Slowness


@dataclass(frozen=True, slots=True, kw_only=True)
class Scheme:
    """One way to live with slow replicas. `load` is the compute of a replica over what it would be without."""

    name: str
    tolerates: int
    load: float  # as it is executed: whole microbatches
    expected_step_s: float
    waits: float  # probability that a step waits for a slow replica
    gives: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Redundancy:
    """Every scheme for one plan; the first is to do nothing. `reason` says why there are no others."""

    model: StragglerModel
    replicas: int
    replica_probability: float
    step_time_s: float
    slow_step_time_s: float
    schemes: tuple[Scheme, ...]
    reason: str

    def gain(self, scheme: Scheme) -> float:
        """Step time without redundancy over that of a scheme, less 1."""
        return self.schemes[0].expected_step_s / scheme.expected_step_s - 1

    @property
    def summary(self) -> str:
        """What was assumed, and what is not executed."""
        often = f"a replica is slow in {self.replica_probability:.2%} of steps"
        takes = f"the step then takes {self.slow_step_time_s:.4g} s for {self.step_time_s:.4g} s"
        executed = self.reason or "the built-in runtime executes none of the schemes"
        return f"{self.replicas} replicas: {often}, {takes}; {executed}."

    def table(self) -> tuple[list[tuple[str, ...]], tuple[str, ...]]:
        """Rows and head, as people read them."""
        rows: list[tuple[str, ...]] = [
            (
                scheme.name,
                f"{scheme.load - 1:.1%}",
                f"{scheme.waits:.1%}",
                f"{scheme.expected_step_s:.4g} s",
                f"{scheme.expected_step_s / self.step_time_s - 1:.1%}",
                f"{self.gain(scheme):+.1%}",
                scheme.gives,
            )
            for scheme in self.schemes
        ]
        return rows, ("scheme", "more compute", "waits", "expected step", "loss", "faster", "gives")

    def to_json(self) -> dict[str, Any]:
        """Every scheme with its load, expected step and gain."""
        schemes = [
            {
                "name": scheme.name,
                "tolerates": scheme.tolerates,
                "load": scheme.load,
                "waits": scheme.waits,
                "expected_step_time_s": scheme.expected_step_s,
                "gain": self.gain(scheme),
                "gives": scheme.gives,
            }
            for scheme in self.schemes
        ]
        return {
            "probability": self.model.probability,
            "slow": self.model.slow,
            "replicas": self.replicas,
            "replica_probability": self.replica_probability,
            "step_time_s": self.step_time_s,
            "slow_step_time_s": self.slow_step_time_s,
            "schemes": schemes,
            "reason": self.reason,
            "executed": False,
        }


def redundancy(simulation: Simulation, model: StragglerModel) -> Redundancy:
    """All schemes that tolerate up to `model.tolerate` slow replicas."""
    configuration = simulation.scenario.configuration
    mesh = configuration.mesh
    replica = _any(model.probability or 0.0, mesh.world // mesh.dp)
    times = _Times(simulation, model.slow)
    none = _scheme("none", 0, times, Fraction(1), more_than(0, mesh.dp, replica), "whole gradient")
    reason = _reason(mesh, configuration.zero) or _unlike(simulation)
    others = () if reason else tuple(_others(times, mesh.dp, replica, model))
    step_s, slow_s = times.of(simulation.played.microbatches)
    return Redundancy(
        model=model,
        replicas=mesh.dp,
        replica_probability=replica,
        step_time_s=step_s,
        slow_step_time_s=slow_s,
        schemes=(none, *others),
        reason=reason,
    )


def _any(slow: float, devices: int) -> float:
    """Probability that any of the devices is slow."""
    return 1.0 if slow == 1 else -math.expm1(devices * math.log1p(-slow))


def _reason(mesh: Mesh, zero: int) -> str:
    """Why replicas cannot do without one of them; empty where they can."""
    if mesh.dp == 1:
        return "one replica computes nothing that another could"
    if zero > 1:
        return f"ZeRO {zero} gathers weights from every replica in every microbatch, so all wait for the slow one"
    if mesh.ep * mesh.etp > mesh.cp * mesh.tp:
        return f"experts on {mesh.ep} ranks exchange tokens between replicas in every layer: all wait for the slow one"
    return ""


def _unlike(simulation: Simulation) -> str:
    """The same, where replicas are not alike."""
    configuration = simulation.scenario.configuration
    if not configuration.shares and len(replicas(simulation.scenario.setting, configuration)) == 1:
        return ""
    return "replicas on different devices, or with shares of their own, cannot do each other's work in equal time"


def _others(times: _Times, replicas: int, slow: float, model: StragglerModel) -> Iterator[Scheme]:
    tolerated = range(1, min(model.tolerate, replicas - 1) + 1)
    for count in tolerated:
        waits = more_than(count, replicas, slow)
        yield _scheme(f"gradient coding, s={count}", count, times, Fraction(count + 1), waits, "whole gradient")
    window = model.window
    for count in tolerated:
        waits = sequential_waits(count, window, replicas, slow)
        name, load = f"sequential coding, s={count}, W={window}", sequential_load(count, window)
        yield _scheme(name, count, times, load, waits, f"whole, {window - 1} late, {window} models")
    for count in tolerated:
        waits, load = more_than(count, replicas, slow), Fraction(replicas, replicas - count)
        gives = f"samples of {replicas - count} of {replicas} replicas"
        yield _scheme(f"redundant microbatches, s={count}", count, times, load, waits, gives)


def _scheme(name: str, tolerates: int, times: _Times, load: Fraction, waits: float, gives: str) -> Scheme:
    usual = times.microbatches
    microbatches = times.whole(math.ceil(usual * load))
    fast_s, slow_s = times.of(microbatches)
    expected_s = fast_s + (slow_s - fast_s) * waits
    return Scheme(
        name=name, tolerates=tolerates, load=microbatches / usual, expected_step_s=expected_s, waits=waits, gives=gives
    )


class _Times:
    """Seconds of a step of so many microbatches a replica: without a straggler, and with one in the worst place."""

    def __init__(self, simulation: Simulation, slow: float):
        self.simulation = simulation
        self.microbatches = simulation.played.microbatches
        ranks = simulation.scenario.configuration.mesh.pp
        self._worst = max((slow_rank(ranks, rank, slow) for rank in range(ranks)), key=self._seconds)

    def whole(self, microbatches: int) -> int:
        """The interleaved schedule takes groups of pp microbatches."""
        configuration = self.simulation.scenario.configuration
        group = configuration.mesh.pp if configuration.vpp > 1 else 1
        return -(-microbatches // group) * group

    def of(self, microbatches: int) -> tuple[float, float]:
        """Without a straggler, and with one."""
        return self._seconds(Slowness(), microbatches), self._seconds(self._worst, microbatches)

    def _seconds(self, slow: Slowness, microbatches: int | None = None) -> float:
        return slowed_s(self.simulation, slow, microbatches)


def more_than(count: int, replicas: int, slow: float) -> float:
    """Probability that more than `count` of the replicas are slow: a binomial tail."""
    return math.fsum(_exactly(each, replicas, slow) for each in range(count + 1, replicas + 1))


def _exactly(count: int, replicas: int, slow: float) -> float:
    if slow in (0.0, 1.0):
        return float(count == replicas * slow)
    log = math.lgamma(replicas + 1) - math.lgamma(count + 1) - math.lgamma(replicas - count + 1)
    return math.exp(log + count * math.log(slow) + (replicas - count) * math.log1p(-slow))


def sequential_load(count: int, window: int) -> Fraction:
    """Shares that a replica computes a step in M-SGC with bursts of one step: its theorem on load, times n."""
    return Fraction((count + 1) * window, 1 + (window - 1) * (count + 1))


def sequential_waits(count: int, window: int, replicas: int, slow: float) -> float:
    """Share of steps that break the pattern and wait for everybody, who then counts as quick.

    A state is how many replicas were slow in each of the last `window` - 1 steps; they are distinct.
    """
    import numpy as np

    states = [state for state in product(range(count + 1), repeat=window - 1) if sum(state) <= count]
    places = {state: place for place, state in enumerate(states)}
    moves, waits = np.zeros((len(states), len(states))), np.zeros(len(states))
    for state, place in places.items():
        seen = sum(state)
        nobody_again = (1 - slow) ** seen
        for new in range(count - seen + 1):
            chance = nobody_again * _exactly(new, replicas - seen, slow)
            moves[place, places[(*state[1:], new)]] += chance
        waits[place] = max(0.0, 1 - moves[place].sum())
        moves[place, places[(*state[1:], 0)]] += waits[place]
    balance = np.vstack([moves.T - np.eye(len(states)), np.ones(len(states))])
    wanted = np.append(np.zeros(len(states)), 1.0)
    stationary = np.linalg.lstsq(balance, wanted, rcond=None)[0]
    return float(stationary @ waits)
