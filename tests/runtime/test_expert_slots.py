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
from meshwright.runtime.parallel.expert.copies import Box, _pairs
from meshwright.runtime.parallel.expert.table import SlotTable, slot_table
from meshwright.runtime.placement import domain_of
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


@given(seed=st.integers(0, 99), rank=st.integers(0, 5), replicas=st.sampled_from([3, 6, 9]))
def test_a_token_prefers_a_node_that_it_visits_anyway(seed: int, rank: int, replicas: int) -> None:
    """By the definition, expert by expert, on three nodes of two ranks."""
    nodes = (0, 0, 1, 1, 2, 2)
    (order,) = replicated(1, 9, 3, replicas, seed)["slots"]  # on three ranks, each of which is cut in two
    order = tuple(e for third in range(3) for e in _halves(order, third))
    each = len(order) // 6
    experts = torch.stack([torch.randperm(9, generator=torch.Generator().manual_seed(seed + t))[:4] for t in range(12)])
    found = slot_table(order, nodes, rank, CPU)(experts)
    for token, (chosen, slots) in enumerate(zip(experts.tolist(), found.tolist(), strict=True)):
        places = [_allowed(order, nodes, rank, expert) for expert in chosen]
        settled = {nodes[own[0] // each] for own in places if len({nodes[slot // each] for slot in own}) == 1}
        for slot, own in zip(slots, places, strict=True):
            turned = [own[(rank + token + later) % len(own)] for later in range(len(own))]
            visited = [each_slot for each_slot in turned if nodes[each_slot // each] in settled]
            assert slot == (visited or turned)[0]


def _halves(order: tuple[int, ...], third: int) -> tuple[int, ...]:
    """Of one of three ranks, its experts and one of them once more where they are odd in number: two equal ranks."""
    each = len(order) // 3
    held = order[third * each : (third + 1) * each]
    return held if each % 2 == 0 else (*held, held[0])


def _allowed(order: tuple[int, ...], nodes: tuple[int, ...], rank: int, expert: int) -> list[int]:
    each = len(order) // len(nodes)
    slots = [slot for slot, held in enumerate(order) if held == expert]
    return [slot for slot in slots if nodes[slot // each] == nodes[rank]] or slots


@given(
    edp=st.sampled_from([1, 2, 4]), ep=st.sampled_from([2, 4]), replicas=st.sampled_from([4, 8]),
    cut=st.sampled_from(["no", "slots", "hidden"]), seed=st.integers(0, 99),
)  # fmt: skip
def test_what_one_rank_sends_is_what_the_other_waits_for(edp: int, ep: int, replicas: int, cut: str, seed: int) -> None:
    """And every slot of a replicated expert, or the part of one that a rank has, gets those of all its other slots."""
    (order,) = replicated(1, 8, ep, replicas, seed)["slots"]
    boxes = [{"w": _box(len(order), ep, edp, rank, cut)} for rank in range(edp * ep)]
    pairs = [list(_pairs("w", order, boxes, rank, ep)) for rank in range(edp * ep)]
    for rank, own in enumerate(pairs):
        for peer in range(edp * ep):
            sent = sorted((pair.own, pair.other) for pair in own if pair.peer == peer)
            awaited = sorted((pair.other, pair.own) for pair in pairs[peer] if pair.peer == rank)
            assert sent == awaited
        (first, *_), (count, *_) = boxes[rank]["w"]
        for slot in range(first, first + count):
            others = [other for other, expert in enumerate(order) if expert == order[slot] and other != slot]
            assert sorted(pair.other for pair in own if pair.own == slot) == others


def _box(slots: int, ep: int, edp: int, rank: int, cut: str) -> Box:
    """What a rank holds of [slots, 4, 8]: whole slots of its ep rank, some of them, or a part of the last dimension."""
    each, place = slots // ep, rank // ep
    first = rank % ep * each
    if cut == "slots":
        share = -(-each // edp)
        begin = min(each, place * share)
        return (first + begin, 0, 0), (min(each, begin + share) - begin, 4, 8)
    width = 8 // edp if cut == "hidden" else 8
    return (first, 0, place * width if cut == "hidden" else 0), (each, 4, width)


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


@pytest.mark.parametrize(
    ("order", "nodes"),
    [((2, 0, 1, 3), (0, 0)), ((0, 1, 0, 2), (0, 0)), ((1, 2, 0, 1, 0, 2), (0, 1, 2))],
    ids=["permuted", "replicas", "on several nodes"],
)
def test_the_host_is_not_asked(order: tuple[int, ...], nodes: tuple[int, ...]) -> None:
    """Tensors without values: whatever reads one on the host fails there."""
    made = slot_table(order, nodes, 0, CPU)
    parts = (made.turns, made.counts, made.nodes, made.settled)
    experts = torch.zeros(5, 2, dtype=torch.int64, device="meta")
    table = SlotTable(*(part.to("meta") for part in parts if part is not None))
    assert table(experts).shape == (5, 2)


def test_orders_are_those_of_layers_with_experts() -> None:
    placement = {"slots": ((1, 0, 2, 3, 4, 5), (5, 4, 3, 2, 1, 0))}
    plan = make_plan(QWEN2_MOE, dp=2, ep=2, placement=placement)  # layer 1 is dense
    assert layer_orders(plan, read_shape(QWEN2_MOE)) == {0: placement["slots"][0], 2: placement["slots"][1]}
    names = {f"model.layers.{layer}.mlp.experts.{name}_proj" for layer in (0, 2) for name in ("gate", "up", "down")}
    assert orders_of(plan, read_shape(QWEN2_MOE)).keys() == names
    assert orders_of(make_plan(QWEN2_MOE, dp=2, ep=2), read_shape(QWEN2_MOE)) == {}


def test_near_is_what_the_fast_fabric_joins() -> None:
    plan = make_plan(MIXTRAL, dp=4, ep=4, nodes=2)
    assert [domain_of(plan, rank) for rank in range(4)] == [(0, 0), (0, 0), (0, 1), (0, 1)]
    turned = make_plan(MIXTRAL, dp=4, ep=4, nodes=2, rank_map=(2, 0, 3, 1))
    assert [domain_of(turned, rank) for rank in range(4)] == [(0, 1), (0, 0), (0, 1), (0, 0)]


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
