"""Reports of a run: metrics while it goes on, events, and the result at its end. Only rank 0 writes."""

from __future__ import annotations

import json
import os
from pathlib import Path
from statistics import mean
from typing import Any

import torch.distributed as dist

from ..clusters.topology import Topology
from ..kernels.switch import described
from ..planner.families import architecture
from ..planner.plan import Plan
from .blocks.shape import read_shape
from .checkpoint import Position, Restored
from .files import write_text
from .manifest import complete_checkpoints
from .metrics import MetricsLog, StepMetrics, append_event, measured_step_time
from .recipe import Recipe
from .run_folder import RunFolder
from .sampling import Table
from .watching import Watching

RECENT_STEPS = 20  # one batch says little about the loss; the mean of the last ones is what a run came to


class Report:
    """What one launch of a run has to say; every rank has one."""

    def __init__(self, run: RunFolder, plan: Plan, recipe: Recipe, restored: Restored):
        self._run, self._plan, self._recipe = run, plan, recipe
        self._writes = dist.get_rank() == 0
        self._flops_per_step = _flops(plan) - _saved_flops(plan, recipe)
        self._peak_flops = peak_flops(plan)
        self._times_s: list[float] = []
        self._unreported_s: list[float] = []
        self._last: StepMetrics | None = None
        self._peak_bytes = 0
        self._watching = Watching(plan)
        if self._writes:
            self._log = MetricsLog(run, restored.position.step)
            self._announce(restored)

    def _announce(self, restored: Restored) -> None:
        for what in restored.damaged:
            self._event("damaged", f"damaged checkpoint not used: {what}", file=what)
        if restored.left:
            self._event("left", f"not taken from the checkpoint: {restored.left}", what=restored.left)
        step, restarts = restored.position.step, int(os.environ.get("TORCHELASTIC_RESTART_COUNT", "0"))
        if restarts:
            self._event("restarted", f"the workers were started again ({restarts} times so far)", restarts=restarts)
        if step:
            self._event("resumed", f"resumed from step {step}", resumed_step=step)

    def step(
        self, position: Position, loss: float, grad_norm: float, lr: float, time_s: float, peak_bytes: int,
        expert_imbalance: float | None, last: bool,
    ) -> None:  # fmt: skip
        """Take note of a step; write it when it is one to log, or the last."""
        if not self._writes:
            return
        self._times_s.append(time_s)
        if (slow := self._watching.step(time_s, last)) is not None:
            self._event("slow", slow.pop("message"), step=position.step, **slow)
        self._unreported_s.append(time_s)
        self._peak_bytes = max(self._peak_bytes, peak_bytes)
        if is_logged(self._recipe, position.step, last):
            mean_s = sum(self._unreported_s) / len(self._unreported_s)
            self._unreported_s.clear()
            self._last = StepMetrics(
                step=position.step, loss=loss, lr=lr, grad_norm=grad_norm,
                tokens_per_s=self._plan.job.tokens_per_step / mean_s, step_time_s=mean_s, mfu=self._mfu(mean_s),
                predicted_step_time_s=self._plan.predicted.step_time_s, peak_memory_bytes=peak_bytes,
                sample_index=position.sample_index, expert_imbalance=expert_imbalance,
                predicted_peak_memory_bytes=predicted_peak_bytes(self._plan), **self._watching.newest(),
            )  # fmt: skip
            self._log.write(self._last)

    def sampled(self, table: Table) -> None:
        """Take note of what all ranks spent the newest step on; it is written with the next step to log."""
        self._watching.sampled(table)

    def conclude(self, position: Position, finished: bool) -> None:
        """Close the metrics and write result.json."""
        if not self._writes:
            return
        self._log.close()
        if not finished:
            self._event("stopped", f"stopped as asked after step {position.step}; the same command resumes")
        write_text(self._run.result, json.dumps(self._result(position, finished), indent=2) + "\n")

    def _result(self, position: Position, finished: bool) -> dict[str, Any]:
        losses = logged_losses(self._run.metrics)
        measured = measured_step_time(self._times_s)
        newest = complete_checkpoints(self._run.checkpoints)[:1]
        return {
            "status": "finished" if finished else "stopped",
            "steps": position.step,
            "first_loss": losses[0],
            "final_loss": losses[-1],
            "recent_loss": mean(losses[-RECENT_STEPS:]),
            "kernels": described(),
            "priced_kernels": self._plan.job.kernels,
            "measured_step_time_s": measured,
            "predicted_step_time_s": self._plan.predicted.step_time_s,
            "tokens_per_s": self._plan.job.tokens_per_step / measured if measured else None,
            "mfu": self._mfu(measured) if measured else None,
            "peak_memory_bytes": self._peak_bytes,
            "predicted_peak_memory_bytes": predicted_peak_bytes(self._plan),
            **self._watching.result(),
            "checkpoint": str(newest[0]) if newest else None,
            "export": str(self._run.final) if finished else None,
            "run": str(self._run.path),
        }

    def _mfu(self, step_time_s: float) -> float:
        return self._flops_per_step / (step_time_s * self._peak_flops)

    def _event(self, event: str, message: str, **details: Any) -> None:
        append_event(self._run.events, event, message=message, **details)


def _flops(plan: Plan) -> float:
    """Model FLOPs of a step; of drawn steps, where sequences differ in length."""
    if plan.job.lengths is None:
        return architecture(plan.model).training_flops(plan.job.seq_len) * plan.job.global_batch
    predicted = plan.predicted
    return predicted.model_tflops_per_device * 1e12 * plan.configuration.mesh.world * predicted.step_time_s


def _saved_flops(plan: Plan, recipe: Recipe) -> int:
    """What heads that see a shard each leave out of a step, beside dense attention."""
    if (sharded := recipe.sharded(plan)) is None:
        return 0
    shape = read_shape(plan.model.config)
    return sharded.saved_flops(shape, plan.job.seq_len) * plan.job.global_batch


def is_logged(recipe: Recipe, step: int, last: bool) -> bool:
    """Whether a step is written: the first, every `log_every`-th, and the last of a launch."""
    return last or step == 1 or step % recipe.log_every == 0


def predicted_peak_bytes(plan: Plan) -> int | None:
    """What a run's peak compares with: allocated bytes of the fullest rank on GPUs, all of its bytes on CPUs. None: the
    plan does not say what stands in memory."""
    on_cpu = plan.cluster.node_groups[0].device.kind == "cpu"
    return max((each.total if on_cpu else each.allocated for each in plan.predicted.memory), default=None)


def peak_flops(plan: Plan) -> float:
    """FLOP/s that the plan's devices promise together in the precision of the job."""
    used = Topology(plan.cluster, plan.rank_map).used(plan.configuration.mesh.world)
    return sum(count * group.device.peak_flops[plan.job.precision] for group, count in used)


def logged_losses(metrics: Path) -> list[float]:
    """The losses of metrics.jsonl in their order."""
    return [json.loads(line)["loss"] for line in metrics.read_text().splitlines()]
