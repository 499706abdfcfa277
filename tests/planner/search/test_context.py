"""Which algorithms of context parallelism a search tries, and that leaving the others out loses nothing."""

from __future__ import annotations

from dataclasses import replace

import pytest

from meshwright.clusters.catalogue import load_cluster
from meshwright.planner.configuration import Mesh
from meshwright.planner.cost.setting import Setting
from meshwright.planner.cost.step import price
from meshwright.planner.families import architecture, load_model
from meshwright.planner.frameworks.framework import framework
from meshwright.planner.job import Job
from meshwright.planner.pins import Pins
from meshwright.planner.search.context import Choice, choices
from meshwright.planner.search.space import candidates


def setting(model: str = "llama-2-7b", nodes: int = 1, seq_len: int = 8192) -> Setting:
    job = Job(seq_len=seq_len, global_batch=8)
    return Setting(architecture(load_model(model)), load_cluster(f"dgx-h100:{nodes}"), job)


def tried(given: Setting, mesh: Mesh, **pins) -> list[Choice]:
    return choices(given, Pins(**pins), mesh, 1, sp=False)


def test_long_sequences_hide_a_ring():
    assert tried(setting("llama-3.1-8b", seq_len=131072), Mesh(cp=8)) == [Choice("ring")]


def test_short_ones_do_not():
    assert Choice("ulysses") in tried(setting(), Mesh(cp=8))


def test_a_mesh_that_is_too_large_is_left_to_the_rules():
    assert tried(setting(), Mesh(cp=16)) == [Choice("ring")]


def test_what_is_pinned_is_tried():
    for name in ("ring", "ulysses", "token-ring", "allgather"):
        assert tried(setting(), Mesh(cp=8), cp_algorithm=name) == [Choice(name)]
    assert {choice.cp_ulysses for choice in tried(setting(), Mesh(cp=8), cp_algorithm="usp")} <= {2, 4}
    assert tried(setting(), Mesh(cp=8), cp_ulysses=2) == [Choice("usp", 2)]
    assert tried(setting(), Mesh(cp=2), cp_algorithm="usp") == [Choice("usp", 2)]


def test_heads_limit_what_is_shared_out():
    few = setting("llama-3.2-1b", nodes=8)  # 32 heads
    assert Choice("ulysses") not in choices(few, Pins(), Mesh(cp=8, tp=8), 1, sp=True)


def test_more_ranks_than_tokens_are_planned():
    """3 tokens over 8 ranks are padded to 16: the space has chunks for the logits of each rank."""
    found = candidates(setting(seq_len=3), Pins(cp=8))
    assert {each.logits_chunks for each in found} == {1}


def test_other_frameworks_have_rings_alone():
    given = replace(setting(), framework=framework("megatron-core"))
    assert tried(given, Mesh(cp=8)) == [Choice("ring")]


@pytest.mark.parametrize(("nodes", "seq_len"), [(1, 8192), (1, 32768), (2, 8192), (2, 65536)])
def test_no_algorithm_that_was_left_out_is_faster(nodes: int, seq_len: int):
    given = setting(nodes=nodes, seq_len=seq_len)
    pins = Pins(cp=8 * nodes, tp=1, pp=1, microbatch=1, zero=3, recompute="full")
    best = min(price(given, each).step_time_s for each in candidates(given, pins))
    everything = [Choice(name) for name in ("ring", "ulysses", "token-ring", "allgather")]
    everything += [Choice("usp", n) for n in (2, 4, 8) if n < 8 * nodes]
    base = next(iter(candidates(given, pins)))
    for choice in everything:
        assert price(given, replace(base, **choice._asdict())).step_time_s >= best
