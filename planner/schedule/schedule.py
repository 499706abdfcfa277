"""Schedule: per pipeline rank, the ordered list of what it computes, and which rank holds which stage."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property

from .action import Action, Rows
from .order import executable_order
from .pass_program import with_passes
from .passes import Pass, Played, played
from .placement import Placement, loop, stages_of
from .program import Instruction, Link, links_of, program_of
from .validate import check_complete


@dataclass(frozen=True)
class Schedule:
    """`actions[r]` is what pipeline rank r computes, in order; `placement[v]` is the rank of virtual stage v, which is
    v % ranks where nothing is said. `spread`: embedding and output layer are spread over all ranks, whose passes
    (`passes.py`) come to the actions."""

    name: str
    ranks: int
    stages: int
    microbatches: int
    actions: Rows
    placement: Placement = ()
    spread: bool = False

    @cached_property
    def places(self) -> Placement:
        """The rank of every virtual stage."""
        return self.placement or loop(self.ranks, self.stages)

    def rank_of(self, stage: int) -> int:
        return self.places[stage]

    def stages_of(self, rank: int) -> Sequence[int]:
        """The virtual stages of a rank, ascending."""
        return stages_of(self.places, rank)

    @cached_property
    def splits(self) -> bool:
        """Whether any backward comes in two halves."""
        return any(action.kind == "I" for row in self.actions for action in row)

    def in_flight(self, rank: int) -> int:
        """The most stage inputs that a rank holds at once, awaiting the last of their backward."""
        return max((backward + weight for backward, weight in self.holdings(rank)), default=0)

    def holdings(self, rank: int) -> Iterator[tuple[int, int]]:
        """After each action of a rank: stage inputs awaiting the backward, and those awaiting the weights' half."""
        backward = weight = 0
        for action in self.actions[rank]:
            backward += 1 if action.kind == "F" else -1 if action.kind in "BI" else 0
            weight += 1 if action.kind == "I" else -1 if action.kind == "W" else 0
            yield backward, weight

    @cached_property
    def order(self) -> tuple[Action, ...]:
        """All actions, each after everything it needs: an order in which one processor could compute them.

        Raises ValueError where the schedule is incomplete or can never finish.
        """
        check_complete(self)
        return tuple(executable_order(self))

    @cached_property
    def links(self) -> tuple[Link, ...]:
        """Pairs of ranks between which results may be sent, one way each."""
        return links_of(self)

    @cached_property
    def program(self) -> tuple[Instruction, ...]:
        """The order with everything looked up that an interpreter needs in each step of it."""
        return tuple(with_passes(self) if self.spread else program_of(self))

    @cached_property
    def steps(self) -> tuple[Action | Pass, ...]:
        """What the instructions of the program are."""
        return tuple(step for step, _, _ in self.timed) if self.spread else self.order

    @cached_property
    def timed(self) -> tuple[Played, ...]:
        """Actions and passes in the order of time of one play (`passes.py`)."""
        return tuple(played(self))
