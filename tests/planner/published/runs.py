"""Comparisons as a test writes them: measured and predicted seconds, the rest by default."""

from __future__ import annotations

from typing import Any

from meshwright.planner.published.comparison import Comparison


def run(row_id: str, measured_s: float | None, predicted_s: float | None, **changes: Any) -> Comparison:
    """A complete, predicted row of source A on an H100, with an interval of 10 % to both sides."""
    fields: dict[str, Any] = {"source": "A", "gpu": "H100", "status": "predicted", "complete": True}
    if predicted_s is not None:
        fields["interval_s"] = (0.9 * predicted_s, 1.1 * predicted_s)
    fields |= {"measured_step_time_s": measured_s, "predicted_step_time_s": predicted_s} | changes
    return Comparison(row_id=row_id, **fields)


def table() -> tuple[Comparison, ...]:
    """Small enough to compute every figure of its summary by hand; beside each row its error."""
    return (
        run("a1", 10.0, 11.0, group="g"),  # +10 %
        run("a2", 8.0, 12.0, group="g"),  # +50 %, the best of its group
        run("a3", 20.0, 10.0, group="g", status="infeasible", reason="80 of 70 GiB"),  # -50 %, cannot be chosen
        run("b1", 4.0, 3.0, source="B", gpu="A100", complete=False, assumptions=("microbatch of 1",)),  # -25 %
        run("b2", 4.0, 4.0, source="B", gpu="A100", judged=False),  # repeats another: not counted
        run("b3", None, None, source="B", status="skipped", reason="LoRA", measured_peak_memory_gb=50.0),
        run("b4", 7.0, None, source="B", status="skipped", reason="LoRA"),
        run("b5", None, None, source="B", status="skipped", reason="the batch is not stated"),
        run("o1", None, 1.0, outcome="oom", status="infeasible"),
        run("o2", None, 1.0, outcome="oom", status="predicted"),
        run("o3", None, 1.0, outcome="crashed_or_oom", status="infeasible"),
        run("o4", None, 1.0, outcome="crashed_or_oom", status="predicted"),
        run("o5", None, 1.0, outcome="crashed_or_oom", status="predicted"),
        run("m1", None, 1.0, measured_peak_memory_gb=40.0, predicted_peak_memory_gb=41.0),  # +2.5 %
        run("m2", None, 1.0, source="B", measured_peak_memory_gb=50.0, predicted_peak_memory_gb=40.0),  # -20 %
    )
