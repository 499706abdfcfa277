"""What a run reports: one JSON object a logged step, and the same as TensorBoard events."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median
from typing import Any

from .files import write_text
from .run_folder import RunFolder

WARM_UP_STEPS = 5  # allocator, caches and kernels settle; the first steps say nothing about the rest


@dataclass(frozen=True, slots=True, kw_only=True)
class StepMetrics:
    """After `step` optimizer steps. Times and rates are means since the last report."""

    step: int
    loss: float
    lr: float
    grad_norm: float
    tokens_per_s: float
    step_time_s: float
    mfu: float
    predicted_step_time_s: float
    peak_memory_bytes: int  # of the busiest rank: allocated on CUDA, resident on CPU
    sample_index: int
    predicted_peak_memory_bytes: int | None = None
    components_s: dict[str, float] | None = None  # of the slowest rank, in the newest sampled step
    slowest_rank: int | None = None  # that computed longest in it
    expert_imbalance: float | None = None  # the most chosen expert's share over an even one, in the worst layer


class MetricsLog:
    """Writes metrics.jsonl and tensorboard/. Only one rank has one."""

    def __init__(self, folder: RunFolder, resumed_step: int):
        from tensorboardX import SummaryWriter

        drop_after(folder.metrics, resumed_step)
        self._file = folder.metrics.open("a", buffering=1)  # a line is on its way when it is written
        self._board = SummaryWriter(
            str(folder.tensorboard), purge_step=resumed_step + 1, flush_secs=5, filename_suffix=f".{resumed_step:08}"
        )

    def write(self, metrics: StepMetrics) -> None:
        values = {name: value for name, value in asdict(metrics).items() if value is not None}
        self._file.write(json.dumps(values) + "\n")
        for name, value in values.items():
            if isinstance(value, dict):
                for part, seconds in value.items():
                    self._board.add_scalar(f"{name}/{part}", seconds, metrics.step)
            elif name != "step":
                self._board.add_scalar(name, value, metrics.step)

    def close(self) -> None:
        self._file.close()
        self._board.close()


def append_event(path: Path, event: str, **details: Any) -> None:
    """Add one line to events.jsonl: what happened beside the steps."""
    with path.open("a") as file:
        file.write(json.dumps({"event": event, **details}) + "\n")


def drop_after(path: Path, step: int) -> None:
    """Forget what a crashed attempt reported after the step that the run resumes from."""
    if path.exists():
        lines = [line for line in path.read_text().splitlines() if line and _step_of(line) <= step]
        write_text(path, "".join(f"{line}\n" for line in lines))


def _step_of(line: str) -> float:
    try:
        return float(json.loads(line)["step"])
    except ValueError:  # half a line: the writer died in it
        return float("inf")


def measured_step_time(times_s: Sequence[float]) -> float | None:
    """Median without the first steps; of a very short run, of its later half. None: nothing was measured."""
    settled = times_s[min(WARM_UP_STEPS, len(times_s) // 2) :]
    return median(settled) if settled else None
