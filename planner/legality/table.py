"""The two tables: what makes a configuration legal, and what the built-in runtime cannot run yet."""

from __future__ import annotations

from collections.abc import Iterable

from ...errors import Problem
from ..configuration import Configuration
from ..cost.setting import Setting
from . import attention, batch, dispatch, experts, layout, pipeline, runtime, sequence, shares, zero
from .rule import Rule

RULES: tuple[Rule, ...] = (
    *layout.RULES,
    *pipeline.RULES,
    *batch.RULES,
    *shares.RULES,
    *sequence.RULES,
    *attention.RULES,
    *zero.RULES,
    *experts.RULES,
    *dispatch.RULES,
)

RUNTIME_RULES: tuple[Rule, ...] = (*runtime.RUNTIME_RULES, *shares.RUNTIME_RULES, *dispatch.RUNTIME_RULES)


def problems(setting: Setting, configuration: Configuration) -> list[Problem]:
    """Everything that makes a configuration illegal."""
    return _broken(RULES, setting, configuration)


def runtime_problems(setting: Setting, configuration: Configuration) -> list[Problem]:
    """What the built-in runtime of this version cannot run, in a configuration that is legal."""
    return _broken(RUNTIME_RULES, setting, configuration)


def is_legal(setting: Setting, configuration: Configuration) -> bool:
    """Whether `problems` would be empty; stops at the first one."""
    return all(rule.check(setting, configuration) is None for rule in RULES)


def _broken(rules: Iterable[Rule], setting: Setting, configuration: Configuration) -> list[Problem]:
    found = (rule.check(setting, configuration) for rule in rules)
    return [problem for problem in found if problem is not None]
