"""How well an order and a time were predicted: Kendall's tau, the regret of the first, errors."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations
from statistics import median, quantiles


@dataclass(frozen=True, slots=True)
class Score:
    """Of predicted beside measured seconds."""

    plans: int
    tau: float  # Kendall's tau-b: 1 where the orders agree, -1 where they are each other's reverse
    regret: float  # measured time of the plan that was predicted to be fastest, over the least measured one, less 1
    median_error: float  # of predicted over measured, less 1, without its sign
    bias: float  # median of predicted over measured, less 1
    within: float  # share of the plans with an error of 10 % at most
    spread: tuple[float, float]  # measured over predicted, 5th and 95th percentile


def score(predicted: Sequence[float], measured: Sequence[float]) -> Score:
    """Raises ValueError for fewer than two plans."""
    if len(predicted) != len(measured) or len(measured) < 2:
        raise ValueError(f"{len(predicted)} predicted and {len(measured)} measured times cannot be compared")
    errors = [ours / theirs - 1 for ours, theirs in zip(predicted, measured, strict=True)]
    lowest, *_, highest = quantiles((1 / (1 + error) for error in errors), n=20, method="inclusive")
    first = min(range(len(predicted)), key=predicted.__getitem__)
    return Score(
        plans=len(measured),
        tau=tau_b(predicted, measured),
        regret=measured[first] / min(measured) - 1,
        median_error=median(abs(error) for error in errors),
        bias=median(errors),
        within=sum(abs(error) <= 0.1 for error in errors) / len(errors),
        spread=(lowest, highest),
    )


def tau_b(first: Sequence[float], second: Sequence[float]) -> float:
    """Kendall 1945, "The treatment of ties in ranking problems": concordant less discordant pairs over the root of the
    pairs that each order does not tie. Nan where one ties all."""
    balance, untied = 0, [0, 0]
    for (a, b), (c, d) in combinations(zip(first, second, strict=True), 2):
        one, two = (a > c) - (a < c), (b > d) - (b < d)
        balance += one * two
        untied[0] += one != 0
        untied[1] += two != 0
    return balance / math.sqrt(untied[0] * untied[1]) if all(untied) else math.nan
