"""Goodput under failures against Daly's published optima and a simulated sequence of failures."""

from __future__ import annotations

import math
import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from meshwright.errors import InputError
from meshwright.planner.plan import Plan
from meshwright.planner.simulate.failures import (
    FailureModel,
    checkpoint_interval_s,
    effective_ratio,
    parse_failures,
    reliability,
    young_interval_s,
)
from meshwright.planner.simulate.simulation import simulate


@pytest.mark.parametrize(("mtbf_min", "optimum_min"), [(24 * 60, 117), (6 * 60, 57), (15, 9.1)])
def test_the_interval_is_dalys(mtbf_min: float, optimum_min: float) -> None:
    """Figures 3 to 5 of the paper: a dump takes 5 minutes, a restart 10."""
    found = checkpoint_interval_s(1 / (mtbf_min * 60), 300.0) / 60
    assert found == pytest.approx(optimum_min, rel=0.01)
    around = [effective_ratio(1 / (mtbf_min * 60), found * 60 * scale, 300.0, 600.0) for scale in (0.8, 1.0, 1.25)]
    assert around[1] == max(around)


def test_youngs_interval_is_the_first_order_of_dalys() -> None:
    """Young 1974, equation 8: a save of 30 s, a failure every 24 h: 2,277 s; both agree where a save is short."""
    rate = 1 / 86_400
    assert young_interval_s(rate, 30.0) == pytest.approx(2276.8, abs=0.1)
    assert checkpoint_interval_s(rate, 0.01) == pytest.approx(young_interval_s(rate, 0.01), rel=1e-3)
    longer = checkpoint_interval_s(1 / 900, 300.0), young_interval_s(1 / 900, 300.0)
    ratios = [effective_ratio(1 / 900, interval, 300.0, 600.0) for interval in longer]
    assert ratios[0] > ratios[1]


def test_ratio_equals_a_played_sequence_of_failures() -> None:
    """Play 20,000 intervals with exponential failures, work lost since the checkpoint, restarts that fail as well."""
    rate, interval_s, save_s, restart_s = 1 / 3600.0, 900.0, 60.0, 300.0
    dice = random.Random(7)
    clock = 0.0
    for _ in range(20_000):
        until_failure = dice.expovariate(rate)
        while until_failure < interval_s + save_s:
            clock += until_failure
            while (up := dice.expovariate(rate)) < restart_s:
                clock += up
            clock += restart_s
            until_failure = dice.expovariate(rate)
        clock += interval_s + save_s
    assert effective_ratio(rate, interval_s, save_s, restart_s) == pytest.approx(20_000 * interval_s / clock, rel=0.02)


@settings(max_examples=50, deadline=None)
@given(rate=st.floats(1e-9, 1e-6), interval_s=st.floats(60, 3600), save_s=st.floats(0, 10), restart_s=st.floats(0, 600))
def test_first_order_where_failures_are_rare(rate: float, interval_s: float, save_s: float, restart_s: float) -> None:
    """The estimate of arXiv:2410.21680."""
    estimate = (1 - rate * (interval_s / 2 + restart_s)) / (1 + save_s / interval_s)
    assert effective_ratio(rate, interval_s, save_s, restart_s) == pytest.approx(estimate, abs=1e-4)


def test_hopeless_runs_have_no_ratio() -> None:
    assert effective_ratio(1.0, 3600.0, 10.0, 10.0) == 0.0


def test_parsing() -> None:
    model = parse_failures("mtbf=3h, restart=5m,save=30s")
    assert model == FailureModel(mtbf_s=10_800.0, restart_s=300.0, save_s=30.0)
    assert parse_failures("") == FailureModel()


def test_all_problems_at_once() -> None:
    with pytest.raises(InputError) as caught:
        parse_failures("mtfb=3h,restart=soon,save=0s,mtbf=10")
    told = str(caught.value)
    assert "did you mean 'mtbf'" in told
    assert [problem.field.split()[-1] for problem in caught.value.problems] == ["mtfb", "restart", "save", "mtbf"]
    with pytest.raises(InputError, match="not both"):
        parse_failures("mtbf=1h,device_mtbf=1h")


def test_rate_of_the_cluster_is_the_default(plan: Plan) -> None:
    simulation = simulate(plan, tokens=1e12)
    found = reliability(simulation, FailureModel())
    assert found.mtbf_s == pytest.approx(3600 / (8 * plan.cluster.node_groups[0].failures_per_device_hour))
    assert found.mtbf_s == pytest.approx(reliability(simulation, FailureModel(device_mtbf_s=8 * found.mtbf_s)).mtbf_s)
    assert 0 < found.ettr < 1
    assert found.goodput_tokens_per_s == pytest.approx(simulation.tokens_per_s * found.ettr)
    assert found.days is not None
    assert simulation.days is not None
    assert found.days > simulation.days
    assert dict(found.rows())["effective training time ratio"] == f"{found.ettr:.2%}"
    memory = max(memory.weights + memory.optimizer for memory in simulation.prediction.memory)
    assert found.save_s == pytest.approx(memory / 25e9)
    assert found.checkpoint_interval_s == pytest.approx(found.checkpoint_interval_steps * simulation.step_time_s)


def test_more_failures_never_help(plan: Plan) -> None:
    simulation = simulate(plan, tokens=1e12)
    ratios = [reliability(simulation, FailureModel(mtbf_s=hours * 3600)).ettr for hours in (0.1, 1, 10, 100)]
    assert ratios == sorted(ratios)


def test_a_cluster_that_never_fails_needs_an_mtbf(plan: Plan) -> None:
    simulation = simulate(plan, ["cluster.failures=0"])
    with pytest.raises(InputError, match="states no failures_per_device_hour"):
        reliability(simulation, FailureModel())
    assert math.isclose(reliability(simulation, FailureModel(mtbf_s=60.0)).mtbf_s, 60.0)
