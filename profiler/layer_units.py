"""What data parallelism costs beside compute, as the runtime runs it: hooks, gathers, reductions of one unit (a layer,
or what a model has beside its layers), by ZeRO stage and size of the group.

Measured as a difference: a small model whose parameters are shared out against the same model alone, one after the
other in every round, a step of two microbatches each; models of two depths tell a layer from the rest. Sequences are
short, or the difference would drown in what compute varies by; so nothing is hidden behind compute, as on a CPU nothing
can be.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from time import perf_counter

import torch
import torch.distributed as dist
from torch import nn

from ..planner.configuration import Configuration, Mesh
from ..planner.plan import Plan
from ..runtime.parallel.batch import Batch
from ..runtime.parallel.data import before_microbatch, begin_step, end_step
from .layer_parts import as_plan, build_stage, data_mesh
from .layers import Clock, Legs, Subject, all_agree, together
from .timing import typical

STAGES = (0, 1, 2, 3)
FEWEST, MOST = 5, 40
TOKENS = 16
DEPTH = 4


@dataclass(frozen=True, slots=True)
class Unit:
    """Seconds that data parallelism adds to one unit: to every forward, more to the first of a step, to every
    backward, more to the last."""

    zero: int
    ranks: int
    parameters: int
    forward_s: float
    first_s: float
    backward_s: float
    last_s: float


def measure(subject: Subject, ranks: int, budget_s: float) -> list[Unit]:
    """A layer and the rest of a model, in every ZeRO stage, over groups of so many neighbours."""
    depths = _depths(len(subject.architecture.layers))
    mesh = data_mesh(subject.device, ranks)
    stages = {
        (zero, depth): build_stage(_plan(subject, depth, zero or 0), depth, subject.device,
                                   None if zero is None else mesh)
        for zero in (None, *STAGES)
        for depth in depths
    }  # fmt: skip
    samples: dict[tuple[int | None, int], list[Legs]] = {key: [] for key in stages}
    for (zero, _), (part, batch) in stages.items():
        _step(part, batch, zero)
    begin, done = perf_counter(), 0
    while done < FEWEST or all_agree(done < MOST and perf_counter() - begin < budget_s):
        for key, (part, batch) in stages.items():
            samples[key].append(together(partial(_step, part, batch, key[0])))
        done += 1
    counts = {depth: sum(each.numel() for each in stages[None, depth][0].parameters()) for depth in depths}
    return [unit for zero in STAGES for unit in _units(zero, ranks, counts, samples)]


def _depths(layers: int) -> tuple[int, int]:
    most = min(DEPTH, layers)
    return max(1, most // 2), max(2, most)


def _plan(subject: Subject, depth: int, zero: int) -> Plan:
    configuration = Configuration(
        mesh=Mesh(dp=dist.get_world_size()), stage_layers=(depth,), microbatch=1, microbatches=2, zero=zero
    )
    short = subject.job.model_copy(update={"seq_len": min(TOKENS, subject.job.seq_len)})
    return as_plan(subject.model, short, configuration)


def _step(part: nn.Module, batch: Batch, zero: int | None) -> Legs:
    """Two microbatches."""
    for parameter in part.parameters():
        parameter.grad = None
    clock = Clock(batch.tokens.device)
    begin_step(part)
    for index in range(2):
        if zero is not None:
            before_microbatch(part, zero=zero, last=index == 1)
        loss = part(batch.tokens, batch.targets) / batch.weight
        clock(f"forward {index}")
        torch.autograd.backward(loss)
        clock(f"backward {index}")
    end_step(part)
    clock("end")
    return clock.found


def _units(
    zero: int, ranks: int, counts: dict[int, int], samples: dict[tuple[int | None, int], list[Legs]]
) -> list[Unit]:
    """Of a layer, and of what is beside the layers."""
    few, many = sorted(counts)
    added = {depth: _added(samples[zero, depth], samples[None, depth]) for depth in counts}
    layer = [(b - a) / (many - few) for a, b in zip(added[few], added[many], strict=True)]
    rest = [a - few * each for a, each in zip(added[few], layer, strict=True)]
    of_layer = (counts[many] - counts[few]) // (many - few)
    return [
        Unit(zero, ranks, of_layer, *layer),
        Unit(zero, ranks, counts[few] - few * of_layer, *rest),
    ]


def _added(dressed: Sequence[Legs], plain: Sequence[Legs]) -> list[float]:
    """To every forward, to the first more, to every backward, to the last more."""
    legs = ("forward 0", "backward 0", "forward 1", "backward 1", "end")
    first, back, later, last, end = (
        typical([ours[leg] - theirs[leg] for ours, theirs in zip(dressed, plain, strict=True)]) for leg in legs
    )
    return [later, first - later, back, last + end - back]
