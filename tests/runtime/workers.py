"""What ranks do in the tests: found by import, run by harness.run_ranks."""

from __future__ import annotations

import os
import time
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
import torch.distributed.checkpoint as dcp
from torch import Tensor
from torch.distributed.tensor import DTensor, Shard

from meshwright.kernels.cross_entropy import vocabulary_cross_entropy
from meshwright.planner.plan import Plan
from meshwright.runtime.build import build_model
from meshwright.runtime.mesh import set_timeouts
from meshwright.runtime.model import ParallelModel
from meshwright.runtime.optimizer import build_optimizer

# eps is far above the rounding of a gradient: with 1e-8 AdamW would make steps of what is zero but for rounding.
OPTIMIZER: dict[str, Any] = {"lr": 3e-3, "betas": (0.9, 0.95), "eps": 1e-5}
WEIGHT_DECAY = 0.1
MAX_NORM = 1.0


def batches(vocab: int, seq_len: int, global_batch: int, count: int) -> list[Tensor]:
    """Sequences that can be learnt: every token follows from the one before by one of two fixed maps."""
    generator = torch.Generator().manual_seed(0)
    made = []
    for _ in range(count):
        steps = torch.randint(0, 2, (global_batch, seq_len + 1), generator=generator)
        tokens = [torch.randint(0, vocab, (global_batch,), generator=generator)]
        for index in range(seq_len):
            tokens.append((tokens[-1] * 5 + 3 + 7 * steps[:, index]) % vocab)
        made.append(torch.stack(tokens, dim=1))
    return made


def full(tensor: Tensor) -> Tensor:
    """The whole of a sharded tensor. Every rank of its mesh must call this."""
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor


def whole(model: ParallelModel, name: str, tensor: Tensor) -> Tensor:
    """A parameter or its gradient, stacked experts in their order and once each. Every rank of its mesh calls this."""
    found, order = full(tensor), model.orders.get(name)
    return found if order is None else found[[order.index(expert) for expert in range(max(order) + 1)]]


def own_sequences(model: ParallelModel, batch: Tensor) -> Tensor:
    """The part of a global batch that this rank's data-parallel coordinate trains on."""
    return batch.split(model.plan.configuration.local_batches)[model.meshes.dp_rank]


def train(plan: Plan, steps: int, first_gradients: Path) -> tuple[list[float], list[float], dict[str, float]]:
    """Losses, norms, and the first step's largest gradient error of each parameter, relative to its largest value."""
    vocab = plan.model.config["vocab_size"]
    data = batches(vocab, plan.job.seq_len, plan.job.global_batch, steps)
    model = build_model(plan, torch.device("cpu"))
    optimizer = build_optimizer(model, weight_decay=WEIGHT_DECAY, **OPTIMIZER)
    losses, norms, errors = [], [], {}
    for step, batch in enumerate(data):
        losses.append(model.forward_backward(own_sequences(model, batch)).item())
        if step == 0:
            errors = gradient_errors(model, torch.load(first_gradients))
        norms.append(model.clip_grad_norm(MAX_NORM).item())
        optimizer.step()
    return losses, norms, errors


def gradient_errors(model: ParallelModel, expected: dict[str, Tensor]) -> dict[str, float]:
    """Largest error of each gradient, relative to its largest value."""
    errors = {}
    largest = max(gradient.abs().max().item() for gradient in expected.values())
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None
        difference = full(parameter.grad) - expected[name]
        size = expected[name].abs().max().item()
        if size < 1e-6 * largest:  # zero but for rounding, as of key biases without positions: so it must be here
            size = 1e-2 * largest
        errors[name] = difference.abs().max().item() / size
    return errors


def vocabulary_loss(logits: Tensor, targets: Tensor) -> tuple[float, Any]:
    """Loss and gradient of this rank's share of the vocabulary; the last ranks have what is left."""
    group, vocab = dist.group.WORLD, logits.shape[-1]
    assert group is not None
    share = -(-vocab // group.size())
    first = min(vocab, share * group.rank())
    own = logits[..., first : first + share].clone().requires_grad_()
    loss = vocabulary_cross_entropy(own, targets, group, first, vocab)
    loss.backward()
    assert own.grad is not None
    return loss.item(), own.grad.tolist()


def weights(plan: Plan, seed: int) -> list[tuple[str, Any]]:
    """Initial weights, whole."""
    return _whole(build_model(plan, torch.device("cpu"), seed=seed))


def placements(plans: list[Plan]) -> list[dict[str, str]]:
    """How each model's parameters of layer 0 lie over the tensor-parallel ranks: S(0), S(1) or R."""
    found = []
    for plan in plans:
        model = build_model(plan, torch.device("cpu"))
        prefix, names = "model.layers.0.", {}
        for name, parameter in model.named_parameters():
            assert isinstance(parameter, DTensor)
            (placement,) = parameter.placements
            names[name.removeprefix(prefix)] = f"S({placement.dim})" if isinstance(placement, Shard) else "R"
        found.append(names)
    return found


def _whole(model: ParallelModel) -> list[tuple[str, Any]]:
    return [(name, full(parameter.detach()).tolist()) for name, parameter in model.named_parameters()]


def short_run(plan: Plan) -> tuple[list[float], set[str]]:
    """Losses of three steps, and the precisions in which parameters, gradients and moments are held."""
    model = build_model(plan, torch.device("cpu"))
    optimizer = build_optimizer(model, weight_decay=WEIGHT_DECAY, **OPTIMIZER)
    losses = []
    for batch in batches(plan.model.config["vocab_size"], plan.job.seq_len, plan.job.global_batch, 3):
        losses.append(model.forward_backward(own_sequences(model, batch)).item())
        model.clip_grad_norm(MAX_NORM)
        optimizer.step()
    held = [tensor for _, p in model.named_parameters() for tensor in (p, p.grad, optimizer.state[p]["exp_avg"])]
    return losses, {str(tensor.dtype) for tensor in held}


def save(plan: Plan, seed: int, folder: Path) -> None:
    """Write initial weights as a distributed checkpoint."""
    dcp.save(dict(build_model(plan, torch.device("cpu"), seed=seed).named_parameters()), checkpoint_id=folder)


def load(plan: Plan, folder: Path) -> list[tuple[str, Any]]:
    """Read a checkpoint into a model of another mesh; its weights, whole."""
    model = build_model(plan, torch.device("cpu"), seed=99)
    dcp.load(dict(model.named_parameters()), checkpoint_id=folder)
    return _whole(model)


def wait_for_nobody(plan: Plan, seconds: float) -> None:
    """A collective of one axis that the other rank never joins."""
    model = build_model(plan, torch.device("cpu"))
    set_timeouts(model.meshes, seconds)
    if model.meshes.rank == 0:
        assert model.meshes.dp is not None
        dist.all_reduce(torch.zeros(1), group=model.meshes.dp.get_group())
    else:
        time.sleep(10.0)


def fail_on(rank: int) -> None:
    """Raise on one rank while the others wait for it."""
    if dist.get_rank() == rank:
        raise ValueError("as asked")
    dist.barrier()


def precise_gradients(first: Plan, second: Plan) -> dict[str, float]:
    """How far the first step's gradients of two plans are apart, relative to the largest value of each parameter."""
    data = batches(first.model.config["vocab_size"], first.job.seq_len, first.job.global_batch, 1)[0]
    found = []
    for plan in (first, second):
        model = build_model(plan, torch.device("cpu"))
        model.forward_backward(own_sequences(model, data))
        found.append(
            {name: full(parameter.grad) for name, parameter in model.named_parameters() if parameter.grad is not None}
        )
    return {
        name: ((found[1][name] - gradient).abs().max() / gradient.abs().max()).item()
        for name, gradient in found[0].items()
    }


def threads_of_groups(count: int) -> tuple[int, int]:
    """Threads of this process, and with so many more groups."""
    before = len(os.listdir("/proc/self/task"))
    groups = [dist.new_group() for _ in range(count)]
    dist.all_reduce(torch.ones(1), group=groups[-1])
    return before, len(os.listdir("/proc/self/task"))


def threads_of_a_fork() -> int:
    """Threads that a group of gloo starts in a fork of this process."""
    pid = os.fork()
    if pid == 0:
        before = len(os.listdir("/proc/self/task"))
        group = dist.ProcessGroupGloo(dist.HashStore(), 0, 1, timedelta(seconds=5))
        os._exit(len(os.listdir("/proc/self/task")) - before if group else 0)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
