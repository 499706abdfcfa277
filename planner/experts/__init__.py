"""Experts: routing traces, and experts placed on ranks so that a layer takes least time.

`place(trace, num_experts=64, ranks_per_node=[4, 4])` is the call; see `place.py`.
"""

from .place import place
from .placement import Placement
from .trace import Routed, Trace
from .trace_file import read_trace, write_trace

__all__ = ["Placement", "Routed", "Trace", "place", "read_trace", "write_trace"]
