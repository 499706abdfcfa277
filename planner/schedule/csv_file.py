"""A schedule as a CSV file in PyTorch's compute-only format: one row a pipeline rank, cells like 0F0, 1I2, 1W2, 0B3.

A cell is stage, kind, microbatch; an empty cell is a bubble, and says nothing. How many ranks, stages and microbatches
there are, and which rank holds which stage, follows from the cells. The order of rows is that of the pipeline ranks.
"""

from __future__ import annotations

import csv
import re
from collections.abc import Iterable, Sequence
from pathlib import Path

from ...errors import InputError, Problem
from ...schema import writing
from .action import KINDS, Action
from .name import CUSTOM
from .schedule import Schedule
from .validate import Fault, faults

_CELL = re.compile(r"(\d+)(FORWARD|FULL_BACKWARD|BACKWARD_INPUT|BACKWARD_WEIGHT|[FBIW])(\d+)")
_LONG = {"FORWARD": "F", "FULL_BACKWARD": "B", "BACKWARD_INPUT": "I", "BACKWARD_WEIGHT": "W"}

Grid = list[tuple[int, int, Action]]
"""Of one rank: its actions, each with the line and the column where it stands, counted from 1."""


def read_csv(path: Path) -> Schedule:
    """The schedule of a file. Raises InputError with every fault, each with its row and column."""
    try:
        with path.open(newline="") as file:
            cells = list(csv.reader(file))
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise InputError.single("--schedule-file", str(path), None, f"cannot be read: {error}") from None
    return read_cells(cells, str(path))


def read_cells(cells: Iterable[Sequence[str]], source: str) -> Schedule:
    """The schedule of rows of cells. Raises InputError as `read_csv` does."""
    problems: list[Problem] = []
    grids = [_grid(line, row, problems) for line, row in enumerate(cells, start=1)]
    if not problems and not any(grids):
        problems.append(Problem("file", None, "holds no actions", "one row a pipeline rank, cells like 0F0, 0B0"))
    if problems:
        raise InputError(source, problems)
    schedule = _schedule(grids)
    found = [_problem(fault, grids) for fault in faults(schedule)]
    found += [
        Problem(f"row {line}", None, "a pipeline rank without actions", "a stage for it, or leave the row out")
        for line, grid in enumerate(grids, start=1)
        if not grid
    ]
    if found:
        raise InputError(source, found)
    return schedule


def _grid(line: int, row: Sequence[str], problems: list[Problem]) -> Grid:
    grid = []
    for column, text in enumerate(row, start=1):
        cell = text.strip()
        match = _CELL.fullmatch(cell)
        if match:
            stage, kind, microbatch = match.groups()
            grid.append((line, column, Action(KINDS[_LONG.get(kind, kind)], int(stage), int(microbatch))))
        elif cell:
            rule = "is no action: stage, one of F, B, I, W, and microbatch"
            problems.append(Problem(_where(line, column), cell, rule, "0F0"))
    return grid


def _schedule(grids: list[Grid]) -> Schedule:
    """What the cells say, sound or not. A stage is on the rank that first goes forward through it."""
    actions = tuple(tuple(action for _, _, action in grid) for grid in grids)
    holders: dict[int, int] = {}
    for kinds in ("F", "BIW"):
        for rank, row in enumerate(actions):
            for action in row:
                if action.kind in kinds:
                    holders.setdefault(action.stage, rank)
    stages = max(holders) + 1
    microbatches = max(action.microbatch for row in actions for action in row) + 1
    placement = tuple(holders.get(stage, 0) for stage in range(stages))
    return Schedule(CUSTOM, len(grids), stages, microbatches, actions, placement)


def _problem(fault: Fault, grids: list[Grid]) -> Problem:
    grid = grids[fault.rank]
    if fault.place is None:
        line = grid[0][0] if grid else fault.rank + 1
        return Problem(f"row {line}", fault.action.cell, fault.rule)
    line, column, action = grid[fault.place]
    return Problem(_where(line, column), action.cell, fault.rule)


def _where(line: int, column: int) -> str:
    return f"row {line}, column {column}"


def cells_of(schedule: Schedule) -> tuple[tuple[str, ...], ...]:
    """The cells of a schedule, row by row."""
    return tuple(tuple(action.cell for action in row) for row in schedule.actions)


def write_csv(schedule: Schedule, path: Path) -> None:
    """Write a schedule so that `read_csv` and PyTorch read it."""
    with writing(path), path.open("w", newline="") as file:
        csv.writer(file, lineterminator="\n").writerows(cells_of(schedule))
