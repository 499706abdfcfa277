"""What a row is priced as: every assumption, every trait that a row states, every reason to skip it."""

from __future__ import annotations

from typing import Any

import pytest

from meshwright.planner.cost.communication import all_reduce_s
from meshwright.planner.cost.step import step_s, work_of
from meshwright.planner.published.case import Case, make_case
from meshwright.planner.published.row import Row
from meshwright.planner.published.shape import NotModelledError

GPT: dict[str, Any] = {
    "framework": "Megatron-LM",
    "year": 2021,
    "model": "gpt",
    "layers": 24,
    "hidden": 2048,
    "ffn_hidden": 8192,
    "heads": 16,
    "vocab": 51200,
    "mlp": "gelu",
    "seq_len": 2048,
    "gpu": "A100-80GB",
    "gpus": 8,
    "gpus_per_node": 8,
    "precision": "fp16 mixed",
    "tp": 1,
    "pp": 1,
    "dp": 8,
    "sp": 0,
    "zero_stage": 0,
    "recompute": "full",
    "mbs": 4,
    "gbs": 32,
    "layout_complete": "yes",
}


def case(**changes: Any) -> Case:
    """Of a run of 2021 on one node, complete as it stands."""
    return make_case(Row(row_id="r", source="s", **(GPT | changes)))


def test_a_complete_row_is_priced_as_it_stands():
    found = case()
    assert found.complete
    assert found.assumptions == ()
    assert found.configuration.recompute == ("full",)
    assert (found.configuration.microbatch, found.configuration.microbatches) == (4, 1)


ASSUMED = {
    "feed-forward width of 4 x hidden": {"ffn_hidden": None},
    "sequence length of 1024": {"seq_len": None, "model": "gpt2-8B"},
    "recompute: full": {"recompute": ""},
    "recompute: none": {"recompute": "", "framework": "Megatron-Core", "year": 2024},
    "microbatch of 4, without a pipeline": {"mbs": None},
    "microbatch of 1": {"mbs": None, "framework": "NeMo", "year": 2024},
    "tp 8, pp 2 of a model-parallel size of 16": {"tp": None, "pp": None, "gpus": 32, "dp": 2, "gbs": 8},
    "the network of dgx-a100-80g": {"gpus": 16, "dp": 16, "gbs": 64},
}


@pytest.mark.parametrize(("note", "changes"), ASSUMED.items())
def test_what_is_assumed_is_said_and_leaves_the_row_incomplete(note, changes):
    found = case(**changes)
    assert note in found.assumptions
    assert not found.complete


def test_a_family_vocabulary_is_padded_as_published():
    found = case(vocab=None, model="qwen-1.8b", mlp="swiglu")
    assert found.setting.architecture.vocab == 151936
    assert "vocabulary of 151936" in found.assumptions


def test_the_width_is_megatrons_default():
    assert case(ffn_hidden=None).setting.architecture == case().setting.architecture


def test_what_is_assumed_of_megatrons_early_tables():
    """Their model-parallel size is the product; a replica without a pipeline computes its batch at once, up to 16."""
    found = case(tp=None, pp=None, gpus=32, dp=2, gbs=8).configuration
    assert (found.mesh.tp, found.mesh.pp, found.microbatch) == (8, 2, 4)
    assert case(mbs=None, gbs=8 * 64).configuration.microbatch == 16
    with pytest.raises(NotModelledError, match="the parallel layout is not stated"):
        case(tp=None, pp=None, framework="NeMo", year=2023)


def test_attention_is_fused_from_2023_on_or_where_the_row_says_so():
    def scores(**changes: Any) -> bool:
        return case(**changes).setting.framework.keeps.scores

    assert scores()
    assert not scores(features="flash attention")
    assert not scores(framework="DeepSpeed + HF", year=2024)
    assert scores(framework="DeepSpeed + HF", year=2021)
    assert scores(framework="DeepSpeed + HF", year=2024, features="NO flash attention, ALiBi")


def test_a_run_without_fused_attention_takes_longer():
    one, other = case(), case(features="flash attention 2")
    assert step_s(one.setting, one.configuration) > 1.1 * step_s(other.setting, other.configuration)


def test_more_replicas_than_devices_leave_nothing_to_assume():
    with pytest.raises(NotModelledError, match="the parallel layout is not stated"):
        case(tp=None, pp=None, dp=16)


def test_offload_is_read_from_the_features():
    assert case(features="full CPU offload").configuration.offload == 1
    assert case(features="opt offload=Y, param offload=N").configuration.offload == 1
    assert case(features="opt offload=N, param offload=N").configuration.offload == 0


def test_pax_fuses_attention_with_transformer_engine_alone():
    pax = {"framework": "Paxml (JAX)", "year": 2024, "recompute": ""}
    assert case(**pax, precision="bf16").setting.framework.keeps.scores
    assert not case(**pax, precision="bf16 (TE)").setting.framework.keeps.scores
    assert case(**pax).configuration.recompute == ("full",)
    assert case(**pax | {"mlp": "swiglu"}).configuration.recompute == ("selective",)  # LLaMA


GENERATIONS = {
    ("Megatron-LM", 2022): "megatron-lm",
    ("Megatron-LM", 2023): "megatron-core",
    ("Megatron-LM + DeepSpeed", 2021): "megatron-deepspeed-2021",
    ("Megatron-DeepSpeed", 2024): "megatron-deepspeed",
    ("HF Trainer + DeepSpeed", 2021): "deepspeed-2021",
    ("DeepSpeed 0.11 + HF", 2024): "deepspeed",
    ("PaddleNLP", 2024): "paddle",
    ("MaxText (JAX)", 2025): "jax",
    ("", None): "megatron-core",
}


@pytest.mark.parametrize(("stated", "name"), GENERATIONS.items())
def test_generations_go_by_name_and_year(stated, name):
    text, year = stated
    assert case(framework=text, year=year).setting.framework.name == name


def test_tensor_parallelism_over_two_nodes_was_one_flat_ring():
    """NCCL's ring through all sixteen members: 15/16 of the data leave a node twice, where trees need half of it."""
    tp = {"tp": 16, "dp": 1, "gpus": 16, "gpu": "V100-16GB", "interconnect": "IB EDR 100 Gb/s per node"}
    path = case(**tp).setting.group(1, 16)
    nics = case(**tp).setting.cluster.node_groups[0].nics
    assert nics is not None
    node_bytes_per_s = nics.rate_bytes_per_s * nics.efficiency
    data = 1e9
    assert all_reduce_s(path, data) == pytest.approx(2 * 15 / 16 * data / node_bytes_per_s, rel=0.001)
    assert case(**tp | {"year": 2024, "precision": "fp16"}).setting.group(1, 16).inner is not None


def test_deepspeed_of_2021_waits_for_its_shards():
    """ZeRO 3 with one layer at a time: gathered before a forward and a backward, reduced after, nothing beside it."""
    zero3 = {"framework": "Megatron-LM + DeepSpeed", "zero_stage": 3, "recompute": "none"}
    found = case(**zero3)
    work = work_of(found.setting, found.configuration)
    assert not work.hides
    computed = work.forward_s[0] + work.backward_s[0]
    moved = 2 * work.gather_s[0] + work.reduce_s[0]
    whole = step_s(found.setting, found.configuration)
    assert whole == pytest.approx(computed + moved + work.optimizer_s[0], rel=1e-9)
    assert work_of(case(**zero3 | {"year": 2024}).setting, found.configuration).hides


def test_tf32_is_fp32_with_products_at_that_rate():
    plain = case(precision="fp32").setting.device.peak_flops
    tf32 = case(precision="fp32 (tf32)").setting
    assert tf32.job.precision == "fp32"
    assert tf32.device.peak_flops["fp32"] == plain["tf32"] == 156e12
    assert case(precision="fp32 (tf32)", year=2024).setting.framework.keeps.scores  # FlashAttention is for 16 bits


MACHINES = {
    "dgx-1-v100": {"gpu": "V100-16GB"},
    "dgx-2h-v100": {"gpu": "V100-32GB"},
    "jean-zay-v100": {"gpu": "V100-16GB", "gpus_per_node": 4},
    "dgx-a800": {"gpu": "A800"},
}


@pytest.mark.parametrize(("name", "changes"), MACHINES.items())
def test_machines(name, changes):
    setting = case(**changes).setting
    assert setting.cluster.name == name
    if "16GB" in changes["gpu"]:
        assert setting.device.name == "v100-sxm-16gb"


def test_a_benchmark_of_the_same_authors_has_their_network():
    """LiBai's page names none; DLPerf's nodes have one card of 100 Gbit/s for their eight devices."""
    rows = GPT | {"gpu": "V100", "gpus": 16, "dp": 16, "gbs": 64, "framework": "LiBai"}
    found = make_case(Row(row_id="r", source="Oneflow-Inc/libai benchmark", **rows))
    nics = found.setting.cluster.node_groups[0].nics
    assert nics is not None
    assert (nics.count, nics.rate_bytes_per_s) == (1, 12.5e9)
    assert found.setting.framework.name == "oneflow"


def test_experts_are_split_like_the_rest_where_they_are_not_spread():
    """Megatron-Core's expert-tensor-parallel size is the tensor-parallel one by default."""
    moe = {"experts": 8, "top_k": 2, "expert_ffn": 8192, "tp": 4, "dp": 2, "year": 2024, "ep": 1}
    assert case(**moe).configuration.mesh.etp == 4
    assert case(**moe | {"ep": 2}).configuration.mesh.etp == 1


def test_layers_that_moved_away_from_the_head():
    """A head of 256,000 words over 2,048 is some ten layers: the last stage keeps none but the one it must have."""
    big = {"vocab": 256000, "pp": 4, "dp": 2, "framework": "Megatron-LM fork", "year": 2024}
    assert case(schedule="1f1b + baseline", **big).configuration.stage_layers == (6, 6, 6, 6)
    moved = case(schedule="1f1b + redis", **big).configuration.stage_layers
    assert sum(moved) == 24
    assert moved[-1] == 1


SKIPPED = {
    "a vocabulary that is spread over the pipeline": {"schedule": "1f1b + vocab-2"},
    "the sizes of the model are not stated": {"layers": None},
    "the sequence length is not stated": {"seq_len": None},
    "the batch is not stated": {"gbs": None},
    "the parallel layout is not stated": {"tp": None},
    "GPU T4": {"gpu": "T4"},
    "the number of GPUs is not stated": {"gpus": None},
    "LoRA": {"train_mode": "lora"},
    "32 pipeline stages of 24 layers": {"pp": 32, "gpus": 256},
    "16 ranks on 8 GPUs": {"tp": 2},
}


@pytest.mark.parametrize(("reason", "changes"), SKIPPED.items())
def test_reasons_to_skip(reason, changes):
    with pytest.raises(NotModelledError, match=reason):
        case(**changes)


def test_megatron_of_2021_reduces_fp16_gradients_after_the_backward():
    """Its own DistributedDataParallel: two bytes a parameter, twice over a ring of eight, nothing beside it."""
    found = case()
    work = work_of(found.setting, found.configuration)
    fabric = found.setting.cluster.node_groups[0].fabric
    moved = 2 * 7 / 8 * 2 * found.setting.architecture.parameters
    latency_s = 24 * 2 * 7 * fabric.latency_s  # layer by layer
    seconds = moved / (fabric.bandwidth_bytes_per_s * fabric.efficiency) + latency_s
    assert work.reduce_s == ()
    assert work.late_reduce_s == pytest.approx((seconds * found.setting.execution.network,), rel=0.01)


def test_a_framework_that_is_not_known_is_assumed_and_said():
    for unknown in ("", "our own"):
        found = case(framework=unknown)
        assert found.setting.framework.name == "megatron-core"
        assert "the framework megatron-core" in found.assumptions
        assert not found.complete
