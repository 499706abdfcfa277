"""What a trace says of ep groups, counted token by token; and that nothing is judged on what it was fitted to."""

from __future__ import annotations

import numpy as np
import pytest

from meshwright.clusters.paths import GroupPaths
from meshwright.planner.experts.generator import generate
from meshwright.planner.experts.layout import layout
from meshwright.planner.experts.place import measure, place
from meshwright.planner.experts.prices import Prices
from meshwright.planner.experts.routing import Group, Routing, _busiest, fitted
from meshwright.planner.experts.trace import Trace

from .conftest import drawn

PRICES = Prices(tokens_per_rank=256)


@pytest.mark.parametrize(("shape", "seed"), [((2, 2), 0), ((4, 4), 1), ((1, 1, 1), 2), ((6,), 3)])
def test_load_and_visits_of_the_busiest_are_those_counted(shape, seed):
    random = np.random.default_rng(seed)
    made = layout(24, shape)
    trace = Trace(drawn(random, 300, 2, 24, 4).astype(np.uint8), 24)
    rank_of = np.stack([random.permutation(made.contiguous) for _ in range(2)])
    load, rank, node = [], [], []
    node_of = [place for place, count in enumerate(shape) for _ in range(count)]
    for layer in range(2):
        rows, visits, nodes = np.zeros(made.ranks), np.zeros(made.ranks), np.zeros(len(shape))
        for token in trace.experts[:, layer]:
            to = [int(rank_of[layer][expert]) for expert in token]
            for each in to:
                rows[each] += 1
            for each in set(to):
                visits[each] += 1
            for each in {node_of[rank] for rank in to}:
                nodes[each] += 1
        load.append(rows.max() / rows.mean())
        rank.append(visits.max() / 300)
        node.append(nodes.max() / 300)
    assert _busiest(rank_of, trace, made) == pytest.approx((np.mean(load), np.mean(rank), np.mean(node)))


def test_copies_take_their_turns_in_what_is_counted():
    """One expert on both ranks and chosen by every token: half of its rows each."""
    made = layout(2, (1, 1), replicas=2, split="even")
    trace = Trace(np.zeros((100, 1, 1), np.uint8), 2)
    hosts = [((0, 1), (0, 1))]
    assert _busiest(hosts, trace, made) == pytest.approx((1.0, 0.5, 0.5))


def test_a_placement_is_chosen_by_tokens_that_it_was_not_fitted_to(larger: Trace):
    group = Group(8, 4, 0, "nodes")
    fit, held = larger.split()
    found = fitted(fit, held, group, PRICES, 1)
    plain = layout(64, (4, 4))
    before = measure(np.stack([plain.contiguous] * 4), held, plain, PRICES, 4096)
    placed = place(fit, num_experts=64, ranks_per_node=(4, 4), prices=PRICES, window=4096, split="even")
    after = measure(placed.rank_of, held, plain, PRICES, 4096)
    assert found.contiguous.time_s.sum() == pytest.approx(before.time_s.sum())
    assert found.placed.time_s.sum() == pytest.approx(min(before.time_s.sum(), after.time_s.sum()))
    assert (found.placement is None) == bool(after.time_s.sum() >= before.time_s.sum())


def test_nothing_is_placed_where_nothing_is_gained():
    """Each half has pairs of its own: what is fitted to one does not serve the other."""
    tokens = np.arange(2048) % 4
    first = np.stack([tokens, tokens + 4], 1)
    second = np.stack([tokens, (tokens + 1) % 4 + 4], 1)
    fit, held = (Trace(each[:, None, :].astype(np.uint8), 8) for each in (first, second))
    found = fitted(fit, held, Group(4, 2, 0, "nodes"), PRICES, 1)
    assert found.placed.time_s.sum() <= found.contiguous.time_s.sum()


def test_groups_that_do_not_fill_ranks_stay_where_they_are():
    """24 experts in 2 groups on 6 ranks of 4: half a group a node of 3 ranks would do, 8 ranks of 3 do not."""
    trace = Trace(drawn(np.random.default_rng(0), 200, 1, 24, 4).astype(np.uint8), 24)
    assert fitted(trace, trace, Group(3, 1, 0, "ranks"), PRICES, 2).placement is None


def test_copies_fill_every_slot_and_stand_on_different_ranks():
    """An expert that every token chooses, of which `place` itself leaves a slot empty in some layers."""
    trace = generate(600, 4, 64, 8, seed=3)
    hot = trace.experts.copy()
    hot[:, :, 0] = np.where((hot[:, :, 1:] == 0).any(2), hot[:, :, 0], 0)
    half = Trace(hot, 64)
    found = fitted(half, half, Group(16, 8, 32, "ranks"), PRICES, 1)
    assert found.placement.permutation.shape == (4, 96)
    for layer in found.placement.permutation:
        assert set(layer.tolist()) == set(range(64))
        assert all(len(set(rank)) == 6 for rank in layer.reshape(16, 6).tolist())


def test_a_group_is_known_once(small: Trace):
    routing, group = Routing.of(small, "small"), Group(4, 2, 0, "ranks")
    assert routing.sampled(group, PRICES) is routing.sampled(group, PRICES)
    assert routing.by == "by prompt"
    assert routing.tokens == small.tokens
    assert Routing.of(Trace(small.experts, 12), "timed").by == "by time"


def test_the_sample_of_a_long_trace_is_of_some_layers_and_the_whole_of_all():
    long = generate(2000, 6, 12, 3, seed=2)
    routing, group = Routing.of(long, "long"), Group(2, 2, 0, "ranks")
    assert len(routing.sampled(group, PRICES).placed.time_s) == 4
    assert len(routing.whole(group, PRICES).placed.time_s) == 6


@pytest.mark.parametrize(("size", "domains", "per_node"), [(8, 2, 4), (8, 8, 1), (8, 1, 8), (6, 4, 1)])
def test_ranks_of_a_node(size, domains, per_node):
    assert Group.of(GroupPaths(size, domains, None, None), 0, "ranks").per_node == per_node
