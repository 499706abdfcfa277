"""Rows: what every rank of a schedule does in a step, with the proof that no two ranks wait for each other."""

from __future__ import annotations

from .pass_check import check_passes
from .schedule import Schedule
from .transfers import Step, check_transfers, with_transfers


def proven_rows(schedule: Schedule) -> tuple[tuple[Step, ...], ...]:
    """`with_transfers`, played once. Raises ValueError where a rank would wait for ever, or lacks something."""
    rows = with_transfers(schedule)
    (check_passes if schedule.spread else check_transfers)(schedule, rows)
    return rows
