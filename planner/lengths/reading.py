"""Lengths as users give them: a name with its parameters, or a file of lengths or counts.

    lognormal:median=800,p99=16000
    lengths.csv     a length a line, or `length,count`; a header of these words may stand first
    lengths.jsonl   a number a line, or {"length": 512, "count": 20}

Read strictly: every problem of a file is reported, with its line.
"""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from ...errors import InputError, Problem, did_you_mean
from ...schema import parse
from .distribution import MOST, Histogram, Lognormal

NAMES = ("lognormal",)
MOST_LENGTHS = 512
"""Distinct lengths that a plan file holds; more are put into as many classes of equal ratio."""
SHOWN = 20
"""Problems of one file that are named one by one."""

Counted = tuple[int, int]


def read_lengths(text: str) -> Histogram | Lognormal:
    """The distribution that an option names. Raises InputError with every problem."""
    name, colon, parameters = text.partition(":")
    if colon and not Path(text).exists():
        return _named(name, parameters)
    if text in NAMES:
        raise InputError.single(
            "command line", "--lengths", text, "needs its parameters", f"{text}:median=800,p99=16000"
        )
    return _histogram(_counted(Path(text)))


def _named(name: str, parameters: str) -> Lognormal:
    if name not in NAMES:
        rule = "is neither a file nor a distribution that is known"
        raise InputError.single("command line", "--lengths", name, rule, did_you_mean(name, NAMES))
    given: dict[str, Any] = {"kind": name}
    for part in parameters.split(","):
        key, _, value = (each.strip() for each in part.partition("="))
        if not key or key in given or key == "kind":
            rule = "parameters are written median=800,p99=16000, each once"
            raise InputError.single("--lengths", part or "parameters", None, rule, f"{name}:median=800,p99=16000")
        given[key] = value
    return parse(Lognormal, given, "--lengths")


def _counted(path: Path) -> Counter[int]:
    """How many sequences have each length."""
    try:
        lines = path.read_text().splitlines()
    except (OSError, UnicodeDecodeError) as error:
        rule = f"cannot be read: {' '.join(str(error).split())}"
        raise InputError.single(
            "--lengths", str(path), None, rule, "a file, or lognormal:median=800,p99=16000"
        ) from None
    read = _json_lines if path.suffix.lower() in (".jsonl", ".json", ".ndjson") else _csv_lines
    found: Counter[int] = Counter()
    problems: list[Problem] = []
    for each in read(lines):
        if isinstance(each, Problem):
            problems.append(each)
        else:
            found[each[0]] += each[1]
    if not found and not problems:
        problems.append(Problem("file", None, "holds no length", "a whole number a line"))
    if len(problems) > SHOWN:
        more = Problem("further lines", len(problems) - SHOWN, "have problems too")
        problems = [*problems[:SHOWN], more]
    if problems:
        raise InputError(str(path), problems)
    return found


def _csv_lines(lines: list[str]) -> Iterator[Counted | Problem]:
    """`512` or `512,20`; all lines have as many columns as the first."""
    columns, first = 0, True
    for number, line in enumerate(lines, 1):
        cells = [cell.strip() for cell in line.split(",")]
        if not line.strip():
            continue
        if first and cells in (["length"], ["length", "count"]):
            columns, first = len(cells), False
            continue
        columns, first = columns or min(len(cells), 2), False
        if len(cells) != columns:
            wanted = "length,count" if columns == 2 else "one length"
            yield Problem(f"line {number}", line.strip(), f"has {len(cells)} columns, not {columns}", wanted)
        else:
            yield _entry(number, *cells)


def _json_lines(lines: list[str]) -> Iterator[Counted | Problem]:
    """`512` or `{"length": 512, "count": 20}`."""
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        try:
            value = json.loads(line)
        except (ValueError, RecursionError):
            yield Problem(f"line {number}", line.strip()[:80], "is not JSON", '{"length": 512, "count": 20}')
            continue
        if not isinstance(value, dict):
            yield _entry(number, value)
        elif "length" not in value or value.keys() - {"length", "count"}:
            rule = "must have length and may have count, nothing else"
            yield Problem(f"line {number}", line.strip()[:80], rule, '{"length": 512, "count": 20}')
        else:
            yield _entry(number, value["length"], value.get("count", 1))


def _entry(number: int, length: object, count: object = 1) -> Counted | Problem:
    """One line's length and count, or what is wrong with it."""
    whole = {name: _whole(value) for name, value in (("length", length), ("count", count))}
    for name, value in (("length", length), ("count", count)):
        if whole[name] < 1:
            said = value if isinstance(value, int | float) and abs(value) <= MOST else str(value)[:80]
            return Problem(f"line {number}", said, f"{name} must be a whole number, 1 to {MOST:,}", "1")
    return whole["length"], whole["count"]


def _whole(value: object) -> int:
    """The number that is written; 0 for everything else, and for more than there can be."""
    if isinstance(value, str) and value.isascii() and value.isdecimal() and len(value.lstrip("0")) <= len(str(MOST)):
        value = int(value)
    return value if isinstance(value, int) and not isinstance(value, bool) and value <= MOST else 0


def _histogram(counted: Counter[int]) -> Histogram:
    """All distinct lengths, or where they are too many classes, each with the mean of its lengths, rounded up; the
    longest keeps a class of its own."""
    if len(counted) > MOST_LENGTHS:
        counted = _classes(counted)
    ordered = sorted(counted.items())
    return Histogram(lengths=tuple(length for length, _ in ordered), counts=tuple(count for _, count in ordered))


def _classes(counted: Counter[int]) -> Counter[int]:
    low, high = math.log(min(counted)), math.log(max(counted))
    members: dict[int, list[Counted]] = {}
    for length, count in counted.items():
        place = int((math.log(length) - low) / (high - low) * (MOST_LENGTHS - 1))
        members.setdefault(place if length < max(counted) else MOST_LENGTHS, []).append((length, count))
    found: Counter[int] = Counter()
    for inside in members.values():
        total = sum(count for _, count in inside)
        found[-(-sum(length * count for length, count in inside) // total)] += total
    return found
