"""Regret: what it costs to run the configuration that was predicted fastest, rather than the one that was."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from math import sqrt
from statistics import fmean, median

import numpy as np

from .comparison import Comparison


@dataclass(frozen=True, slots=True)
class Choice:
    """One group: several configurations of the same model, machine, batch and sequence length.

    `regret` is the measured step time of the configuration predicted fastest over the fastest measured, minus 1; the
    batch is the same, so throughputs have the same ratio. `chance` is the mean of that over what could have been
    chosen: the regret of choosing blindly. `kendall_tau` compares the order predicted with the order measured.
    """

    group: str
    source: str
    configurations: int
    chosen: str
    best: str
    regret: float
    chance: float
    kendall_tau: float | None

    @property
    def throughput(self) -> float:
        """Of the configuration predicted fastest, over that of the fastest measured."""
        return 1 / (1 + self.regret)


@dataclass(frozen=True, slots=True)
class Regret:
    """Over `groups` choices; fractions, None where there was no choice. `throughput` is the mean share of the best
    measured throughput that choosing by prediction reaches: each group counts for 1 at most, where one bad choice can
    be the whole of a mean regret."""

    groups: int
    mean: float | None = None
    median: float | None = None
    worst: float | None = None
    chance: float | None = None
    kendall_tau: float | None = None
    throughput: float | None = None


def choices(rows: Iterable[Comparison]) -> tuple[Choice, ...]:
    """Every group with at least two configurations measured and priced, of which at least one is called fitting."""
    groups: dict[str, list[Comparison]] = {}
    for row in rows:
        if row.group and row.judged and row.outcome == "ran" and row.error is not None:
            groups.setdefault(row.group, []).append(row)
    return tuple(choice for group in groups.values() if len(group) > 1 and (choice := _choose(group)))


def _choose(group: list[Comparison]) -> Choice | None:
    """What is called infeasible cannot be chosen, but may well have been the best."""
    choosable = [row for row in group if row.status == "predicted"]
    if not choosable:
        return None
    chosen, best = min(choosable, key=_predicted_s), min(group, key=_measured_s)
    return Choice(
        group=chosen.group,
        source=chosen.source,
        configurations=len(group),
        chosen=chosen.row_id,
        best=best.row_id,
        regret=_measured_s(chosen) / _measured_s(best) - 1,
        chance=fmean(map(_measured_s, choosable)) / _measured_s(best) - 1,
        kendall_tau=kendall_tau([*map(_predicted_s, group)], [*map(_measured_s, group)]),
    )


def regret(chosen: Sequence[Choice]) -> Regret:
    """The summary of some choices; the tau of groups whose runs all tie counts for nothing."""
    if not chosen:
        return Regret(0)
    lost = [choice.regret for choice in chosen]
    taus = [choice.kendall_tau for choice in chosen if choice.kendall_tau is not None]
    return Regret(
        groups=len(chosen),
        mean=fmean(lost),
        median=median(lost),
        worst=max(lost),
        chance=fmean(choice.chance for choice in chosen),
        kendall_tau=fmean(taus) if taus else None,
        throughput=fmean(choice.throughput for choice in chosen),
    )


def kendall_tau(first: Sequence[float], second: Sequence[float]) -> float | None:
    """Agreement of two orders from -1 to 1, with ties (Kendall 1945, tau-b); None where one side only ties."""
    signs = [np.sign(np.subtract.outer(np.asarray(values), np.asarray(values))) for values in (first, second)]
    untied = [float(np.abs(sign).sum()) for sign in signs]
    return float((signs[0] * signs[1]).sum()) / sqrt(untied[0] * untied[1]) if all(untied) else None


def _predicted_s(row: Comparison) -> float:
    assert row.predicted_step_time_s is not None
    return row.predicted_step_time_s


def _measured_s(row: Comparison) -> float:
    assert row.measured_step_time_s is not None
    return row.measured_step_time_s
