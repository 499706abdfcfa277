"""Layers of a model as a profile has them: every sharding of two workers, bytes as the cost model counts them."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

sys.path.insert(0, str(Path(__file__).parent))
sys.path.insert(0, str(Path(__file__).parent.parent / "runtime"))

from harness import run_ranks
from layer_ranks import profiled, timed

from meshwright.clusters.local import cpu_cluster
from meshwright.clusters.schema import Cluster
from meshwright.planner.configuration import Configuration, Mesh
from meshwright.planner.cost.measured import sharding_sizes
from meshwright.planner.cost.setting import Setting
from meshwright.planner.cost.sharding import sharding_of
from meshwright.planner.families import ModelSpec, architecture
from meshwright.planner.job import Job
from meshwright.profiler.layer_shapes import configurations
from meshwright.profiler.model_layers import assemble
from meshwright.profiler.parts import Found

CONFIG: dict[str, Any] = {
    "architectures": ["LlamaForCausalLM"], "model_type": "llama", "hidden_size": 64, "intermediate_size": 128,
    "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2, "vocab_size": 128,
    "max_position_embeddings": 64, "rms_norm_eps": 1e-5, "rope_theta": 10000.0, "tie_word_embeddings": False,
}  # fmt: skip
MIXTURE: dict[str, Any] = {
    **CONFIG, "architectures": ["MixtralForCausalLM"], "model_type": "mixtral", "num_local_experts": 4,
    "num_experts_per_tok": 2, "sliding_window": None,
}  # fmt: skip
JOB = Job(seq_len=16, global_batch=2, precision="fp32")
ARCHITECTURE = architecture(ModelSpec(name="tiny", config=CONFIG))


@pytest.fixture(scope="module")
def results() -> list[dict[str, Any]]:
    return run_ranks(2, profiled, CONFIG, 1.0)


@pytest.fixture(scope="module")
def measured(results: list[dict[str, Any]]) -> Cluster:
    data = cpu_cluster(2).model_dump(mode="json", by_alias=True, exclude_none=True)
    assemble(data, Found([{"model layers": each} for each in results], [range(2)]))
    return Cluster.model_validate(data)


def test_the_shapes_are_those_of_legal_plans() -> None:
    """Two workers: alone, tp with and without sp, cp with each algorithm that needs no third rank."""
    found = [each for each in configurations(Setting(ARCHITECTURE, cpu_cluster(2), JOB)) if each.microbatch == 1]
    told = [sharding_sizes(sharding_of(each)) for each in found]
    assert told == [
        {}, {"tp": 2, "sp": True}, {"tp": 2}, {"cp": 2},
        *({"cp": 2, "cp_algorithm": name} for name in ("ulysses", "token-ring", "allgather")),
    ]  # fmt: skip


def test_the_shapes_of_experts_are_those_of_legal_plans() -> None:
    """The same, each also with its experts on two ranks, whole or cut; what is sent is sent in both ways."""
    model = architecture(ModelSpec(name="tiny", config=MIXTURE))
    found = [each for each in configurations(Setting(model, cpu_cluster(2), JOB)) if each.microbatch == 1]
    told = [sharding_sizes(sharding_of(each)) for each in found]
    spread = [{}, {"ep": 2}, {"ep": 2, "dispatch": "ranks"}, {"etp": 2}]
    assert told[0] == {}
    split = [{"tp": 2, "sp": True}, *({"cp": 2, "cp_algorithm": name} for name in ("ulysses", "allgather"))]
    assert all(each | more in told for each in ({}, *split) for more in spread)
    assert len(told) == len({tuple(sorted(each.items())) for each in told})


def test_experts_are_timed_where_ranks_share_them_out() -> None:
    """On four ranks, of which two hold the same experts or the same columns of them: as they are in a stage alone."""
    plain = Configuration(mesh=Mesh(dp=4), stage_layers=(2,), microbatch=1, microbatches=1, zero=0)
    meshes = Mesh(dp=4, ep=2), Mesh(dp=4, etp=2), Mesh(dp=2, tp=2, ep=4)
    found = run_ranks(4, timed, MIXTURE, [replace(plain, mesh=mesh, sp=mesh.tp > 1) for mesh in meshes])
    assert all(seconds > 0 for rank in found for kinds in rank for legs in kinds for seconds in legs.values())


def test_a_profile_of_layers_is_a_cluster_file(measured: Cluster) -> None:
    """Every row is read back; a budget of a second still measures the layer alone on its device; a plan finds it."""
    times = measured.node_groups[0].device.calibration.layers
    assert times is not None
    assert {row.zero for row in times.units} == {0, 1, 2, 3}
    assert set(times.pace) == set(times.wake_s) == {1, 2}
    assert times.tails
    setting = Setting(ARCHITECTURE, measured, JOB)
    row = next(row for row in times.layers if row.kind == "layer" and not row.sharding)
    alone = Configuration(mesh=Mesh(dp=2), stage_layers=(2,), microbatch=row.microbatch, microbatches=1, zero=0)
    assert setting.costs(alone).layers[0].forward_s == pytest.approx(row.forward_s)


def test_kept_bytes_are_those_of_the_formulas(measured: Cluster) -> None:
    """What autograd was seen to keep of a layer alone, beside what the cost model counts: small layers have vectors
    that it leaves out."""
    times = measured.node_groups[0].device.calibration.layers
    assert times is not None
    plain = Setting(ARCHITECTURE, cpu_cluster(2), JOB)
    row = next(row for row in times.layers if row.kind == "layer" and not row.sharding)
    asked = Configuration(mesh=Mesh(dp=2), stage_layers=(2,), microbatch=row.microbatch, microbatches=1, zero=0)
    block = plain.costs(asked).layers[0]
    assert row.kept_bytes == pytest.approx(block.kept_bytes("none"), rel=0.08)
    assert row.recompute_kept_bytes == pytest.approx(block.kept_bytes("full"))


def test_states_of_adamw_are_two_moments(results: list[dict[str, Any]]) -> None:
    """Eight bytes a parameter that the rank owns, sharded or not."""
    for tail in results[0]["tails"]:
        assert tail["state_bytes"] == 8 * tail["parameters"]
