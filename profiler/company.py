"""Company: the other workers of a profile, as one of them sees them. A link that dies ends it, not the profile."""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Collection
from datetime import timedelta
from typing import Any

import torch
from torch import distributed as dist

from ..runtime import compat


class Company:
    """Joined workers. Once a call to the others has failed, `lost` says why, and nothing is asked of them any more."""

    def __init__(self, device: torch.device, rank: int, world: int) -> None:
        self.device, self.rank, self.world = device, rank, world
        self.lost = ""

    def join(self, rendezvous: str, wait_s: float) -> None:
        """Meet at a file of this machine, or at what torchrun gave the environment (`env://`).

        `wait_s` bounds every later call, too. Raises what torch raises.
        """
        if sys.platform == "linux" and rendezvous.startswith("file://"):
            os.environ.setdefault("GLOO_SOCKET_IFNAME", "lo")  # all workers are here; a hostname may not resolve
        if self.device.type == "cpu":
            compat.share_gloo_device()  # every sharding of a model that is measured has groups of its own
        dist.init_process_group(
            "nccl" if self.device.type == "cuda" else "gloo",
            init_method=rendezvous,
            rank=self.rank,
            world_size=self.world,
            timeout=timedelta(seconds=wait_s),
        )
        dist.all_reduce(torch.zeros(1, device=self.device))

    def wait(self) -> None:
        """Until all are here: each part is measured while the others load the machine with the same."""
        if not self.lost:
            try:
                dist.barrier()
            except RuntimeError as error:
                self.leave(error)

    def common(self, mine: Collection[str]) -> set[str]:
        """Of my keys, those that all have; mine where no others can be asked."""
        theirs = self.gather(sorted(mine))
        return set(mine) if theirs is None else set(mine).intersection(*theirs)

    def gather(self, mine: Any) -> list[Any] | None:
        """What everybody has (anything that can be pickled), by rank; None where the others cannot be asked."""
        theirs: list[Any] = [None] * self.world
        if self.lost:
            return None
        try:
            dist.all_gather_object(theirs, mine)
        except RuntimeError as error:
            self.leave(error)
            return None
        return theirs

    def leave(self, error: Exception | str = "left") -> None:
        """Close my ends, so that nobody waits for me in a call that I do not make."""
        if not self.lost:
            self.lost = last_line(error)
            dist.destroy_process_group()


def last_line(error: Exception | str) -> str:
    """What an error says, without the traceback that some carry in their text, and without gloo's source and advice."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    text = lines[0] if lines else type(error).__name__
    text = re.sub(r"^\[\S+:\d+\]\s*", "", text).partition(". This is typically")[0]
    return text if len(text) <= 300 else f"{text[:297]}..."
