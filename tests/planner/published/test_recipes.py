"""What rows of Megatron-Bridge say of their recipes, against the recipes themselves (NVIDIA-NeMo/Megatron-Bridge)."""

from __future__ import annotations

from dataclasses import replace

import pytest

from meshwright.planner.frameworks.framework import framework
from meshwright.planner.published.case import make_case
from meshwright.planner.published.machine import row_cluster
from meshwright.planner.published.recipe import as_row_ran
from meshwright.planner.published.row import Row
from meshwright.planner.published.shape import row_architecture
from meshwright.planner.published.stages import stage_layers

BRIDGE = framework("megatron-bridge")
DENSE = Row(
    row_id="405b", source="", gpu="GB200", framework="Megatron-Bridge", model="llama3.1-405b", layers=126, hidden=16384,
    ffn_hidden=53248, heads=128, kv_heads=8, vocab=128256, mlp="swiglu", seq_len=8192, gpus=256, tp=4, pp=16, vpp=4,
    mbs=1, gbs=1536, precision="FP8",
)  # fmt: skip
DEEPSEEK = replace(
    DENSE, row_id="v3", model="deepseek-v3-671b", layers=61, hidden=7168, ffn_hidden=18432, kv_heads=128, attn="mla",
    experts=256, top_k=8, expert_ffn=2048, shared_ffn=2048, dense_layers=3, vocab=129280, seq_len=4096, tp=1, ep=64,
    pp=4, vpp=4, gbs=4096, precision="MXFP8", fw_version="NeMo container 26.02",
)  # fmt: skip


@pytest.mark.parametrize(
    ("stages", "expected"),
    [
        (4, (16, 16, 16, 14)),  # Et*16|t*16|t*16|t*13mL
        (8, (8,) * 7 + (6,)),  # Et*8|(t*8|)*6t*5mL
        (16, (4,) * 15 + (2,)),  # Et*4|(t*4|)*14tmL
    ],
)
def test_deepseek_v3_fills_its_stages_from_the_front(stages: int, expected: tuple[int, ...]) -> None:
    """Layouts of `set_deepseek_v3_pipeline_model_parallel_layout` and of the recipes' `pp_layout`; m is one layer."""
    assert stage_layers(BRIDGE, row_architecture(DEEPSEEK, []), stages) == expected


def test_embedding_and_loss_count_as_layers_where_that_divides() -> None:
    """Llama 3.1 405B: `account_for_embedding_in_pipeline_split` and its twin for the loss."""
    model = row_architecture(DENSE, [])
    assert stage_layers(BRIDGE, model, 128) == (0, *(1,) * 126, 0)
    assert stage_layers(BRIDGE, model, 64) == (1, *(2,) * 62, 1)
    assert stage_layers(BRIDGE, model, 2) == (63, 63)


def test_stages_without_layers_can_be_priced() -> None:
    case = make_case(replace(DENSE, vpp=8))
    assert case.configuration.stage_layers[0] == case.configuration.stage_layers[-1] == 0
    assert sum(case.configuration.stage_layers) == 126


def test_multi_token_prediction_is_a_layer_unless_a_row_says_so() -> None:
    with_it, without = row_architecture(DEEPSEEK, []), row_architecture(replace(DEEPSEEK, notes="w/o MTP"), [])
    assert (len(with_it.layers), with_it.further_tokens) == (62, 1)
    assert (len(without.layers), without.further_tokens) == (61, 0)
    assert with_it.layers[-1] == with_it.layers[-2]


@pytest.mark.parametrize(("gpus", "expected"), [(64, 64), (256, 64), (8, 8), (72, 72), (288, 72), (200, 40)])
def test_a_job_takes_equal_parts_of_each_rack(gpus: int, expected: int) -> None:
    """`--segment`: 256 GPUs are 64 trays of 4, of which 16 (64 GPUs) stand in each rack of 18; 200 are 5 times 10."""
    group = row_cluster(replace(DENSE, gpus=gpus), []).node_groups[0]
    assert group.fabric.domain_devices == expected


@pytest.mark.parametrize(
    ("features", "dispatch", "overlaps", "layer", "moe"),
    [
        ("recipe preset A: moe_flex_dispatcher_backend=hybridep", "distinct", False, 1.0, 1.0),
        ("recipe preset A: ", "copies", False, 1.0, 1.0),
        ("recipe preset A: cuda_graph_impl=full_iteration; moe_a2a_overlap=True", "copies", True, 0.0, 0.0),
        ("recipe preset A: cuda_graph_impl=transformer_engine; cuda_graph_scope=['attn', 'moe_router']; "
         "moe_flex_dispatcher_backend=deepep", "distinct", False, 0.5, 0.5),
        ("recipe preset A: cuda_graph_impl=none; cuda_graph_scope=full_iteration", "copies", False, 1.0, 1.0),
    ],
)  # fmt: skip
def test_features_say_how_experts_are_run(
    features: str, dispatch: str, overlaps: bool, layer: float, moe: float
) -> None:
    ran = as_row_ran(BRIDGE, replace(DEEPSEEK, features=features))
    assert (ran.experts.dispatch, ran.experts.overlaps) == (dispatch, overlaps)
    assert (ran.graphs.layer, ran.graphs.moe) == (layer, moe)


def test_fp4_matmuls_are_faster_than_fp8_ones() -> None:
    eight, four = (make_case(replace(DENSE, precision=each)).setting.rates for each in ("FP8", "NVFP4"))
    assert four.peak_flops == 2 * eight.peak_flops
    assert four.sixteen_bit == eight.sixteen_bit
