"""What a token's dispatch sends, against every choice of experts counted one by one."""

from __future__ import annotations

from dataclasses import replace
from itertools import combinations
from math import comb

import numpy as np
import pytest

from meshwright.clusters.topology import GroupPaths, Path
from meshwright.planner.cost.dispatch import (
    Visits,
    arriving,
    balanced,
    dispatch_s,
    hops_s,
    imbalance,
    in_turn,
    transfers_s,
    visited_share,
)
from meshwright.planner.experts.layout import layout
from meshwright.planner.experts.prices import Prices, Traffic, exchange_s
from meshwright.planner.families import architecture, load_model
from meshwright.planner.model import Mlp, Moe
from meshwright.planner.published.recipe import NATURAL_SPREAD

EXPERT = Mlp(width=64, gated=True)
NVLINK = Path(bandwidth_bytes_per_s=450e9, latency_s=0.0, link="nvswitch")
NETWORK = Path(bandwidth_bytes_per_s=50e9, latency_s=0.0, link="infiniband", is_network=True)


def choices(moe: Moe) -> list[tuple[int, ...]]:
    """Every choice of experts that group-limited routing allows, as often as it is equally likely."""
    each = moe.experts // moe.groups
    found = []
    for groups in combinations(range(moe.groups), moe.top_groups):
        eligible = [group * each + expert for group in groups for expert in range(each)]
        found += list(combinations(eligible, moe.top_k))
    return found


@pytest.mark.parametrize("top_k", [1, 2, 3])
@pytest.mark.parametrize(("groups", "top_groups"), [(1, 1), (4, 2), (2, 1), (4, 4)])
@pytest.mark.parametrize("parts", [1, 2, 4, 8])
def test_share_of_tokens_that_visit_a_part(top_k: int, groups: int, top_groups: int, parts: int) -> None:
    moe = Moe(experts=8, top_k=top_k, expert=EXPERT, groups=groups, top_groups=top_groups)
    every, inside = choices(moe), 8 // parts
    visits = sum(any(expert // inside == 0 for expert in chosen) for chosen in every)
    assert visited_share(moe, parts) == pytest.approx(visits / len(every), rel=1e-12)


def test_deepseek_v3_visits_at_most_four_of_eight_nodes() -> None:
    moe = Moe(experts=256, top_k=8, expert=EXPERT, groups=8, top_groups=4)
    assert 8 * visited_share(moe, 8) == pytest.approx(4 * (1 - comb(96, 8) / comb(128, 8)), rel=1e-12)


@pytest.mark.parametrize("domains", [1, 2, 4])
def test_sends_a_token_once_to_each_domain_and_rank(domains: int) -> None:
    """Sent by all ranks together, counted token by token: to the rank of equal place in each other domain that holds
    one of its experts, and from the rank where it entered a domain to each other rank there that does."""
    moe, ranks, token_bytes = Moe(experts=8, top_k=3, expert=EXPERT), 8, 4096.0
    local = ranks // domains
    crossed = passed = 0
    every = choices(moe)
    for source in range(ranks):
        for chosen in every:  # one expert a rank
            crossed += len({expert // local for expert in chosen} - {source // local})
            passed += sum(expert % local != source % local for expert in chosen)
    outer, inner = (count * token_bytes / len(every) / ranks for count in (crossed, passed))
    group = GroupPaths(ranks, domains, NVLINK if local > 1 else None, NETWORK if domains > 1 else None)
    expected = max(outer / NETWORK.bandwidth_bytes_per_s, inner / NVLINK.bandwidth_bytes_per_s)
    assert dispatch_s(moe, group, token_bytes, "distinct") == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("parts", [1, 4])
def test_placement_prices_the_links_of_nodes_as_the_step_does(parts: int) -> None:
    """In one part a token is passed on after it has come; in several both links have work. Dispatchers of others pass
    on meanwhile. A placement asks for four transfers: there and back, forward and backward."""
    made, layer = layout(16, [4, 4]), architecture(load_model("olmoe-1b-7b")).layers[0]
    moe, group, tokens = replace(layer.moe, experts=16), GroupPaths(8, 2, NVLINK, NETWORK), 512
    even, turns = balanced(moe, group), in_turn("nodes", parts, True)
    own_bytes = tokens * layer.hidden * 2
    hops = transfers_s(moe, group, own_bytes, "nodes", even)
    prices = Prices.of(layer, group, 1e15, 2, tokens, "nodes", turns)
    traffic = Traffic(np.full(8, moe.top_k / 8), np.full(8, even.rank), np.full(2, even.node))
    found = tokens * made.ranks * exchange_s(traffic, made, prices)
    assert found == pytest.approx(4 * hops_s(*hops, turns), rel=1e-12)
    expected = sum(hops) if parts == 1 else max(hops)
    assert found == pytest.approx(4 * expected, rel=1e-12)
    assert dispatch_s(moe, group, own_bytes, "distinct") == pytest.approx(max(hops), rel=1e-12)


def test_what_is_sent_straight_waits_for_nothing() -> None:
    assert not any(in_turn(kind, parts, True) for kind in ("copies", "ranks") for parts in (1, 4))
    assert in_turn("nodes", 4, False)  # on a processor


def test_copies_are_an_all_to_all_of_every_copy() -> None:
    moe = Moe(experts=8, top_k=2, expert=EXPERT)
    group = GroupPaths(8, 1, NVLINK, None)
    assert dispatch_s(moe, group, 1e9, "copies") == pytest.approx(2e9 * 7 / 8 / 450e9)
    assert dispatch_s(moe, GroupPaths(1, 1, None, None), 1e9, "copies") == 0.0


def test_never_sends_more_than_copies() -> None:
    moe = Moe(experts=64, top_k=6, expert=EXPERT)
    for size in (2, 8, 16, 64):
        group = GroupPaths(size, max(1, size // 8), NVLINK, NETWORK if size > 8 else None)
        assert dispatch_s(moe, group, 1e6, "distinct") <= dispatch_s(moe, group, 1e6, "copies")


def test_the_busiest_rank_of_a_real_trace() -> None:
    """Busiest over mean of 8, 16 and 32 ranks with the 64 experts of DeepSeek-V2-Lite, 32768 tokens at a time, in a
    public trace of its routing (ngavhane/moe-beyond, mean of 26 layers)."""
    moe = Moe(experts=64, top_k=6, expert=EXPERT)
    for ranks, measured in ((8, 1.12), (16, 1.22), (32, 1.42)):
        assert imbalance(moe, ranks, NATURAL_SPREAD) == pytest.approx(measured, abs=0.06)
    assert imbalance(moe, 1, NATURAL_SPREAD) == imbalance(moe, 8, 0.0) == 1.0


def counted(choices: np.ndarray, experts: int, ranks: int, local: int) -> dict[str, tuple[float, float]]:
    """Rows that arrive at the busiest rank over each kind of link, token by token, every rank being the home of as many
    tokens of each choice: between nodes, and inside."""
    arrive = {kind: np.zeros((2, ranks)) for kind in ("copies", "ranks", "nodes")}
    each = experts // ranks
    for home in range(ranks):
        for chosen in choices:
            to = [expert // each for expert in chosen]
            for rank in to:
                _arrives(arrive["copies"], home, rank, local)
            for rank in set(to):
                _arrives(arrive["ranks"], home, rank, local)
            for node in {rank // local for rank in to}:
                relay = node * local + home % local
                arrive["nodes"][0, relay] += node != home // local
                for rank in {rank for rank in to if rank // local == node} - {relay}:
                    arrive["nodes"][1, rank] += 1
    return {kind: tuple(rows.max(1) / len(choices)) for kind, rows in arrive.items()}


def _arrives(rows: np.ndarray, home: int, rank: int, local: int) -> None:
    if rank != home:
        rows[int(rank // local == home // local), rank] += 1


@pytest.mark.parametrize("seed", range(4))
def test_rows_on_each_link_are_those_counted_on_a_random_trace(seed: int) -> None:
    """The busiest rank is of the busiest node here, so that its share of the visits decides on both links."""
    random = np.random.default_rng(seed)
    experts, ranks, local, top_k = 16, 8, 4, 3
    weight = np.sort(random.uniform(0.5, 1.5, experts))[::-1]
    choices = np.array([random.choice(experts, top_k, replace=False, p=weight / weight.sum()) for _ in range(400)])
    to = choices // (experts // ranks)
    load = np.bincount(to.ravel(), minlength=ranks) / len(choices)
    rank = max((to == each).any(1).mean() for each in range(ranks))
    node = max((to // local == each).any(1).mean() for each in range(ranks // local))
    visits = Visits(load=load.max() / load.mean(), rank=rank, node=node)
    moe, token_bytes = Moe(experts=experts, top_k=top_k, expert=EXPERT), 1000.0
    group = GroupPaths(ranks, ranks // local, NVLINK, NETWORK)
    for kind, (outer, inner) in counted(choices, experts, ranks, local).items():
        found = transfers_s(moe, group, token_bytes, kind, visits)
        links = outer * token_bytes / 50e9, inner * token_bytes / 450e9
        if kind == "nodes":
            assert found == pytest.approx(links, rel=0.02)
        else:
            assert found == pytest.approx((max(links), 0.0), rel=0.02)


def test_arriving_rows_are_copies_or_visits() -> None:
    moe, group = Moe(experts=16, top_k=3, expert=EXPERT), GroupPaths(8, 2, NVLINK, NETWORK)
    visits = Visits(load=1.25, rank=0.3, node=0.8)
    assert arriving(moe, group, "copies", visits) == 3.75
    assert arriving(moe, group, "ranks", visits) == arriving(moe, group, "nodes", visits) == pytest.approx(2.4)


def test_balanced_routing_is_what_every_choice_counted_gives() -> None:
    moe, group = Moe(experts=8, top_k=2, expert=EXPERT), GroupPaths(4, 2, NVLINK, NETWORK)
    every = choices(moe)
    rank, node = (sum(any(e // part == 0 for e in chosen) for chosen in every) / len(every) for part in (2, 4))
    assert balanced(moe, group) == Visits(1.0, pytest.approx(rank), pytest.approx(node))
