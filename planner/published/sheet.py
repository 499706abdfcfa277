"""Sheet: the lines of a CSV file by the names of its columns, and what is wrong with it in the user's words."""

from __future__ import annotations

import csv
import difflib
import math
from collections.abc import Iterable, Sequence
from pathlib import Path

from ...errors import InputError, Problem

SHOWN = 20
"""Of many problems of one file: a wrong column would fill the screen."""

MOST = 1e15
"""Nothing that is counted or measured of a run comes near it."""

Line = tuple[int, dict[str, str]]


def read_sheet(path: Path, required: Sequence[str]) -> tuple[Line, ...]:
    """Number and cells of every line below the header; cells that are not written are empty, lines without any left
    out. Raises InputError for a file that cannot be read, that lacks columns or has cells without a column."""
    try:
        # strict: a quote that never closes is a problem, not one long cell; utf-8-sig: spreadsheets begin with a mark
        with path.open(newline="", encoding="utf-8-sig") as file:
            reader = csv.reader(file, strict=True)
            header = [name.strip() for name in next(reader, [])]
            lines = [(reader.line_num, cells) for cells in reader if any(cells)]
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        rule = error.strerror if isinstance(error, OSError) else f"is not a CSV file in UTF-8 ({error})"
        raise InputError.single("command line", "--against", str(path), str(rule), "a CSV file of runs") from None
    refuse(path, _wrong_header(path, header, required))
    refuse(path, _wrong_lines(path, header, lines))
    return tuple(
        (number, dict.fromkeys(header, "") | dict(zip(header, cells, strict=False))) for number, cells in lines
    )


def number(text: str, whole: bool) -> float | int | None:
    """A cell as a number of 0 or more, None where it is empty. Raises ValueError with the rule that does not hold."""
    if not text:
        return None
    try:
        value = float(text)
    except ValueError:
        raise ValueError("must be a number, or empty") from None
    if not math.isfinite(value) or value < 0:
        raise ValueError("must be a number of 0 or more")
    if value > MOST:
        raise ValueError(f"must be at most {MOST:g}")
    if whole and not value.is_integer():
        raise ValueError("must be a whole number")
    return int(value) if whole else value


def refuse(path: Path, problems: Iterable[Problem]) -> None:
    """Raises InputError where there is any problem; the first ones stand for very many."""
    found = list(problems)
    more = len(found) - SHOWN
    if more > 0:
        found = [*found[:SHOWN], Problem(f"and {more:,} more", None, "are like these")]
    if found:
        raise InputError(str(path), found)


def _wrong_header(path: Path, header: Sequence[str], required: Sequence[str]) -> list[Problem]:
    if not any(header):
        return [Problem("--against", str(path), "is empty", f"a header that names {', '.join(required)}")]
    twice = [name for place, name in enumerate(header) if name and name in header[:place]]
    missing = [name for name in required if name not in header]
    spare = [name for name in header if name not in required]
    if len(missing) == len(required):
        return [Problem("header", header[0][:40], "names no column of runs", f"{', '.join(required)}, with commas")]
    return [
        *(Problem(f"column {name}", None, "is there twice", "rename one") for name in twice),
        *(Problem(f"column {name}", None, "is missing", _nearest(name, spare)) for name in missing),
    ]


def _nearest(name: str, spare: Sequence[str]) -> str:
    near = difflib.get_close_matches(name, spare, n=1)
    return f"rename {near[0]!r}" if near else "add it; a cell that is not known stays empty"


def _wrong_lines(path: Path, header: Sequence[str], lines: Sequence[tuple[int, list[str]]]) -> list[Problem]:
    if not lines:
        return [Problem("--against", str(path), "holds no runs", "a line a run below its header")]
    rule = f"has cells without a column, of which there are {len(header)}"
    return [
        Problem(f"line {number}", None, f"{rule}: {cells[len(header)]!r}", "quote cells that hold a comma")
        for number, cells in lines
        if any(cells[len(header) :])
    ]
