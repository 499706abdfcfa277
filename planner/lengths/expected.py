"""Expected: the steps of a configuration whose sequences have drawn lengths, through the whole cost model.

Rounds take what the assignment says; gathers, reductions, optimizer and offload are the event interpreter's, which
plays a step of as many equal rounds as the assignment has, with the mean of their seconds.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from statistics import fmean

from ..configuration import Configuration
from ..cost.setting import Setting
from ..cost.step import work_of
from ..schedule import build
from ..simulate.engine import StepTime, step_time
from ..simulate.work import Work
from .bound import lower_bound_s
from .distribution import sample
from .instance import Instance
from .integers import Integers
from .packing import packed
from .prices import Prices, multiple_of
from .solve import Solution, solve

SEED = 0
"""Of the steps that a plan is chosen and judged by."""


@dataclass(frozen=True, slots=True)
class Step:
    """One drawn step: its lengths, its assignment, and its time by cause."""

    lengths: Integers
    instance: Instance
    solution: Solution
    time: StepTime

    @property
    def busy(self) -> float:
        """Share of the rounds' time in which ranks work, not waiting for the slowest group or without any."""
        rounds = self.solution.assignment.rounds
        work_s = sum(group.degree * group.seconds for each in rounds for group in each.groups)
        return work_s / (self.instance.lanes * self.solution.seconds)


def drawn(setting: Setting, steps: int) -> Iterator[Integers]:
    """Lengths of some steps of the job."""
    job = setting.job
    assert job.lengths is not None
    for number in range(steps):
        yield sample(job.lengths, job.global_batch, job.seq_len, SEED, number)


class Judge:
    """Prices drawn steps of one configuration, whose groups are those of `prices`."""

    def __init__(self, setting: Setting, prices: Prices, configuration: Configuration):
        self.setting, self.prices, self.configuration = setting, prices, configuration
        self._work = work_of(setting, configuration)

    def steps(self, count: int, *, quick: bool = False) -> list[Step]:
        """Drawn steps with the best assignment that the solver finds."""
        return [self.step(lengths, quick=quick) for lengths in drawn(self.setting, count)]

    def step(self, lengths: Integers, *, quick: bool = False) -> Step:
        """One step with such lengths."""
        instance = self.prices.instance(lengths)
        solution = solve(instance, quick=quick)
        rounds = [each.seconds for each in solution.assignment.rounds]
        return Step(lengths, instance, solution, self.time(rounds))

    def packed_s(self, count: int) -> tuple[int, float]:
        """Degree and expected seconds of a step with plain packing."""
        seq_len = self.setting.job.seq_len
        multiple = multiple_of(self.prices.configuration)
        for degree, room in zip(self.prices.degrees, self.prices.capacity, strict=True):
            row = -(-seq_len // (degree * 2 * multiple)) * 2 * multiple
            if row <= room:
                return degree, fmean(self._packed_s(lengths, degree, row) for lengths in drawn(self.setting, count))
        raise ValueError("no group holds a sequence of seq_len tokens")

    def _packed_s(self, lengths: Integers, degree: int, row: int) -> float:
        rounds = packed(self.prices.instance(lengths).only(degree), row)
        return self.time([max(pack.seconds for pack in packs) for packs in rounds]).total_s

    def bound_s(self, count: int) -> float:
        """No assignment of the drawn steps makes them shorter on average: what rounds take, and what follows them."""
        found = fmean(lower_bound_s(self.prices.instance(lengths)) for lengths in drawn(self.setting, count))
        return found + max(self._work.optimizer_s, default=0.0) + max(self._work.offload_s, default=0.0)

    def time(self, rounds: list[float]) -> StepTime:
        """A step of rounds with such seconds."""
        configuration, work = self.played(rounds)
        return step_time(build(configuration), work)

    def played(self, rounds: list[float]) -> tuple[Configuration, Work]:
        """What the interpreter plays: as many equal rounds."""
        forward, backward = self._work.forward_s[0], self._work.backward_s[0]
        mean, share = fmean(rounds), forward / (forward + backward)
        work = replace(self._work, forward_s=(share * mean,), backward_s=((1 - share) * mean,))
        return replace(self.configuration, microbatches=len(rounds)), work
