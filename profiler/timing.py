"""How one thing is timed: repeated, in batches long enough for the clock, outliers rejected."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from itertools import count
from math import comb
from statistics import median
from time import perf_counter

_SHORTEST_S = 5e-4  # a batch this long makes the clock's and a CUDA synchronisation's cost negligible
_BATCH_S = 0.02  # one this long spans several scheduler slices: where others use the CPU too, small operations
# must lose the same share of it as large ones, as they do in training
_SHORT_BATCH_S = 4e-3  # where many shapes share a budget
FEWEST = 6  # samples whose smallest and largest hold the median with 95 %
MOST = 50
TIGHT = 0.02


def seconds_of(run: Callable[[int], object], finish: Callable[[], object], budget_s: float) -> float:
    """Typical seconds of `run(i)`, called with i = 0, 1, 2, ... for about `budget_s`, at least three batches.

    `finish` waits for the device. The first call warms up and is not counted.
    """
    run(0)
    finish()
    first = _batch(run, finish, 1, 1)
    batch_s = min(_BATCH_S, max(_SHORTEST_S, budget_s / 8))
    calls = max(1, round(batch_s / max(first, 1e-7)))
    end, samples = perf_counter() + budget_s, list[float]()
    while len(samples) < 3 or (perf_counter() < end and len(samples) < 50):
        samples.append(_batch(run, finish, 2 + len(samples) * calls, calls))
    return typical(samples)


def _batch(run: Callable[[int], object], finish: Callable[[], object], start: int, calls: int) -> float:
    begin = perf_counter()
    for index in range(start, start + calls):
        run(index)
    finish()
    return (perf_counter() - begin) / calls


def typical(samples: Sequence[float]) -> float:
    """Median of the samples within three median absolute deviations of the median."""
    return median(_near(samples))


def _near(samples: Sequence[float]) -> list[float]:
    middle = median(samples)
    spread = median(abs(sample - middle) for sample in samples)
    return [sample for sample in samples if abs(sample - middle) <= 3 * spread]


@dataclass(frozen=True, slots=True)
class Timing:
    """What one thing takes, and how sure that is."""

    seconds: float
    spread: float  # half the width of the confidence interval of the median, over the median
    samples: int


def timed(run: Callable[[int], object], finish: Callable[[], object], limit_s: float, tight: float = TIGHT) -> Timing:
    """Median seconds of `run(i)`, repeated until its confidence interval is within `tight` of it, or for `limit_s`.

    At least three batches. `finish` waits for the device. The first call warms up and is not counted.
    """
    run(0)
    finish()
    first = _batch(run, finish, 1, 1)
    calls = max(1, round(min(_SHORT_BATCH_S, limit_s / FEWEST) / max(first, 1e-7)))
    return settled(_batches(run, finish, calls), limit_s, tight)


def _batches(run: Callable[[int], object], finish: Callable[[], object], calls: int) -> Iterator[float]:
    """Seconds of a call, batch after batch, each with the indices that follow."""
    for start in count(2, calls):
        yield _batch(run, finish, start, calls)


def settled(
    samples: Iterator[float], limit_s: float, tight: float = TIGHT, clock: Callable[[], float] = perf_counter
) -> Timing:
    """Draws samples until the interval of their median is tight, the time is over or there are `MOST`."""
    end, drawn = clock() + limit_s, list[float]()
    while len(drawn) < 3 or (clock() < end and len(drawn) < MOST):
        drawn.append(next(samples))
        if len(drawn) >= FEWEST and relative_interval(drawn) <= tight:
            break
    return Timing(typical(drawn), relative_interval(drawn), len(drawn))


def relative_interval(samples: Sequence[float]) -> float:
    """Half the width of the median's confidence interval over the median, of samples without outliers.

    The interval lies between two order statistics, whatever the distribution: that from the r-th smallest to the r-th
    largest of n holds the median with probability 1 - 2 P(Binomial(n, 1/2) < r) (David and Nagaraja, Order
    Statistics, 3rd edition, section 7.1). r is the largest that leaves 95 %; of fewer than six samples it is the first.
    """
    kept = sorted(_near(samples))
    rank = _rank(len(kept))
    return (kept[-1 - rank] - kept[rank]) / (2 * median(kept))


@cache
def _rank(n: int) -> int:
    """How many samples lie outside of the interval on each side."""
    outside, rank = 1.0, 0
    while outside <= 0.025 * 2**n:
        rank += 1
        outside += comb(n, rank)
    return max(0, rank - 1)
