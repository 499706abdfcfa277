"""Predict: what a plan with a mix of groups does, over drawn steps."""

from __future__ import annotations

from dataclasses import dataclass
from statistics import fmean

import numpy as np

from ...errors import InputError, Problem
from ..configuration import Configuration
from ..cost.footprint import Peak, fits_host, peaks
from ..cost.setting import Setting
from ..cost.step import price
from ..plan import Breakdown, Prediction
from ..sequence import local_tokens
from ..simulate.work import Work
from .expected import Judge, Step
from .mix import Expected, Mix
from .prices import Prices, at_degree, at_length, degrees_of, multiple_of, table_of

STEPS = 16
"""Drawn steps that a prediction is the mean of."""


@dataclass(frozen=True, slots=True, eq=False)
class Outcome:
    """A prediction, what it says of lengths, and the drawn steps that it is made from."""

    prediction: Prediction
    expected: Expected
    judge: Judge
    steps: tuple[Step, ...]

    @property
    def played(self) -> tuple[Configuration, Work]:
        """The mean step as the event interpreter plays it: as many equal rounds as steps have on average."""
        rounds = max(1, round(fmean(len(step.solution.assignment.rounds) for step in self.steps)))
        mean_s = fmean(step.solution.seconds for step in self.steps) / rounds
        return self.judge.played([mean_s] * rounds)


def predict(setting: Setting, configuration: Configuration, mix: Mix, steps: int = STEPS) -> Outcome:
    """Price a configuration of a job with lengths, with groups of the mix's degrees. Raises InputError where these do
    not divide its ranks, or hold no sequence of seq_len tokens."""
    return outcome(setting, Judge(setting, prices_with(setting, configuration, mix), configuration), steps)


def prices_with(setting: Setting, configuration: Configuration, mix: Mix) -> Prices:
    """Prices of a plan's groups. Raises InputError as `predict` does."""
    if found := mix_problems(setting, configuration, mix):
        raise InputError("plan", found)
    table = table_of(setting, configuration, mix.degrees)
    capacity = np.array(mix.capacity_tokens, dtype=np.int64)
    return Prices(configuration=configuration, table=table, degrees=mix.degrees, capacity=capacity)


def mix_problems(setting: Setting, configuration: Configuration, mix: Mix) -> list[Problem]:
    """What keeps groups of a mix from being formed, or from holding the job's longest sequence."""
    mesh, seq_len, fix = configuration.mesh, setting.job.seq_len, "meshwright plan ... --lengths"
    lanes, multiple, found = mesh.dp * mesh.cp, multiple_of(configuration), []
    if mesh.pp > 1:
        found.append(Problem("mesh.pp", mesh.pp, "sequences of different lengths go through no pipeline", "mesh.pp=1"))
    if wrong := [degree for degree in mix.degrees if lanes % degree]:
        found.append(Problem("mix.degrees", wrong, f"must divide dp x cp = {lanes} ranks", fix))
    elif wrong := sorted(set(mix.degrees) - set(degrees_of(setting, configuration))):
        rule = "there are no heads for groups of these in ulysses: tp times each must divide those of the model"
        found.append(Problem("mix.degrees", wrong, rule, "cp_algorithm=ring"))
    if configuration.cp_algorithm == "usp":
        rule = "has one product of heads and rings, and groups have several sizes"
        found.append(Problem("cp_algorithm", "usp", rule, "cp_algorithm=ring"))
    room = list(zip(mix.degrees, mix.capacity_tokens, strict=True))
    if not any(local_tokens(seq_len, degree, multiple) <= tokens for degree, tokens in room):
        most = max(degree * tokens for degree, tokens in room)
        rule = f"is longer than a group of the plan's mix holds ({most} tokens)"
        found.append(Problem("job.seq_len", seq_len, rule, fix))
    return found


def outcome(setting: Setting, judge: Judge, steps: int, *, quick: bool = False) -> Outcome:
    """The same where prices are known; `quick`: with assignments that are sooner found."""
    found = tuple(judge.steps(steps, quick=quick))
    return Outcome(_prediction(setting, judge, found), _expected(judge, found), judge, found)


def _expected(judge: Judge, steps: tuple[Step, ...]) -> Expected:
    times = [step.time.total_s for step in steps]
    packed_degree, packed_s = judge.packed_s(len(steps))
    return Expected(
        steps=len(steps),
        step_time_s=fmean(times),
        step_time_range_s=(min(times), max(times)),
        bound_s=fmean(step.solution.bound_s for step in steps),
        gap=max(step.solution.gap for step in steps),
        rounds=fmean(len(step.solution.assignment.rounds) for step in steps),
        idle=1 - fmean(step.busy for step in steps),
        packed_degree=packed_degree,
        packed_step_time_s=packed_s,
    )


def _prediction(setting: Setting, judge: Judge, steps: tuple[Step, ...]) -> Prediction:
    """That of the configuration, with the mean step in place of its own, and the memory of full groups."""
    configuration, world = judge.configuration, judge.configuration.mesh.world
    one = price(at_length(setting, _mean_tokens(judge, steps)), at_degree(configuration, 1))
    step_s = fmean(step.time.total_s for step in steps)
    flops = fmean(float(sum(map(setting.architecture.training_flops, map(int, step.lengths)))) for step in steps)
    tokens = fmean(int(step.lengths.sum()) for step in steps)
    low, high = (each / one.step_time_s for each in one.step_time_interval_s)
    mfu = flops / (setting.rates.peak_flops * world * step_s)
    full = max(
        (_full(setting, judge, degree) for degree in judge.prices.degrees), key=lambda each: each[0].memory.total
    )
    return one.model_copy(
        update={
            "step_time_s": step_s,
            "step_time_interval_s": (low * step_s, high * step_s),
            "tokens_per_s_per_device": tokens / step_s / world,
            "model_tflops_per_device": flops / step_s / world / 1e12,
            "mfu": mfu,
            "hfu": mfu * one.hfu / one.mfu,
            "memory": tuple(each.memory for each in full),
            "peak_memory_bytes": tuple(each.memory.total for each in full),
            "fits": all(each.fits for each in full) and fits_host(setting, configuration),
            "breakdown_s": _breakdown(judge, steps, one.breakdown_s),
        }
    )


def _full(setting: Setting, judge: Judge, degree: int) -> tuple[Peak, ...]:
    """Memory of ranks whose groups of a degree are full."""
    place = judge.prices.degrees.index(degree)
    longer = at_length(setting, int(judge.prices.capacity[place]) * degree)
    return peaks(longer, at_degree(judge.configuration, degree))


def _mean_tokens(judge: Judge, steps: tuple[Step, ...]) -> int:
    """Tokens of a rank in a round."""
    lanes = judge.prices.lanes
    each = [int(step.lengths.sum()) / lanes / len(step.solution.assignment.rounds) for step in steps]
    return max(1, round(fmean(each)))


def _breakdown(judge: Judge, steps: tuple[Step, ...], one: Breakdown) -> Breakdown:
    """Seen from the mean rank: what it computes and exchanges; `bubble` is its waiting for the slowest group."""
    rounds = fmean(len(step.solution.assignment.rounds) for step in steps)
    pipeline_s = fmean(step.time.pipeline_s for step in steps)
    bubble = fmean((1 - step.busy) * step.time.pipeline_s for step in steps)
    cp, tp, ep = fmean(_waits_s(judge, step) for step in steps), rounds * one.tp, rounds * one.ep
    return Breakdown(
        compute=pipeline_s - bubble - cp - tp - ep,
        tp=tp,
        cp=cp,
        ep=ep,
        bubble=bubble,
        dp=fmean(step.time.exposed_s for step in steps),
        optimizer=fmean(step.time.optimizer_s for step in steps),
        offload=fmean(step.time.offload_s for step in steps),
    )


def _waits_s(judge: Judge, step: Step) -> float:
    """Exchange of attention of the mean rank."""
    total = 0.0
    for each in step.solution.assignment.rounds:
        for group in each.groups:
            lengths = step.lengths[list(group.sequences)]
            total += group.degree * float(judge.prices.table.waiting_s(lengths, group.degree).sum())
    return total / judge.prices.lanes
