"""Risk: what is charged for, that it never falls with the probability, and that the best plan is found all the same."""

from __future__ import annotations

import json
import math
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from typer.testing import CliRunner

from meshwright.cli import app
from meshwright.clusters.catalogue import load_cluster
from meshwright.errors import InfeasibleError, InputError
from meshwright.planner.cost.bound import lower_bound_s
from meshwright.planner.cost.footprint import STUCK, footprint
from meshwright.planner.cost.risk import GREATEST, LEAST, MIDDLE, QUANTILES, Risk, exchanged
from meshwright.planner.cost.setting import Setting
from meshwright.planner.cost.step import price
from meshwright.planner.families import architecture, load_model
from meshwright.planner.job import Job
from meshwright.planner.legality import is_legal
from meshwright.planner.pins import parse_pins
from meshwright.planner.plan import Breakdown, Prediction
from meshwright.planner.published.risk import Error, Fill, fill_of, memory_curve, shape, widths
from meshwright.planner.search.bound import Balancer
from meshwright.planner.search.choose import choose
from meshwright.planner.search.request import Request
from meshwright.planner.search.search import find_plan
from meshwright.planner.search.space import candidates
from meshwright.planner.simulate.simulation import simulate


def ask(model="llama-3.2-1b", cluster="dgx-a100-40g:2", seq_len=2048, global_batch=32, pins=(), **changes) -> Request:
    job = Job(seq_len=seq_len, global_batch=global_batch)
    return Request(model=load_model(model), cluster=load_cluster(cluster), job=job, pins=parse_pins(pins), **changes)


REQUEST = ask(pins=["schedule=1f1b"], gap=0.0)
TIGHT = ask("llama-3.1-8b", "dgx-a100-40g:2", 4096, 64, ["schedule=1f1b"], gap=0.0)
CHANCES = (0.5, 0.6, 0.75, 0.9, 0.95, 0.99)


@pytest.fixture(scope="module")
def everything() -> list:
    setting = Setting(architecture(REQUEST.model), REQUEST.cluster, REQUEST.job)
    balancer = Balancer(setting)
    found = [each for each in candidates(setting, REQUEST.pins) if is_legal(setting, each)]
    balanced = [balancer.balanced(each) for each in found]
    return [(setting, each, price(setting, each)) for each in balanced]


def needs(setting: Setting, configuration) -> float:
    """Share of the device that the fullest rank needs when every cached segment is given back."""
    memories = footprint(setting, configuration)
    stuck = [STUCK * (each.activations + each.logits + each.buffers) for each in memories]
    return max(
        (each.allocated + each.context + more) / setting.memory_limit_bytes
        for each, more in zip(memories, stuck, strict=True)
    )


@pytest.mark.parametrize("chance", CHANCES)
def test_no_configuration_that_fits_is_better_at_its_risk(everything, chance):
    risk = Risk(chance)
    fitting = [each for each in everything if needs(each[0], each[1]) <= risk.memory_share]
    least = min(risk.step_time_s(predicted) for _, _, predicted in fitting)
    plan = find_plan(replace(REQUEST, risk=chance))
    assert plan.at_risk.step_time_s <= least * (1 + 1e-9)
    assert plan.proof.value == pytest.approx(plan.at_risk.step_time_s)
    assert plan.proof.lower_bound <= plan.proof.value
    assert needs(everything[0][0], plan.configuration) <= risk.memory_share * (1 + 1e-6)


@pytest.mark.parametrize("chance", CHANCES)
def test_the_bound_is_never_above_the_value(everything, chance):
    request = replace(REQUEST, risk=chance)
    setting = request.setting()
    measure = request.measure(setting)
    for _, configuration, predicted in everything[:: max(1, len(everything) // 50)]:
        bound_s = lower_bound_s(setting, configuration)
        assert measure(configuration, bound_s) <= measure.of(configuration, predicted) * (1 + 1e-12)


@pytest.mark.parametrize("request_", [REQUEST, TIGHT], ids=["roomy", "tight"])
def test_more_averse_to_risk_is_never_less_headroom_nor_faster(request_):
    plans = [find_plan(replace(request_, risk=chance)) for chance in CHANCES]
    kept = [plan.at_risk.memory_share for plan in plans]
    assert kept == sorted(kept, reverse=True)
    assert len(set(kept)) == len(kept)
    steps = [plan.at_risk.step_time_s for plan in plans]
    assert steps == sorted(steps)
    for plan in plans:
        setting = Setting(architecture(plan.model), plan.cluster, plan.job)
        assert needs(setting, plan.configuration) <= plan.at_risk.memory_share * (1 + 1e-6)
        assert plan.predicted.memory_limit_bytes == int(request_.cluster.node_groups[0].device.memory_bytes)
        assert simulate(plan).step_time_s == pytest.approx(plan.predicted.step_time_s)
        assert simulate(plan).prediction.peak_memory_bytes == plan.predicted.peak_memory_bytes


def test_a_plan_to_the_last_byte_is_not_one_at_risk():
    full = find_plan(TIGHT)
    setting = Setting(architecture(full.model), full.cluster, full.job)
    assert needs(setting, full.configuration) > MIDDLE
    assert needs(setting, find_plan(replace(TIGHT, risk=0.9)).configuration) < MIDDLE


def prediction(compute: float, dp: float, high: float = 1.6) -> Prediction:
    step_s = compute + dp
    return Prediction(
        step_time_s=step_s, step_time_interval_s=(step_s / high, step_s * high), tokens_per_s_per_device=1.0,
        model_tflops_per_device=1.0, mfu=0.5, hfu=0.5, peak_memory_bytes=(1,), memory_limit_bytes=2, fits=True,
        memory=(), breakdown_s=Breakdown(compute=compute, dp=dp), origin="calibrated",
    )  # fmt: skip


chances = st.floats(LEAST, GREATEST)
seconds = st.floats(0.01, 10.0)


@given(chances, chances, seconds, seconds, st.floats(1.0, 3.0))
def test_more_certain_takes_longer_and_less_memory(one, other, compute, dp, high):
    low, more = sorted((one, other))
    predicted = prediction(compute, dp, high)
    assert predicted.step_time_s * (1 - 1e-12) <= Risk(low).step_time_s(predicted)
    assert Risk(low).step_time_s(predicted) <= Risk(more).step_time_s(predicted) * (1 + 1e-12)
    assert Risk(more).memory_share <= Risk(low).memory_share < 1


@given(chances, seconds, st.floats(0.0, 0.5), st.floats(0.0, 0.5))
def test_of_equal_steps_that_which_communicates_more_is_charged_more(chance, step_s, one, other):
    less, more = (prediction(step_s * (1 - share), step_s * share) for share in sorted((one, other)))
    assert exchanged(less.breakdown_s) <= exchanged(more.breakdown_s) + 1e-12
    assert Risk(chance).step_time_s(less) <= Risk(chance).step_time_s(more) * (1 + 1e-9)


def test_a_mean_run_ends_where_its_interval_ends():
    """With the communication at which the width is 1 the 95th percentile is the interval's upper end."""
    share = (1 - 0.67) / 6.48
    predicted = prediction(1 - share, share)
    assert Risk(0.95).step_time_s(predicted) == pytest.approx(predicted.step_time_interval_s[1])
    assert Risk(0.5).step_time_s(predicted) == pytest.approx(predicted.step_time_s)


def test_the_fit_finds_what_made_the_errors():
    random = np.random.default_rng(0)
    shares = random.uniform(0, 0.4, 20_000)
    logs = random.standard_normal(20_000) * (0.05 + 0.5 * np.minimum(shares, 0.2))
    errors = [Error(float(log), float(share)) for log, share in zip(logs, shares, strict=True)]
    still, more, most = widths(errors)
    assert more / still == pytest.approx(10, rel=0.2)
    assert most == pytest.approx(0.2, abs=0.03)
    normal = dict(zip(QUANTILES, shape(errors, still, more, most), strict=True))
    assert normal[0.9] == pytest.approx(1.2816 / 1.6449, abs=0.03)
    assert normal[0.99] == pytest.approx(2.3263 / 1.6449, abs=0.05)
    fills = random.uniform(0, 1.4, 20_000)
    ran = random.uniform(0, 1, 20_000) < 0.95 / (1 + np.exp((fills - 0.9) / 0.03))
    middle, scale = memory_curve([Fill(float(s), bool(r)) for s, r in zip(fills, ran, strict=True)])
    assert middle == pytest.approx(0.9, abs=0.005)
    assert scale == pytest.approx(0.03, abs=0.006)


def test_what_fills_a_device_is_what_fitting_is_judged_on(everything):
    """A plan at risk needs its share exactly where the fit counts that it does."""
    for setting, configuration, predicted in everything[::25]:
        fill = fill_of(predicted, ran=True)
        assert fill.share == pytest.approx(needs(setting, configuration))


def test_deadlines_hold_with_the_probability():
    free = choose(replace(REQUEST, tokens=10**10))
    run_s = free.training.days * 86_400
    assert choose(replace(REQUEST, tokens=10**10, deadline_s=run_s * 1.001))
    with pytest.raises(InfeasibleError, match="no plan trains") as caught:
        choose(replace(REQUEST, tokens=10**10, deadline_s=run_s * 1.001, risk=0.9))
    assert caught.value.change.startswith("--deadline")
    plan = choose(replace(REQUEST, tokens=10**10, deadline_s=run_s * 3, risk=0.9))
    assert plan.training.days < plan.training.days_at_risk <= run_s * 3 / 86_400
    expected = plan.training.days * plan.at_risk.step_time_s / plan.predicted.step_time_s
    assert math.isclose(plan.training.days_at_risk, expected)


@pytest.mark.parametrize("wrong", [0.0, 0.49, 0.995, 1.0, -1.0, math.nan])
def test_no_such_probability(wrong):
    with pytest.raises(InputError, match="--risk"):
        choose(replace(REQUEST, risk=wrong))


def test_what_does_not_fit_says_what_is_planned_for():
    with pytest.raises(InfeasibleError, match=r"74% of each device's memory is planned for with --risk 0\.9"):
        choose(ask("llama-3.1-70b", "dgx-a100-80g:1", risk=0.9))


def test_the_command_line():
    command = ["plan", "llama-3.2-1b", "dgx-a100-40g:1", "--seq-len", "2048", "--global-batch", "16"]
    command += ["--pin", "schedule=1f1b", "--risk", "0.9"]
    found = json.loads(CliRunner().invoke(app, [*command, "--json"]).output)
    assert found["at_risk"].keys() == {"probability", "step_time_s", "memory_share"}
    assert found["goal"]["risk"] == 0.9
    shown = CliRunner().invoke(app, [*command, "--tokens", "1B"])
    assert "With probability 0.9 a step takes at most" in " ".join(shown.output.split())
    assert "at most with probability 0.9" in " ".join(shown.output.split())
