"""Pipeline parallelism: PyTorch's pipeline runtime executes the action lists of `planner.schedule`.

Sends and receives stand where `planner/schedule/transfers.py` puts them; that they never lock is proven of each plan.
Sharded weights are gathered once a step, when it begins, and gradients reduced after the last backward of their stage.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import replace
from functools import partial
from itertools import count
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed.pipelining import PipelineStage

from ...planner.configuration import Configuration
from ...planner.schedule import Action, Schedule, build
from ...planner.schedule.rows import proven_rows
from ...planner.schedule.transfers import Step, Transfer
from .. import compat
from ..blocks.shape import Shape
from ..blocks.transformer import Transformer
from ..mesh import Meshes
from .batch import Batch
from .data import begin_step, end_step, reduce
from .spread.ends import Ends
from .spread.passes import Call, Vocabulary, calls
from .weight_gradient import PutOff


class Pipeline:
    """The stages of this rank and the schedule that all ranks follow."""

    def __init__(
        self,
        parts: dict[int, Transformer],
        configuration: Configuration,
        meshes: Meshes,
        activations: tuple[Tensor, Tensor, Tensor],
        device: torch.device,
        ends: Ends | None = None,
    ):
        """`parts` by virtual stage; `activations` as `activation_tensors` makes them; `ends` where these are spread
        over all ranks."""
        assert meshes.pp is not None
        schedule = _by_losses(build(configuration))
        self.parts, self.stages, self.last = tuple(parts.values()), tuple(parts), schedule.stages - 1
        self._forwards = {
            layer: [each.microbatch for each in _forwards(schedule, stage)]
            for stage in parts
            for layer in configuration.layer_range(stage)
        }
        tokens, hidden, loss = activations
        self.vocabulary = None
        if ends is not None:
            tokens = loss = hidden
            self.vocabulary = Vocabulary(ends, meshes, schedule, hidden, configuration.logits_chunks, device)
        self.weight = 1.0
        self.put_off = PutOff() if schedule.splits else None
        stages = [
            self._stage(part, index, schedule.stages, (tokens, hidden, loss), meshes.pp.get_group(), device)
            for index, part in parts.items()
        ]
        self.runtime = compat.PipelineRuntime(stages, schedule.microbatches, loss_fn=self._loss, scale_grads=False)
        rows = proven_rows(schedule)
        steps = {rank: _steps(schedule, rank, row) for rank, row in enumerate(rows)}
        self.runtime._prepare_schedule_with_comms(steps, format="compute_comms")
        if self.vocabulary is not None:
            own = [each for each in calls(rows[meshes.pp_rank]) if isinstance(each, Call)]
            self.vocabulary.follow(own, {stage.stage_index: stage for stage in stages})
            compat.on_custom_action(self.runtime, self.vocabulary.call)

    def _stage(
        self, part: Transformer, index: int, stages: int, activations: tuple[Tensor, Tensor, Tensor],
        group: dist.ProcessGroup, device: torch.device,
    ) -> PipelineStage:  # fmt: skip
        """One virtual stage, told what comes in and goes out."""
        tokens, hidden, loss = activations
        return compat.ReducingStage(
            part,
            index,
            stages,
            device,
            input_args=tokens if index == 0 else hidden,
            output_args=loss if index == stages - 1 else hidden,
            group=group,
            reduce=reduce,
            dw_builder=None if self.put_off is None else partial(self.put_off.take, part),
        )

    def forwards(self, layer: int) -> list[int]:
        """Microbatches in the order in which a layer of this rank takes them."""
        return self._forwards[layer]

    def step(self, batch: Batch) -> Tensor:
        """As Accumulation.step; ranks without the last stage return zero."""
        for part in self.parts:
            begin_step(part)
        loss = self._plain_step(batch) if self.vocabulary is None else self._spread_step(self.vocabulary, batch)
        for part in self.parts:
            end_step(part)
        return loss

    def _plain_step(self, batch: Batch) -> Tensor:
        losses: list[Tensor] = []
        self.weight = batch.weight
        tokens = (batch.tokens,) if 0 in self.stages else ()
        last = {"target": batch.targets, "losses": losses} if self.last in self.stages else {}
        targets = {"targets": batch.targets} if self.last in self.stages else {}
        with nullcontext() if self.put_off is None else self.put_off.used():
            self.runtime.step(*tokens, **targets, **batch.shared, **last, return_outputs=False)
        if not losses:
            return torch.zeros((), device=batch.tokens.device)
        return torch.stack([loss.detach() for loss in losses]).sum()

    def _spread_step(self, vocabulary: Vocabulary, batch: Batch) -> Tensor:
        """What the last stage is given as targets are the numbers of microbatches."""
        vocabulary.begin(batch)
        tokens = (batch.tokens,) if 0 in self.stages else ()
        numbers = torch.arange(vocabulary.schedule.microbatches)
        last = {"target": numbers} if self.last in self.stages else {}
        with nullcontext() if self.put_off is None else self.put_off.used():
            self.runtime.step(*tokens, **batch.shared, **last, return_outputs=False)
        return vocabulary.end()

    def _loss(self, output: Tensor, target: Tensor) -> Tensor:
        if self.vocabulary is None:
            return output / self.weight
        return self.vocabulary.handed_over(output, int(target))


def _by_losses(schedule: Schedule) -> Schedule:
    """The same schedule with microbatches numbered as their losses come: PyTorch's runtime finds losses by that number.
    Which sequences a number means makes no difference to their sum."""
    number = {action.microbatch: place for place, action in enumerate(_forwards(schedule, schedule.stages - 1))}
    rows = tuple(tuple(each._replace(microbatch=number[each.microbatch]) for each in row) for row in schedule.actions)
    return replace(schedule, actions=rows)


def _forwards(schedule: Schedule, stage: int) -> list[Action]:
    """Of one stage, in order."""
    return [each for each in schedule.actions[schedule.rank_of(stage)] if each.kind == "F" and each.stage == stage]


def _steps(schedule: Schedule, rank: int, row: Sequence[Step]) -> list[Any]:
    """All that a rank does in a training step, as PyTorch's runtime spells it."""
    stages = schedule.stages_of(rank)
    left = dict.fromkeys(stages, schedule.microbatches)
    steps = [compat.pipeline_action("UNSHARD", stage) for stage in stages]
    numbers = count()
    for step in calls(row):
        if isinstance(step, Call):
            steps.append(compat.custom_action(stages[0], next(numbers)))
            continue
        if isinstance(step, Transfer):
            kind = f"{'SEND' if step.sends else 'RECV'}_{step.direction}"
            steps.append(compat.pipeline_action(kind, step.stage, step.microbatch))
            continue
        steps.append(compat.pipeline_action(*step))
        left[step.stage] -= step.kind in "BW"
        if step.kind in "BW" and not left[step.stage]:
            steps.append(compat.pipeline_action("REDUCE_GRAD", step.stage))
    return steps + [compat.pipeline_action("RESHARD", stage) for stage in stages]


def activation_tensors(
    shape: Shape, microbatch: int, seq_len: int, *, tp: int, sp: bool, dtype: torch.dtype
) -> tuple[Tensor, Tensor, Tensor]:
    """Meta tensors like the tokens, hidden states and loss of one microbatch of `seq_len` tokens on one rank."""
    tokens = torch.empty(microbatch, seq_len, dtype=torch.int64, device="meta")
    between = (microbatch, seq_len // tp if sp else seq_len, shape.hidden)
    hidden = torch.empty(between, dtype=dtype, device="meta", requires_grad=True)
    loss = torch.empty((), dtype=torch.float32, device="meta", requires_grad=True)
    return tokens, hidden, loss
