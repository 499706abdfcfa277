"""The host's time to issue a stage: what CUDA graphs leave of it, and what waiting for token counts adds."""

from __future__ import annotations

from dataclasses import replace

import pytest

from meshwright.planner.cost.setting import Setting
from meshwright.planner.cost.stage import stage_times
from meshwright.planner.frameworks.framework import Costs, Experts, Framework, Graphs
from meshwright.planner.published.case import make_case
from meshwright.planner.published.row import Row

LAYERS = 4
ROW = Row(
    row_id="moe", source="", gpu="H100", framework="Megatron-Bridge", model="moe", layers=LAYERS, hidden=256,
    ffn_hidden=512, heads=4, kv_heads=4, vocab=1024, mlp="swiglu", experts=8, top_k=2, expert_ffn=128, dense_layers=1,
    seq_len=128, gpus=8, tp=1, pp=1, ep=8, mbs=1, gbs=8, precision="bf16",
)  # fmt: skip
HOST = Costs(host_layer_s=0.1, host_moe_s=0.2, host_microbatch_s=0.05)  # far above what the device takes


def forward_and_backward(graphs: Graphs, *, waits: bool = False, recompute: str = "") -> tuple[float, float]:
    case, experts = make_case(replace(ROW, recompute=recompute or ROW.recompute)), Experts(synchronises=waits)
    framework = Framework(name="host", title="", source="", costs=HOST, graphs=graphs, experts=experts)
    setting: Setting = replace(case.setting, framework=framework, _costs={})
    work = stage_times(setting, case.configuration)
    return work.forward_s[0], work.backward_s[0]


@pytest.mark.parametrize(("layer", "moe"), [(1.0, 1.0), (0.5, 1.0), (1.0, 0.5), (0.0, 0.0)])
def test_graphs_leave_a_share_of_each_part(layer: float, moe: float) -> None:
    """Four layers, three of them with experts."""
    expected = 4 * layer * 0.1 + 3 * moe * 0.2 + 0.05
    for seconds in forward_and_backward(Graphs(layer=layer, moe=moe)):
        assert seconds == pytest.approx(expected, rel=0.05)


def test_a_forward_that_waits_for_counts_adds_host_and_device() -> None:
    plain = forward_and_backward(Graphs())
    waits = forward_and_backward(Graphs(), waits=True)
    assert waits[0] - plain[0] == pytest.approx(3 * 0.2)
    assert waits[1] == plain[1]


def test_a_repeated_forward_waits_again() -> None:
    plain = forward_and_backward(Graphs(), recompute="full")
    waits = forward_and_backward(Graphs(), waits=True, recompute="full")
    assert [b - a for a, b in zip(plain, waits, strict=True)] == pytest.approx([3 * 0.2, 3 * 0.2])
