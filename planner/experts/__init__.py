"""Experts: routing traces, and experts placed on ranks so that a layer takes least time.

`place(trace, num_experts=64, ranks_per_node=[4, 4])` is the call; see `place.py`.
"""

from __future__ import annotations

import sys
from importlib import import_module
from types import ModuleType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .place import place
    from .placement import Placement
    from .trace import Routed, Trace
    from .trace_file import read_trace, write_trace

__all__ = ["Placement", "Routed", "Trace", "place", "read_trace", "write_trace"]

_PLACES = {"Placement": "placement", "Routed": "trace", "Trace": "trace", "place": "place"}
_PLACES |= {"read_trace": "trace_file", "write_trace": "trace_file"}


def __getattr__(name: str) -> Any:
    """Imported when it is asked for: a plan file alone needs none of it, nor the arrays that placing needs."""
    if name not in _PLACES:
        raise AttributeError(name)
    return getattr(import_module(f".{_PLACES[name]}", __name__), name)


class _Package(ModuleType):
    """`place` is the function, whoever imports the module of that name, which Python would put in its place."""

    def __setattr__(self, name: str, value: Any) -> None:
        own = name in _PLACES and isinstance(value, ModuleType)
        super().__setattr__(name, getattr(value, name) if own else value)


sys.modules[__name__].__class__ = _Package
