"""Pins: the parts of a configuration that the user has decided."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, fields, replace
from typing import Any, get_args

from ..errors import InputError, Problem, did_you_mean
from .configuration import LEVERS, CpAlgorithm, Dispatch, Module, OffloadTo, Recompute, ScheduleName
from .schedule.csv_file import cells_of
from .schedule.name import CUSTOM
from .schedule.schedule import Schedule
from .schedule.table import names


@dataclass(frozen=True, slots=True, kw_only=True)
class Pins:
    """What is fixed; None is left to the search."""

    pp: int | None = None
    vpp: int | None = None
    dp: int | None = None
    cp: int | None = None
    tp: int | None = None
    ep: int | None = None
    etp: int | None = None
    zero: int | None = None
    microbatch: int | None = None
    sp: bool | None = None
    schedule: ScheduleName | None = None
    in_flight: tuple[int, ...] | None = None
    actions: tuple[str, ...] | None = None  # of a schedule file
    recompute: Recompute | None = None
    recompute_operations: tuple[Module, ...] | None = None
    dp_replicate: int | None = None
    offload: float | None = None
    offload_to: OffloadTo | None = None
    swap_layers: int | None = None
    cp_algorithm: CpAlgorithm | None = None
    cp_ulysses: int | None = None
    logits_chunks: int | None = None
    spread_vocabulary: bool | None = None
    shares: tuple[int, ...] | None = None
    dispatch: Dispatch | None = None
    dispatch_chunks: int | None = None
    expert_replicas: int | None = None

    def given(self) -> dict[str, Any]:
        """The pinned fields by name."""
        values = {field.name: getattr(self, field.name) for field in fields(self)}
        return {name: value for name, value in values.items() if value is not None}

    def levers(self) -> dict[str, Any]:
        """The pinned ones of the fields that the search does not walk through: as a Configuration has them."""
        walked = ("zero", "sp", "recompute")
        return {name: value for name, value in self.given().items() if name in LEVERS and name not in walked}


def parse_pins(texts: Iterable[str]) -> Pins:
    """Read `["tp=8", "sp=true", ...]`. Raises InputError with every problem."""
    values: dict[str, Any] = {}
    found: list[Problem] = []
    for text in texts:
        name, equals, written = (part.strip() for part in text.partition("="))
        problem = _refuse(name, equals, text, values)
        if problem is None:
            value = _READERS[name](written)
            problem = value if isinstance(value, Problem) else None
            values[name] = value
        if problem is not None:
            found.append(problem)
    if found:
        raise InputError("--pin", found)
    return Pins(**values)


def listing(pins: Pins, schedule: Schedule) -> Pins:
    """Pins with the actions of a schedule file, which say the pipeline ranks too, where these are not pinned.

    Raises InputError where another schedule is pinned.
    """
    if pins.schedule is not None:
        rule = "the actions of a schedule file are the schedule"
        raise InputError.single("--pin", "--pin schedule", pins.schedule, rule, "leave it out")
    chunks = max(len(schedule.stages_of(rank)) for rank in range(schedule.ranks))
    actions = tuple(",".join(row) for row in cells_of(schedule))
    return replace(pins, schedule=CUSTOM, actions=actions, pp=pins.pp or schedule.ranks, vpp=pins.vpp or chunks)


def _refuse(name: str, equals: str, text: str, values: dict[str, Any]) -> Problem | None:
    if not name:
        return Problem("--pin", text, "is written name=value", "tp=8")
    if name not in _READERS:
        return Problem(f"--pin {name}", None, "cannot be pinned", did_you_mean(name, _READERS))
    if not equals:
        return Problem("--pin", text, "is written name=value", f"{name}=...")
    if name in values:
        return Problem(f"--pin {name}", None, "is given twice", "one of them")
    return None


Reader = Callable[[str], Any]


def _whole(name: str, low: int, high: int | None = None) -> Reader:
    """Reads a whole number within bounds."""
    rule = f"must be a whole number from {low} to {high}" if high is not None else f"must be a whole number >= {low}"

    def read(written: str) -> int | Problem:
        try:
            value = int(written)
        except ValueError:
            return Problem(f"--pin {name}", written, rule, f"{name}={low}")
        nearest = max(low, min(value, high if high is not None else value))
        return value if value == nearest else Problem(f"--pin {name}", value, rule, f"{name}={nearest}")

    return read


def _word(name: str, known: tuple[str, ...]) -> Reader:
    """Reads one of the known words."""

    def read(written: str) -> str | Problem:
        if written in known:
            return written
        return Problem(f"--pin {name}", written, f"must be one of {', '.join(known)}", did_you_mean(written, known))

    return read


def _words(name: str, known: tuple[str, ...]) -> Reader:
    """Reads known words, with commas between them."""

    def read(written: str) -> tuple[str, ...] | Problem:
        words = tuple(word.strip() for word in written.split(","))
        for word in words:
            if word not in known:
                return Problem(f"--pin {name}", word, f"must be of {', '.join(known)}", did_you_mean(word, known))
        return words

    return read


def _counts(name: str) -> Reader:
    """Reads whole numbers above zero, with commas between them."""

    def read(written: str) -> tuple[int, ...] | Problem:
        words = [word.strip() for word in written.split(",")]
        if all(word.isdecimal() and int(word) for word in words):
            return tuple(map(int, words))
        return Problem(f"--pin {name}", written, "must be whole numbers above zero with commas between", f"{name}=4")

    return read


def _truth(name: str) -> Reader:
    """Reads yes or no."""
    words = {"true": True, "1": True, "yes": True, "false": False, "0": False, "no": False}

    def read(written: str) -> bool | Problem:
        value = words.get(written.lower())
        return Problem(f"--pin {name}", written, "must be true or false", f"{name}=true") if value is None else value

    return read


def _fraction(written: str) -> float | Problem:
    try:
        value = float(written)
    except ValueError:
        return Problem("--pin offload", written, "must be a number from 0 to 1", "offload=0")
    if not 0.0 <= value <= 1.0:
        return Problem("--pin offload", value, "must be a number from 0 to 1", f"offload={float(value > 0.5):g}")
    return value


_DEGREES = (
    "pp", "vpp", "dp", "cp", "tp", "ep", "etp", "microbatch", "dp_replicate", "cp_ulysses", "logits_chunks",
    "dispatch_chunks",
)  # fmt: skip

_READERS: dict[str, Reader] = {
    **{name: _whole(name, 1) for name in _DEGREES},
    "zero": _whole("zero", 0, 3),
    "sp": _truth("sp"),
    "schedule": _word("schedule", names()),
    "in_flight": _counts("in_flight"),
    "recompute": _word("recompute", get_args(Recompute)),
    "offload": _fraction,
    "offload_to": _word("offload_to", get_args(OffloadTo)),
    "swap_layers": _whole("swap_layers", 0),
    "recompute_operations": _words("recompute_operations", get_args(Module)),
    "cp_algorithm": _word("cp_algorithm", get_args(CpAlgorithm)),
    "spread_vocabulary": _truth("spread_vocabulary"),
    "shares": _counts("shares"),
    "dispatch": _word("dispatch", get_args(Dispatch)),
    "expert_replicas": _whole("expert_replicas", 0),
}
