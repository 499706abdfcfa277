"""Groups that change from round to round train as one process does, sequence after sequence."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from harness import run_ranks
from oracle import reference_model, renamed
from parity_table.outcome import BARS
from plans import LLAMA, make_plan
from round_ranks import Found, drawn, sequences, train_all, train_rounds
from workers import MAX_NORM, OPTIMIZER, WEIGHT_DECAY

from meshwright.planner.lengths.assignment import Assignment, Group, Round
from meshwright.planner.lengths.distribution import Lognormal
from meshwright.planner.lengths.mix import Mix
from meshwright.planner.plan import Plan
from meshwright.runtime.checks import problems

SEQ_LEN = 48
STEPS = [drawn(8, SEQ_LEN, seed) for seed in range(3)]


def plan_of(degrees: tuple[int, ...], capacity: int = 40, **options: Any) -> Plan:
    """Of eight sequences a step, on dp x cp ranks."""
    plan = make_plan(LLAMA, seq_len=SEQ_LEN, global_batch=8, microbatch=1, **options)
    job = plan.job.model_copy(update={"lengths": Lognormal(median=8, p99=40)})
    mix = Mix(degrees=degrees, capacity_tokens=(capacity,) * len(degrees))
    return plan.model_copy(update={"job": job, "mix": mix})


def by_hand(folder: Path) -> tuple[list[float], list[float], Path]:
    """transformers and torch's AdamW: every step the mean loss over the tokens of all sequences, each by itself."""
    model = reference_model(LLAMA)
    matrices = [p for p in model.parameters() if p.ndim > 1]
    vectors = [p for p in model.parameters() if p.ndim <= 1]
    groups = [{"params": matrices, "weight_decay": WEIGHT_DECAY}, {"params": vectors, "weight_decay": 0.0}]
    optimizer = torch.optim.AdamW(groups, **OPTIMIZER)
    losses, norms, path = [], [], folder / "gradients.pt"
    for step, lengths in enumerate(STEPS):
        optimizer.zero_grad()
        total = torch.zeros(())
        for each in sequences(LLAMA["vocab_size"], lengths, step):
            total = total + F.cross_entropy(model(each[None, :-1]).logits[0], each[1:], reduction="sum")
        loss = total / sum(lengths)
        loss.backward()
        if step == 0:
            found = {name: p.grad for name, p in model.named_parameters() if p.grad is not None}
            torch.save(renamed(found, LLAMA), path)
        losses.append(loss.item())
        norms.append(torch.nn.utils.clip_grad_norm_(model.parameters(), MAX_NORM).item())
        optimizer.step()
    return losses, norms, path


@pytest.fixture(scope="module")
def expected(tmp_path_factory: pytest.TempPathFactory) -> tuple[list[float], list[float], Path]:
    return by_hand(tmp_path_factory.mktemp("by_hand"))


PLANS = {
    "dp4 zero0": plan_of((1, 2, 4), dp=4, zero=0),
    "cp4 zero1": plan_of((1, 2, 4), cp=4, zero=1),
    "dp2 cp2 zero2, recomputed": plan_of((1, 2, 4), dp=2, cp=2, zero=2, recompute="full"),
    "dp4 zero3, ulysses": plan_of((1, 2, 4), dp=4, zero=3, cp_algorithm="ulysses"),
    "dp2 tp2 sp, zero3": plan_of((1, 2), dp=2, tp=2, sp=True, zero=3),
    "cp2 tp2, token-ring": plan_of((1, 2), cp=2, tp=2, cp_algorithm="token-ring", recompute="selective"),
    "cp4 allgather, chunks": plan_of((1, 4), cp=4, cp_algorithm="allgather", logits_chunks=2),
}
BY_HAND = Assignment(
    (
        Round((Group(2, 0, (0, 3), 1.0), Group(1, 2, (1,), 1.0), Group(1, 3, (2,), 1.0))),
        Round((Group(4, 0, (4, 5), 1.0),)),
        Round((Group(2, 2, (6, 7), 1.0),)),
    )
)
"""A pair beside two single ranks; all four together; a pair that starts at rank 2, and two ranks with nothing to do."""
ASSIGNED = {
    "assigned by hand, zero1": plan_of((1, 2, 4), dp=4, zero=1),
    "assigned by hand, zero3": plan_of((1, 2, 4), dp=2, cp=2, zero=3, recompute="full"),
}


@pytest.fixture(scope="module")
def outcomes(expected: tuple[list[float], list[float], Path]) -> dict[str, list[Found]]:
    """What every rank found, by plan; all share their processes."""
    plans, assigned = [*PLANS.values(), *ASSIGNED.values()], [None] * len(PLANS) + [[BY_HAND] * len(STEPS)] * 2
    ranks = run_ranks(4, train_all, plans, STEPS, expected[2], assigned, timeout_s=240.0)
    return {name: [rank[place] for rank in ranks] for place, name in enumerate([*PLANS, *ASSIGNED])}


@pytest.mark.parametrize("name", [*PLANS, *ASSIGNED])
def test_mixes_train_as_one_process_does(
    name: str, outcomes: dict[str, list[Found]], expected: tuple[list[float], list[float], Path]
) -> None:
    for losses, norms, errors, _ in outcomes[name]:
        assert losses == pytest.approx(expected[0], rel=BARS["loss"])
        assert norms == pytest.approx(expected[1], rel=1e-4)
        assert max(errors.values()) < BARS["first_gradient"]


def test_one_rank_trains_its_rounds(expected: tuple[list[float], list[float], Path]) -> None:
    [found] = run_ranks(1, train_rounds, plan_of((1,), SEQ_LEN), STEPS, expected[2], None)
    assert found[0] == pytest.approx(expected[0], rel=BARS["loss"])
    assert max(found[2].values()) < BARS["first_gradient"]


def test_groups_of_several_sizes_are_formed(outcomes: dict[str, list[Found]]) -> None:
    """By the solver, the same on all ranks, in the first step already; and as they are told."""
    solved = [found[3] for found in outcomes["dp4 zero0"]]
    assert all(used == solved[0] for used in solved)
    assert len({degree for groups in solved[0] for degree in groups}) > 1
    assert outcomes["assigned by hand, zero1"][0][3][:3] == [[2, 1, 1], [4], [2]]


@pytest.mark.parametrize(
    ("plan", "field"),
    [
        (plan_of((1, 2), 10, dp=2), "job.seq_len"),
        (plan_of((1, 4), dp=2), "mix.degrees"),
        (plan_of((1, 8), dp=8, cp_algorithm="ulysses"), "mix.degrees"),  # four heads
        (plan_of((1, 4), tp=2, dp=4, cp_algorithm="ulysses"), "mix.degrees"),
        (plan_of((1, 2), dp=2, cp=2, cp_algorithm="usp", cp_ulysses=2), "cp_algorithm"),
        (plan_of((1, 2), dp=2).model_copy(update={"mix": None}), "mix"),
    ],
)
def test_mixes_that_cannot_be_formed_are_refused(plan: Plan, field: str) -> None:
    assert [problem.field for problem in problems(plan, plan.configuration.mesh.world)] == [field]


def test_a_mix_without_lengths_is_refused() -> None:
    plan = plan_of((1, 2), dp=2)
    plain = plan.model_copy(update={"job": plan.job.model_copy(update={"lengths": None})})
    assert [problem.field for problem in problems(plain, 2)] == ["job.lengths"]
