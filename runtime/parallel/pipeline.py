"""Pipeline parallelism: PyTorch's pipeline runtime executes the action lists of `planner.schedule`."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.distributed.pipelining import PipelineStage

from ...planner.configuration import Configuration
from ...planner.schedule import build
from .. import compat
from ..blocks.shape import Shape
from ..blocks.transformer import Transformer
from ..mesh import Meshes
from .batch import Batch


class Pipeline:
    """The stages of this rank and the schedule that all ranks follow."""

    def __init__(
        self,
        parts: dict[int, Transformer],
        configuration: Configuration,
        meshes: Meshes,
        activations: tuple[Tensor, Tensor, Tensor],
        device: torch.device,
    ):
        """`parts` by virtual stage; `activations` as `activation_tensors` makes them."""
        assert meshes.pp is not None
        schedule = build(configuration)
        self.stages, self.last = tuple(parts), schedule.stages - 1
        tokens, hidden, loss = activations
        self.weight = 1.0
        stages = [
            PipelineStage(
                part,
                index,
                schedule.stages,
                device,
                input_args=tokens if index == 0 else hidden,
                output_args=loss if index == schedule.stages - 1 else hidden,
                group=meshes.pp.get_group(),
            )
            for index, part in parts.items()
        ]
        self.runtime = compat.PipelineRuntime(
            stages,
            schedule.microbatches,
            loss_fn=lambda output, _: output / self.weight,
            scale_grads=False,
        )
        rows = enumerate(schedule.actions)
        self.runtime._prepare_schedule_with_comms(
            {rank: [compat.pipeline_action(*action) for action in row] for rank, row in rows}
        )

    def step(self, batch: Batch) -> Tensor:
        """As Accumulation.step; ranks without the last stage return zero."""
        losses: list[Tensor] = []
        self.weight = batch.weight
        tokens = (batch.tokens,) if 0 in self.stages else ()
        shared = {} if batch.documents is None else {"documents": batch.documents}
        last = {"target": batch.targets, "losses": losses} if self.last in self.stages else {}
        targets = {"targets": batch.targets} if self.last in self.stages else {}
        self.runtime.step(*tokens, **targets, **shared, **last, return_outputs=False)
        if not losses:
            return torch.zeros((), device=batch.tokens.device)
        return torch.stack([loss.detach() for loss in losses]).sum()


def activation_tensors(
    shape: Shape, microbatch: int, seq_len: int, *, tp: int, sp: bool, dtype: torch.dtype
) -> tuple[Tensor, Tensor, Tensor]:
    """Meta tensors like the tokens, hidden states and loss of one microbatch of `seq_len` tokens on one rank."""
    tokens = torch.empty(microbatch, seq_len, dtype=torch.int64, device="meta")
    between = (microbatch, seq_len // tp if sp else seq_len, shape.hidden)
    hidden = torch.empty(between, dtype=dtype, device="meta", requires_grad=True)
    loss = torch.empty((), dtype=torch.float32, device="meta", requires_grad=True)
    return tokens, hidden, loss
