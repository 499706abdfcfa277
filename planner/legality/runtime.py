"""What the built-in runtime of this version cannot run, in a configuration that is legal."""

from __future__ import annotations

from ...errors import Problem
from ..configuration import Configuration
from ..cost.setting import Setting
from .rule import Rule


def _precision(setting: Setting, configuration: Configuration) -> Problem | None:
    precision = setting.job.precision
    if precision in ("bf16", "fp32"):
        return None
    return Problem("--precision", precision, "the built-in runtime trains in bf16 or fp32", "bf16")


def _lengths(setting: Setting, configuration: Configuration) -> Problem | None:
    if setting.job.lengths is None:
        return None
    rule = "the built-in runtime trains sequences of one length, with context parallelism of one degree"
    return Problem("--lengths", str(setting.job.lengths), rule, "without --lengths, and --pin cp=N")


RUNTIME_RULES: tuple[Rule, ...] = (
    Rule("precision", "no loss scaling, no fp8", _precision),
    Rule("lengths", "the runtime forms no groups anew in every round", _lengths),
)
