"""The fit prices many microbatches by a few: against the interpreter playing all of them."""

from __future__ import annotations

from dataclasses import replace

import pytest

from meshwright.planner.cost.step import step_s
from meshwright.planner.published.case import make_case
from meshwright.planner.published.fit import settled_step_s
from meshwright.planner.published.row import Row

ROW = Row(
    row_id="13b", source="", gpu="H100", framework="NeMo", model="llama2-13b", layers=40, hidden=5120, ffn_hidden=13824,
    heads=40, vocab=32000, mlp="swiglu", seq_len=4096, gpus=16, tp=1, pp=4, mbs=1, gbs=256, precision="bf16",
)  # fmt: skip


@pytest.mark.parametrize(("pp", "vpp", "gbs"), [(1, 1, 512), (4, 1, 256), (4, 1, 252), (4, 5, 256), (4, 10, 128)])
def test_a_settled_pipeline_adds_the_same_for_each_round(pp: int, vpp: int, gbs: int) -> None:
    case = make_case(replace(ROW, pp=pp, vpp=vpp, gbs=gbs))
    expected = step_s(case.setting, case.configuration)
    assert settled_step_s(case.setting, case.configuration) == pytest.approx(expected, rel=1e-9)


def test_few_microbatches_are_played() -> None:
    case = make_case(replace(ROW, gbs=32))
    assert settled_step_s(case.setting, case.configuration) == step_s(case.setting, case.configuration)
