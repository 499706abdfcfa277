"""The closed loop's own arithmetic, its space, and a walk through it with two plans."""

from __future__ import annotations

import itertools
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent.parent / "benchmarks"))
sys.path.insert(0, str(Path(__file__).parent.parent / "runtime"))

from closed_loop import plan_of, results, run, shown, small_job, small_model
from closed_loop_score import score, tau_b
from closed_loop_space import legal_configurations, told

from meshwright.clusters.local import cpu_cluster
from meshwright.planner.cost.setting import Setting
from meshwright.planner.cost.sharding import sharding_of
from meshwright.planner.cost.step import price
from meshwright.planner.families import architecture
from meshwright.profiler.layer_shapes import configurations


@pytest.mark.parametrize("order", list(itertools.permutations(range(4))))
def test_tau_counts_inversions(order: tuple[int, ...]) -> None:
    """Without ties: 1 - 4 x inversions / (n (n - 1))."""
    inversions = sum(a > b for a, b in itertools.combinations(order, 2))
    assert tau_b(range(4), order) == pytest.approx(1 - 4 * inversions / 12)


def test_tau_of_ties() -> None:
    """Kendall 1945: of six pairs one order ties two, one of these both."""
    assert tau_b([1, 1, 2, 2], [1, 2, 3, 4]) == pytest.approx(4 / (4 * 6) ** 0.5)


def test_a_score() -> None:
    found = score([1.0, 2.2, 2.7], [1.0, 2.0, 3.0])
    assert (found.tau, found.regret) == (1.0, 0.0)
    assert found.median_error == pytest.approx(0.1)
    assert score([2.0, 1.0], [1.0, 1.2]).regret == pytest.approx(0.2)
    assert score([1.0] * 21, [1 + n / 10 for n in range(21)]).spread == pytest.approx((1.1, 2.9))


@pytest.mark.parametrize(("workers", "experts", "count"), [(2, 0, 104), (4, 0, 460), (2, 4, 268)])
def test_the_space_of_the_experiment(workers: int, experts: int, count: int) -> None:
    """With experts: 16 plans of dp 2 and 64 of cp 2, each with experts on all ranks, shared out, or cut (x 3), 4 of
    tp 2 with sp (x 3), which experts need, and 16 of pp 2."""
    setting = Setting(architecture(small_model(experts)), cpu_cluster(workers), small_job())
    space = legal_configurations(setting, (1, 2), ("none", "full"))
    names = [told(each) for each in space]
    assert len(set(names)) == len(names) == count


@pytest.mark.parametrize(("workers", "experts"), [(2, 0), (4, 0), (2, 4), (4, 4)])
def test_a_profile_times_the_layers_of_every_plan(workers: int, experts: int) -> None:
    """Those of pipelines, too, whose microbatches may be larger than any without would have."""
    setting = Setting(architecture(small_model(experts)), cpu_cluster(workers), small_job())
    timed = {sharding_of(each) for each in configurations(setting)}
    space = legal_configurations(setting, (1, 2, 4), ("none", "full"))
    assert {sharding_of(each) for each in space} <= timed


@pytest.mark.parametrize("batch", [2, 1], ids=["all at once", "in batches"])
def test_a_walk_through_two_plans(batch: int) -> None:
    """Two plans of two workers, two rounds: every plan has a time of every round."""
    model, job, cluster = small_model(), small_job().model_copy(update={"seq_len": 32}), cpu_cluster(2)
    setting = Setting(architecture(model), cluster, job)
    space = legal_configurations(setting, (2,), ("none",))[:2]
    predicted = [price(setting, each) for each in space]
    plans = [plan_of(model, cluster, job, *each) for each in zip(space, predicted, strict=True)]
    found = run(plans, 2, 2, 1, batch)
    assert [len(each) for each in found] == [2, 2]
    assert all(seconds > 0 for each in found for seconds in each)
    result = results(space, predicted, found)
    assert result["score"]["plans"] == 2
    assert shown(result) in (0, 1)
