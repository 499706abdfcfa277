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
    if setting.has_experts:
        rule = "the built-in runtime trains sequences of one length where there are experts"
        return Problem("--lengths", str(setting.job.lengths), rule, "without --lengths")
    if configuration.swap_layers:
        rule = "the built-in runtime swaps no layers where sequences differ in length"
        return Problem("--pin swap_layers", configuration.swap_layers, rule, "swap_layers=0")
    return None


RUNTIME_RULES: tuple[Rule, ...] = (
    Rule("precision", "no loss scaling, no fp8", _precision),
    Rule("lengths", "groups that change from round to round are those of dense layers on the device", _lengths),
)
