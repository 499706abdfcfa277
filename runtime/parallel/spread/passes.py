"""Passes: what this rank does for embedding and output layer of every microbatch, between the actions of its stages.

Nothing waits where it is sent. Each kind of collective has a process group of its own: on any group, all ranks take
the microbatches in one order, as `planner/schedule/passes.py` lists them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed.pipelining import PipelineStage

from ....planner.schedule import Action, Schedule
from ....planner.schedule.passes import Pass
from ....planner.schedule.transfers import Step, Transfer
from ... import compat
from ...components import span
from ...mesh import Meshes
from ..batch import Batch
from ..data import begin_step, end_step
from .ends import Ends
from .loss import OutputLayer


class Call(NamedTuple):
    """A pass, or what stage 0 does for one: its input arrives (A) before a forward, and the gradient of that leaves (L)
    after a backward."""

    kind: str
    microbatch: int


def calls(row: Sequence[Step]) -> Iterator[Action | Transfer | Call]:
    """A rank's row with everything that it does for passes, where it has any."""
    spread = any(isinstance(step, Pass) for step in row)
    for step in row:
        if isinstance(step, Pass):
            yield Call(step.kind, step.microbatch)
            continue
        kind = step.kind if spread and isinstance(step, Action) and step.stage == 0 else ""
        if kind == "F":
            yield Call("A", step.microbatch)
        yield step
        if kind in ("B", "I"):
            yield Call("L", step.microbatch)


class Vocabulary:
    """Embedding and output layer of this rank, for all microbatches of a step."""

    def __init__(
        self, ends: Ends, meshes: Meshes, schedule: Schedule, hidden: Tensor, chunks: int, device: torch.device
    ):
        """`hidden` is a meta tensor like the hidden states between stages."""
        self.ends, self.schedule, self.chunks = ends, schedule, chunks
        self.hidden, self.device = hidden, device
        self.groups = meshes.passes
        peers = dist.get_process_group_ranks(meshes.passes["E"])
        self.first, self.last = peers[schedule.rank_of(0)], peers[schedule.rank_of(schedule.stages - 1)]
        self.rank = meshes.rank
        self.does: dict[str, Callable[[int], None]] = {
            "E": self._embed, "S": self._logits, "G": self._gradients, "T": self._embedding_gradients,
            "A": self._arrive, "L": self._leave,
        }  # fmt: skip

    def begin(self, batch: Batch) -> None:
        """Before the first action of a step."""
        self.weight = batch.weight
        self.parts = list(batch.split(self.schedule.microbatches))
        self.inputs: list[Any] = []
        self.embedded: dict[int, Sent] = {}
        self.outputs: dict[int, Sent] = {}
        self.layers: dict[int, OutputLayer] = {}
        self.output_gradients: dict[int, Sent] = {}
        self.input_gradients: dict[int, Sent] = {}
        self.leaving: list[Sent] = []
        self.losses: list[Tensor] = []
        compat.gather_weights(self.ends)
        begin_step(self.ends)

    def follow(self, calls: Sequence[Call], stages: Mapping[int, PipelineStage]) -> None:
        """Before the first step: what is to be done in each, and PyTorch's stages of this rank by number."""
        self.calls, self.stages = calls, stages

    def call(self, number: int, inputs: list[Any]) -> None:
        """Do one of the calls. `inputs` are what PyTorch's pipeline runtime feeds stage 0 with, by microbatch."""
        self.inputs = inputs
        kind, microbatch = self.calls[number]
        self.does[kind](microbatch)

    def end(self) -> Tensor:
        """After the last action: the sum of the losses of a step over its weight, on the rank of the last stage."""
        for sent in self.leaving:
            sent.wait()
        compat.reduce_gradients(self.ends)
        end_step(self.ends)
        own = self.rank == self.last
        return torch.stack(self.losses).sum() if own else torch.zeros((), device=self.device)

    def _embed(self, microbatch: int) -> None:
        with torch.no_grad():
            found = self.ends(self.parts[microbatch].tokens).contiguous()
        sent = self._reduce("E", found, self.first)
        if self.rank == self.first:
            self.embedded[microbatch] = sent
        else:
            self._let_go(sent)

    def _arrive(self, microbatch: int) -> None:
        """Stage 0 begins with the sum of what all ranks found."""
        self.inputs[microbatch] = (self.embedded.pop(microbatch).wait().requires_grad_(),)

    def _leave(self, microbatch: int) -> None:
        gradient = compat.input_gradient(self.stages[0], microbatch)
        self.inputs[microbatch] = ()
        self.input_gradients[microbatch] = self._broadcast("T", gradient.contiguous(), self.first)

    def _embedding_gradients(self, microbatch: int) -> None:
        if self.rank == self.first:  # sent when it was there; whoever receives it may come later
            sent = self.input_gradients.pop(microbatch)
            gradient = sent.tensor
            self._let_go(sent)
        else:
            gradient = self._broadcast("T", self._buffer(), self.first).wait()
        torch.autograd.backward(self.ends(self.parts[microbatch].tokens), gradient)

    def handed_over(self, hidden: Tensor, microbatch: int) -> Tensor:
        """What the last stage goes backward from, once G is done everywhere: a zero whose gradient by `hidden` is that
        of the loss."""
        return _hand_over(hidden, self, microbatch)

    def send_output(self, hidden: Tensor, microbatch: int) -> None:
        """The last stage's hidden states, to all ranks."""
        self.outputs[microbatch] = self._broadcast("S", hidden.detach().contiguous(), self.last)

    def _logits(self, microbatch: int) -> None:
        if self.rank != self.last:
            self.outputs[microbatch] = self._broadcast("S", self._buffer(), self.last)
            self.outputs[microbatch].wait()
        hidden, targets = self.outputs[microbatch].tensor, self.parts[microbatch].targets
        self.layers[microbatch] = OutputLayer(self.ends, hidden, targets, self.chunks, self.groups["tokens"])

    def _gradients(self, microbatch: int) -> None:
        loss, gradient = self.layers.pop(microbatch).gradients(self.weight)
        self.outputs.pop(microbatch).wait()
        self.losses.append(loss)
        sent = self._reduce("G", gradient.contiguous(), self.last)
        if self.rank == self.last:
            self.output_gradients[microbatch] = sent
        else:
            self._let_go(sent)

    def output_gradient(self, microbatch: int) -> Tensor:
        """Of the loss by the last stage's hidden states, from all ranks."""
        return self.output_gradients.pop(microbatch).wait()

    def _let_go(self, sent: Sent) -> None:
        """Keep what nobody here needs any more until it has left."""
        self.leaving = [each for each in (*self.leaving, sent) if not each.work.is_completed()]

    def _buffer(self) -> Tensor:
        return torch.empty(self.hidden.shape, dtype=self.hidden.dtype, device=self.device)

    def _broadcast(self, kind: str, tensor: Tensor, source: int) -> Sent:
        return Sent(tensor, dist.broadcast(tensor, source, group=self.groups[kind], async_op=True))

    def _reduce(self, kind: str, tensor: Tensor, to: int) -> Sent:
        return Sent(tensor, dist.reduce(tensor, to, group=self.groups[kind], async_op=True))


class Sent(NamedTuple):
    """A tensor on its way."""

    tensor: Tensor
    work: Any

    def wait(self) -> Tensor:
        with span("pp"):
            self.work.wait()
        return self.tensor


class _HandOver(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, hidden: Tensor, vocabulary: Vocabulary, microbatch: int) -> Tensor:
        vocabulary.send_output(hidden, microbatch)
        ctx.vocabulary, ctx.microbatch = vocabulary, microbatch
        return hidden.new_zeros((), dtype=torch.float32)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None, None]:
        return ctx.vocabulary.output_gradient(ctx.microbatch), None, None


_hand_over: Callable[[Tensor, Vocabulary, int], Tensor] = _HandOver.apply
