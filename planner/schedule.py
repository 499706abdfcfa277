"""A pipeline schedule is data: per rank, the ordered list of what it computes.

One small pure function makes each schedule; two interpreters read the result: the simulator
(`simulate/engine.py`) and the runtime (`runtime/parallel/pipeline.py`). Transfers are not listed:
they follow from the order and from which rank holds a stage.

What must be computed before an action, beside what its rank lists before it:

    F(v, m)  after F(v - 1, m)
    B(v, m)  after F(v, m) and B(v + 1, m)
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property, lru_cache
from itertools import product
from typing import Any, Literal, NamedTuple

from .configuration import Configuration, ScheduleName


class Action(NamedTuple):
    """Forward (F) or backward (B) of one microbatch through one virtual stage."""

    kind: Literal["F", "B"]
    stage: int
    microbatch: int

    def __str__(self) -> str:
        return f"{self.kind} s{self.stage} m{self.microbatch}"


FORWARD, BACKWARD, FIRST_FORWARD, LAST_BACKWARD = 1, 2, 4, 8
"""What an action is to its stage, as bits: an interpreter asks in one test what it must do beside computing."""


class Instruction(NamedTuple):
    """An action as numbers. Results stand in slots: forwards stage by stage, then backwards, then one that is always
    there. Times stand in groups: forwards by stage, then backwards. Links: forwards by sending rank, then backwards,
    then one for what is not sent."""

    slot: int
    needed: int  # the slot of the result that another rank sends
    group: int
    rank: int
    link: int
    turn: int  # bits of FORWARD to LAST_BACKWARD


@dataclass(frozen=True)
class Schedule:
    """`actions[r]` is what pipeline rank r computes, in order; virtual stage v runs on rank v % ranks."""

    name: ScheduleName
    ranks: int
    stages: int
    microbatches: int
    actions: tuple[tuple[Action, ...], ...]

    def rank_of(self, stage: int) -> int:
        return stage % self.ranks

    def in_flight(self, rank: int) -> int:
        """The most stage inputs that a rank holds at once, awaiting their backward."""
        held = peak = 0
        for action in self.actions[rank]:
            held += 1 if action.kind == "F" else -1
            peak = max(peak, held)
        return peak

    @cached_property
    def order(self) -> tuple[Action, ...]:
        """All actions, each after everything it needs: an order in which one processor could compute them.

        Raises ValueError where the schedule is incomplete or can never finish.
        """
        _check_complete(self)
        return tuple(_executable_order(self))

    @cached_property
    def program(self) -> tuple[Instruction, ...]:
        """The order with everything looked up that an interpreter needs in each step of it."""
        return tuple(_program(self))


def check(schedule: Schedule) -> None:
    """Prove that a schedule computes every (stage, microbatch) once forward and once backward, and ends.

    Raises ValueError with every missing, repeated or misplaced action, or with the first action that
    each rank waits for in vain.
    """
    _ = schedule.order


def gpipe(ranks: int, microbatches: int) -> Schedule:
    """All forwards, then all backwards (GPipe, arXiv:1811.06965)."""
    rows = []
    for rank in range(ranks):
        forward = [Action("F", rank, m) for m in range(microbatches)]
        backward = [Action("B", rank, m) for m in range(microbatches)]
        rows.append(tuple(forward + backward))
    return Schedule("gpipe", ranks, ranks, microbatches, tuple(rows))


def one_forward_one_backward(ranks: int, microbatches: int) -> Schedule:
    """Warm up, then alternate: rank r holds at most ranks - r microbatches (PipeDream-Flush, arXiv:2006.09503)."""
    rows = []
    for rank in range(ranks):
        warm_up = min(ranks - rank - 1, microbatches)
        row = [Action("F", rank, m) for m in range(warm_up)]
        for m in range(warm_up, microbatches):
            row += [Action("F", rank, m), Action("B", rank, m - warm_up)]
        row += [Action("B", rank, m) for m in range(microbatches - warm_up, microbatches)]
        rows.append(tuple(row))
    return Schedule("1f1b", ranks, ranks, microbatches, tuple(rows))


def interleaved(ranks: int, microbatches: int, chunks: int) -> Schedule:
    """1F1B over `chunks` virtual stages a rank; microbatches advance in groups of `ranks` (arXiv:2104.04473).

    Raises ValueError unless microbatches is a multiple of ranks.
    """
    if microbatches % ranks:
        raise ValueError(f"interleaved needs microbatches ({microbatches}) in multiples of ranks ({ranks})")
    total = microbatches * chunks
    rows = []
    for rank in range(ranks):
        warm_up = min(total, 2 * (ranks - rank - 1) + (chunks - 1) * ranks)
        forward = [_interleaved("F", k, rank, ranks, chunks) for k in range(total)]
        backward = [_interleaved("B", k, rank, ranks, chunks) for k in range(total)]
        row = forward[:warm_up]
        for k in range(warm_up, total):
            row += [forward[k], backward[k - warm_up]]
        rows.append(tuple(row + backward[total - warm_up :]))
    return Schedule("interleaved", ranks, ranks * chunks, microbatches, tuple(rows))


def _interleaved(kind: Literal["F", "B"], k: int, rank: int, ranks: int, chunks: int) -> Action:
    """The k-th forward or backward of a rank: groups of `ranks` microbatches, chunk after chunk."""
    group, place = divmod(k, ranks * chunks)
    chunk, offset = divmod(place, ranks)
    if kind == "B":
        chunk = chunks - 1 - chunk
    return Action(kind, chunk * ranks + rank, group * ranks + offset)


def build(configuration: Configuration) -> Schedule:
    """The schedule that a configuration names."""
    return make(configuration.schedule, configuration.mesh.pp, configuration.microbatches, configuration.vpp)


@lru_cache(maxsize=64)
def make(name: ScheduleName, ranks: int, microbatches: int, chunks: int = 1) -> Schedule:
    """A schedule by name. The search asks for few of them, very often: the last ones are kept."""
    if name == "interleaved":
        return interleaved(ranks, microbatches, chunks)
    if chunks != 1:
        raise ValueError(f"{name} has one stage a rank, not {chunks}")
    return gpipe(ranks, microbatches) if name == "gpipe" else one_forward_one_backward(ranks, microbatches)


def _check_complete(schedule: Schedule) -> None:
    """Every rank lists exactly the actions of its stages."""
    wanted = [
        set(product("FB", range(rank, schedule.stages, schedule.ranks), range(schedule.microbatches)))
        for rank in range(schedule.ranks)
    ]
    lengths = [len(row) for row in wanted]
    if [len(row) for row in schedule.actions] != lengths or [set(row) for row in schedule.actions] != wanted:
        raise ValueError(f"{schedule.name} schedule is not complete; {_faults(schedule, set().union(*wanted))}")


def _faults(schedule: Schedule, wanted: set[Any]) -> str:
    listed = [(rank, action) for rank, row in enumerate(schedule.actions) for action in row]
    seen = Counter(action for _, action in listed)
    faults = {
        "missing": wanted - set(seen),
        "unknown": set(seen) - wanted,
        "on the wrong rank": {action for rank, action in listed if schedule.rank_of(action.stage) != rank},
        "listed twice": {action for action, times in seen.items() if times > 1},
    }
    named = [(what, sorted(actions)[:8]) for what, actions in faults.items() if actions]
    return "; ".join(f"{what}: {', '.join(str(Action(*action)) for action in actions)}" for what, actions in named)


def _executable_order(schedule: Schedule) -> Iterator[Action]:
    """Let each rank run until it must wait; whoever finishes what it waits for sets it going again."""
    count, last = schedule.microbatches, schedule.stages - 1
    backwards = schedule.stages * count  # slots: forwards stage by stage, then backwards, then 'nothing to wait for'
    nothing = 2 * backwards
    done = bytearray(nothing) + b"\1"
    position = [0] * schedule.ranks
    waiting: dict[int, int] = {}
    runnable = list(range(schedule.ranks))
    while runnable:
        rank = runnable.pop()
        row = schedule.actions[rank]
        for place in range(position[rank], len(row)):
            kind, stage, microbatch = action = row[place]
            slot = forward = stage * count + microbatch
            if kind == "F":
                needed = slot - count if stage else nothing
            else:
                slot += backwards
                needed = forward if not done[forward] else slot + count if stage < last else nothing
            if not done[needed]:
                waiting[needed] = rank
                break
            done[slot] = 1
            position[rank] = place + 1
            yield action
            if slot in waiting:
                runnable.append(waiting.pop(slot))
    _raise_if_blocked(schedule, position)


def _program(schedule: Schedule) -> Iterator[Instruction]:
    count, stages, ranks = schedule.microbatches, schedule.stages, schedule.ranks
    nothing, unsent = 2 * stages * count, 2 * ranks
    firsts = {action.stage: action for action in reversed(schedule.order) if action.kind == "F"}
    lasts = {action.stage: action for action in schedule.order if action.kind == "B"}
    for action in schedule.order:
        kind, stage, microbatch = action
        slot, rank = stage * count + microbatch, stage % ranks
        if kind == "F":
            turn = FORWARD | (FIRST_FORWARD if firsts[stage] == action else 0)
            link = rank if stage < stages - 1 else unsent
            yield Instruction(slot, slot - count if stage else nothing, stage, rank, link, turn)
        else:
            slot += stages * count
            turn = BACKWARD | (LAST_BACKWARD if lasts[stage] == action else 0)
            link = ranks + rank if stage else unsent
            needed = slot + count if stage < stages - 1 else nothing
            yield Instruction(slot, needed, stages + stage, rank, link, turn)


def _raise_if_blocked(schedule: Schedule, position: list[int]) -> None:
    blocked = [
        f"rank {rank} at {row[place]}"
        for rank, (row, place) in enumerate(zip(schedule.actions, position, strict=True))
        if place < len(row)
    ]
    if blocked:
        raise ValueError(f"{schedule.name} schedule never ends; blocked: {', '.join(blocked)}")
