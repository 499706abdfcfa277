"""Every private PyTorch interface that the runtime uses, in one place.

Checked by the tests on torch 2.13.0 (CPU, gloo). 2.11.0 (CUDA) has the same names in its Python sources.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from datetime import timedelta
from functools import cache, partial
from types import SimpleNamespace
from typing import Any

import torch
import torch.distributed as dist
import torch.distributed._functional_collectives as functional
from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.distributed_c10d import _get_default_store, _set_pg_timeout
from torch.distributed.fsdp import FSDPModule
from torch.distributed.fsdp._fully_shard._fsdp_param_group import FSDPParamGroup
from torch.distributed.pipelining import PipelineStage, schedules
from torch.distributed.pipelining.schedules import _Action, _ComputationType, _PipelineScheduleRuntime
from torch.distributed.tensor import DTensor
from torch.distributed.tensor._utils import compute_local_shape_and_global_offset

__all__ = [
    "PipelineRuntime",
    "ReducingStage",
    "all_gather",
    "all_reduce",
    "all_to_all",
    "concatenate",
    "custom_action",
    "default_store",
    "default_timeout",
    "device_of",
    "divide_gradients",
    "flash",
    "flash_backward",
    "flatten",
    "forward_pre_hooks",
    "gather_weights",
    "has_flash",
    "in_backward",
    "input_gradient",
    "like_sharded",
    "on_custom_action",
    "own_box",
    "pipeline_action",
    "reduce_gradients",
    "reduce_scatter",
    "set_timeout",
    "share_gloo_device",
    "sum_gradients",
    "timing",
    "unflatten",
    "waited",
]

PipelineRuntime: Any = _PipelineScheduleRuntime


def default_store() -> Any:
    """Where the workers of the default process group met: it works on when the group does not."""
    return _get_default_store()


# 2.13 renamed these; 2.11 has the second name only.
_all_gather = getattr(functional, "all_gather_single_autograd", None) or functional.all_gather_tensor_autograd
_all_to_all = functional.all_to_all_single_autograd
_wait: Any = functional.wait_tensor
_reduce_scatter = (
    getattr(functional, "reduce_scatter_single_autograd", None) or functional.reduce_scatter_tensor_autograd
)


def pipeline_action(kind: str, stage: int, microbatch: int | None = None) -> _Action:
    """A step of a rank as PyTorch's pipeline runtime spells it: F, B, I, W, SEND_F, RECV_F, SEND_B or RECV_B of a
    microbatch; UNSHARD, REDUCE_GRAD or RESHARD of a stage."""
    return _Action(stage, _ComputationType(kind), microbatch)


def custom_action(stage: int, number: int) -> _Action:
    """A step of a rank that holds `stage`, done by what `on_custom_action` was given."""
    return _Action(stage, _ComputationType.OVERLAP_F_B, number)


def on_custom_action(runtime: Any, do: Callable[[int, list[Any]], None]) -> None:
    """Let `do(number, inputs)` do the custom actions of a pipeline runtime; `inputs` are those of stage 0, by
    microbatch, and may be changed."""
    runtime.register_custom_function(
        _ComputationType.OVERLAP_F_B, lambda action, context: do(action.microbatch_index, context.arg_mbs)
    )


def input_gradient(stage: PipelineStage, microbatch: int) -> Tensor:
    """What a backward of stage 0 left as the gradient of its input; kept no longer."""
    gradient = stage.bwd_cache.pop(microbatch)[0]
    assert gradient is not None
    return gradient


class ReducingStage(PipelineStage):
    """A stage whose gradients are reduced by `reduce` too, after PyTorch has reduced those of FSDP."""

    def __init__(self, *given: Any, reduce: Callable[[nn.Module], None], **options: Any):
        super().__init__(*given, **options)
        self._reduce = reduce

    def perform_reduce_grad(self, grad_scale_factor: int) -> None:
        super().perform_reduce_grad(grad_scale_factor)
        self._reduce(self.submod)


def gather_weights(module: nn.Module) -> None:
    """Before a step: gather what FSDP shards of `module`, and put off the reduction of its gradients."""
    if isinstance(module, FSDPModule):
        module.set_is_last_backward(False)
        module.set_reshard_after_backward(False)
        module.set_requires_gradient_sync(False)
        module.unshard()


def reduce_gradients(module: nn.Module) -> None:
    """After a step: what `gather_weights` put off; and give up what it gathered."""
    if isinstance(module, FSDPModule):
        stage: Any = SimpleNamespace(submod=module)
        PipelineStage.perform_reduce_grad(stage, 1)
        module.reshard()


def sum_gradients(part: nn.Module) -> None:
    """Add the gradients that FSDP's gathered parameters have got to their sums, in the precision of the reduction. FSDP
    does so itself after each backward pass; what a later W leaves would be added up in that of compute."""
    for module in part.modules():
        if isinstance(module, FSDPModule):
            state = module._get_fsdp_state()
            groups = getattr(state, "_fsdp_param_groups", None) or [state._fsdp_param_group]  # the latter in 2.11
            for parameter in (each for group in groups if group is not None for each in group.fsdp_params):
                parameter.accumulate_unsharded_grad_if_needed()
                parameter.to_accumulated_grad_if_needed()


def flatten(mesh: DeviceMesh, name: str) -> DeviceMesh:
    """A mesh of several axes, seen with one."""
    return mesh._flatten(name)


def unflatten(mesh: DeviceMesh, sizes: Mapping[str, int]) -> DeviceMesh:
    """The ranks of a mesh of one axis, seen with several: names and sizes, the last varying fastest."""
    return mesh._unflatten(0, tuple(sizes.values()), tuple(sizes))


def own_box(tensor: Tensor) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Where the part that this rank holds of `tensor` begins, and its size; the part is always one box."""
    if not isinstance(tensor, DTensor):
        return (0,) * tensor.ndim, tuple(tensor.shape)
    size, first = compute_local_shape_and_global_offset(tensor.shape, tensor.device_mesh, tensor.placements)
    return tuple(first), tuple(size)


def concatenate(meshes: Sequence[DeviceMesh]) -> DeviceMesh:
    """Meshes of the same ranks as one of all their axes."""
    return meshes[0] if len(meshes) == 1 else DeviceMesh._concatenate(list(meshes))


def in_backward() -> bool:
    """Whether autograd is running backward in this thread: a forward pass in there is a recomputation."""
    return torch._C._current_graph_task_id() != -1


def divide_gradients(unit: FSDPModule, divisor: float) -> None:
    """Let `unit` reduce gradients by a sum, divided by `divisor` instead of the number of ranks.

    Sum first and then divide: gloo has no reduction that does both.
    """
    unit.set_force_sum_reduction_for_comms(True)
    unit.set_gradient_divide_factor(divisor)


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


@cache
def share_gloo_device() -> None:
    """Let all groups of gloo that this process makes from now on have one device.

    Each has its own otherwise, with a thread that wakes up a hundred times a second, whether its group is used or not:
    two hundred idle groups make a step of four processes on two cores half as long again (docs/log.md). For processes
    that build many models, one after the other. Forks of this process are as before: a thread is not inherited, and
    what they would ask the kernel to watch, this process would be told of.
    """
    gloo: Any = dist.ProcessGroupGloo
    owner, begin, interfaces = os.getpid(), gloo.__init__, os.environ.get("GLOO_SOCKET_IFNAME", "").split(",")
    devices = [gloo.create_device(interface=each) if each else gloo.create_default_device() for each in interfaces]

    def begin_on_device(group: Any, store: Any, rank: int, size: int, timeout: timedelta) -> None:
        if os.getpid() != owner:
            begin(group, store, rank, size, timeout)
            return
        options = gloo._Options()
        options._devices, options._timeout = devices, timeout
        begin(group, store, rank, size, options)

    gloo.__init__ = begin_on_device


def device_of(group: dist.ProcessGroup) -> torch.device:
    """Where tensors must be that `group` exchanges."""
    if "nccl" in dist.get_backend(group):  # or "cpu:gloo,cuda:nccl": groups of such a world carry both names
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


def all_to_all(x: Tensor, received: list[int], sent: list[int], group: dist.ProcessGroup) -> Tensor:
    """Send `sent[r]` rows to rank r, the first ones to rank 0; the `received[r]` rows of every rank r, in that order.

    Its gradient goes the same way back.
    """
    exchanged: Tensor = _all_to_all(x, received, sent, group)
    return exchanged


def all_reduce(x: Tensor, group: dist.ProcessGroup) -> Tensor:
    """Sum over the ranks, outside of autograd."""
    reduced: Tensor = _wait(functional.all_reduce(x, "sum", group))
    return reduced


@contextmanager
def timing(
    span: Callable[[str], AbstractContextManager[None]], further: Sequence[tuple[Any, str, str]] = ()
) -> Iterator[None]:
    """While inside of it, what FSDP and the pipeline runtime wait in stands in `span("dp")` and `span("pp")`, and each
    `further` function, of a module by its name, in that of its kind."""
    places = [(FSDPParamGroup, name, "dp") for name in _SHARDS] + [(schedules, "_wait_batch_p2p", "pp"), *further]
    before = [(owner, name, getattr(owner, name)) for owner, name, _ in places]
    for (owner, name, kind), (*_, call) in zip(places, before, strict=True):
        setattr(owner, name, _spanned(call, partial(span, kind)))
    try:
        yield
    finally:
        for owner, name, call in before:
            setattr(owner, name, call)


_SHARDS = ("unshard", "wait_for_unshard", "post_backward", "finalize_backward")
"""Of a group of FSDP's parameters: all that gathers, scatters or waits for it."""


def _spanned(call: Callable[..., Any], span: Callable[[], AbstractContextManager[None]]) -> Callable[..., Any]:
    def spanned(*given: Any, **options: Any) -> Any:
        with span():
            return call(*given, **options)

    return spanned


def has_flash(query: Tensor, *, masked: bool) -> bool:
    """Whether `flash` takes such queries. On CUDA the kernel has no masks and computes in 16 bits."""
    if query.device.type == "cpu":
        return True
    width = query.shape[-1]
    return not masked and query.dtype in (torch.float16, torch.bfloat16) and width % 8 == 0 and width <= 256


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
    given = (gradient, query, key, value, output, lse.contiguous())  # the CUDA kernel reads its memory without strides
    if query.device.type == "cpu":
        fused: Any = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu_backward
        gradients = fused(*given, 0.0, causal, attn_mask=bias, scale=scale)
    else:
        random = torch.empty(2, dtype=torch.uint64, device=query.device)  # unread: nothing is dropped
        lengths = (None, None, query.shape[2], key.shape[2])
        fused = torch.ops.aten._scaled_dot_product_flash_attention_backward
        gradients = fused(*(each.contiguous() for each in given), *lengths, 0.0, causal, random, random, scale=scale)
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
