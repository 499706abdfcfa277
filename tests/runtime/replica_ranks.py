"""What ranks do in the tests of replicas: found by import, run by harness.run_ranks."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import nullcontext

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed._composable.replicate_with_fsdp import replicate as replicate_of_torch
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import MixedPrecisionPolicy
from torch.nn.parallel import DistributedDataParallel

from meshwright.runtime.parallel.data import before_microbatch, begin_step, end_step, shard_unit
from meshwright.runtime.parallel.replicas import replicas

WIDTH, MICROBATCHES, STEPS = 8, 3, 2
Gradients = dict[str, list[float]]


class Inner(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(WIDTH, WIDTH), nn.Linear(WIDTH, WIDTH, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return self.second(self.first(x).tanh())


class Toy(nn.Module):
    """A unit in another one, and a table that serves at both ends."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.table = nn.Embedding(5, WIDTH)
        self.inner = Inner()
        self.head = nn.Linear(WIDTH, 5, bias=False)
        self.head.weight = self.table.weight

    def forward(self, tokens: Tensor) -> Tensor:
        logits = self.head(self.inner(self.table(tokens)))
        return nn.functional.cross_entropy(logits.float(), tokens)


def data() -> list[list[Tensor]]:
    """Microbatches of every step; other ranks have others."""
    generator = torch.Generator().manual_seed(dist.get_rank())
    return [[torch.randint(5, (6,), generator=generator) for _ in range(MICROBATCHES)] for _ in range(STEPS)]


def ours(dtype: torch.dtype) -> tuple[Gradients, bool, bool]:
    """Gradients after the last step; whether each unit's lie in one tensor, and whether they were on their way before
    the last backward pass had ended."""
    model, mesh = Toy(), init_device_mesh("cpu", (dist.get_world_size(),))
    for unit in (model.inner, model):
        shard_unit(unit, mesh, zero=0, dtype=dtype, root=unit is model)
    whole = dict(model.named_parameters())
    early: list[bool] = []
    for parts in data():
        begin_step(model)
        for number, part in enumerate(parts):
            before_microbatch(model, zero=0, last=number == MICROBATCHES - 1)
            model(part).backward()
            early.append(all(each._started for each in replicas(model)))
        end_step(model)
    assert whole == dict(model.named_parameters())
    grads = {name: parameter.grad for name, parameter in whole.items()}
    storages = {name: grad.untyped_storage().data_ptr() for name, grad in grads.items() if grad is not None}
    inner = {at for name, at in storages.items() if name.startswith("inner")}
    together = len(inner) == 1 and inner != {storages["table.weight"]}
    return _floats(grads), together, early == [number == MICROBATCHES - 1 for _ in data() for number in range(3)]


def distributed_data_parallel() -> Gradients:
    """The same by PyTorch, in float32."""
    model = Toy()
    trained = DistributedDataParallel(model)
    _train(model, trained, lambda last: nullcontext() if last else trained.no_sync())
    return _floats({name: parameter.grad for name, parameter in model.named_parameters()})


def composable() -> Gradients:
    """The same by PyTorch, in bfloat16 with reductions in float32."""
    model, mesh = Toy(), init_device_mesh("cpu", (dist.get_world_size(),))
    policy = MixedPrecisionPolicy(param_dtype=torch.bfloat16, reduce_dtype=torch.float32)
    for unit in (model.inner, model):
        replicate_of_torch(unit, mesh=mesh, mp_policy=policy)

    def announce(last: bool) -> nullcontext[None]:
        model.set_requires_gradient_sync(last)  # type: ignore[operator]
        return nullcontext()

    _train(model, model, announce)
    return _floats({name: parameter.grad.to_local() for name, parameter in model.named_parameters()})  # type: ignore


def _train(model: nn.Module, trained: nn.Module, announce: Callable[[bool], nullcontext[None]]) -> None:
    for parts in data():
        model.zero_grad()
        for number, part in enumerate(parts):
            with announce(number == MICROBATCHES - 1):
                trained(part).backward()


def _floats(gradients: dict[str, Tensor | None]) -> Gradients:
    return {name: gradient.flatten().tolist() for name, gradient in gradients.items() if gradient is not None}
