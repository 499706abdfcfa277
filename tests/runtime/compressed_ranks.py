"""What ranks do in the tests of compressed gradients: found by import, run by harness.run_ranks."""

from __future__ import annotations

from typing import Any

import torch
import torch.distributed as dist
from data_ranks import Collectives
from torch import Tensor
from workers import MAX_NORM, OPTIMIZER, WEIGHT_DECAY, batches, own_sequences

from meshwright.kernels.checksum import checksum
from meshwright.planner.plan import Plan
from meshwright.runtime.build import build_model
from meshwright.runtime.compression import Compress
from meshwright.runtime.model import ParallelModel
from meshwright.runtime.optimizer import build_optimizer
from meshwright.runtime.parallel import compressed
from meshwright.runtime.parallel.replicas import replicas
from meshwright.runtime.shards import held

CPU = torch.device("cpu")


class Identity:
    """The bytes of the numbers themselves."""

    multiple = 24

    def message_bytes(self, elements: int) -> int:
        return 4 * elements

    def encode(self, numbers: Tensor, messages: Tensor, residual: Tensor) -> None:
        messages.view(torch.float32).copy_(numbers)

    def combine(self, messages: Tensor, message: Tensor, residual: Tensor) -> None:
        total = torch.zeros_like(residual)
        for each in messages.view(torch.float32):
            total += each
        message.view(torch.float32).copy_(total)

    def decode(self, messages: Tensor, numbers: Tensor) -> None:
        numbers.copy_(messages.view(torch.float32))


def wiring(plan: Plan) -> float:
    """The largest difference of any gradient from that of plain sums, when numbers travel as they are."""
    compressed.CODINGS["int8"] = Identity()
    batch = batches(plan.model.config["vocab_size"], plan.job.seq_len, plan.job.global_batch, 1)[0]
    found = []
    for compress in ("none", "int8"):
        model = build_model(plan, CPU, compress=compress)  # type: ignore[arg-type]
        for _ in range(2):  # what stays from a step changes nothing in the next
            model.forward_backward(own_sequences(model, batch))
        found.append([held(_gradient(p)) for _, p in model.named_parameters()])
    return max(float((one - two).abs().max()) for one, two in zip(*found, strict=True))


def _gradient(parameter: torch.nn.Parameter) -> Tensor:
    assert parameter.grad is not None
    return parameter.grad


def training(plan: Plan, compress: Compress, steps: int) -> tuple[list[float], list[int], float]:
    """Losses, checksums of this rank's weights and of its last gradients, and the largest residual."""
    model = build_model(plan, CPU, compress=compress)
    optimizer = build_optimizer(model, weight_decay=WEIGHT_DECAY, **OPTIMIZER)
    losses = []
    for batch in batches(plan.model.config["vocab_size"], plan.job.seq_len, plan.job.global_batch, steps):
        losses.append(model.forward_backward(own_sequences(model, batch)).item())
        model.clip_grad_norm(MAX_NORM)
        optimizer.step()
    named = [p for _, p in model.named_parameters()]
    sums = [int(checksum(held(x))) for p in named for x in (p, _gradient(p))]
    return losses, sums, max((float(x.abs().max()) for _, x in model.named_residuals()), default=0.0)


def telescoping(plan: Plan, compress: Compress, steps: int) -> float:
    """How far the sum of all gradients of steps is from that of plain sums, without the residuals of all ranks, beside
    the largest of them: the weights never change."""
    data = batches(plan.model.config["vocab_size"], plan.job.seq_len, plan.job.global_batch, steps)
    totals = []
    for each in ("none", compress):
        model = build_model(plan, CPU, compress=each)
        totals.append([_flat(model, batch) for batch in data])
    plain, sent = (torch.stack(total).sum(0) for total in totals)
    left = torch.cat([_left(each.sum, len(flat)) for each, flat in zip(_units(model), _of_units(model), strict=True)])
    return float((plain - sent - left).abs().max() / plain.abs().max())


def _units(model: ParallelModel) -> list[Any]:
    return [each for part in model.parts for each in replicas(part)]


def _of_units(model: ParallelModel) -> list[Tensor]:
    return [torch.cat([held(_gradient(p)).flatten() for p in each.whole]) for each in _units(model)]


def _flat(model: ParallelModel, batch: Tensor) -> Tensor:
    model.forward_backward(own_sequences(model, batch))
    return torch.cat(_of_units(model)).double()


def _left(total: compressed.CompressedSum, elements: int) -> Tensor:
    """What all ranks hold back: their own residuals added up, and those of the sums, each rank its part."""
    own = total.residuals()["own"].flatten().double()
    dist.all_reduce(own)
    parts = [torch.empty_like(total.residuals()["of_sum"]) for _ in range(dist.get_world_size())]
    dist.all_gather(parts, total.residuals()["of_sum"])
    return (own + torch.cat(parts, 1).flatten().double())[:elements]


def messages(plan: Plan, compress: Compress) -> tuple[dict[str, int], dict[str, set[str]]]:
    """Collectives of the second step, and the types of what they send."""
    model = build_model(plan, CPU, compress=compress)
    batch = batches(plan.model.config["vocab_size"], plan.job.seq_len, plan.job.global_batch, 1)[0]
    model.forward_backward(own_sequences(model, batch))
    with Collectives() as seen:
        model.forward_backward(own_sequences(model, batch))
    return dict(seen.counts), seen.dtypes
