"""Instance: one step's sequences, and what each costs on a context-parallel group of each degree.

The ranks of data and context parallelism are `lanes` (a lane is the tp ranks of one place). Every round, a microbatch,
cuts them into aligned groups of 1, 2, 4, ... lanes; a group packs some sequences and takes

    max(floor, linear(tokens of a lane) + sum of core(sequence, degree))

seconds: everything that grows with tokens, and attention with its exchange, which grows with each sequence alone. A
round takes as long as its slowest group, a step the sum of its rounds. With ZeRO 0 or 1 nothing makes groups wait for
each other between rounds, and a step may be sooner done.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from .integers import Integers

Floats = NDArray[np.float64]


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class Instance:
    """Arrays over sequences [n] and degrees [k]; degrees ascend, are powers of two and divide `lanes`.

    `tokens` [n, k] is what a sequence takes of the `capacity` [k] of each lane of its group, in tokens; `core_s` [n, k]
    the seconds of its attention. `linear_s` over `knots` (tokens, ascending) is straight between these and never falls.
    """

    lanes: int
    degrees: tuple[int, ...]
    capacity: Integers
    tokens: Integers
    core_s: Floats
    knots: Floats
    linear_s: Floats
    floor_s: float = 0.0

    @property
    def count(self) -> int:
        return len(self.tokens)

    @property
    def widths(self) -> Floats:
        """The degrees as an array."""
        return np.array(self.degrees, dtype=np.float64)

    @property
    def fits(self) -> NDArray[np.bool_]:
        """Which sequences groups of each degree can hold, [n, k]."""
        return self.tokens <= self.capacity

    def seconds(self, tokens: Floats | Integers, core_s: Floats) -> Floats:
        """Of packs with so many tokens a lane and such attention."""
        found: Floats = np.maximum(self.floor_s, np.interp(tokens, self.knots, self.linear_s) + core_s)
        return found

    def alone_s(self) -> Floats:
        """Seconds of each sequence in a group of its own, [n, k]; infinite where it does not fit."""
        found: Floats = np.where(self.fits, self.seconds(self.tokens, self.core_s), np.inf)
        return found

    def only(self, degree: int) -> Instance:
        """The same with groups of one degree."""
        place = self.degrees.index(degree)
        part = slice(place, place + 1)
        return replace(
            self,
            degrees=(degree,),
            capacity=self.capacity[part],
            tokens=self.tokens[:, part],
            core_s=self.core_s[:, part],
        )


def check_instance(instance: Instance) -> None:
    """Raises ValueError where an instance is none, or where a sequence fits no group."""
    degrees, lanes = instance.degrees, instance.lanes
    if not degrees or any(degree < 1 or degree & (degree - 1) or lanes % degree for degree in degrees):
        raise ValueError(f"degrees {degrees} must be powers of two that divide the {lanes} lanes")
    if list(degrees) != sorted(set(degrees)):
        raise ValueError(f"degrees {degrees} must ascend")
    if np.any(np.diff(instance.linear_s) < 0) or np.any(np.diff(instance.knots) <= 0):
        raise ValueError("linear_s must not fall, and its knots must ascend")
    if instance.count and not instance.fits.any(axis=1).all():
        longest = int(np.flatnonzero(~instance.fits.any(axis=1))[0])
        raise ValueError(f"sequence {longest} fits no group")
