"""Degrees of gathering experts: the ends by hand, and where switching between steps pays and where not."""

from __future__ import annotations

from dataclasses import replace

import pytest

from meshwright.clusters.catalogue import load_cluster
from meshwright.planner.configuration import Configuration, Mesh
from meshwright.planner.cost.communication import all_gather_s, reduce_scatter_s
from meshwright.planner.cost.dispatch import Visits, balanced
from meshwright.planner.cost.exchange import experts_s
from meshwright.planner.cost.setting import Setting
from meshwright.planner.cost.sharding import sharding_of
from meshwright.planner.cost.switching import degree_s, gathered_load, switching
from meshwright.planner.families import architecture, load_model
from meshwright.planner.job import Job

PLAIN = Configuration(mesh=Mesh(dp=8, ep=8), stage_layers=(16,), microbatch=1, microbatches=1, dispatch="ranks")


def setting(seq_len: int = 4096) -> Setting:
    return Setting(
        architecture(load_model("olmoe-1b-7b")), load_cluster("dgx-h100:1"), Job(seq_len=seq_len, global_batch=8)
    )


def test_of_degree_one_tokens_go_to_experts():
    given, sharding = setting(), sharding_of(PLAIN)
    layer, groups = given.architecture.layers[0], given.groups(sharding)
    even = balanced(layer.moe, groups.ep)
    by_hand = experts_s(layer, sharding, 4096, given.rates, replace(groups, visits=Visits(1.5, even.rank, 1.0)), True)
    assert degree_s(given, PLAIN, layer, 1, 1.5) == pytest.approx(sum(by_hand))


def test_of_the_largest_degree_experts_go_to_tokens():
    given = setting()
    layer, group = given.architecture.layers[0], given.group(1, 8)
    alone = replace(sharding_of(PLAIN), ep=1, dispatch="copies")
    products = sum(experts_s(layer, alone, 4096, given.rates, given.groups(alone), True))
    held = layer.expert_parameters
    moved = 2 * all_gather_s(group, 2 * held) + reduce_scatter_s(group, 4 * held)
    assert degree_s(given, PLAIN, layer, 8, 1.0) == pytest.approx(products + moved)


def test_runs_of_ranks_share_their_rows():
    assert [gathered_load((2.0, 0.0, 1.5, 0.5), degree) for degree in (1, 2, 4)] == [2.0, 1.0, 1.0]


def test_switching_never_pays_for_balanced_or_real_loads():
    """0.29 is the largest deviation of loads over windows of DeepSeek-V2-Lite's real routing."""
    steps = [[1.0] * 8, [1.29, 0.71] * 4, [1.2, 1.2, 1.0, 1.0, 0.9, 0.9, 0.9, 0.9]]
    found = switching(setting(), PLAIN, steps)
    assert (found.degree, found.used, found.gain) == (1, (1,), 0.0)


def test_switching_pays_where_one_rank_has_nearly_all_rows_in_some_steps_and_many_tokens():
    heavy = [6.5, *[0.5 / 7] * 7]
    found = switching(setting(65536), PLAIN, [heavy, [1.0] * 8])
    assert len(found.used) > 1
    assert found.gain > 0.0
    assert found.switched_s < found.fixed_s
