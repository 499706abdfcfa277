"""Redundancy against every pattern of slow replicas counted one by one, played windows, and the papers' loads."""

from __future__ import annotations

import json
import random
from fractions import Fraction
from itertools import product

import pytest

from meshwright.planner.plan import Plan
from meshwright.planner.simulate.redundancy import more_than, redundancy, sequential_load, sequential_waits
from meshwright.planner.simulate.simulation import simulate
from meshwright.planner.simulate.straggler import parse_straggler


@pytest.mark.parametrize("slow", [0.0, 0.03, 0.4, 1.0])
def test_tails_equal_all_patterns_counted(slow: float) -> None:
    for count in range(5):
        chance = sum(
            slow ** sum(pattern) * (1 - slow) ** (6 - sum(pattern))
            for pattern in product((0, 1), repeat=6)
            if sum(pattern) > count
        )
        assert more_than(count, 6, slow) == pytest.approx(chance, abs=1e-12)


def test_expected_steps_equal_all_patterns_played(plan: Plan) -> None:
    """Four replicas, each pattern weighed; a step ends with as many replicas as the scheme needs."""
    simulation = simulate(plan, ["devices=16", "global_batch=48"])
    found = redundancy(simulation, parse_straggler("probability=0.05,slow=3x"))
    assert found.replicas == 4
    assert found.replica_probability == pytest.approx(1 - 0.95**4)
    for scheme in found.schemes:
        if "sequential" in scheme.name:
            continue
        quick, slow = _fast_and_slow(plan, round(12 * scheme.load))
        expected = 0.0
        for pattern in product((False, True), repeat=4):
            chance = found.replica_probability ** sum(pattern) * (1 - found.replica_probability) ** (4 - sum(pattern))
            times = sorted(slow if late else quick for late in pattern)
            expected += chance * times[4 - scheme.tolerates - 1]
        assert scheme.expected_step_s == pytest.approx(expected, rel=1e-9)


def _fast_and_slow(plan: Plan, microbatches: int) -> tuple[float, float]:
    """Of a step with so many microbatches: as a plan of that batch is simulated."""
    simulation = simulate(plan, ["devices=16", f"global_batch={4 * microbatches}"])
    found = redundancy(simulation, parse_straggler("probability=0.05,slow=3x"))
    assert found.step_time_s == pytest.approx(simulation.step_time_s)
    return found.step_time_s, found.slow_step_time_s


@pytest.mark.parametrize(("count", "window"), [(1, 2), (2, 2), (2, 3), (3, 4)])
def test_sequential_waits_equal_played_windows(count: int, window: int) -> None:
    """Replica by replica: in any window at most `count` distinct ones, none of them twice; else all are awaited."""
    dice, replicas, slow = random.Random(3), 8, 0.06
    steps, waited, past = 60_000, 0, [set[int]()] * (window - 1)
    for _ in range(steps):
        late = {replica for replica in range(replicas) if dice.random() < slow}
        before = set[int]().union(*past)
        if late & before or len(late | before) > count:
            waited, late = waited + 1, set()
        past = [*past[1:], late]
    assert sequential_waits(count, window, replicas, slow) == pytest.approx(waited / steps, rel=0.03)


def test_sequential_waits_at_the_ends() -> None:
    assert sequential_waits(2, 3, 8, 0.0) == pytest.approx(0.0, abs=1e-12)
    assert sequential_waits(2, 3, 8, 1.0) == pytest.approx(1.0)


def test_loads_are_those_of_the_papers() -> None:
    """arXiv:2211.13802: with 256 workers, B = 1, W = 2 and 27 stragglers a worker computes 0.008 of the batch, where
    gradient coding for 15 needs 0.062; no stragglers, no more work; a long window approaches that."""
    assert round(float(sequential_load(27, 2)) / 256, 3) == 0.008
    assert round(16 / 256, 4) == 0.0625
    assert sequential_load(0, 4) == 1
    assert sequential_load(1, 2) == Fraction(4, 3)
    assert float(sequential_load(5, 10_000)) == pytest.approx(1.0, abs=1e-3)
    for count in range(1, 9):
        assert 1 < sequential_load(count, 2) < count + 1


def test_what_always_or_never_happens(plan: Plan) -> None:
    simulation = simulate(plan)
    never = redundancy(simulation, parse_straggler("probability=0,slow=3x"))
    assert never.schemes[0].expected_step_s == pytest.approx(simulation.step_time_s)
    assert all(scheme.waits == 0 for scheme in never.schemes)
    always = redundancy(simulation, parse_straggler("probability=1,slow=3x"))
    assert always.schemes[0].expected_step_s == pytest.approx(always.slow_step_time_s)
    assert all(scheme.waits == pytest.approx(1.0) for scheme in always.schemes)


def test_redundant_microbatches_pay_when_stragglers_are_frequent(plan: Plan) -> None:
    simulation = simulate(plan, ["devices=64", "global_batch=1024"])
    found = redundancy(simulation, parse_straggler("probability=0.01,slow=10x"))
    best = max(found.schemes, key=found.gain)
    assert best.name == "redundant microbatches, s=3"
    assert found.gain(best) > 1
    assert best.load == pytest.approx(-(-64 * 16 // 13) / 64)


def test_gradient_coding_pays_only_beyond_its_load(plan: Plan) -> None:
    """Twice the work cannot gain on stragglers that take less than twice the time."""
    simulation = simulate(plan, ["devices=16"])
    mild = redundancy(simulation, parse_straggler("probability=1e-2,slow=1.5x"))
    assert all(mild.gain(scheme) < 0 for scheme in mild.schemes if "gradient" in scheme.name)
    hard = redundancy(simulation, parse_straggler("probability=1e-2,slow=30x"))
    assert any(hard.gain(scheme) > 0 for scheme in hard.schemes if "gradient" in scheme.name)


def test_where_redundancy_cannot_help_it_says_why(plan: Plan) -> None:
    model = parse_straggler("probability=0.01,slow=2x")
    single = redundancy(simulate(plan, ["devices=4"]), model)
    assert len(single.schemes) == 1
    assert "one replica" in single.reason
    sharded = redundancy(simulate(plan, ["mesh.pp=1", "zero=3"]), model)
    assert len(sharded.schemes) == 1
    assert "ZeRO 3 gathers weights" in sharded.summary


def test_experts_across_replicas_make_all_wait(plan: Plan) -> None:
    config = {**plan.model.config, "model_type": "mixtral", "num_local_experts": 4, "num_experts_per_tok": 2}
    moe = plan.model_copy(update={"model": plan.model.model_copy(update={"config": config})})
    model = parse_straggler("probability=0.01,slow=2x")
    assert redundancy(simulate(moe, ["mesh.ep=2"]), model).reason == ""
    across = redundancy(simulate(moe, ["mesh.ep=4"]), model)
    assert "exchange tokens between replicas" in across.reason
    assert len(across.schemes) == 1


def test_interleaved_schedules_take_whole_groups(plan: Plan) -> None:
    simulation = simulate(plan, ["schedule.name=interleaved", "schedule.vpp=2", "devices=16"])
    found = redundancy(simulation, parse_straggler("probability=0.01,slow=2x"))
    assert all(round(scheme.load * 8) % 2 == 0 for scheme in found.schemes)


def test_json_and_table(plan: Plan) -> None:
    found = redundancy(simulate(plan, ["devices=16"]), parse_straggler("probability=0.01,slow=2x,tolerate=2"))
    data = json.loads(json.dumps(found.to_json()))
    assert [scheme["tolerates"] for scheme in data["schemes"]] == [0, 1, 2, 1, 2, 1, 2]
    assert data["executed"] is False
    rows, head = found.table()
    assert {len(row) for row in rows} == {len(head)}
    assert "the built-in runtime executes none of the schemes" in found.summary
