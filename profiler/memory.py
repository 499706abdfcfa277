"""What a part of a model holds from forward to backward, as the allocator sees it: on CUDA what was allocated and is not
given back, elsewhere the storages that autograd saves."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from ..runtime import compat


@dataclass(frozen=True, slots=True)
class Held:
    """Bytes that stay after a forward, without its input and the parameters; and what the allocator took for all that
    came and went, over it, less 1 (fragments; 0 where there is no caching allocator)."""

    kept_bytes: float
    fragments: float = 0.0


def measure(forward: Callable[[], Tensor], parts: Iterable[nn.Module], device: torch.device) -> Held:
    """Of one forward and the backward that follows it."""
    if device.type == "cuda":
        return _allocated(forward, device)
    return Held(float(_saved(forward, [each for part in parts for each in part.parameters()])))


def _saved(forward: Callable[[], Tensor], parameters: Iterable[Tensor]) -> int:
    """Storages that autograd saves, each once; those of parameters, or of views of them, are there anyway."""
    theirs = {_storage(each) for each in parameters}
    found: dict[int, int] = {}

    def pack(tensor: Tensor) -> Tensor:
        place = _storage(tensor)
        if place not in theirs:
            found[place] = _local(tensor).untyped_storage().nbytes()
            alive.append(tensor)  # or another one might come to lie in the same place
        return tensor

    alive: list[Tensor] = []
    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        out = forward()
    out.backward(torch.ones_like(out))
    return sum(found.values())


def _storage(tensor: Tensor) -> int:
    return int(_local(tensor).untyped_storage().data_ptr())


def _allocated(forward: Callable[[], Tensor], device: torch.device) -> Held:
    torch.cuda.synchronize(device)
    torch.cuda.empty_cache()
    torch.cuda.reset_peak_memory_stats(device)
    before, reserved = torch.cuda.memory_allocated(device), torch.cuda.memory_reserved(device)
    out = forward()
    kept = torch.cuda.memory_allocated(device) - before
    out.backward(torch.ones_like(out))
    peak = torch.cuda.max_memory_allocated(device) - before
    taken = torch.cuda.max_memory_reserved(device) - reserved
    return Held(float(kept), max(0.0, taken / max(1, peak) - 1))


def state_bytes(optimizer: torch.optim.Optimizer) -> int:
    """What an optimizer keeps on this rank's device beside parameters and gradients."""
    tensors = (each for state in optimizer.state.values() for each in state.values() if isinstance(each, Tensor))
    return sum(_local(each).nbytes for each in tensors if each.numel() > 1)


def _local(tensor: Tensor) -> Tensor:
    """What this rank holds: of a shard, or of what stands for the result of a collective."""
    local = getattr(tensor, "to_local", None)
    return local() if local else compat.waited(tensor)
