"""Placement: valid, in its limits, no worse than the others, and never better than its bound."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import permutations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from meshwright.errors import InputError
from meshwright.planner.experts import Trace, place
from meshwright.planner.experts.baselines import by_load, eplb, random
from meshwright.planner.experts.bound import layer_bound_s, least_visits, most_inside
from meshwright.planner.experts.counts import counted
from meshwright.planner.experts.group_bound import least_between_nodes
from meshwright.planner.experts.layout import Layout, layout
from meshwright.planner.experts.metrics import layer_metrics, traffic_of
from meshwright.planner.experts.place import measure
from meshwright.planner.experts.prices import Prices, between_nodes_s
from meshwright.planner.experts.swaps import improved

from .conftest import drawn

WAYS = {
    "copies": Prices(dispatch="copies"),
    "ranks": Prices(dispatch="ranks"),
    "nodes": Prices(dispatch="nodes"),
    "nodes in turn": Prices(dispatch="nodes", turns=True),
}


def every_placement(made: Layout) -> Iterator[np.ndarray]:
    """Ranks [experts] of every way to fill the slots."""
    return (np.array(each) for each in arrangements(made.slots))


def arrangements(sizes: tuple[int, ...]) -> Iterator[tuple[int, ...]]:
    """Every order of so many zeros, ones, twos ..."""
    if not any(sizes):
        yield ()
    for part, left in enumerate(sizes):
        if left:
            yield from ((part, *rest) for rest in arrangements((*sizes[:part], left - 1, *sizes[part + 1 :])))


def optimum(choices: np.ndarray, made: Layout, prices: Prices) -> float:
    """Least predicted seconds of a layer's [tokens, top_k] choices, by trying everything."""
    return min(layer_metrics(ranks[choices.T], made, prices, 4096)["time_s"] for ranks in every_placement(made))


@pytest.mark.parametrize("dispatch", WAYS)
@pytest.mark.parametrize("ranks_per_node", [[2, 2], [1, 1], [3], [2, 1]])
def test_few_experts_are_placed_best_and_the_proof_says_so(dispatch: str, ranks_per_node: list[int]) -> None:
    prices = WAYS[dispatch]
    ranks = sum(ranks_per_node)
    experts = {2: 6, 3: 6, 4: 8}[ranks]
    choices = drawn(np.random.default_rng(3), 400, 2, experts, 3)
    placed = place(choices, num_experts=experts, ranks_per_node=ranks_per_node, prices=prices, max_imbalance=9.0)
    best = [optimum(choices[:, layer], placed.layout, prices) for layer in range(2)]
    assert placed.bound_s <= sum(best) * (1 + 1e-9)
    assert sum(best) <= placed.objective_s * (1 + 1e-9)
    assert placed.objective_s <= sum(best) * (1 + 1e-9)
    assert placed.gap < 1e-9


@settings(deadline=None, max_examples=25)
@given(
    seed=st.integers(0, 10_000),
    shape=st.sampled_from([([1, 1], 6, 2), ([1, 1, 1], 6, 3), ([2, 1], 6, 4), ([2, 2], 8, 2), ([1, 1, 1], 6, 2)]),
    dispatch=st.sampled_from(sorted(WAYS)),
)
def test_no_placement_is_under_the_bound(seed: int, shape: tuple[list[int], int, int], dispatch: str) -> None:
    ranks_per_node, experts, top_k = shape
    random = np.random.default_rng(seed)
    choices = drawn(random, int(random.integers(1, 60)), 1, experts, top_k)[:, 0]
    made, prices = layout(experts, ranks_per_node), WAYS[dispatch]
    counts = counted(np.ascontiguousarray(choices.T), experts, 4096)
    assert layer_bound_s(counts, made, prices) <= optimum(choices, made, prices) * (1 + 1e-9)


@settings(deadline=None, max_examples=25)
@given(
    seed=st.integers(0, 10_000), sizes=st.sampled_from([(4, 4), (2, 2, 2), (5, 3), (3, 2, 2)]), steps=st.integers(1, 20)
)
def test_pairs_inside_never_exceed_the_eigenvalue_bound(seed: int, sizes: tuple[int, ...], steps: int) -> None:
    random = np.random.default_rng(seed)
    weights = random.random((sum(sizes), sum(sizes))) ** 3
    weights = np.triu(weights, 1) + np.triu(weights, 1).T
    most = max(weights[(each := np.array(order))[:, None] == each].sum() / 2 for order in arrangements(sizes))
    assert most <= most_inside(weights, np.array(sizes), steps=steps) * (1 + 1e-9)


def test_visits_of_tokens_that_fit_into_a_node() -> None:
    """Two families of experts that never meet: no token needs a second node, and the bound knows no better."""
    families = np.array([[0, 2, 4], [1, 3, 5]] * 50)
    counts = counted(np.ascontiguousarray(families.T), 6, 4096)
    assert least_visits(counts, np.array([3, 3])) == pytest.approx(1.0, abs=1e-6)
    placed = place(families[:, None], num_experts=6, ranks_per_node=[1, 1], max_imbalance=9.0)
    assert placed.metrics.distinct_nodes.tolist() == [1.0]
    assert placed.gap < 1e-6


def test_exchanges_are_of_the_best_value_and_keep_sizes() -> None:
    """The value that `improved` reports is that of its parts, and no exchange of two improves it."""
    random = np.random.default_rng(0)
    weights = random.random((12, 12)).astype(np.float32)
    weights = weights + weights.T
    begin = np.stack([random.permutation(np.repeat([0, 1, 2], 4)) for _ in range(5)])
    parts, value = improved(weights, begin, 3)
    for row, told in zip(parts, value, strict=True):
        assert np.bincount(row).tolist() == [4, 4, 4]
        inside = weights[row[:, None] == row[None, :]].sum()
        assert told == pytest.approx(inside, rel=1e-5)
        for first in range(12):
            for second in range(12):
                other = row.copy()
                other[first], other[second] = row[second], row[first]
                assert weights[other[:, None] == other[None, :]].sum() <= inside * 1.001


@pytest.mark.parametrize("ranks_per_node", [[4, 4], [4, 2, 2], [8], [1] * 8])
def test_every_rank_holds_its_share(larger: Trace, ranks_per_node: list[int]) -> None:
    placed = place(larger, num_experts=64, ranks_per_node=ranks_per_node)
    assert placed.rank_of.shape == (4, 64)
    for layer, row in zip(placed.rank_of, placed.permutation, strict=True):
        assert np.bincount(layer).tolist() == [8] * 8
        assert sorted(row) == list(range(64))
        assert layer[row].tolist() == sorted(layer.tolist())


def test_slots_are_kept(small: Trace) -> None:
    placed = place(small, num_experts=12, ranks_per_node=[2, 1], slots=[6, 4, 2])
    assert [np.bincount(layer).tolist() for layer in placed.rank_of] == [[6, 4, 2]] * 3


@pytest.mark.parametrize(
    ("ranks_per_node", "n_group"), [([4, 4], 8), ([4, 4], 4), ([4, 4], 2), ([4, 4], 16), ([1] * 4, 2)]
)
def test_groups_stay_whole(larger: Trace, ranks_per_node: list[int], n_group: int) -> None:
    """Slots in blocks of the size of a group hold one group each, so that the router finds its groups again."""
    placed = place(larger, num_experts=64, ranks_per_node=ranks_per_node, n_group=n_group)
    size = 64 // n_group
    for row in placed.permutation:
        ranks_hold_groups = np.array(row).reshape(-1, max(size, 64 // sum(ranks_per_node)))
        for block in ranks_hold_groups:
            found = np.unique(block // size, return_counts=True)[1]
            assert set(found.tolist()) == {size}


def test_what_it_saves_and_what_it_costs(larger: Trace) -> None:
    """On tokens of other prompts: fewer copies between nodes than all who do not look at them, and no more load."""
    fit, held = larger.split()
    made = layout(64, [4, 4])
    ours = measure(place(fit, num_experts=64, ranks_per_node=[4, 4]).rank_of, held, made).means()
    loads = [np.bincount(fit.experts[:, layer].ravel(), minlength=64) for layer in range(4)]
    others = {
        "contiguous": [made.contiguous] * 4,
        "random": [random(made, layer) for layer in range(4)],
        "by load": [by_load(load, made) for load in loads],
        "eplb": [eplb(load, made) for load in loads],
    }
    judged = {name: measure(ranks, held, made).means() for name, ranks in others.items()}
    assert all(ours["remote_nodes"] < 0.9 * each["remote_nodes"] for each in judged.values())
    assert all(ours["time_s"] < each["time_s"] for each in judged.values())
    assert ours["imbalance"] <= judged["contiguous"]["imbalance"]


def test_equal_input_equal_placement(larger: Trace) -> None:
    first, second = (place(larger, num_experts=64, ranks_per_node=[4, 4]) for _ in range(2))
    assert (first.rank_of == second.rank_of).all()
    assert first.bound_s == second.bound_s


def test_a_limit_of_load_is_kept_where_it_can_be(larger: Trace) -> None:
    tight = place(larger, num_experts=64, ranks_per_node=[4, 4], max_imbalance=1.12)
    assert tight.metrics.imbalance.max() <= 1.12


def test_an_array_and_a_trace_are_the_same(small: Trace) -> None:
    first = place(small, num_experts=12, ranks_per_node=[2, 2])
    second = place(small.experts.astype(np.int64), num_experts=12, ranks_per_node=[2, 2])
    assert (first.rank_of == second.rank_of).all()


@pytest.mark.parametrize(
    ("arguments", "field"),
    [
        ({"num_experts": 12, "ranks_per_node": [5]}, "replicas"),
        ({"num_experts": 12, "ranks_per_node": []}, "ranks_per_node"),
        ({"num_experts": 12, "ranks_per_node": [2, 0]}, "ranks_per_node"),
        ({"num_experts": 12, "ranks_per_node": [2], "n_group": 5}, "n_group"),
        ({"num_experts": 12, "ranks_per_node": [4], "n_group": 2, "replicas": 4}, "replicas"),
        ({"num_experts": 12, "ranks_per_node": [1, 1, 1], "n_group": 2}, "n_group"),
        ({"num_experts": 12, "ranks_per_node": [2], "replicas": -2}, "replicas"),
        ({"num_experts": 12, "ranks_per_node": [2], "slots": [6, 5]}, "slots"),
        ({"num_experts": 12, "ranks_per_node": [2], "slots": [12]}, "slots"),
        ({"num_experts": 12, "ranks_per_node": [2], "slots": [12, 0]}, "slots"),
        ({"num_experts": 12, "ranks_per_node": [2], "window": 0}, "window"),
        ({"num_experts": 12, "ranks_per_node": [2], "max_imbalance": 0.5}, "max_imbalance"),
        ({"num_experts": 12, "ranks_per_node": [2], "split": "best"}, "split"),
        ({"num_experts": 12, "ranks_per_node": [2], "proof": "best"}, "proof"),
        ({"num_experts": 8, "ranks_per_node": [2]}, "num_experts"),
    ],
)
def test_wrong_arguments(small: Trace, arguments: dict[str, object], field: str) -> None:
    with pytest.raises(InputError) as caught:
        place(small, **arguments)
    assert field in {problem.field for problem in caught.value.problems}


@pytest.mark.parametrize(
    "trace",
    [
        np.zeros((4, 3), int),
        np.zeros((4, 2, 2)),
        np.zeros((0, 2, 2), int),
        np.array([[[0, 6]]]),
        np.array([[[0, -1]]]),
        np.array([[[1, 1]]]),
        np.arange(7)[None, None],
    ],
)
def test_wrong_arrays(trace: np.ndarray) -> None:
    with pytest.raises(InputError):
        place(trace, num_experts=6, ranks_per_node=[2])


def test_all_wrong_ids_are_told_and_a_long_list_is_cut() -> None:
    trace = np.stack([np.arange(50) + 6, np.zeros(50, int)], 1)[:, None]
    with pytest.raises(InputError) as caught:
        place(trace, num_experts=6, ranks_per_node=[2])
    assert len(caught.value.problems) == 21
    assert "30 more" in str(caught.value)


@pytest.mark.parametrize("ranks_per_node", [[2, 2], [1, 1, 1, 1], [2, 1, 1]])
def test_the_bound_of_groups_is_what_trying_all_gives(ranks_per_node: list[int]) -> None:
    """Groups on nodes by every order of the groups: none visits fewer nodes, and some just as many."""
    choices = drawn(np.random.default_rng(2), 500, 1, 8, 3)[:, 0]
    made, prices = layout(8, ranks_per_node, n_group=4), Prices()
    counts = counted(np.ascontiguousarray(choices.T), 8, 4096)
    visits, seconds = least_between_nodes(counts, made, prices)
    tried = []
    for order in permutations(range(4)):
        ranks = np.empty(8, int)
        ranks[np.array([[2 * group, 2 * group + 1] for group in order]).ravel()] = made.contiguous
        targets = ranks[choices.T]
        traffic = traffic_of(targets, made.node_of_rank[targets], made)
        tried.append((traffic.nodes.sum(), between_nodes_s(traffic.nodes, made, prices)))
    assert visits == pytest.approx(min(each[0] for each in tried))
    assert seconds == pytest.approx(min(each[1] for each in tried))
    placed = place(choices[:, None], num_experts=8, ranks_per_node=ranks_per_node, n_group=4)
    assert placed.bound_s <= placed.objective_s
    if len(set(ranks_per_node)) == 1:
        assert placed.gap < 0.01


@pytest.mark.parametrize("layer", range(4))
def test_a_layer_by_itself_is_no_less_even_than_contiguous_and_saves_copies(larger: Trace, layer: int) -> None:
    """Contiguous placement is within its own limits; what saves copies is brought within them too, not given up."""
    alone = Trace(np.ascontiguousarray(larger.experts[:, layer : layer + 1]), 64, larger.prompt)
    placed = place(alone, num_experts=64, ranks_per_node=[4] * 4)
    contiguous = measure([placed.layout.contiguous], alone, placed.layout)
    assert placed.metrics.imbalance[0] <= contiguous.imbalance[0] + 1e-9
    assert placed.metrics.window_imbalance[0] <= contiguous.window_imbalance[0] + 1e-9
    assert placed.metrics.remote_nodes[0] < 0.9 * contiguous.remote_nodes[0]
