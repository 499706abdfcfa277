"""The bound: under everything that trying all placements finds, for several kinds of routing."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import combinations, product

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from meshwright.planner.experts import place
from meshwright.planner.experts.bound import layer_bound_s, least_visits, visits_hull
from meshwright.planner.experts.counts import counted
from meshwright.planner.experts.fractional_bound import fractional_visits
from meshwright.planner.experts.generator import generate
from meshwright.planner.experts.layout import Layout, layout
from meshwright.planner.experts.metrics import layer_metrics, visits_of
from meshwright.planner.experts.replicas import targets_of

from .conftest import drawn
from .test_place import WAYS, arrangements, optimum

KINDS = ("popular", "uniform", "generated", "clusters", "one token", "noisy clusters")


def routed(kind: str, seed: int, experts: int, top_k: int) -> np.ndarray:
    """[top_k, tokens] of one kind of routing."""
    random = np.random.default_rng(seed)
    tokens = 1 if kind == "one token" else int(random.integers(2, 80))
    if kind == "popular":
        return np.ascontiguousarray(drawn(random, tokens, 1, experts, top_k)[:, 0].T)
    if kind == "generated":
        return np.ascontiguousarray(generate(tokens, 1, experts, top_k, seed=seed).experts[:, 0].T)
    score = random.random((tokens, experts))
    if "clusters" in kind:
        family = random.permutation(np.arange(experts) % max(1, experts // top_k))
        chosen = family[None] == random.integers(0, max(1, experts // top_k), tokens)[:, None]
        score += chosen * (3.0 if kind == "clusters" else 0.7)
    return np.ascontiguousarray(np.argsort(-score, axis=1)[:, :top_k].T)


def fewest(choices: np.ndarray, sizes: tuple[int, ...]) -> float:
    """Parts that a token visits with the best of all partitions."""
    return min(float(visits_of(np.array(each), choices, len(sizes)).sum()) for each in arrangements(sizes))


@settings(deadline=None, max_examples=60)
@given(
    seed=st.integers(0, 10_000),
    kind=st.sampled_from(KINDS),
    shape=st.sampled_from([(2, 3, 2), (2, 4, 3), (3, 2, 3), (3, 2, 4), (2, 4, 5), (4, 2, 3), (2, 3, 6), (6, 1, 3)]),
)
def test_no_partition_visits_fewer_than_the_fractional_bound(seed: int, kind: str, shape: tuple[int, int, int]) -> None:
    parts, size, top_k = shape
    choices = routed(kind, seed, parts * size, top_k)
    hull = np.array(visits_hull(top_k, parts, size), float)
    found = fractional_visits(choices, parts * size, parts, hull)
    assert found <= fewest(choices, (size,) * parts) + 1e-9


def test_rounding_in_the_search_does_not_lift_the_bound() -> None:
    """Where the relaxation is exact, single precision once claimed a billionth more than there is."""
    choices = routed("clusters", 3, 8, 3)
    hull = np.array(visits_hull(3, 2, 4), float)
    assert fractional_visits(choices, 8, 2, hull) <= fewest(choices, (4, 4)) * (1 + 1e-12)


def with_copies(experts: int, made: Layout) -> Iterator[list[tuple[int, ...]]]:
    """Every way to fill all slots so that each expert has a rank, and at most one slot of each."""
    ranks = [each for many in range(1, made.ranks + 1) for each in combinations(range(made.ranks), many)]
    for hosts in product(ranks, repeat=experts):
        held = np.bincount([rank for each in hosts for rank in each], minlength=made.ranks)
        if (held <= np.asarray(made.slots)).all():
            yield list(hosts)


@settings(deadline=None, max_examples=12)
@given(
    seed=st.integers(0, 10_000),
    kind=st.sampled_from(KINDS),
    shape=st.sampled_from(
        [([1, 1], 4, 2, 2), ([1, 1], 5, 1, 3), ([1, 1], 5, 3, 2), ([1, 1, 1], 4, 2, 3), ([2, 1], 4, 2, 2)]
    ),
    dispatch=st.sampled_from(sorted(WAYS)),
    split=st.sampled_from(["nearest", "even"]),
)
def test_no_placement_with_replicas_is_under_the_bound(
    seed: int, kind: str, shape: tuple[list[int], int, int, int], dispatch: str, split: str
) -> None:
    ranks_per_node, experts, replicas, top_k = shape
    choices = routed(kind, seed, experts, top_k)
    made, prices = layout(experts, ranks_per_node, replicas, split=split), WAYS[dispatch]
    counts = counted(choices, experts, 4096)
    found = [layer_metrics(targets_of(each, choices, made), made, prices, 4096) for each in with_copies(experts, made)]
    for proof in ("quick", "thorough"):
        assert layer_bound_s(counts, made, prices, None, proof) <= min(each["time_s"] for each in found) * (1 + 1e-9)
    nodes = np.bincount(made.node_of_rank, np.asarray(made.slots)).astype(int)
    for proof in ("quick", "thorough"):
        least = least_visits(counts, nodes, replicas, None, proof)
        assert least <= min(each["distinct_nodes"] for each in found) + 1e-9


@settings(deadline=None, max_examples=25)
@given(
    seed=st.integers(0, 10_000),
    kind=st.sampled_from(KINDS),
    shape=st.sampled_from(
        [([1, 1], 6, 2), ([1, 1, 1], 6, 3), ([2, 1], 6, 4), ([2, 2], 8, 2), ([2], 6, 3), ([3], 6, 2)]
    ),
    dispatch=st.sampled_from(sorted(WAYS)),
)
def test_no_placement_is_under_the_thorough_bound(
    seed: int, kind: str, shape: tuple[list[int], int, int], dispatch: str
) -> None:
    ranks_per_node, experts, top_k = shape
    choices = routed(kind, seed, experts, top_k)
    made, prices = layout(experts, ranks_per_node), WAYS[dispatch]
    found = layer_bound_s(counted(choices, experts, 4096), made, prices, None, "thorough")
    assert found <= optimum(np.ascontiguousarray(choices.T), made, prices) * (1 + 1e-9)


def test_families_that_never_meet_are_proven_best() -> None:
    """Eight families of four experts on four nodes: a token visits one node, and no bound can say more or less."""
    random = np.random.default_rng(0)
    family = random.permutation(np.arange(32) % 8)
    members = np.stack([np.flatnonzero(family == each) for each in range(8)])
    choices = members[random.integers(0, 8, 4000)].T
    hull = np.array(visits_hull(4, 4, 8), float)
    assert fractional_visits(choices, 32, 4, hull) == pytest.approx(1.0, abs=0.02)


def test_a_thorough_proof_leaves_less_and_places_alike() -> None:
    trace = generate(8192, 1, 64, 6, seed=2)
    quick, thorough = (
        place(trace, num_experts=64, ranks_per_node=[4] * 4, proof=proof) for proof in ("quick", "thorough")
    )
    assert (quick.rank_of == thorough.rank_of).all()
    assert thorough.bound_s <= thorough.objective_s
    assert thorough.gap < 0.8 * quick.gap
