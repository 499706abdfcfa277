"""How fast a worker is while fewer than all compute: workers of one machine share its cores, caches and memory."""

from __future__ import annotations

from time import perf_counter

import torch.distributed as dist

from ..planner.configuration import Configuration, Mesh
from .layer_parts import as_plan, build_parts
from .layers import Clock, Subject, all_agree, microbatch
from .timing import typical

FEWEST, MOST = 3, 12
MICROBATCHES = 4  # long beside a slice of the scheduler


def measure(subject: Subject, budget_s: float) -> dict[str, float]:
    """Seconds of some microbatches, by number of workers that do them at once, until the last of these is done; the
    others wait."""
    world = dist.get_world_size()
    configuration = Configuration(
        mesh=Mesh(dp=world), stage_layers=(len(subject.architecture.layers),), microbatch=1, microbatches=1, zero=0
    )
    parts = build_parts(as_plan(subject.model, subject.job, configuration), [0], subject.device)
    samples: dict[int, list[float]] = {busy: [] for busy in range(1, world + 1)}
    begin, done = perf_counter(), 0
    while done < FEWEST or all_agree(done < MOST and perf_counter() - begin < budget_s):
        for busy, own in samples.items():
            dist.barrier()
            clock = Clock(subject.device)
            if dist.get_rank() < busy:
                for _ in range(MICROBATCHES):
                    microbatch(parts)
            dist.barrier()
            clock("all")
            own.append(clock.found["all"])
        done += 1
    return {str(busy): typical(own) for busy, own in samples.items()}
