"""Straggler: the option `--straggler`, which says what is slow, and by how much."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal, get_args

from ...errors import InputError, Problem, did_you_mean

Part = Literal["device", "rank", "link", "node"]
_NUMBERS = (*get_args(Part), "tolerate", "window")
_KEYS = (*_NUMBERS, "slow", "probability")
_MOST = {"tolerate": 8, "window": 6}
_EXAMPLE = "--straggler device=3,slow=1.5x"


@dataclass(frozen=True, slots=True, kw_only=True)
class StragglerModel:
    """One slow `part` of this number, or, with a probability, any device in any step."""

    slow: float  # times longer
    part: Part | None = None
    number: int = 0
    probability: float | None = None  # that a device is slow in a step
    tolerate: int = 3  # slow replicas that redundancy is sized for, at most
    window: int = 2  # steps of the window of sequential gradient coding


def parse_straggler(text: str) -> StragglerModel:
    """Read `device=3,slow=1.5x` or `probability=0.01,slow=3x`. Raises InputError with all problems."""
    given: dict[str, str] = {}
    problems = []
    for part in filter(None, text.split(",")):
        name, _, value = (piece.strip() for piece in part.partition("="))
        if name not in _KEYS:
            problems.append(Problem(f"--straggler {name}", value, "unknown field", did_you_mean(name, _KEYS)))
        elif name in given:
            problems.append(Problem(f"--straggler {name}", value, "is given twice", "one of them"))
        else:
            given[name] = value
    problems += _missing(text, given)
    read = {name: _read(name, given[name], problems) for name in given}
    if problems:
        raise InputError("straggler", problems)
    where: Part | None = next((name for name in get_args(Part) if name in read), None)
    return StragglerModel(
        slow=read["slow"],
        part=where,
        number=int(read[where]) if where else 0,
        probability=read.get("probability"),
        tolerate=int(read.get("tolerate", 3)),
        window=int(read.get("window", 2)),
    )


def _missing(text: str, given: Iterable[str]) -> list[Problem]:
    found, where = [], [name for name in (*get_args(Part), "probability") if name in given]
    if len(where) != 1:
        rule = "must say what is slow: one of device, rank, link, node, or probability"
        found.append(Problem("--straggler", text, rule, _EXAMPLE))
    if "slow" not in given:
        found.append(Problem("--straggler", text, "must say how slow", _EXAMPLE))
    for name in ("tolerate", "window"):
        if name in given and "probability" not in given:
            rule = "sizes redundancy, which needs a probability"
            found.append(Problem(f"--straggler {name}", text, rule, "probability=0.01,slow=3x"))
    return found


def _read(name: str, text: str, problems: list[Problem]) -> float:
    """The value of one key; 0 where it is wrong, which joins the problems."""
    try:
        value = float(text.lower().removesuffix("x") if name == "slow" else text)
    except ValueError:
        value = math.nan
    if rule := _broken(name, value):
        problems.append(Problem(f"--straggler {name}", text, rule, f"{name}={_fix(name)}"))
        return 0
    return int(value) if name in _NUMBERS else value


def _broken(name: str, value: float) -> str:
    if name == "slow":
        return "" if 1 <= value < 1e6 else "must be how many times longer, 1x or more"
    if name == "probability":
        return "" if 0 <= value <= 1 else "must be from 0 to 1, for one device in one step"
    least, most = {"tolerate": 1, "window": 2}.get(name, 0), _MOST.get(name, 10**9)
    if value == value and value == int(value) and least <= value <= most:
        return ""
    return f"must be a whole number from {least} to {most}" if name in _MOST else "must be a number from 0"


def _fix(name: str) -> str:
    return {"slow": "1.5x", "probability": "0.01", "tolerate": "2", "window": "2"}.get(name, "0")
