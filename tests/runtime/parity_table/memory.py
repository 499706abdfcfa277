"""Peak memory of a rank: measured by PyTorch's own record of allocations, and predicted by the planner."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

from torch.autograd.profiler import profile

from meshwright.planner.cost.footprint import footprint
from meshwright.planner.cost.setting import Setting
from meshwright.planner.families import architecture
from meshwright.planner.plan import Plan


class PeakMemory:
    """A context that notes the most bytes that were allocated in it at once, of what was allocated in it.

    The profiler's record of the CPU allocator; on a GPU, torch.cuda.max_memory_allocated is the same number.
    """

    def __init__(self) -> None:
        self._profile = profile(
            profile_memory=True
        )  # its table of events is never made: that takes longer than the run
        self.bytes = 0

    def __enter__(self) -> PeakMemory:
        self._profile.__enter__()
        return self

    def __exit__(self, *error: Any) -> None:
        self._profile.__exit__(*error)
        tree = self._profile.kineto_results.experimental_event_tree()
        events = sorted((e for e in _walk(tree) if e.tag.name == "Allocation"), key=lambda event: event.start_time_ns)
        self.bytes = highest((event.extra_fields.ptr, event.extra_fields.alloc_size) for event in events)


def _walk(nodes: Iterable[Any]) -> Iterator[Any]:
    for node in nodes:
        yield node
        yield from _walk(node.children)


def highest(allocations: Iterable[tuple[int, int]]) -> int:
    """The most bytes alive, of (address, bytes) in order of time; negative bytes are given back.

    An address that comes again was given back by another thread, which the profiler does not see.
    """
    alive: dict[int, int] = {}
    now = most = 0
    for address, size in allocations:
        now -= alive.pop(address, 0)
        if size > 0:
            alive[address] = size
            now += size
            most = max(most, now)
    return most


def predicted_peak_bytes(plan: Plan) -> int:
    """What tensors fill on the fullest rank: weights, gradients, optimizer, activations, logits and buffers."""
    setting = Setting(architecture(plan.model), plan.cluster, plan.job)
    return max(memory.allocated for memory in footprint(setting, plan.configuration))
