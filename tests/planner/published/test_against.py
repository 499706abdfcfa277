"""Rows beside their predictions: what is judged, what is skipped and why, how far an interval reaches."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from meshwright.errors import InputError
from meshwright.planner.published.against import WIDER, _judged, compare, compare_row
from meshwright.planner.published.row import Row

SIZES = {"layers": 2, "hidden": 1024, "ffn_hidden": 4096, "heads": 8, "vocab": 32000, "seq_len": 2048, "mlp": "swiglu"}
LAYOUT = {"tp": 2, "pp": 1, "dp": 4, "gpus": 8, "gbs": 32, "mbs": 1, "zero_stage": 1, "sp": 1, "recompute": "none"}
NAMES = {"row_id": "R", "source": "S", "gpu": "H100-80GB", "framework": "nanotron", "year": 2025, "precision": "bf16"}
ROW: dict[str, Any] = {**SIZES, **LAYOUT, **NAMES, "layout_complete": "yes", "step_time_s": 0.5, "peak_mem_gb": 3.0}


def row(**changes: Any) -> Row:
    return Row(**{**ROW, **changes})


def test_a_complete_row_is_predicted() -> None:
    found = compare_row(row())
    assert (found.status, found.complete, found.assumptions, found.outcome) == ("predicted", True, (), "ran")
    assert found.predicted_step_time_s is not None
    assert found.interval_s is not None
    assert found.interval_s[0] < found.predicted_step_time_s < found.interval_s[1]
    assert found.error == pytest.approx(found.predicted_step_time_s / 0.5 - 1)
    assert found.predicted_peak_memory_gb is not None


def test_what_a_row_does_not_say_is_assumed_and_widens_its_interval() -> None:
    whole, part = compare_row(row()), compare_row(row(mbs=None))
    assert part.assumptions == ("microbatch of 1",)
    assert (whole.complete, part.complete) == (True, False)
    assert part.predicted_step_time_s == whole.predicted_step_time_s
    assert whole.interval_s
    assert part.interval_s
    middle = whole.predicted_step_time_s
    assert middle
    for known, wide in zip(whole.interval_s, part.interval_s, strict=True):
        assert wide / middle == pytest.approx((known / middle) ** WIDER)


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"gpu": "TPUv4"}, "not modelled: GPU TPUv4"),
        ({"train_mode": "lora"}, "not modelled: LoRA"),
        ({"gbs": None}, "not modelled: the batch is not stated"),
        ({"hidden": None}, "not modelled: the sizes of the model"),
        ({"dp": 3}, "not modelled: 6 ranks on 8 GPUs"),
        ({"attn": "hybrid mamba + attention"}, "not modelled: state-space"),
        ({"gpu": "V100-32GB", "precision": "bf16"}, "cannot be priced: "),
        ({"hidden": 4}, "not modelled: a hidden size of 4, less than 8 heads"),
        ({"hidden": 100, "heads": None}, "not modelled: a hidden size of 100, less than its heads"),
        ({"heads": 7}, "not modelled: 7 heads over tp 2"),
        ({"kv_heads": 3}, "not modelled: 8 heads on 3 key and value heads"),
        ({"experts": 8}, "not modelled: 8 experts of which a token visits an unknown number"),
        ({"experts": 8, "top_k": 9}, "not modelled: 9 of 8 experts"),
        ({"experts": 6, "top_k": 2, "ep": 4}, "not modelled: 6 experts over ep 4"),
        ({"ep": 4}, "not modelled: an unknown number of experts"),
        ({"ffn_hidden": None, "expert_ffn": 512}, "not modelled: an unknown number of experts"),
        ({"zero_stage": 4}, "not modelled: ZeRO 4"),
        ({"layers": 10**8}, "not modelled: more than 10,000 layers"),
        ({"gpus": 10**8, "dp": 10**8 // 2}, "not modelled: more than 1,000,000 GPUs"),
        ({"gbs": 10**8}, "not modelled: a step of 25,000,000 microbatches"),
    ],
)
def test_a_skipped_row_says_why_and_keeps_what_was_measured(changes: dict[str, Any], reason: str) -> None:
    found = compare_row(row(**changes))
    assert found.status == "skipped"
    assert found.reason.startswith(reason)
    assert (found.measured_step_time_s, found.predicted_step_time_s, found.interval_s) == (0.5, None, None)


def test_what_does_not_fit_says_what_is_short_and_is_timed_all_the_same() -> None:
    found = compare_row(row(mbs=8, seq_len=65536, gbs=32, oom="oom"))
    assert (found.status, found.outcome) == ("infeasible", "oom")
    assert "GiB" in found.reason
    assert found.predicted_step_time_s is not None


def test_outcomes() -> None:
    labels = ("", "no", "oom", "OOM", "yes", "crashed_or_oom", "would_not_fit_80GB")
    outcomes = [compare_row(row(oom=label)).outcome for label in labels]
    assert outcomes == ["ran", "ran", "oom", "oom", "oom", "crashed_or_oom", "crashed_or_oom"]


def test_what_was_measured_as_nothing_has_no_error() -> None:
    for found in (compare_row(row(step_time_s=None, derived_step_time_s=0.0)), compare_row(row(step_time_s=0.0))):
        assert (found.status, found.measured_step_time_s, found.error) == ("predicted", None, None)
    assert compare_row(row(peak_mem_gb=0.0)).memory_error is None


def test_a_batch_that_does_not_divide_is_priced_whole_and_said() -> None:
    found, whole = compare_row(row(gbs=30)), compare_row(row(gbs=32))
    assert found.assumptions == ("batch of 32 for 30, in whole microbatches of 1 on 4 replicas",)
    assert (found.complete, whole.complete) == (False, True)
    assert found.predicted_step_time_s == whole.predicted_step_time_s


def test_zero_under_a_pipeline_is_the_stage_that_is_legal_there() -> None:
    found, legal = (compare_row(row(pp=2, dp=2, zero_stage=stage)) for stage in (3, 1))
    assert "ZeRO 1 for 3, under a pipeline" in found.assumptions
    assert found.predicted_step_time_s == legal.predicted_step_time_s


def test_repetitions_and_contradictions_are_not_judged() -> None:
    rows = [
        row(dup_group="g"),
        row(dup_group="g"),
        row(),
        row(consistent="no"),
        row(dup_group="h"),
        row(consistent="yes"),
    ]
    found = _judged(rows, [compare_row(rows[0])] * len(rows))
    assert [each.judged for each in found] == [True, False, True, False, True, True]


def test_a_file_is_compared_in_its_order_whatever_works_on_it(tmp_path: Path) -> None:
    """More rows than one worker takes at once."""
    path, seen = tmp_path / "runs.csv", []
    names = list(ROW)
    lines = [
        ",".join(str({**ROW, "row_id": f"R{index}", "gbs": 8 * (1 + index % 3)}[name]) for name in names)
        for index in range(130)
    ]
    path.write_text("\n".join([",".join(names), *lines]) + "\n")
    alone = compare(path, 1, lambda done, total: seen.append((done, total)))
    assert seen == [(100, 130), (130, 130)]
    assert [each.row_id for each in alone] == [f"R{index}" for index in range(130)]
    assert compare(path, 2, lambda done, total: None) == alone


def test_a_file_that_cannot_be_read_is_the_users_error(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="--against"):
        compare(tmp_path / "none.csv", 1, lambda done, total: None)
