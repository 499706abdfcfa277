"""Replicas, other objectives, the front and migration."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest

from meshwright.errors import InputError
from meshwright.planner.experts import Trace, place
from meshwright.planner.experts.affinity import coherent, stays
from meshwright.planner.experts.baselines import eplb
from meshwright.planner.experts.front import front
from meshwright.planner.experts.layout import layout
from meshwright.planner.experts.metrics import layer_metrics
from meshwright.planner.experts.migration import migration, worthwhile
from meshwright.planner.experts.picture import save_trace_picture
from meshwright.planner.experts.place import measure
from meshwright.planner.experts.prices import Prices, Traffic, exchange_s, layer_time_s
from meshwright.planner.experts.replicas import targets_of


@pytest.fixture(scope="module")
def few(larger: Trace) -> Trace:
    return replace(larger, experts=larger.experts[:, :2])


def test_every_slot_is_filled_where_one_expert_has_most_of_the_load() -> None:
    """EPLB would give it three copies on two ranks: a slot without an expert."""
    trace = np.where(np.arange(1200) % 20 < 13, 0, np.arange(1200) % 8)[:, None, None]
    placed = place(trace, num_experts=8, ranks_per_node=[2], replicas=4)
    assert sum(map(len, eplb(np.bincount(trace.ravel(), minlength=8) / 1200, placed.layout))) < 12
    assert placed.permutation.shape == (1, 12)
    for held in placed.permutation.reshape(2, 6):
        assert len(set(held.tolist())) == 6


def test_replicas_beat_eplb_with_equal_slots(few: Trace) -> None:
    """No more load than its copies in turn have, and fewer copies between nodes, on the tokens they are made from."""
    placed = place(few, num_experts=64, ranks_per_node=[4, 4], replicas=16)
    made = placed.layout
    loads = [np.bincount(few.experts[:, layer].ravel(), minlength=64) for layer in range(2)]
    rival = measure([eplb(load, made) for load in loads], few, replace(made, split="even")).means()
    ours = placed.metrics.means()
    assert ours["imbalance"] <= rival["imbalance"] + 0.02
    assert ours["remote_nodes"] < 0.95 * rival["remote_nodes"]
    assert ours["time_s"] < rival["time_s"]


@pytest.mark.parametrize(("ranks_per_node", "replicas"), [([4, 4], 8), ([2, 2, 2, 2], 64), ([8], 16), ([4, 2], 2)])
def test_every_slot_is_used_once(few: Trace, ranks_per_node: list[int], replicas: int) -> None:
    placed = place(few, num_experts=64, ranks_per_node=ranks_per_node, replicas=replicas)
    ranks = sum(ranks_per_node)
    for layer in placed.rank_of:
        assert all(len(set(hosts)) == len(hosts) > 0 for hosts in layer)
        held = np.bincount([rank for hosts in layer for rank in hosts], minlength=ranks)
        assert held.max() <= (64 + replicas) // ranks
        assert held.sum() <= 64 + replicas


def test_a_token_takes_the_replica_on_a_node_that_it_visits() -> None:
    made = layout(4, [1, 1], replicas=2)
    hosts = [(0,), (0, 1), (1,), (0, 1)]
    choices = np.array([[0, 1], [1, 2], [1, 3], [3, 1]]).T
    nearest = targets_of(hosts, choices, made)
    assert nearest[:, 0].tolist() == [0, 0]
    assert nearest[:, 1].tolist() == [1, 1]
    in_turn = targets_of(hosts, choices, replace(made, split="even"))
    assert sorted(in_turn[0, 2:].tolist()) == [0, 1]


def test_metrics_against_a_loop(small: Trace) -> None:
    random = np.random.default_rng(0)
    made = layout(12, [2, 2])
    ranks = random.permutation(made.contiguous)
    found = layer_metrics(ranks[small.experts[:, 0].T], made, Prices(), 500)
    tokens = [[int(ranks[expert]) for expert in token] for token in small.experts[:, 0]]
    load = np.bincount([rank for token in tokens for rank in token], minlength=4)
    windows = [np.bincount(np.ravel(tokens[start : start + 500]), minlength=4) for start in (0, 500, 1000)]
    assert found["imbalance"] == pytest.approx(load.max() / load.mean())
    assert found["window_imbalance"] == pytest.approx(np.mean([each.max() / each.mean() for each in windows]))
    assert found["distinct_ranks"] == pytest.approx(np.mean([len(set(token)) for token in tokens]))
    assert found["distinct_nodes"] == pytest.approx(np.mean([len({rank // 2 for rank in token}) for token in tokens]))
    remote = np.mean(
        [np.mean([len({rank // 2 for rank in token} - {home // 2}) for home in range(4)]) for token in tokens]
    )
    assert found["remote_nodes"] == pytest.approx(remote)


def test_time_of_an_even_exchange_by_hand() -> None:
    """Every rank of 2 x 2 has 1 row a token; every token visits both nodes and all ranks."""
    made = layout(4, [2, 2])
    traffic = Traffic(np.ones(4), np.ones(4), np.ones(2))
    prices = Prices(expert_s=3.0, inner_s=1.0, outer_s=10.0, latency_s=7.0, tokens_per_rank=5)
    assert exchange_s(traffic, made, prices) == pytest.approx(10 * 0.5 / 2)  # half of all tokens, over two links
    assert exchange_s(traffic, made, replace(prices, outer_s=0.1)) == pytest.approx(0.5)  # half are on the rank already
    for dispatch in ("copies", "ranks"):
        assert exchange_s(traffic, made, replace(prices, dispatch=dispatch)) == pytest.approx(10 * 0.5)
    assert layer_time_s(traffic, made, prices) == pytest.approx(20 * (3.0 + 2.5) + 7.0)


@pytest.mark.parametrize("objective", ["exflow", "moetuner"])
def test_coherent_placements_keep_tokens_where_they_are(larger: Trace, objective: str) -> None:
    made = layout(64, [4, 4])
    ranks = coherent(larger, made, objective)
    assert [np.bincount(layer).tolist() for layer in ranks] == [[8] * 8] * 4
    contiguous = stays(larger, np.stack([made.contiguous] * 4), made)
    assert stays(larger, ranks, made)[0] > 1.1 * contiguous[0]
    assert stays(larger, ranks, made)[1] > 1.2 * contiguous[1]


def test_the_front_trades_traffic_for_load(larger: Trace) -> None:
    points = front(larger, num_experts=64, ranks_per_node=[4, 4])
    assert len(points) > 1
    for left, right in pairwise(points):
        assert left.remote_nodes <= right.remote_nodes
        assert left.imbalance > right.imbalance


def test_migration_by_hand() -> None:
    """Experts 0 and 3 change places over the network: each rank of them takes one in and gives one."""
    made = layout(4, [2, 2])
    old, new = [np.array([0, 1, 2, 3])], [np.array([3, 1, 2, 0])]
    costs = {"expert_bytes": 40e9, "outer_bytes_per_s": 10e9, "gain_s": 0.5}
    found = migration(old, new, made, steps_left=9, **costs)
    assert (found.moved, found.moved_bytes, found.seconds, found.pays_after) == (2, 80e9, 4.0, 8.0)
    assert worthwhile(old, new, made, steps_left=9, **costs)
    assert not worthwhile(old, new, made, steps_left=8, **costs)
    assert not worthwhile(old, old, made, steps_left=9, **{**costs, "gain_s": 0.0})
    with pytest.raises(InputError) as caught:
        migration(old, [], made, expert_bytes=0, gain_s=1.0, steps_left=-1)
    assert len(caught.value.problems) == 3


def test_pictures_are_equal_for_equal_traces(small: Trace, tmp_path: Path) -> None:
    for name in ("a.svg", "b.svg"):
        save_trace_picture(small, tmp_path / name, layer=1, window=400)
    assert (tmp_path / "a.svg").read_bytes() == (tmp_path / "b.svg").read_bytes()
    text = (tmp_path / "a.svg").read_text()
    assert text.startswith("<?xml")
    with pytest.raises(InputError, match="png or"):
        save_trace_picture(small, tmp_path / "c.gif")
