"""Action: what a pipeline rank computes in one go."""

from __future__ import annotations

from typing import Literal, NamedTuple

Kind = Literal["F", "B", "I", "W"]

KINDS: dict[str, Kind] = {"F": "F", "B": "B", "I": "I", "W": "W"}
"""Forward; full backward; backward for the input alone; and for the weights alone, any time after it."""

SECONDS: dict[Kind, int] = {"F": 1, "B": 2, "I": 1, "W": 1}
"""How long each takes where a schedule is laid out before anybody has priced it."""


class Action(NamedTuple):
    """One microbatch through one virtual stage: forward (F), backward (B), or its two halves (I, then W)."""

    kind: Kind
    stage: int
    microbatch: int

    def __str__(self) -> str:
        return f"{self.kind} s{self.stage} m{self.microbatch}"

    @property
    def cell(self) -> str:
        """As PyTorch's pipeline files spell it: `1F0` is the forward of microbatch 0 through stage 1."""
        return f"{self.stage}{self.kind}{self.microbatch}"


Rows = tuple[tuple[Action, ...], ...]
"""What each rank computes, in order."""
