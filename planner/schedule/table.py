"""Table: every schedule by name, found in the files of `builders/`; and what each holds."""

from __future__ import annotations

from dataclasses import replace
from functools import cache, lru_cache
from importlib import import_module
from pkgutil import iter_modules
from typing import TYPE_CHECKING

from . import builders
from .builder import Builder, Held
from .csv_file import read_cells
from .greedy import limited
from .name import CUSTOM
from .passes import drawn, logits_waiting
from .placement import Placement, stages_of
from .schedule import Schedule

if TYPE_CHECKING:
    from ..configuration import Configuration


@cache
def table() -> dict[str, Builder]:
    """Builders by name, in alphabetical order."""
    modules = (import_module(f"{builders.__name__}.{module.name}") for module in iter_modules(builders.__path__))
    found = {module.SCHEDULE.name: module.SCHEDULE for module in modules}
    return dict(sorted(found.items()))


def names() -> tuple[str, ...]:
    """Schedules that can be asked for by name."""
    return tuple(table())


@lru_cache(maxsize=64)
def make(name: str, ranks: int, microbatches: int, chunks: int = 1) -> Schedule:
    """A schedule by name. The search asks for few of them, very often: the last ones are kept.

    Raises ValueError for a number of chunks or microbatches that the schedule does not have.
    """
    builder = table()[name]
    if chunks not in builder.chunks:
        few = builder.chunks.start
        has = {1: "one stage a rank", 2: "two stages a rank"}[few] + (" or more" if len(builder.chunks) > 1 else "")
        raise ValueError(f"{name} has {has}, not {chunks}")
    return builder.make(ranks, microbatches, chunks)


@lru_cache(maxsize=1024)
def placement_of(name: str, ranks: int, chunks: int, actions: tuple[str, ...] = ()) -> Placement:
    """Which rank holds which stage under a schedule by name, or under the actions of a custom one."""
    if name == CUSTOM:
        return custom(actions).places
    return table()[name].place(ranks, ranks * chunks)


@lru_cache(maxsize=1024)
def stages_by_rank(name: str, ranks: int, chunks: int, actions: tuple[str, ...] = ()) -> tuple[tuple[int, ...], ...]:
    """The virtual stages of each rank, ascending."""
    places = placement_of(name, ranks, chunks, actions)
    return tuple(stages_of(places, rank) for rank in range(ranks))


@lru_cache(maxsize=16)
def custom(actions: tuple[str, ...]) -> Schedule:
    """The schedule of rows of cells. Raises InputError with every fault."""
    return read_cells((row.split(",") for row in actions), CUSTOM)


def held(name: str, ranks: int, microbatches: int, chunks: int, rank: int) -> Held:
    """What one rank holds at its fullest moments: by closed form, else from the actions themselves, of which as many
    microbatches as the pipeline has stages show all that more of them would hold (a rhythm repeats)."""
    builder = table()[name]
    closed = builder.held and builder.held(ranks, microbatches, chunks, rank)
    return closed or _held(name, ranks, min(microbatches, ranks * chunks), chunks, rank)


@lru_cache(maxsize=4096)
def _held(name: str, ranks: int, microbatches: int, chunks: int, rank: int) -> Held:
    return held_by(make(name, ranks, microbatches, chunks), rank)


def held_by(schedule: Schedule, rank: int) -> Held:
    """What one rank of any schedule holds at its fullest moments."""
    fullest: list[tuple[int, int]] = []
    for moment in sorted(set(schedule.holdings(rank)), reverse=True):  # most awaiting a backward first
        if not fullest or moment[1] > fullest[-1][1]:
            fullest.append(moment)
    return Held(tuple(fullest), _losses(schedule) if rank == schedule.rank_of(schedule.stages - 1) else 0)


def _losses(schedule: Schedule) -> int:
    """Microbatches whose loss awaits its backward, at most."""
    last, most, waiting = schedule.stages - 1, 0, 0
    for kind, stage, _ in schedule.actions[schedule.rank_of(last)]:
        if stage == last:
            waiting += {"F": 1, "W": 0}.get(kind, -1)
            most = max(most, waiting)
    return most


def splits(configuration: Configuration) -> bool:
    """Whether the schedule of a configuration has backwards in two halves."""
    if configuration.schedule == CUSTOM:
        return custom(configuration.actions).splits
    return table()[configuration.schedule].splits


def build(configuration: Configuration) -> Schedule:
    """The schedule that a configuration names, within its limits; or the one that it lists."""
    if configuration.schedule == CUSTOM:
        return replace(custom(configuration.actions), spread=configuration.spread_vocabulary)
    if configuration.spread_vocabulary:
        return spread(*_key(configuration))
    return within(*_key(configuration)) if configuration.in_flight else make(*_key(configuration)[:4])


@lru_cache(maxsize=64)
def spread(name: str, ranks: int, microbatches: int, chunks: int, in_flight: tuple[int, ...]) -> Schedule:
    """A schedule by name with the passes of a spread vocabulary. Raises ValueError as `within` does."""
    found = drawn(make(name, ranks, microbatches, chunks))
    caps = in_flight * ranks if len(in_flight) == 1 else in_flight
    return replace(limited(found, caps) if caps else found, spread=True)


@lru_cache(maxsize=16)
def within(name: str, ranks: int, microbatches: int, chunks: int, in_flight: tuple[int, ...]) -> Schedule:
    """A schedule by name whose ranks hold no more than they may. Raises ValueError where that is too little."""
    caps = in_flight * ranks if len(in_flight) == 1 else in_flight
    return limited(make(name, ranks, microbatches, chunks), caps)


_held_by = lru_cache(maxsize=256)(held_by)


def held_of(configuration: Configuration, rank: int) -> Held:
    """What one rank of a configuration holds at its fullest moments."""
    if configuration.spread_vocabulary and configuration.schedule != CUSTOM:
        return _held_spread(*_key(configuration), rank)
    if configuration.schedule == CUSTOM or configuration.in_flight:
        return _held_by(build(configuration), rank)
    return held(configuration.schedule, configuration.mesh.pp, configuration.microbatches, configuration.vpp, rank)


@lru_cache(maxsize=4096)
def _held_spread(name: str, ranks: int, microbatches: int, chunks: int, in_flight: tuple[int, ...], rank: int) -> Held:
    """Of a rhythm that repeats, two microbatches for each stage show all (forwards are drawn across two backwards); of
    a schedule that holds all of them, all do."""
    few = min(microbatches, 2 * ranks * chunks)
    if held(name, ranks, few, chunks, 0) != held(name, ranks, microbatches, chunks, 0):
        few = microbatches
    builder = table()[name]
    if builder.held_spread and ranks > 1 and not in_flight:
        closed = builder.held_spread(ranks, few, chunks, rank)
        if closed is not None:
            return closed
    return held_by(spread(name, ranks, few, chunks, in_flight), rank)


def waiting_of(configuration: Configuration) -> int:
    """Of a configuration that spreads its vocabulary, microbatches whose logits wait for their gradients, at most."""
    if configuration.schedule == CUSTOM:
        return logits_waiting(build(configuration))
    name, ranks, microbatches, chunks, in_flight = _key(configuration)
    known = table()[name].waiting
    if known and ranks > 1 and not in_flight:
        return min(known, microbatches)
    return _waiting(name, ranks, min(microbatches, 2 * ranks), chunks, in_flight)  # two for each rank show it


@lru_cache(maxsize=1024)
def _waiting(name: str, ranks: int, microbatches: int, chunks: int, in_flight: tuple[int, ...]) -> int:
    return logits_waiting(spread(name, ranks, microbatches, chunks, in_flight))


def _key(configuration: Configuration) -> tuple[str, int, int, int, tuple[int, ...]]:
    ranks, count = configuration.mesh.pp, configuration.microbatches
    return configuration.schedule, ranks, count, configuration.vpp, configuration.in_flight
