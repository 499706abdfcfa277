"""Sampling: in which steps a rank times its parts, and how rank 0 comes to know all of them.

Every rank samples the same steps, by their numbers alone, because the ranks then exchange what they found.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
import torch.distributed as dist

from .components import KINDS, Stopwatch, clock_of, span, timed

Table = list[dict[str, float]]
"""Of every rank, seconds of each kind; they sum to the step."""


@dataclass(slots=True)
class Sampler:
    """Times every `every`-th step; none where it is 0."""

    every: int
    device: torch.device
    _watch: Stopwatch | None = None

    def takes(self, step: int) -> bool:
        """Whether the step of this number is timed."""
        return self.every > 0 and step % self.every == 0

    @contextmanager
    def step(self, step: int) -> Iterator[None]:
        """Around a whole step."""
        self._watch = Stopwatch(clock_of(self.device)) if self.takes(step) else None
        with timed(self._watch), span("other"):
            yield

    def table(self) -> Table | None:
        """What all ranks spent the last step on, if it was timed. Called by every rank, once the device is done."""
        if self._watch is None:
            return None
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)  # the last span has to end before it can be read
        own = self._watch.seconds()
        self._watch = None
        mine = torch.tensor([own[kind] for kind in KINDS], dtype=torch.float64)
        every = [torch.empty_like(mine) for _ in range(dist.get_world_size())]
        dist.all_gather(every, mine)
        return [dict(zip(KINDS, each.tolist(), strict=True)) for each in every]
