"""Attention whose heads share the sequence out: its FLOPs are those of pairs that are seen, its price that of tiles."""

from __future__ import annotations

from dataclasses import replace

import pytest

from meshwright.clusters import load_cluster
from meshwright.errors import InputError
from meshwright.kernels.facts.sparse import TILE
from meshwright.planner.attention import S2, attended, read_attention
from meshwright.planner.configuration import Configuration, Mesh
from meshwright.planner.cost.core import FLEXIBLE, FUSED_BACKWARD, core_s
from meshwright.planner.cost.setting import Setting
from meshwright.planner.cost.sharding import Sharding
from meshwright.planner.cost.step import price
from meshwright.planner.families import architecture, load_model
from meshwright.planner.job import Job, job_of_options
from meshwright.planner.legality import problems

LLAMA = architecture(load_model("llama-3.1-8b"))
ONE = Configuration(
    mesh=Mesh(dp=8), stage_layers=(32,), microbatch=1, microbatches=4, zero=1, recompute=("full",)
)  # fmt: skip


def setting(cluster: str = "dgx-h100:1", model=LLAMA, seq_len: int = 32768, **job) -> Setting:
    return Setting(model, load_cluster(cluster), Job(seq_len=seq_len, global_batch=32, **job))


def tiles(s2: S2, groups: int, heads: range, seq_len: int) -> int:
    """Of 128 x 128 with a pair that is seen, all of them looked at one by one."""
    found, step = 0, s2.block // TILE
    for head in heads:
        shard = head // (32 // groups)
        for row in range(seq_len // TILE):
            for column in range(row + 1):
                ours, theirs = row // step, column // step
                near, own = ours - theirs < s2.local_blocks, theirs % s2.stride == shard % s2.stride
                found += near or own
    return found


@pytest.mark.parametrize("block", [128, 256])
@pytest.mark.parametrize("tp", [1, 4])
def test_a_rank_computes_the_tiles_that_its_heads_see(block: int, tp: int) -> None:
    """Of eight groups of four heads; the busiest of the ranks that share them out."""
    s2, seq_len = S2(block=block, local_blocks=2, stride=4), 4096
    attention = attended(LLAMA, s2).layers[0].attention
    assert attention.shards is not None
    own = 32 // tp
    most = max(tiles(s2, 8, range(rank * own, (rank + 1) * own), seq_len) for rank in range(tp))
    rates = setting().rates
    forward, backward = (each for each in core_s(attention, Sharding(tp=tp), seq_len, replace(rates, launch_s=0.0)))
    seconds = 4 * 128 * most * TILE**2 / rates.attention_flops
    assert forward == pytest.approx(seconds / FLEXIBLE[0], rel=2e-2)  # of tiles on the diagonal the seen half and 64
    assert backward == pytest.approx(FUSED_BACKWARD * seconds / FLEXIBLE[1], rel=2e-2)


def test_model_flops_are_those_of_pairs_that_are_seen() -> None:
    s2, seq_len = S2(local_blocks=4, stride=4), 4096
    attention = attended(LLAMA, s2).layers[0].attention
    dense = LLAMA.layers[0].attention.score_flops(seq_len)
    seen = tiles(s2, 8, range(32), seq_len) * TILE**2 - 32 * seq_len // TILE * TILE * (TILE - 1) // 2
    assert attention.score_flops(seq_len) == 4 * 128 * seen < dense
    alternating = attended(LLAMA, S2(dense_every=2))
    assert [layer.attention.shards is None for layer in alternating.layers[:4]] == [True, False, True, False]
    assert attended(alternating, s2) is alternating


def test_a_long_sequence_takes_less_time_with_shards() -> None:
    dense, sharded = (price(setting(attention=kind), ONE) for kind in ("dense", "s2"))
    assert sharded.breakdown_s.compute < 0.8 * dense.breakdown_s.compute
    half = price(setting(attention="s2", s2=S2(dense_every=2)), ONE)
    assert sharded.step_time_s < half.step_time_s < dense.step_time_s
    assert price(setting(attention="s2", s2=S2()), ONE) == sharded


@pytest.mark.parametrize(
    ("job", "changed", "told"),
    [
        ({}, {"mesh": Mesh(dp=4, cp=2)}, "--pin cp = 2: heads share out whole sequences"),
        ({"kernels": "reference"}, {}, "kernels=reference: masks are written out"),
        ({"s2": S2(block=64)}, {}, "blocks of 64 are no tiles of 128"),
        ({"s2": S2(local_blocks=256)}, {}, "are all of a sequence of 32768"),
        ({"s2": S2(stride=9)}, {}, "stride=9 is more than the 8 key-value heads"),
        ({"s2": S2(dense_heads=8)}, {}, "dense_heads=8 of 8 leaves none sparse"),
        ({"s2": S2(dense_every=1)}, {}, "dense_every=1 makes every layer dense"),
    ],
)
def test_what_has_no_price_is_refused(job, changed, told: str) -> None:
    asked = setting(attention="s2", **job)
    assert any(told in str(problem) for problem in problems(asked, replace(ONE, **changed)))
    assert problems(setting(attention="s2"), ONE) == []


def test_models_with_windows_are_refused() -> None:
    gemma = setting(model=architecture(load_model("gemma-2-9b")), attention="s2")
    found = problems(gemma, replace(ONE, stage_layers=(42,)))
    assert any("windows of their own, or capped scores" in str(problem) for problem in found)


def test_attention_is_read_with_its_shards() -> None:
    assert read_attention("dense") == {"attention": "dense", "s2": None}
    assert read_attention("s2:stride=8,local_blocks=4") == {"attention": "s2", "s2": S2(stride=8, local_blocks=4)}
    job = job_of_options({"seq_len": 8, "global_batch": 8, "attention": "s2"})
    assert (job.sharded, job.stepped) == (S2(), "adamw, attention s2")
    for text, told in (
        ("sparse", "must be dense or s2"),
        ("dense:block=8", "no parameters"),
        ("s2:block=100", "example 128"),
    ):
        with pytest.raises(InputError) as caught:
            read_attention(text)
        assert told in str(caught.value)
