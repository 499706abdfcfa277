"""Each statistic against a loop that a reader can follow, and the generator against what it was fitted to."""

from __future__ import annotations

from itertools import combinations
from math import log

import numpy as np
import pytest

from meshwright.planner.experts.generator import FITTED, generate
from meshwright.planner.experts.statistics import Statistics, statistics
from meshwright.planner.experts.trace import Trace

WINDOW = 400


@pytest.fixture(scope="module")
def found(small: Trace) -> Statistics:
    return statistics(small, WINDOW)


def loads(experts: np.ndarray, layer: int, num_experts: int) -> list[int]:
    """How often each expert was chosen."""
    total = [0] * num_experts
    for token in experts[:, layer].tolist():
        for expert in token:
            total[expert] += 1
    return total


def test_spread_peak_and_entropy_of_loads(small: Trace, found: Statistics) -> None:
    spread, peak, entropy = [], [], []
    for layer in range(3):
        count = loads(small.experts, layer, 12)
        mean = sum(count) / 12
        spread.append((sum((each - mean) ** 2 for each in count) / 12) ** 0.5 / mean)
        peak.append(max(count) / mean)
        entropy.append(-sum(each / sum(count) * log(each / sum(count)) for each in count if each) / log(12))
    assert found.load_variation == pytest.approx(sum(spread) / 3)
    assert found.load_peak == pytest.approx(sum(peak) / 3)
    assert found.entropy == pytest.approx(sum(entropy) / 3)


def test_windows_and_their_drift(small: Trace, found: Statistics) -> None:
    """Three whole windows; the rest of the tokens is left out."""
    peaks, correlations = [], []
    for layer in range(3):
        parts = [loads(small.experts[start : start + WINDOW], layer, 12) for start in (0, WINDOW, 2 * WINDOW)]
        peaks.append([max(part) / (sum(part) / 12) for part in parts])
        pairs = [(parts[0], parts[1]), (parts[1], parts[2])]
        correlations.append([np.corrcoef(a, b)[0, 1] for a, b in pairs])
    assert found.window_peak == pytest.approx(np.mean(peaks))
    assert found.drift == pytest.approx(np.mean(correlations))


def test_lift(small: Trace, found: Statistics) -> None:
    all_lifts = []
    for layer in range(3):
        tokens = [set(token) for token in small.experts[:, layer].tolist()]
        single = [sum(expert in token for token in tokens) / len(tokens) for expert in range(12)]
        for a, b in combinations(range(12), 2):
            both = sum(a in token and b in token for token in tokens) / len(tokens)
            all_lifts.append(both / (single[a] * single[b]) if single[a] * single[b] else 0.0)
    assert found.lift == pytest.approx(tuple(np.percentile(all_lifts, (1, 50, 99))))


def test_coverage_of_the_next_layer(small: Trace, found: Statistics) -> None:
    """A fifth of 12 experts are 2."""
    shares = []
    for layer in range(2):
        after = {expert: [0] * 12 for expert in range(12)}
        for now, following in zip(small.experts[:, layer].tolist(), small.experts[:, layer + 1].tolist(), strict=True):
            for expert in now:
                for other in following:
                    after[expert][other] += 1
        covered = sum(sum(sorted(row)[-2:]) for row in after.values())
        shares.append(covered / sum(sum(row) for row in after.values()))
    assert found.next_coverage == pytest.approx(sum(shares) / 2)


def test_overlap_of_neighbours(small: Trace, found: Statistics) -> None:
    assert small.prompt is not None
    hits = total = 0
    for token in range(1, small.tokens):
        if small.prompt[token] == small.prompt[token - 1]:
            for layer in range(3):
                hits += len(set(small.experts[token, layer].tolist()) & set(small.experts[token - 1, layer].tolist()))
                total += 3
    assert found.adjacent_overlap == pytest.approx(hits / total)


def test_one_layer_one_window_and_equal_loads() -> None:
    """Where a statistic has nothing to compare it says so by its neutral value."""
    trace = Trace(np.array([[[0, 1]], [[2, 3]]], np.uint8), 4)
    found = statistics(trace)
    assert (found.load_variation, found.load_peak, found.entropy) == (0.0, 1.0, pytest.approx(1.0))
    assert (found.drift, found.next_coverage, found.adjacent_overlap) == (1.0, 1.0, 0.0)


def test_the_generator_meets_the_statistics_that_it_was_fitted_to() -> None:
    """Within the errors stated beside them, in the size of trace that they are stated for."""
    numbers = statistics(generate(24_576, 6, 64, 6)).numbers()
    assert set(FITTED) == set(numbers)
    for name, (real, error) in FITTED.items():
        assert abs(numbers[name] - real) <= error * real + 0.0005, name


def test_equal_arguments_equal_traces() -> None:
    first, second, other = (generate(300, 2, 16, 4, seed=seed) for seed in (1, 1, 2))
    assert (first.experts == second.experts).all()
    assert (first.experts != other.experts).any()


def test_loads_of_a_real_run_are_met() -> None:
    """With the experts' loads given, the trace has them."""
    given = np.array([np.arange(10, 26) * 10, np.arange(26, 10, -1) * 10])
    trace = generate(20_000, 2, 16, 2, loads=given)
    for layer in range(2):
        assert np.corrcoef(loads(trace.experts, layer, 16), given[layer])[0, 1] > 0.99
