"""Tokens shuffled over tensor-parallel ranks: the same training, the parts that the planner measured, fewer copies."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from expert_placements import placed
from harness import run_ranks
from hypothesis import given, settings
from hypothesis import strategies as st
from moe_families import DEEPSEEK_V3, MIXTRAL
from plans import make_plan
from shuffle_ranks import chosen, kept_bytes, loss_of_documents
from test_expert_parity import FEW, assert_same
from workers import batches

from meshwright.planner.experts.shuffle import fit, homes, settled
from meshwright.planner.experts.token_homes import ANYWHERE, TokenHomes, packed
from meshwright.planner.experts.trace import Trace
from meshwright.planner.plan import Plan
from meshwright.runtime.checks import problems
from meshwright.runtime.parallel.shuffle import Shuffle
from meshwright.runtime.recipe import Recipe
from meshwright.runtime.replica_checks import capacity_problems
from meshwright.schema import parse

VOCAB = MIXTRAL["vocab_size"]
ROWS: dict[str, dict[str, Any]] = {
    "tp2 sp ep2": {"ep": 2, "microbatch": 4},
    "tp2 sp dp2 ep4, two groups": {"dp": 2, "ep": 4},
    "tp4 sp ep4, one copy a rank": {"tp": 4, "ep": 4, "dispatch": "ranks", "dispatch_chunks": 2},
    "cp2 tp2 sp ep4": {"cp": 2, "ep": 4},
    "pp2 tp2 sp ep2 zb-h1": {"pp": 2, "ep": 2, "schedule": "zb-h1"},
    "pp2 tp2 sp ep2, spread vocabulary": {"pp": 2, "ep": 2, "spread_vocabulary": True},
    "pp2 tp2 sp ep2 zb-v, four stages": {
        "config": {**MIXTRAL, "num_hidden_layers": 4}, "pp": 2, "vpp": 2, "schedule": "zb-v", "ep": 2, "microbatch": 1,
    },
    "cp2 tp2 sp ep4, recompute": {"cp": 2, "ep": 4, "recompute": "full"},
    "tp2 sp ep2, experts in other slots": {"microbatch": 4, **placed(MIXTRAL, 2)},
    "tp2 sp ep2 recompute": {"ep": 2, "recompute": "full"},
    "deepseek_v3, selective recompute": {
        "config": DEEPSEEK_V3, "ep": 2, "recompute": "selective",
        "recompute_operations": ("layernorm", "moe_act", "mla_up_proj"),
    },
}  # fmt: skip


def shuffled(config: dict[str, Any] = MIXTRAL, seed: int = 0, **options: Any) -> dict[str, Any]:
    """Options of make_plan, with homes drawn at random."""
    options = {"tp": 2, "sp": True, **options}
    draw, tp = np.random.default_rng(seed), options["tp"]
    tables = draw.choice([*range(tp), ANYWHERE], (options["ep"] // tp, config["vocab_size"] - 9)).astype(np.uint8)
    homes_of = tuple(packed(each.tobytes()) for each in tables)
    return options | {"token_homes": TokenHomes(members=tp, homes=homes_of, saved=0.0)}


@pytest.mark.parametrize("name", ROWS)
def test_shuffled_tokens_train_as_on_one_device(name: str, tmp_path: Path) -> None:
    row = dict(ROWS[name])
    config = row.pop("config", MIXTRAL)
    assert_same(config, shuffled(config, **row), FEW, tmp_path)


@pytest.mark.parametrize("operations", [(), ("layernorm",)], ids=str)
def test_shuffling_keeps_no_hidden_states(operations: tuple[str, ...]) -> None:
    """Nor those in the order of the sequence, where norms and what follows them are made again."""
    again = {"recompute": "selective", "recompute_operations": operations} if operations else {}
    plan = make_plan(MIXTRAL, **shuffled(ep=2, microbatch=4), **again)
    whole = 4 * 32 * 32 * 4  # of all tokens of a sequence, in bytes
    for plain, mixed in run_ranks(2, kept_bytes, plan):
        assert abs(mixed - plain) < whole / 4


def test_documents_stay_apart() -> None:
    """Attention has the order of the sequence again."""
    batch = batches(VOCAB, 32, 8, 1)[0]
    plain = loss_of_documents(make_plan(MIXTRAL), batch, 3)
    mixed = run_ranks(2, loss_of_documents, make_plan(MIXTRAL, **shuffled(ep=2)), batch, 3)
    assert mixed == pytest.approx([plain] * 2, rel=1e-6)
    assert plain != pytest.approx(loss_of_documents(make_plan(MIXTRAL), batch, VOCAB), rel=1e-4)


@settings(deadline=None)
@given(st.integers(2, 5), st.integers(1, 6), st.data())
def test_parts_are_those_that_were_measured(members: int, each: int, data: st.DataObject) -> None:
    """Of every sequence of a batch, whatever the homes; an order and its inverse."""
    home = st.sampled_from([*range(members), ANYWHERE])
    table = data.draw(st.lists(home, min_size=1, max_size=7))
    ids = st.lists(st.integers(0, 9), min_size=members * each, max_size=members * each)
    tokens = torch.tensor(data.draw(st.lists(ids, min_size=1, max_size=3)))
    shuffle = Shuffle(torch.tensor([*table, ANYWHERE], dtype=torch.uint8), members)
    for row, (slots, places) in zip(tokens, shuffle.order(tokens), strict=True):
        known = np.append(table, ANYWHERE)[np.minimum(row.numpy(), len(table))]
        expected = np.argsort(settled(known, members), kind="stable")
        assert slots.tolist() == expected.tolist()
        assert slots[places].tolist() == list(range(len(row)))


def chosen_by_two(plan: Plan, batch: torch.Tensor) -> list[list[torch.Tensor]]:
    """By rank and layer."""
    return [[torch.tensor(layer) for layer in each] for each in run_ranks(2, chosen, plan, batch)]


def test_homes_of_a_run_save_copies() -> None:
    """Homes by what the same tokens chose: the same choices, fewer of them on other ranks."""
    plain = {"tp": 2, "sp": True, "ep": 2, "microbatch": 8}
    batch = batches(VOCAB, 32, 8, 1)[0]
    before = chosen_by_two(make_plan(MIXTRAL, **plain), batch)
    whole = [torch.cat([layer.view(8, 16, 2) for layer in ranks], 1) for ranks in zip(*before, strict=True)]
    experts = torch.stack([each.flatten(0, 1) for each in whole], 1).numpy()
    ids, layers = batch[:, :-1].flatten().numpy(), experts.shape[1]
    by = fit(Trace(experts, 8), ids, np.tile(np.repeat([0, 1], 4), (layers, 1)), 2)
    (table,) = homes(by, [(0, 1)])
    known = TokenHomes(members=2, homes=(packed(table.tobytes()),), saved=0.0)
    after = chosen_by_two(make_plan(MIXTRAL, **plain, token_homes=known), batch)
    for layer in range(layers):
        same = [sorted(torch.cat([each[layer] for each in ranks]).tolist()) for ranks in (before, after)]
        assert same[0] == same[1]
    sent = [sum(int((layer // 4 != rank).sum()) for rank, own in enumerate(ranks) for layer in own)
            for ranks in (before, after)]  # fmt: skip
    assert sent[1] < 0.95 * sent[0]


@pytest.mark.parametrize(
    ("options", "rule"),
    [
        ({"tp": 2, "sp": False, "ep": 2, "microbatch": 4}, "parts of a sequence"),
        ({"tp": 2, "sp": True, "dp": 2, "ep": 4}, "2 groups of 2"),
        ({"tp": 4, "sp": True, "ep": 2, "microbatch": 4}, "whole groups of tp"),
    ],
)
def test_homes_must_suit_the_mesh(options: dict[str, Any], rule: str) -> None:
    plan = make_plan(MIXTRAL, **options, token_homes=shuffled(ep=2)["token_homes"])
    found = [each for each in problems(plan, plan.configuration.mesh.world) if each.field == "token_homes"]
    assert [rule in each.rule for each in found] == [True]


def test_no_capacity_beside_homes() -> None:
    """Tokens that choose alike are on one rank, whose experts would drop more of them."""
    limited = parse(Recipe, {"steps": 1, "data": "x", "experts": {"capacity_factor": 1.0}}, "recipe")
    plan = make_plan(MIXTRAL, **shuffled(ep=2))
    assert [each.field for each in capacity_problems(plan, limited)] == ["experts.capacity_factor"]


@pytest.mark.parametrize("text", ["?", packed(b"\x00\x02"), packed(b"\x00" * 5_000_000), packed(b"\x00" * 99)[:8]])
def test_homes_that_are_none_are_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"homes\[0\]"):
        TokenHomes(members=2, homes=(text,), saved=0.0)
