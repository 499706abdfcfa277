"""ParallelModel: the part of a plan's model that this process holds, and one training step of it."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Protocol

import torch
import torch.distributed as dist
from torch import Tensor, nn

from ..errors import RunError
from ..planner.lengths.assignment import Assignment
from ..planner.plan import Plan
from . import gradients
from .blocks.shape import Shape
from .blocks.transformer import EMBEDDING, HEAD, Transformer
from .components import span
from .mesh import Meshes
from .parallel.batch import Batch
from .parallel.expert.control import ExpertControl
from .parallel.expert.copies import copies_of
from .parallel.mixed import Mixed
from .parallel.replicas import replicas
from .parallel.tensor import partial_parameters
from .parallel.twin import twin_of
from .slots import orders_of


class Executor(Protocol):
    """Runs all microbatches of one step."""

    def step(self, batch: Batch) -> Tensor: ...

    def forwards(self, layer: int) -> Sequence[int]:
        """Microbatches in the order in which a layer of this rank takes them."""
        ...


Layout = Callable[[Batch], Batch]


class ParallelModel:
    """The virtual stages of this rank.

    `parts` are the stages as modules; parameters, of any mesh, carry the global names of the Hugging Face
    checkpoint, and shards are DTensors that know the whole; `orders` says which experts stacked weights have where.
    `layout` keeps of whole sequences what this rank trains on.
    Made by `build.build_model`.
    """

    def __init__(
        self, plan: Plan, shape: Shape, parts: list[nn.Module], meshes: Meshes, layout: Layout, executor: Executor
    ):
        self.plan = plan
        self.orders = orders_of(plan, shape)
        self._layout = layout
        self.shape = shape
        self.parts = parts
        self.meshes = meshes
        self._executor = executor
        self._tokens: Sequence[Tensor] = ()
        self._twin = twin_of(parts, tied=shape.tied_embeddings)
        self.experts: ExpertControl | None = None  # set by build_model for a model that has some
        self.mixed: Mixed | None = None  # likewise, for a plan whose groups change from round to round
        self._parameters: dict[str, nn.Parameter] = {}
        for name, parameter in named(parts, shape):
            self._parameters.setdefault(name, parameter)  # a twin's copy comes after it
        holders = None if meshes.holders is None else meshes.holders.get_group()
        self.copies = copies_of(self._parameters, self.orders, holders, meshes.degrees.ep)
        self._counted = {} if self.copies is None else self.copies.counted()
        self._partial = [p for part in parts for p in partial_parameters(part)]
        # Shared out over all ranks of a pipeline, not only of a stage.
        self.spread = {EMBEDDING, HEAD} & self._parameters.keys() if plan.spread_vocabulary else set[str]()
        last = plan.configuration.holds_last_stage(meshes.pp_rank)
        copy = self._parameters.get(EMBEDDING) if meshes.ends is not None and last else None
        self._shares = {
            p: 0.0
            if p is copy
            else gradients.share(p, meshes.stage_size * (meshes.pp_size if name in self.spread else 1))
            for name, p in self._parameters.items()
        }

    def named_parameters(self) -> Iterator[tuple[str, nn.Parameter]]:
        """Global names and local parameters; the last stage's copy of a tied embedding has the embedding's name."""
        yield from self._parameters.items()

    def named_buffers(self) -> Iterator[tuple[str, Tensor]]:
        """Global names and states that no gradient reaches, equal on all ranks of a stage."""
        for part in self.parts:
            yield from part.named_buffers()

    def named_residuals(self) -> Iterator[tuple[str, Tensor]]:
        """What this rank's compressed sums keep from step to step; names are of this plan and this rank alone."""
        sums = [each.sum for part in self.parts for each in replicas(part)]
        for number, each in enumerate(sums):
            for name, residual in each.residuals().items():
                yield f"{self.meshes.rank:05}.{number:05}.{name}", residual

    def forward_backward(self, tokens: Tensor, documents: Tensor | None = None, draws: Tensor | None = None) -> Tensor:
        """Run one step's microbatches, forward and backward.

        `tokens` are int64 [microbatch x microbatches of this replica, seq_len + 1], those of its data-parallel
        coordinate; `documents` [the same, seq_len] number the documents that all but the last tokens belong to;
        `draws` [the same], of `kernels.dropout.draw`, is what the model drops out by (None: nothing is dropped out).
        Gradients left from before are replaced: `.grad` holds those of the mean loss over the global batch.
        Returns that loss, equal on all ranks.
        """
        seq_len, configuration = self.plan.job.seq_len, self.plan.configuration
        sequences = configuration.local_batches[self.meshes.dp_rank]
        if tokens.shape != (sequences, seq_len + 1) or self.mixed is not None:
            raise ValueError(f"tokens are {tuple(tokens.shape)}, not {(sequences, seq_len + 1)} of one length")
        self._forget_gradients()
        if self._twin is not None:
            self._twin.spread()
        weight = configuration.batch * seq_len / self.meshes.data_size
        if self.experts is not None:
            self.experts.begin()
        batch = self._layout(Batch(tokens[:, :-1], tokens[:, 1:], documents, weight, draws))
        self._tokens = batch.tokens.chunk(configuration.of_replica(self.meshes.dp_rank).microbatches)
        loss = self._executor.step(batch)
        self._complete_gradients()
        if self.experts is not None:
            self.experts.finish()
        return self._global_mean(loss)

    def tokens_by_forward(self, layer: int) -> Iterator[Tensor]:
        """Ids int64 [tokens] of the hidden states that this rank had before a layer of its own in the last step,
        microbatch after microbatch in the order of their forwards; nothing after a step of rounds."""
        parts, part = (self.meshes.tp_size, self.meshes.tp_rank) if self.plan.sp else (1, 0)
        for number in self._executor.forwards(layer)[: len(self._tokens)]:
            yield self._tokens[number].tensor_split(parts, dim=1)[part].flatten()

    def forward_backward_rounds(self, sequences: Sequence[Tensor], assignment: Assignment) -> Tensor:
        """Run one step of sequences of different lengths, for a plan with a mix of groups.

        `sequences`, int64 [tokens + 1] each, are those of all ranks, the same on all; `assignment` says who trains
        which. Gradients and loss as of `forward_backward`, of the mean over all tokens.
        """
        if self.mixed is None:
            raise ValueError("the plan has no mix of groups")
        self._forget_gradients()
        self._tokens = ()
        shares = self.mixed.rounds.shares(assignment, sequences)
        targets = sum(len(each) - 1 for each in sequences)
        loss = self.mixed.step(shares, targets / self.meshes.data_size)
        self._complete_gradients()
        return self._global_mean(loss)

    def _forget_gradients(self) -> None:
        for parameter in self._parameters.values():
            parameter.grad = None

    def clip_grad_norm(self, max_norm: float) -> Tensor:
        """Clip the gradient of the whole model to `max_norm`; returns its norm before, equal on all ranks."""
        return gradients.clip(self._shares, max_norm, self._counted)

    def grad_norm(self) -> Tensor:
        """That norm alone; gradients stay as they are."""
        return gradients.gradient_norm(self._shares, self._counted)

    def _complete_gradients(self) -> None:
        missing = [name for name, parameter in self._parameters.items() if parameter.grad is None]
        if missing:
            raise RunError(f"no gradient reached {', '.join(missing)}")
        if self._twin is not None:
            self._twin.add_up()
        if self.meshes.tp is not None:
            gradients.add_up(self._partial, self.meshes.tp.get_group(), "tp")
        if self.meshes.ends is not None:
            gradients.add_up([self._parameters[EMBEDDING]], self.meshes.ends, "pp")
        if self.copies is not None:
            self.copies.add_up()

    def _global_mean(self, loss: Tensor) -> Tensor:
        """The mean over the ranks with other tokens; ranks without the last stage have added zero."""
        total = loss.float() / self.meshes.data_size
        for mesh in (self.meshes.dp, self.meshes.cp, self.meshes.pp):
            if mesh is not None:
                with span("wait"):
                    dist.all_reduce(total, group=mesh.get_group())
        return total


def named(parts: Iterable[nn.Module], shape: Shape) -> Iterator[tuple[str, nn.Parameter]]:
    """Global names and parameters of stages; a tied head's is the embedding's."""
    for part in parts:
        for name, parameter in part.named_parameters():
            yield EMBEDDING if shape.tied_embeddings and name == HEAD else name, parameter


def state_sizes(shape: Shape) -> dict[str, torch.Size]:
    """Sizes of the parameters and buffers of a whole model, by their global names."""
    with torch.device("meta"):
        whole = Transformer(shape, range(shape.layers), first=True, last=True, dtype=torch.float32)
    return {name: tensor.shape for name, tensor in (*named([whole], shape), *whole.named_buffers())}
