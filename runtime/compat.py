"""Every private PyTorch interface that the runtime uses, in one place.

Checked by the tests on torch 2.13.0 (CPU, gloo). 2.11.0 (CUDA) has the same names in its Python sources.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist
import torch.distributed._functional_collectives as functional
from torch import Tensor, nn
from torch.distributed._composable.replicate_with_fsdp import replicate
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.distributed_c10d import _set_pg_timeout
from torch.distributed.pipelining.schedules import _Action, _ComputationType, _PipelineScheduleRuntime
from torch.distributed.tensor import DTensor

__all__ = [
    "PipelineRuntime",
    "all_gather",
    "all_reduce",
    "default_timeout",
    "device_of",
    "flash",
    "flash_backward",
    "forward_pre_hooks",
    "has_flash",
    "like_sharded",
    "pipeline_action",
    "reduce_scatter",
    "replicate",
    "set_timeout",
    "unflatten",
    "waited",
]

PipelineRuntime: Any = _PipelineScheduleRuntime

# 2.13 renamed these; 2.11 has the second name only.
_all_gather = getattr(functional, "all_gather_single_autograd", None) or functional.all_gather_tensor_autograd
_wait: Any = functional.wait_tensor
_reduce_scatter = (
    getattr(functional, "reduce_scatter_single_autograd", None) or functional.reduce_scatter_tensor_autograd
)


def pipeline_action(kind: str, stage: int, microbatch: int) -> _Action:
    """A forward (F) or full backward (B) as PyTorch's pipeline runtime spells it."""
    computation = {"F": _ComputationType.FORWARD, "B": _ComputationType.FULL_BACKWARD}[kind]
    return _Action(stage, computation, microbatch)


def unflatten(mesh: DeviceMesh, sizes: Mapping[str, int]) -> DeviceMesh:
    """The ranks of a mesh of one axis, seen with several: names and sizes, the last varying fastest."""
    return mesh._unflatten(0, tuple(sizes.values()), tuple(sizes))


def set_timeout(group: dist.ProcessGroup, seconds: float) -> None:
    """Longest wait of one collective of `group`."""
    _set_pg_timeout(timedelta(seconds=seconds), group)


def default_timeout() -> timedelta:
    """What `init_process_group` was given; the groups of a DeviceMesh do not inherit it (pytorch#119613)."""
    group = dist.group.WORLD
    assert group is not None
    device = torch.device("cuda" if torch.device("cuda") in group._device_types else "cpu")
    timeout: timedelta = group._get_backend(device).options._timeout
    return timeout


def device_of(group: dist.ProcessGroup) -> torch.device:
    """Where tensors must be that `group` exchanges."""
    if dist.get_backend(group) == "nccl":
        return torch.device("cuda", torch.cuda.current_device())
    return torch.device("cpu")


def all_gather(x: Tensor, dim: int, group: dist.ProcessGroup) -> Tensor:
    """Concatenate over the ranks along `dim`; its gradient is `reduce_scatter`."""
    gathered: Tensor = _all_gather(x, dim, group)
    return gathered


def reduce_scatter(x: Tensor, dim: int, group: dist.ProcessGroup) -> Tensor:
    """Sum over the ranks and keep this rank's part of `dim`; its gradient is `all_gather`."""
    scattered: Tensor = _reduce_scatter(x, "sum", dim, group)
    return scattered


def all_reduce(x: Tensor, group: dist.ProcessGroup) -> Tensor:
    """Sum over the ranks, outside of autograd."""
    reduced: Tensor = _wait(functional.all_reduce(x, "sum", group))
    return reduced


def has_flash(query: Tensor, *, masked: bool) -> bool:
    """Whether `flash` takes such queries. On CUDA the kernel has no masks and computes in 16 bits."""
    if query.device.type == "cpu":
        return True
    return not masked and query.dtype in (torch.float16, torch.bfloat16) and query.shape[-1] % 8 == 0


def flash(
    query: Tensor, key: Tensor, value: Tensor, bias: Tensor | None, *, causal: bool, scale: float
) -> tuple[Tensor, Tensor]:
    """Fused attention with its log-sum-exp; heads may be grouped, all widths are equal."""
    if query.device.type == "cpu":
        fused: Any = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu
        output, lse = fused(query, key, value, 0.0, causal, attn_mask=bias, scale=scale)
    else:
        output, lse, *_ = torch.ops.aten._scaled_dot_product_flash_attention(
            query, key, value, 0.0, causal, False, scale=scale
        )
    return output, lse


def flash_backward(
    gradient: Tensor,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    output: Tensor,
    lse: Tensor,
    bias: Tensor | None,
    *,
    causal: bool,
    scale: float,
) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients of queries, keys and values; output and log-sum-exp may be those of more keys than these."""
    given = (gradient, query, key, value, output, lse)
    if query.device.type == "cpu":
        fused: Any = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu_backward
        gradients = fused(*given, 0.0, causal, attn_mask=bias, scale=scale)
    else:
        random = torch.empty(2, dtype=torch.uint64, device=query.device)  # unread: nothing is dropped
        lengths = (None, None, query.shape[2], key.shape[2])
        fused = torch.ops.aten._scaled_dot_product_flash_attention_backward
        gradients = fused(*given, *lengths, 0.0, causal, random, random, scale=scale)
    return gradients[0], gradients[1], gradients[2]


def waited(x: Tensor) -> Tensor:
    """The result of a collective itself, for what stands for it until somebody waits."""
    plain: Tensor = x.wait() if isinstance(x, functional.AsyncCollectiveTensor) else x
    return plain


def forward_pre_hooks(module: nn.Module) -> tuple[Callable[..., Any], ...]:
    """What `register_forward_pre_hook` was given, in order."""
    return tuple(module._forward_pre_hooks.values())


def like_sharded(local: Tensor, like: Tensor) -> Tensor:
    """`local`, on any device, as the part that this rank holds of a tensor that is sharded as `like`."""
    return DTensor(local, like._spec, requires_grad=False) if isinstance(like, DTensor) else local  # type: ignore
