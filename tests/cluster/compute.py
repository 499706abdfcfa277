"""Virtual compute: a device that is busy is a process that sleeps to a deadline on the clock."""

from __future__ import annotations

import time


def compute(seconds: float) -> None:
    """Busy for so long from now."""
    sleep_until(time.perf_counter() + seconds)


def sleep_until(deadline_s: float) -> None:
    """On time.perf_counter, which all processes of a machine share on Linux."""
    while (left_s := deadline_s - time.perf_counter()) > 0:
        time.sleep(left_s)
