"""What the built-in runtime of this version cannot run, in a configuration that is legal."""

from __future__ import annotations

from ...errors import Problem
from ..configuration import Configuration
from ..cost.setting import Setting
from .rule import Rule


def _runtime(field: str, value: object, rule: str, fix: str) -> Problem:
    return Problem(f"--pin {field}", value, f"the built-in runtime {rule}", fix)


_UNBUILT: dict[str, object] = {"spread_vocabulary": False}
"""Levers that the planner knows and the runtime cannot pull yet, with the value that leaves them alone."""


def _levers(setting: Setting, configuration: Configuration) -> Problem | None:
    for field, unused in _UNBUILT.items():
        value = getattr(configuration, field)
        if value != unused:
            return _runtime(field, value, f"has no {field} yet", f"{field}={unused}".lower())
    return None


def _precision(setting: Setting, configuration: Configuration) -> Problem | None:
    precision = setting.job.precision
    if precision in ("bf16", "fp32"):
        return None
    return Problem("--precision", precision, "the built-in runtime trains in bf16 or fp32", "bf16")


RUNTIME_RULES: tuple[Rule, ...] = (
    Rule("levers", "levers are built one after another", _levers),
    Rule("precision", "no loss scaling, no fp8", _precision),
)
