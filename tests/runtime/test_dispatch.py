"""Dispatch of one block of experts, in every way, beside the same block in one process."""

from __future__ import annotations

from typing import Any

import dispatch_ranks
import pytest
from dispatch_ranks import Case, Watched, inputs
from harness import run_ranks
from moe_families import DEEPSEEK_V3, QWEN3_MOE
from plans import make_plan
from worst import worst

from meshwright.runtime.build import ep_per_node
from meshwright.runtime.checks import problems

SENT = ("copies", "ranks", "nodes")
CASES = [
    *(Case(sent, chunks, *rest) for sent in SENT for chunks in (1, 3) for rest in ((0.0, False), (0.7, True))),
    *(Case(sent, 2, 0.7) for sent in SENT),
    *(Case(sent, 40) for sent in SENT),
    *(Case(sent, 2, narrow=True) for sent in SENT),
]
"""40 chunks are more than there are tokens; a capacity of 0.7 drops choices, and most where all choose the same."""


@pytest.mark.parametrize(
    ("degrees", "tokens", "experts", "top_k"),
    [({"dp": 4, "ep": 4}, 21, 12, 3), ({"dp": 8, "ep": 4, "etp": 2}, 10, 8, 3)],
    ids=["ep4 on 2 nodes", "ep4 etp2 on 2 nodes"],
)
def test_every_dispatch_equals_one_process(degrees: dict[str, int], tokens: int, experts: int, top_k: int) -> None:
    """Outputs and gradients of tokens, weights and experts; each case runs twice, with equal bits."""
    arguments = (CASES, degrees, 2, tokens, experts, top_k)
    for rank in run_ranks(degrees["dp"], dispatch_ranks.errors, *arguments):
        for case, errors in rank.items():
            assert worst(errors.values()) < (2e-2 if case.narrow else 2e-6), (case, errors)


def watched(case: Case, tokens: int = 21, experts: int = 12, top_k: int = 3) -> list[Watched]:
    return run_ranks(4, dispatch_ranks.watch, case, {"dp": 4, "ep": 4}, 2, tokens, experts, top_k)


@pytest.mark.parametrize(
    ("sent", "there", "hops"), [("copies", 1, 1), ("ranks", 2, 1), ("nodes", 2, 2)], ids=["copies", "ranks", "nodes"]
)
def test_products_hide_transfers_in_both_directions(sent: str, there: int, hops: int) -> None:
    """Messages under way when the products of each of four chunks begin. Forward: of as many chunks behind it as there
    are hops, one hop each, and of as many ahead of it on their way back; backward the other way round."""
    chunks = range(4)
    forward = [
        there * sum(0 < n - at <= hops for n in chunks) + sum(0 < at - n <= hops for n in chunks) for at in chunks
    ]
    for rank in watched(Case(sent, 4)):
        assert rank.forward == forward
        assert rank.backward == forward[::-1]
        assert rank.asked == 1


@pytest.mark.parametrize("sent", SENT)
def test_one_chunk_waits(sent: str) -> None:
    for rank in watched(Case(sent)):
        assert (rank.forward, rank.backward, rank.asked) == ([0], [0], 1)


def test_what_is_sent_is_counted_by_hand() -> None:
    """Rows of four ranks on two nodes, three experts a rank."""
    given = inputs(4, 21, 12, 3, away=False)
    ranks = [[{expert // 3 for expert in token} for token in choices.tolist()] for _, _, choices, _ in given]
    nodes = [[{rank // 2 for rank in token} for token in each] for each in ranks]
    copies, visits, relayed = (watched(Case(sent)) for sent in ("copies", "ranks", "nodes"))
    for me in range(4):
        chosen = given[me][2].flatten().tolist()
        assert copies[me].sent[4][0] == [sum(expert // 3 == rank for expert in chosen) for rank in range(4)]
        assert visits[me].sent[4][0] == [sum(rank in token for token in ranks[me]) for rank in range(4)]
        assert relayed[me].sent[2][0] == [sum(node in token for token in nodes[me]) for node in range(2)]
        peers = (me % 2, me % 2 + 2)  # of equal place, whose tokens this rank passes on
        on = [sum(me // 2 * 2 + place in token for peer in peers for token in ranks[peer]) for place in range(2)]
        assert relayed[me].sent[2][2] == on


def test_limited_routing_bounds_the_nodes_of_a_token() -> None:
    """Four nodes hold a group of experts each, of which a token may use two."""
    config = {**DEEPSEEK_V3, "n_routed_experts": 16, "first_k_dense_replace": 0, "num_experts_per_tok": 4}
    found = run_ranks(8, dispatch_ranks.limited_visits, config, {"dp": 8, "ep": 8}, 2)
    for tokens, sent in found:
        assert len(sent) == 4
        assert tokens < sum(sent) <= config["topk_group"] * tokens


def test_nodes_take_two_groups_more_a_rank() -> None:
    """Two ep groups of four ranks in runs of two, each rank of etp in its own."""
    found = run_ranks(8, dispatch_ranks.node_groups, {"dp": 8, "ep": 4, "etp": 2}, 2)
    for rank, (more, over, inside) in enumerate(found):
        node, place = divmod(rank, 4)
        assert more == 2
        assert over == [place, place + 4]
        assert inside == [node * 4 + place % 2, node * 4 + place % 2 + 2]


@pytest.mark.parametrize(("order", "per_node"), [((), 2), ((2, 3, 0, 1), 2), ((3, 2, 1, 0), 2)])
def test_neighbours_follow_the_rank_map(order: tuple[int, ...], per_node: int) -> None:
    options: dict[str, Any] = {"dp": 4, "ep": 4, "nodes": 2, "rank_map": order}
    assert ep_per_node(make_plan(QWEN3_MOE, **options, dispatch="nodes")) == per_node
    assert ep_per_node(make_plan(QWEN3_MOE, **options, dispatch="ranks")) == 1


def test_ranks_in_turn_on_two_nodes_are_refused() -> None:
    plan = make_plan(QWEN3_MOE, dp=4, ep=4, nodes=2, rank_map=(0, 2, 1, 3), dispatch="nodes")
    (problem,) = problems(plan, 4)
    assert (problem.field, problem.value) == ("dispatch", "nodes")
    assert "2 after 2 must be in one node" in problem.rule
