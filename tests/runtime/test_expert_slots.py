"""From experts to slots: every token finds its expert, near where it can, and the host is never asked."""

from __future__ import annotations

from collections import Counter

import pytest
import torch
from expert_placements import placed, replicated, shuffled
from hypothesis import given
from hypothesis import strategies as st
from moe_families import DEEPSEEK_V3, MIXTRAL, QWEN2_MOE
from plans import make_plan

from meshwright.runtime.blocks.shape import read_shape
from meshwright.runtime.checks import problems
from meshwright.runtime.parallel.expert.table import SlotTable, slot_table
from meshwright.runtime.recipe import Recipe
from meshwright.runtime.replica_checks import capacity_problems
from meshwright.runtime.slots import layer_orders, orders_of

CPU = torch.device("cpu")


@given(
    ep=st.sampled_from([2, 4]), replicas=st.sampled_from([0, 4, 8]), rank=st.integers(0, 3), seed=st.integers(0, 99),
    nodes=st.sampled_from([(0, 0, 0, 0), (0, 0, 1, 1), (0, 1, 2, 3)]),
)  # fmt: skip
def test_a_token_is_sent_to_its_expert_on_its_own_node_if_it_is_there(
    ep: int, replicas: int, rank: int, seed: int, nodes: tuple[int, ...]
) -> None:
    (order,) = replicated(1, 8, ep, replicas, seed)["slots"] if replicas else shuffled(1, 8, seed)["slots"]
    rank, nodes, each = rank % ep, nodes[:ep], len(order) // ep
    experts = torch.randint(0, 8, (24, 3), generator=torch.Generator().manual_seed(seed))
    table = slot_table(order, nodes, rank, CPU)
    slots = table(experts)
    assert torch.equal(torch.tensor(order)[slots], experts)
    near = {order[slot] for slot in range(len(order)) if nodes[slot // each] == nodes[rank]}
    for slot, expert in zip(slots.flatten().tolist(), experts.flatten().tolist(), strict=True):
        assert nodes[slot // each] == nodes[rank] or expert not in near
    assert torch.equal(table(experts), slots)


def test_tokens_take_replicas_in_turn() -> None:
    """One expert on all of four ranks, which lie on a node; ranks begin with different ones."""
    order = (0, 1, 0, 2, 0, 3, 0, 4)
    everybody = torch.zeros(8, 1, dtype=torch.int64)
    begins = set()
    for rank in range(4):
        slots = slot_table(order, [0] * 4, rank, CPU)(everybody).flatten().tolist()
        assert Counter(slots) == {0: 2, 2: 2, 4: 2, 6: 2}
        begins.add(slots[0])
    assert begins == {0, 2, 4, 6}


@pytest.mark.parametrize("order", [(2, 0, 1, 3), (0, 1, 0, 2)], ids=["permuted", "replicas"])
def test_the_host_is_not_asked(order: tuple[int, ...]) -> None:
    """Tensors without values: whatever reads one on the host fails there."""
    made = slot_table(order, [0, 0], 0, CPU)
    counts = None if made.counts is None else made.counts.to("meta")
    experts = torch.zeros(5, 2, dtype=torch.int64, device="meta")
    assert SlotTable(made.turns.to("meta"), counts)(experts).shape == (5, 2)


def test_orders_are_those_of_layers_with_experts() -> None:
    placement = {"slots": ((1, 0, 2, 3, 4, 5), (5, 4, 3, 2, 1, 0))}
    plan = make_plan(QWEN2_MOE, dp=2, ep=2, placement=placement)  # layer 1 is dense
    assert layer_orders(plan, read_shape(QWEN2_MOE)) == {0: placement["slots"][0], 2: placement["slots"][1]}
    names = {f"model.layers.{layer}.mlp.experts.{name}_proj" for layer in (0, 2) for name in ("gate", "up", "down")}
    assert orders_of(plan, read_shape(QWEN2_MOE)).keys() == names
    assert orders_of(make_plan(QWEN2_MOE, dp=2, ep=2), read_shape(QWEN2_MOE)) == {}


def test_what_does_not_run_is_refused() -> None:
    """Replicas of nobody knows what, those that the host would round apart, and a capacity that each would have."""
    good = make_plan(MIXTRAL, dp=2, **placed(MIXTRAL, 2, 2))
    assert problems(good, 2) == []
    (unplaced,) = problems(make_plan(MIXTRAL, dp=2, ep=2, expert_replicas=2), 2)
    assert (unplaced.field, unplaced.value) == ("expert_replicas", 2)
    odd = {**MIXTRAL, "intermediate_size": 33, "hidden_size": 40}
    (rounded,) = problems(make_plan(odd, dp=2, **placed(odd, 2, 2)), 2)
    assert (rounded.field, str(33 * 40) in rounded.rule) == ("expert_replicas", True)
    assert problems(make_plan(odd, dp=2, **placed(odd, 2)), 2) == []
    limited = Recipe.model_validate({"steps": 1, "experts": {"capacity_factor": 1.0}})
    assert [problem.field for problem in capacity_problems(good, limited)] == ["experts.capacity_factor"]
    assert list(capacity_problems(make_plan(MIXTRAL, dp=2, **placed(MIXTRAL, 2)), limited)) == []
    groups = make_plan(DEEPSEEK_V3, dp=2, **placed(DEEPSEEK_V3, 2, 2))
    assert [problem.field for problem in problems(groups, 2)] == ["expert_replicas"]
