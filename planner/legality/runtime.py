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


RUNTIME_RULES: tuple[Rule, ...] = (Rule("precision", "no loss scaling, no fp8", _precision),)
