"""A pipeline schedule is data: per rank, the ordered list of what it computes.

One small pure function makes each schedule (`builders/`); two interpreters read the result: the simulator
(`simulate/engine.py`) and the runtime (`runtime/parallel/pipeline.py`). Transfers are not listed: they follow from the
order and from which rank holds a stage (`transfers.py`).
"""

from __future__ import annotations

from .action import Action, Kind, Rows
from .builders.dual_pipe_v import dual_pipe_v
from .builders.gpipe import gpipe
from .builders.interleaved import interleaved
from .builders.looped_bfs import looped_bfs
from .builders.one_forward_one_backward import one_forward_one_backward
from .builders.zero_bubble_h1 import zero_bubble_h1
from .builders.zero_bubble_v import zero_bubble_v
from .greedy import greedy, limited
from .name import CUSTOM
from .program import BACKWARD, FIRST_FORWARD, FORWARD, GRADIENT, HALF, LAST_BACKWARD, Instruction
from .schedule import Schedule
from .table import build, held, held_of, make, names, placement_of, table
from .validate import Fault, check, faults

__all__ = [
    "BACKWARD",
    "CUSTOM",
    "FIRST_FORWARD",
    "FORWARD",
    "GRADIENT",
    "HALF",
    "LAST_BACKWARD",
    "Action",
    "Fault",
    "Instruction",
    "Kind",
    "Rows",
    "Schedule",
    "build",
    "check",
    "dual_pipe_v",
    "faults",
    "gpipe",
    "greedy",
    "held",
    "held_of",
    "interleaved",
    "limited",
    "looped_bfs",
    "make",
    "names",
    "one_forward_one_backward",
    "placement_of",
    "table",
    "zero_bubble_h1",
    "zero_bubble_v",
]
