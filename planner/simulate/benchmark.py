"""How fast steps are simulated on this machine: `python -m meshwright.planner.simulate.benchmark`.

Prints, for some schedules of about 10,000 actions (a forward or backward of one microbatch through one virtual stage),
the seconds that the schedule takes to make, once, those that playing a whole step takes, and actions per second;
then what it takes with compute that collectives slow, with a timeline, and where transfers and collectives share cards:
as the step of a plan (`cards`), and played in the order of time once (`meets`).
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import replace
from functools import partial

from ..schedule import Schedule, gpipe, interleaved, one_forward_one_backward, zero_bubble_v
from .engine import run, step_time, total_s
from .work import CardShares, Work

REPEATS = 5
CASES: dict[str, Callable[[], Schedule]] = {
    "gpipe, 8 ranks, 640 microbatches": partial(gpipe, 8, 640),
    "1f1b, 8 ranks, 640 microbatches": partial(one_forward_one_backward, 8, 640),
    "interleaved x4, 8 ranks, 160 microbatches": partial(interleaved, 8, 160, 4),
    "zb-v, 8 ranks, 213 microbatches": partial(zero_bubble_v, 8, 213),
    "1f1b, 64 ranks, 80 microbatches": partial(one_forward_one_backward, 64, 80),
}


def main() -> None:
    """Print the table."""
    columns = "".join(f" {name:>9}" for name in ("steal", "timeline", "cards", "meets"))
    print(f"{'schedule':42} {'actions':>8} {'make':>9} {'step':>9} {'actions/s':>11}{columns}")
    for name, make in CASES.items():
        made_s = _best(partial(_made, make))
        schedule = make()
        seconds = _best(partial(step_time, schedule, _work(schedule)))
        steals = _best(partial(step_time, schedule, _work(schedule, steal=0.1)))
        drawn = _best(partial(run, schedule, _work(schedule)))
        cards = CardShares(borders=((1.0, 1.0),) * schedule.ranks, data=(1.0,) * schedule.ranks)
        carded = _best(partial(step_time, schedule, replace(_work(schedule), cards=cards)))
        meets = _best(partial(total_s, schedule, replace(_work(schedule), cards=cards)))
        actions = len(schedule.program)
        times = [f"{1e3 * each:6.1f} ms" for each in (made_s, seconds, steals, drawn, carded, meets)]
        print(f"{name:42} {actions:8,} {times[0]} {times[1]} {actions / seconds:11,.0f} {' '.join(times[2:])}")


def _work(schedule: Schedule, steal: float = 0.0) -> Work:
    """Ten layers a stage, with collectives that just hide."""
    stages = schedule.stages
    forward, backward, gather, reduce = ((each,) * stages for each in (1.0, 2.0, 0.5, 1.0))
    pieces = (10,) * stages
    return Work(forward, backward, 0.01, gather, reduce, pieces, steal=steal, input_s=forward, weight_s=forward)


def _made(make: Callable[[], Schedule]) -> object:
    return make().program


def _best(play: Callable[[], object]) -> float:
    """The least CPU seconds of some repeats."""
    found = []
    for _ in range(REPEATS):
        started = time.process_time()
        play()
        found.append(time.process_time() - started)
    return min(found)


if __name__ == "__main__":
    main()
