"""Data parallelism and ZeRO (arXiv:1910.02054): FSDP2, whose flags give the ladder from 1 on; 0 is `replicas.py`.

    zero  parameters between uses   gradients            communication a step (units x microbatches)
    0     replicated                all-reduced          one all-reduce a unit
    1     gathered for a whole step scattered at the end one gather and one scatter a unit
    2     gathered for a whole step scattered at once    one gather a unit, one scatter a unit and microbatch
    3     gathered for each use     scattered at once    two gathers and one scatter a unit and microbatch

A unit is a layer; embedding, final norm and head together are one more, which zero 3 gathers once a microbatch only.
Hybrid sharding has copies of such a group: all of this inside of each, and one all-reduce a unit and step between them,
of gradients that are scattered already. Under a pipeline all stays whole until the end of the step: plans with
zero 2 or 3 are refused there.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import nn
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.fsdp import FSDPModule, MixedPrecisionPolicy, fully_shard

from ..compression import Compress
from .replicas import replicas, replicate


def shard_unit(
    unit: nn.Module,
    mesh: DeviceMesh,
    *,
    zero: int,
    dtype: torch.dtype,
    root: bool,
    ignored: set[nn.Parameter] | None = None,
    compress: Compress = "none",
) -> None:
    """Spread the parameters of `unit` that no inner unit has over `mesh`: of two axes, copies over the first.

    The `ignored` ones stay as they are. `compress`: how gradients travel, with zero 0.

    Computes in `dtype`, reduces gradients in float32. The root (embedding, final norm, head) stays
    gathered from forward to backward, whose first use follows at once.
    """
    if zero == 0:
        replicate(unit, mesh.get_group(), divisor=mesh.size(), dtype=dtype, ignored=ignored or (), compress=compress)
        return
    policy = MixedPrecisionPolicy(param_dtype=dtype, reduce_dtype=torch.float32)
    again = zero == 3 and not root
    fully_shard(unit, mesh=mesh, mp_policy=policy, reshard_after_forward=again, ignored_params=ignored)


def begin_step(part: nn.Module) -> None:
    """Before the first forward pass of a step through `part`."""
    for each in replicas(part):
        each.begin()


def before_microbatch(part: nn.Module, *, zero: int, last: bool) -> None:
    """Say what the coming backward pass is to communicate, as the table above has it."""
    for unit in _outermost(part):
        if zero == 1:
            unit.set_requires_gradient_sync(last)
        if zero in (1, 2):
            unit.set_reshard_after_backward(last)
        unit.set_requires_all_reduce(last)
        unit.set_is_last_backward(last)
    if last:
        for each in replicas(part):
            each.expect_last()


def reduce(part: nn.Module) -> None:
    """After the last backward pass through a stage, where `before_microbatch` has announced none."""
    for each in replicas(part):
        each.reduce()


def end_step(part: nn.Module) -> None:
    """After a step: gradients are where they are looked for."""
    for each in replicas(part):
        each.pass_on()
    for each in replicas(part):
        each.end()


def _outermost(part: nn.Module) -> Iterator[FSDPModule]:
    """The units that are in no other one: the part, or of a part without data parallelism its experts."""
    if isinstance(part, FSDPModule):
        yield part
    else:
        for child in part.children():
            yield from _outermost(child)
